//! What a run looks at when all clients are done: nothing of any transaction may be left, and all partitions must know the same.

use annulus_core::id::GroupId;
use annulus_core::partition::Partition;
use annulus_core::partition::txn::Name;

use super::TxnId;
use super::checks::{self, KnownBy};
use super::trader::Order;
use crate::simulator::events::{ClientEvent, Event};
use crate::simulator::node::Member;
use crate::simulator::world::{Broken, World, members_index};

/// More than can be open in one of these runs.
const MOST_SHOWN: usize = 4;

impl World {
    /// The last of the clients that use transactions is to do this.
    pub(in crate::simulator) fn order_txns(&mut self, order: Order) {
        let client = self.first_trader() + self.traders.len();
        if let Some(last) = self.traders.last_mut() {
            last.orders.push_back(order);
            self.env.events.after(1000, Event::Client { client: client - 1, what: ClientEvent::Next });
        }
    }

    /// What is left of transactions, if anything is: open ones in any replica, or somebody who is at one.
    pub(in crate::simulator) fn txns_left(&self) -> Option<String> {
        for member in &self.members {
            let Some(process) = &member.process else { continue };
            if !process.shell.is_empty() {
                return Some(format!("member {} is still at {} of them", member.index, process.shell.len()));
            }
            for group in self.partitions() {
                let Some((partition, state)) = partition(member, group) else { continue };
                if partition.open_count() > 0 {
                    let open = partition.open_txns(state, partition.clock_ms(), 0, MOST_SHOWN);
                    return Some(format!("member {}, {group}: {:?}", member.index, open.expect("the disk is whole")));
                }
            }
        }
        None
    }

    fn partitions(&self) -> impl Iterator<Item = GroupId> + use<> {
        (1..=self.map.partitions()).map(GroupId)
    }

    /// All partitions know the same of each transaction, and that is what its client was told.
    pub(in crate::simulator) fn check_known(&self) -> Result<(), Broken> {
        let holder = |group: GroupId| {
            let (voters, _) = self.map.group(group).expect("a group of the map");
            partition(&self.members[members_index(voters[0])], group).expect("it has settled")
        };
        let partitions: Vec<_> = self.partitions().map(|group| (group, holder(group))).collect();
        let known_of = |name: &Name| -> KnownBy {
            let known = partitions.iter().map(|(group, (partition, state))| {
                (*group, partition.known_of(*state, name, partition.clock_ms()).expect("the disk is whole"))
            });
            known.filter(|(_, known)| !known.is_empty()).collect()
        };
        for (number, txn) in self.txns.txns.iter().enumerate() {
            let Some(name) = &txn.name else { continue };
            let number = TxnId::try_from(number).expect("few transactions");
            checks::check_known(&self.txns, number, &known_of(name))?;
        }
        Ok(())
    }
}

/// What a member's replica of a group holds, if it has one that holds anything.
fn partition(member: &Member, group: GroupId) -> Option<(Partition, &dyn annulus_core::state::State)> {
    let lane = member.lane(group)?;
    let replica = lane.replica(group).filter(|replica| !replica.is_blank())?;
    let partition = Partition::load(lane.state(), replica.table()).expect("the disk is whole");
    Some((partition, lane.state()))
}
