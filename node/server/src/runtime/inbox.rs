//! What waits for a lane, and how much work that is.
//!
//! Whoever puts something in may step it himself if it is little ([`super::driver`]), so the inbox knows the weight of all
//! that is in it: a message without entries weighs 1, a request for one key 4, and what only the lane's own thread should
//! step more than others take on.

use std::sync::atomic::{AtomicUsize, Ordering};

use annulus_core::codec::message::{Body, PeerMessage};
use annulus_core::lane::Operation;
use annulus_core::partition::txn::{Action, Command, Part};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::lane::LaneInput;

/// Most inputs that wait for a lane.
const CAPACITY: usize = 8192;
/// What weighs more than this is left to the lane's thread: then a wake-up costs each input little, and whoever brought
/// them has more to do than to step them.
const WEIGHT_IN_PASSING: usize = 128;
/// The weight of what may take long, whatever is in it.
const HEAVY: usize = WEIGHT_IN_PASSING + 1;
/// The weight of a scan, which may read some mebibytes.
const SCAN: usize = ROUND / 2;
/// A round takes no more when it has this weight, so that none takes long.
const ROUND: usize = 32 * WEIGHT_IN_PASSING;
/// The weight of a request for one key.
const REQUEST: usize = 4;
/// So many bytes that are to be written weigh 1.
const BYTES: usize = 1024;

/// What waits for a lane.
pub(super) struct Inbox {
    sender: Sender<LaneInput>,
    receiver: Receiver<LaneInput>,
    /// Of all that is in it, and of what is about to be put in.
    weight: AtomicUsize,
}

/// The lane's inbox has no room: nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane's inbox is full")]
pub struct InboxFull;

impl Inbox {
    pub(super) fn new() -> Self {
        let (sender, receiver) = bounded(CAPACITY);
        Self { sender, receiver, weight: AtomicUsize::new(0) }
    }

    /// Puts an input in, if there is room. Returns whether it is light by itself.
    pub(super) fn put(&self, input: LaneInput) -> Result<bool, InboxFull> {
        let weight = weight(&input);
        // Before it is in: whoever finds it finds its weight.
        self.weight.fetch_add(weight, Ordering::Relaxed);
        if self.sender.try_send(input).is_err() {
            self.weight.fetch_sub(weight, Ordering::Relaxed);
            return Err(InboxFull);
        }
        Ok(weight < HEAVY)
    }

    /// Takes the first, as many as one round should step.
    pub(super) fn take(&self) -> Vec<LaneInput> {
        let (mut inputs, mut taken) = (Vec::new(), 0);
        while taken < ROUND
            && let Ok(input) = self.receiver.try_recv()
        {
            taken += weight(&input);
            inputs.push(input);
        }
        self.weight.fetch_sub(taken, Ordering::Relaxed);
        inputs
    }

    /// Whether what is in it is little enough for whoever comes by.
    pub(super) fn is_light(&self) -> bool {
        self.weight.load(Ordering::Relaxed) <= WEIGHT_IN_PASSING
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.receiver.len()
    }
}

/// How much it is to step this. (A read of what is not in memory takes longer than its weight says: it waits for the disk
/// wherever it is stepped.)
fn weight(input: &LaneInput) -> usize {
    match input {
        LaneInput::Request {
            operation: Operation::Get { .. } | Operation::Lock(_) | Operation::ReadLock { .. },
            ..
        } => REQUEST,
        LaneInput::Request { operation: Operation::Txn(command), .. } => weight_of_txn(command),
        LaneInput::Request { operation: Operation::GetMany { keys, .. }, .. } => REQUEST * keys.len().max(1),
        LaneInput::Cancel { .. } => REQUEST,
        LaneInput::Request { operation: Operation::Write(write), .. } => REQUEST + write.size() / BYTES,
        LaneInput::Peer { messages, .. } => messages.iter().map(weight_of_message).sum(),
        LaneInput::Request { operation: Operation::Scan { .. } | Operation::ListLocks { .. }, .. } => SCAN,
        LaneInput::Request { .. }
        | LaneInput::Unreachable(_)
        | LaneInput::Bootstrap(..)
        | LaneInput::Adopt(_)
        | LaneInput::Evict(_) => HEAVY,
    }
}

fn weight_of_txn(command: &Command) -> usize {
    let of_part = |part: &Part| {
        let operations = part.conditions.len() + part.locks.len() + part.then.len() + part.otherwise.len();
        let values = part.then.iter().chain(&part.otherwise).map(|action| match action {
            Action::Put { value, .. } => value.len() / BYTES,
            _ => 0,
        });
        REQUEST / 2 * (operations + 1) + values.sum::<usize>()
    };
    match command {
        Command::Alone(alone) => of_part(&alone.part),
        Command::Prepare(prepare) => of_part(&prepare.part),
        Command::Probe(_) => REQUEST,
        Command::Settle(steps) => REQUEST / 2 * (steps.len() + 1),
    }
}

fn weight_of_message(message: &PeerMessage) -> usize {
    match &message.body {
        Body::Raft { message, .. } => {
            let bytes: usize = message.entries.iter().map(|entry| entry.data.len()).sum();
            1 + bytes / BYTES
        }
        Body::Chunk(_) | Body::ChunkAck { .. } | Body::Report(_) => HEAVY,
    }
}

#[cfg(test)]
mod tests {
    use annulus_core::id::{GroupId, MemberId};
    use annulus_core::partition::{Change, Condition, Consistency, Key, Scan, Write};
    use annulus_core::time::Instant;
    use bytes::Bytes;

    use super::super::ReplyTo;
    use super::*;

    fn request(operation: Operation) -> LaneInput {
        LaneInput::Request { group: GroupId(1), operation, deadline: Instant(1), reply_to: ReplyTo::Local(0) }
    }

    fn put(bytes: usize) -> LaneInput {
        let key = Key::new(Bytes::from_static(b"key")).unwrap();
        let change = Change::Put { value: Bytes::from(vec![0; bytes]), ttl_ms: None };
        request(Operation::Write(Write {
            key,
            condition: Condition::Always,
            change,
            idempotency_key: None,
            fence: None,
        }))
    }

    #[test]
    fn a_few_small_requests_are_light_and_many_are_not() {
        let inbox = Inbox::new();
        for _ in 0..32 {
            assert_eq!(inbox.put(put(10)), Ok(true));
        }
        assert!(inbox.is_light());
        inbox.put(put(10)).unwrap();
        assert!(!inbox.is_light());
        assert_eq!(inbox.take().len(), 33);
        assert!(inbox.is_light());
    }

    #[test]
    fn what_may_take_long_is_heavy_by_itself_and_until_it_is_taken() {
        let scan = Scan { prefix: Bytes::new(), after: None, limit: 1, values: false };
        let scan = Operation::Scan { scan, consistency: Consistency::Stale };
        for heavy in [request(scan), put(1 << 20), LaneInput::Evict(true)] {
            let inbox = Inbox::new();
            assert_eq!(inbox.put(heavy), Ok(false));
            assert_eq!(inbox.put(put(10)), Ok(true));
            assert!(!inbox.is_light());
            assert_eq!(inbox.take().len(), 2);
            assert!(inbox.is_light());
        }
    }

    #[test]
    fn a_round_takes_many_requests_and_few_scans() {
        let inbox = Inbox::new();
        for _ in 0..5 {
            let scan = Scan { prefix: Bytes::new(), after: None, limit: 1, values: false };
            inbox.put(request(Operation::Scan { scan, consistency: Consistency::Stale })).unwrap();
        }
        assert_eq!((inbox.take().len(), inbox.take().len(), inbox.take().len()), (2, 2, 1));
        for _ in 0..2000 {
            inbox.put(put(10)).unwrap();
        }
        assert_eq!((inbox.take().len(), inbox.take().len()), (1024, 976));
    }

    #[test]
    fn what_had_no_room_weighs_nothing() {
        let inbox = Inbox::new();
        let member = MemberId::new(1).unwrap();
        let mut refused = 0;
        for _ in 0..2 * CAPACITY {
            refused += usize::from(inbox.put(LaneInput::Unreachable(member)) == Err(InboxFull));
        }
        assert_eq!(refused, CAPACITY);
        let mut taken = 0;
        while !inbox.is_empty() {
            taken += inbox.take().len();
        }
        assert_eq!(taken, CAPACITY);
        assert!(inbox.is_empty() && inbox.is_light());
        assert_eq!(inbox.weight.load(Ordering::Relaxed), 0);
    }
}
