//! Whether a store that is to be bootstrapped has been begun by another of its members: two first maps would be two stores
//! that take each other for one.

use std::time::Duration;

use annulus_core::id::MemberId;
use annulus_core::map::{Map, Member};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::{BootstrapError, identify};

/// How many are asked at once.
const ASKED_AT_ONCE: usize = 128;
/// How long all of it may take. Whoever has not answered by then may hear of the store later, as one that is not there yet.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Asks the others that a first map names whether they belong to a store already. One that does not answer says nothing.
pub(super) async fn check_others(map: &Map, here: MemberId) -> Result<(), BootstrapError> {
    let others = map.members.iter().filter(|member| member.id != here);
    let asking = others.map(|member| async move {
        match identify::ask(&member.admin_address, identify::TIMEOUT).await {
            Ok(said) => judge(map, member, &said),
            Err(reason) => {
                tracing::info!(member = %member.id, name = member.name, reason, "not there yet, and may hear of the store later");
                Ok(())
            }
        }
    });
    let mut asking = stream::iter(asking).buffer_unordered(ASKED_AT_ONCE);
    let all = async {
        while let Some(answer) = asking.next().await {
            answer?;
        }
        Ok(())
    };
    timeout(TIMEOUT, all).await.unwrap_or(Ok(()))
}

fn judge(map: &Map, member: &Member, said: &super::Identified) -> Result<(), BootstrapError> {
    match said.cluster {
        None => Ok(()),
        Some(theirs) if theirs == map.cluster => Err(BootstrapError::Unreachable {
            reason: format!(
                "the member `{}` belongs to this store already, and tells this one of it if the first map named it",
                member.name
            ),
        }),
        Some(theirs) => Err(BootstrapError::Taken { name: member.name.clone(), theirs, asked: map.cluster }),
    }
}

#[cfg(test)]
mod tests {
    use annulus_core::id::ClusterId;
    use annulus_core::map::MemberState;

    use super::super::Identified;
    use super::*;

    #[test]
    fn a_first_map_is_made_only_where_nobody_has_one() {
        let member = Member {
            id: MemberId::new(1).unwrap(),
            name: "node-1".to_owned(),
            zone: String::new(),
            weight: 100,
            state: MemberState::Active,
            client_address: "a:1".to_owned(),
            peer_address: "a:2".to_owned(),
            admin_address: "a:3".to_owned(),
        };
        let map = Map::bootstrap(ClusterId([7; 16]), 8, 1, vec![member.clone()]).unwrap();
        let said = |cluster| Identified {
            id: member.id,
            name: member.name.clone(),
            zone: String::new(),
            cluster,
            peer_address: None,
        };
        assert_eq!(judge(&map, &member, &said(None)), Ok(()));
        let again = judge(&map, &member, &said(Some(map.cluster)));
        assert!(matches!(again, Err(BootstrapError::Unreachable { .. })), "{again:?}");
        let theirs = ClusterId([9; 16]);
        let taken = BootstrapError::Taken { name: member.name.clone(), theirs, asked: map.cluster };
        assert_eq!(judge(&map, &member, &said(Some(theirs))), Err(taken));
    }
}
