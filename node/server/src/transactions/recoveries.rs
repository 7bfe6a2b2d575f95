//! Abandoned transactions, as this node's lanes find them: each is brought to its end once, whoever tells of it again.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::GroupId;
use annulus_core::partition::txn::Pointer;
use tokio::sync::mpsc;

use super::Transactions;
use crate::router::Router;

/// A transaction that nobody seems to end, and the group that it was found in.
pub type Found = (GroupId, Pointer);

/// How long it is tried to bring one to its end before it must be told of again.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most that are brought to their end at once.
const MAX_RECOVERIES: usize = 256;

/// Brings those to their end that are told of. They are told of again for as long as they are open, so none is lost if there
/// is no room.
pub async fn recover_abandoned<R: Router + 'static>(
    transactions: Transactions<R>,
    mut found: mpsc::Receiver<Vec<Found>>,
) {
    let under_way = Rc::new(RefCell::new(HashSet::new()));
    while let Some(batch) = found.recv().await {
        for (group, pointer) in batch {
            let Some(partition) = group.partition() else { continue };
            let key = (group, pointer.id.clone());
            if under_way.borrow().len() >= MAX_RECOVERIES || !under_way.borrow_mut().insert(key.clone()) {
                continue;
            }
            let (transactions, under_way) = (transactions.clone(), Rc::clone(&under_way));
            tokio::task::spawn_local(async move {
                transactions.recover(pointer, partition, TIMEOUT).await;
                under_way.borrow_mut().remove(&key);
            });
        }
    }
}
