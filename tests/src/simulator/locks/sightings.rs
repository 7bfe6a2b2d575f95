//! What replicas show of locks while a run goes on: whoever looks in between sees nobody overtake anybody.

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::partition::lock::{Mode, PlaceView, View};
use bytes::Bytes;

use super::checks::Violation;
use super::lock_number;

/// What replicas have shown.
#[derive(Debug, Default)]
pub struct Sightings {
    /// By member, its process and replica, and lock: the tokens that held it.
    held: BTreeMap<(usize, (u64, u64), usize), BTreeSet<u64>>,
    /// By lock and token: who it is, and when any replica has shown it first.
    known: BTreeMap<(usize, u64), (Bytes, u64)>,
}

impl Sightings {
    /// A member's replica shows this of a lock.
    pub fn observe(&mut self, now: u64, member: usize, life: (u64, u64), view: &View) -> Result<(), Violation> {
        let name = view.name.bytes();
        let lock = lock_number(name).ok_or_else(|| Violation::Unknown { name: name.clone() })?;
        let tokens = |places: &[PlaceView]| places.iter().map(|place| place.token).collect::<BTreeSet<u64>>();
        let (holders, waiting) = (tokens(&view.holders), tokens(&view.waiting));
        let is_alone = view.holders.len() == 1 || view.holders.iter().all(|holder| holder.mode == Mode::Shared);
        if holders.is_empty() || !is_alone {
            return Err(Violation::NotAlone { lock, holders });
        }
        if let (Some(&by), Some(&token)) = (holders.last(), waiting.first())
            && token < by
        {
            return Err(Violation::Overtaken { lock, token, by });
        }
        for place in view.holders.iter().chain(&view.waiting) {
            let (owner, _) = self.known.entry((lock, place.token)).or_insert((place.owner.clone(), now));
            if *owner != place.owner {
                return Err(Violation::TwoOwners { lock, token: place.token });
            }
        }
        let held = self.held.entry((member, life, lock)).or_default();
        let newest = held.last().copied();
        let late = holders.iter().find(|token| newest.is_some_and(|newest| **token < newest) && !held.contains(token));
        if let (Some(&token), Some(by)) = (late, newest) {
            return Err(Violation::Overtaken { lock, token, by });
        }
        held.extend(holders);
        Ok(())
    }

    /// Whether a replica had shown this token before that time.
    pub fn was_known(&self, lock: usize, token: u64, before: u64) -> bool {
        self.known.get(&(lock, token)).is_some_and(|(_, first)| *first < before)
    }

    /// Whose token it is, if a replica has shown it.
    pub fn owner(&self, lock: usize, token: u64) -> Option<&Bytes> {
        self.known.get(&(lock, token)).map(|(owner, _)| owner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::lock_name;
    use super::*;

    fn place(token: u64, mode: Mode) -> PlaceView {
        let owner = Bytes::from(format!("client-{token}"));
        PlaceView { token, owner, description: Bytes::new(), mode, ttl_ms: 0, since_ms: 0, left_ms: 0 }
    }

    fn view(holders: &[u64], waiting: &[u64], mode: Mode) -> View {
        let places = |tokens: &[u64]| tokens.iter().map(|token| place(*token, mode)).collect();
        let waiting_count = u32::try_from(waiting.len()).unwrap();
        View { name: lock_name(0), holders: places(holders), waiting: places(waiting), waiting_count }
    }

    #[test]
    fn a_queue_that_goes_on_is_as_it_should_be() {
        let mut sightings = Sightings::default();
        for (holders, waiting) in [(&[5][..], &[7, 9][..]), (&[7], &[9, 12]), (&[12], &[])] {
            assert_eq!(sightings.observe(1, 0, (1, 0), &view(holders, waiting, Mode::Exclusive)), Ok(()));
        }
        assert!(sightings.was_known(0, 9, 2));
        // Another replica, or one of another process, may be behind.
        assert_eq!(sightings.observe(2, 0, (2, 0), &view(&[5], &[7, 9], Mode::Exclusive)), Ok(()));
    }

    #[test]
    fn whoever_overtakes_another_is_noticed() {
        let overtaken = Err(Violation::Overtaken { lock: 0, token: 7, by: 9 });
        assert_eq!(Sightings::default().observe(1, 0, (1, 0), &view(&[9], &[7], Mode::Exclusive)), overtaken);
        let mut sightings = Sightings::default();
        assert_eq!(sightings.observe(1, 0, (1, 0), &view(&[9], &[], Mode::Exclusive)), Ok(()));
        assert_eq!(sightings.observe(2, 0, (1, 0), &view(&[7], &[], Mode::Exclusive)), overtaken);
    }

    #[test]
    fn some_who_do_not_bear_each_other_are_noticed() {
        let mut sightings = Sightings::default();
        assert_eq!(sightings.observe(1, 0, (1, 0), &view(&[5, 7], &[], Mode::Shared)), Ok(()));
        let both = view(&[5, 7], &[], Mode::Exclusive);
        assert!(matches!(sightings.observe(1, 0, (1, 0), &both), Err(Violation::NotAlone { lock: 0, .. })));
    }
}
