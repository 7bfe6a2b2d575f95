//! Driving, before a router that answers what it is told to, and when.

use std::cell::RefCell;
use std::future::{Future, pending};

use annulus_core::id::{ClusterId, GroupId, MemberId};
use annulus_core::lane::{Operation, Reply};
use annulus_core::map::{Member, MemberState};
use annulus_core::partition::txn::{
    Action, Command, Done, Finished, Id, Outcome as Said, Prepare, Prepared, Settle, Settled,
};
use annulus_core::partition::{Item, Many};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::*;
use crate::router::{BootstrapError, Identified, NodeStatus};

const LONG: Duration = Duration::from_secs(20);
const ABORTED: Settled = Settled::Decided(Decision::Abort);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prepare,
    Probe,
    Settle,
    Read,
}

/// Prepares everything, decides what it is asked to, and holds back the answers that it is told to hold back.
struct Fake {
    asked: RefCell<Vec<(GroupId, Operation)>>,
    held: watch::Sender<Vec<Kind>>,
    /// How steps are answered.
    settles: fn(&Settle) -> Settled,
    /// Nobody says what came of steps.
    loses_steps: Cell<bool>,
}

impl Fake {
    fn new(held: &[Kind]) -> Rc<Self> {
        let settles = |step: &Settle| match step {
            Settle::Decide { decision, .. } => Settled::Decided(*decision),
            Settle::Resolve { .. } | Settle::Close { .. } => Settled::Done,
        };
        let held = watch::Sender::new(held.to_vec());
        Rc::new(Self { asked: RefCell::default(), held, settles, loses_steps: Cell::new(false) })
    }

    fn release(&self) {
        self.held.send_replace(Vec::new());
    }

    /// The steps that each group was sent, one entry after the other.
    fn entries(&self) -> Vec<(GroupId, Vec<Settle>)> {
        let asked = self.asked.borrow();
        let entries = asked.iter().filter_map(|(group, operation)| match operation {
            Operation::Txn(Command::Settle(steps)) => Some((*group, steps.clone())),
            _ => None,
        });
        entries.collect()
    }

    fn count(&self, kind: Kind) -> usize {
        self.asked.borrow().iter().filter(|(_, operation)| kind_of(operation) == kind).count()
    }

    /// Waits until this was asked so often.
    async fn until(&self, kind: Kind, count: usize) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        while self.count(kind) < count {
            tick.tick().await;
        }
    }
}

fn kind_of(operation: &Operation) -> Kind {
    match operation {
        Operation::Txn(Command::Settle(_)) => Kind::Settle,
        Operation::Txn(Command::Probe(_)) => Kind::Probe,
        Operation::Txn(_) => Kind::Prepare,
        _ => Kind::Read,
    }
}

impl Router for Fake {
    async fn submit(&self, group: GroupId, operation: Operation, _: Duration) -> Reply {
        self.asked.borrow_mut().push((group, operation.clone()));
        let mut held = self.held.subscribe();
        let kind = kind_of(&operation);
        if held.wait_for(|held| !held.contains(&kind)).await.is_err() {
            pending::<()>().await;
        }
        match operation {
            Operation::Txn(Command::Prepare(Prepare { part, participants, .. })) => {
                let then = part.then.iter().map(|_| Done::Put(7)).collect();
                Reply::Txn(Said::Prepared(Prepared { holds: true, then, otherwise: Vec::new(), participants }))
            }
            Operation::Txn(Command::Probe(id)) => {
                let decision = Decision::Abort;
                Reply::Txn(Said::Finished(Finished { id, decision, results: None, participants: Vec::new() }))
            }
            Operation::Txn(Command::Settle(_)) if self.loses_steps.get() => Reply::OutcomeUnknown,
            Operation::Txn(Command::Settle(steps)) => {
                Reply::Txn(Said::Settled(steps.iter().map(self.settles).collect()))
            }
            Operation::GetMany { keys, .. } => {
                let item = Item { version: 7, value: Bytes::from_static(b"v") };
                Reply::Many(Many { items: vec![Some(item); keys.len()], deletions: 0 })
            }
            other => panic!("not of transactions: {other:?}"),
        }
    }

    fn map(&self) -> Option<Arc<Map>> {
        None
    }

    fn leader(&self, _: GroupId) -> Option<MemberId> {
        None
    }

    fn other_leader(&self, _: GroupId) -> Option<MemberId> {
        None
    }

    fn status(&self) -> NodeStatus {
        panic!("nobody asks how it is")
    }

    async fn bootstrap(&self, _: Map) -> Result<(), BootstrapError> {
        panic!("nobody bootstraps")
    }

    async fn identify(&self, _: &str) -> Result<Identified, String> {
        panic!("nobody joins")
    }

    async fn evict(&self, _: Duration) -> usize {
        panic!("nobody evicts")
    }

    fn end_eviction(&self) {}
}

fn map() -> Map {
    let member = Member {
        id: MemberId::new(1).unwrap(),
        name: "node-1".to_owned(),
        zone: String::new(),
        weight: 100,
        state: MemberState::Active,
        client_address: "127.0.0.1:1".to_owned(),
        peer_address: "127.0.0.1:2".to_owned(),
        admin_address: "127.0.0.1:3".to_owned(),
    };
    Map::bootstrap(ClusterId([7; 16]), 8, 1, vec![member]).unwrap()
}

/// Keys in two partitions, in their order.
fn keys() -> [Key; 2] {
    let key = |number: u32| Key::new(Bytes::from(format!("k{number}"))).unwrap();
    let at = |key: &Key| map().partition_of(key.bytes());
    let first = (0..).map(key).find(|key| at(key).0 == 2).unwrap();
    let second = (0..).map(key).find(|key| at(key).0 == 5).unwrap();
    [first, second]
}

const GROUPS: [PartitionId; 2] = [PartitionId(2), PartitionId(5)];

fn transaction() -> Transaction {
    let put = |key| Action::Put { key, value: Bytes::from_static(b"v"), ttl_ms: None };
    Transaction {
        name: Name::made_up(7),
        conditions: Vec::new(),
        locks: Vec::new(),
        then: keys().map(put).to_vec(),
        otherwise: Vec::new(),
        fence: None,
    }
}

fn local<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(LONG, test()).await.expect("the test ends in time") });
}

fn transactions(fake: &Rc<Fake>) -> Transactions<Fake> {
    Transactions::new(Rc::clone(fake), Arc::new(Metrics::new()))
}

/// Waits until nothing is under way.
async fn at_rest(transactions: &Transactions<Fake>) {
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    while transactions.running.get() > 0 {
        tick.tick().await;
    }
}

#[test]
fn the_answer_comes_while_the_end_is_still_to_come() {
    local(async || {
        let fake = Fake::new(&[Kind::Settle]);
        let transactions = transactions(&fake);
        let outcome = transactions.run(&map(), transaction(), 1, LONG).await;
        let results = Some(vec![Done::Put(7); 2]);
        assert_eq!(outcome.answer, Answer::Committed { then: true, results });
        assert_eq!((outcome.attempts, outcome.partitions, transactions.running.get()), (1, 2, 1));
        fake.release();
        at_rest(&transactions).await;
        let told: Vec<_> = fake.entries().into_iter().map(|(group, steps)| (group, steps.len())).collect();
        assert_eq!(told, GROUPS.map(|partition| (partition.group(), 1)), "both are told at once");
        // That they can close it comes later.
        fake.until(Kind::Settle, 4).await;
        assert!(fake.entries()[2..].iter().all(|(_, steps)| matches!(steps[..], [Settle::Close { .. }])));
    });
}

#[test]
fn a_client_that_goes_away_does_not_stop_what_it_has_begun() {
    local(async || {
        let fake = Fake::new(&[Kind::Prepare]);
        let transactions = transactions(&fake);
        let map = map();
        tokio::select! {
            _ = transactions.run(&map, transaction(), 1, LONG) => panic!("nothing is prepared"),
            () = fake.until(Kind::Prepare, 2) => {}
        }
        fake.release();
        at_rest(&transactions).await;
        let then = |steps: &[Settle]| matches!(steps, [Settle::Decide { decision: Decision::Then, .. }]);
        assert!(fake.entries().iter().all(|(_, steps)| then(steps)));
        let text = transactions.metrics.encode().unwrap();
        assert!(text.contains(r#"annulus_txns_total{outcome="committed",kind="several"} 1"#), "{text}");
    });
}

#[test]
fn when_the_time_is_over_it_is_aborted_and_if_nobody_says_so_it_is_not_known() {
    local(async || {
        for loses_steps in [false, true] {
            let fake = Fake::new(&[Kind::Prepare]);
            fake.loses_steps.set(loses_steps);
            let transactions = transactions(&fake);
            let outcome = transactions.run(&map(), transaction(), 1, Duration::from_millis(20)).await;
            let expected = if loses_steps { Answer::Unknown } else { Answer::Failed(Failure::Conflict) };
            assert_eq!(outcome.answer, expected);
            let (group, steps) = &fake.entries()[0];
            assert_eq!(*group, GROUPS[0].group());
            assert!(matches!(steps[..], [Settle::Decide { decision: Decision::Abort, .. }]), "{steps:?}");
            at_rest(&transactions).await;
        }
    });
}

#[test]
fn a_snapshot_that_is_not_answered_in_time_is_refused() {
    local(async || {
        let fake = Fake::new(&[Kind::Read]);
        let transactions = transactions(&fake);
        let seen = transactions.snapshot(&map(), keys().to_vec(), Duration::from_millis(20)).await;
        assert_eq!(seen, Seen::Refused(Refusal::TimedOut));
        fake.release();
        let seen = transactions.snapshot(&map(), keys().to_vec(), LONG).await;
        assert!(matches!(seen, Seen::Items(items) if items.len() == 2));
        assert_eq!(transactions.running.get(), 0);
    });
}

#[test]
fn no_more_are_under_way_than_so_many() {
    local(async || {
        let fake = Fake::new(&[]);
        let transactions = transactions(&fake);
        transactions.running.set(MAX_RUNNING);
        let outcome = transactions.run(&map(), transaction(), 1, LONG).await;
        assert_eq!(outcome.answer, Answer::Failed(Failure::Refused(Refusal::Busy)));
        let seen = transactions.snapshot(&map(), keys().to_vec(), LONG).await;
        assert_eq!((seen, fake.asked.borrow().len()), (Seen::Refused(Refusal::Busy), 0));
    });
}

fn step(attempt: u32) -> Settle {
    let id = Id { name: Name::made_up(7), coordinator: 1, attempt };
    Settle::Decide { id, decision: Decision::Abort, results: None }
}

#[test]
fn what_can_be_closed_is_told_with_the_next_step_for_its_group_or_after_a_while() {
    local(async || {
        let fake = Fake::new(&[]);
        let settler = Rc::new(Settler::new(Rc::clone(&fake)));
        let [one, other] = GROUPS.map(PartitionId::group);
        for attempt in 0..300 {
            let id = Id { name: Name::made_up(9), coordinator: 1, attempt };
            Settler::close_later(&settler, one, id.clone());
            Settler::close_later(&settler, other, id);
        }
        let settle = |group| Settler::settle(&settler, group, step(0), LONG);
        let told = Reply::Txn(Said::Settled(vec![ABORTED]));
        assert_eq!((settle(one).await, settle(one).await, settle(one).await), (told.clone(), told.clone(), told));
        fake.until(Kind::Settle, 5).await;
        let mut sizes: Vec<_> = fake.entries().into_iter().map(|(group, steps)| (group, steps.len())).collect();
        sizes[3..].sort_unstable_by_key(|(_, steps)| std::cmp::Reverse(*steps));
        assert_eq!(sizes, [(one, 256), (one, 46), (one, 1), (other, 256), (other, 44)]);
    });
}

#[test]
fn a_step_whose_outcome_is_not_known_is_told_so() {
    local(async || {
        let fake = Fake::new(&[]);
        fake.loses_steps.set(true);
        let settler = Rc::new(Settler::new(Rc::clone(&fake)));
        let reply = Settler::settle(&settler, GROUPS[0].group(), step(0), LONG).await;
        assert_eq!(reply, Reply::OutcomeUnknown);
    });
}

#[test]
fn one_that_is_told_of_again_while_it_is_brought_to_its_end_is_so_once() {
    local(async || {
        let fake = Fake::new(&[Kind::Probe]);
        let transactions = transactions(&fake);
        let (sender, receiver) = mpsc::channel(4);
        let recovering = recover_abandoned(transactions.clone(), receiver);
        let id = Id { name: Name::made_up(7), coordinator: 1, attempt: 0 };
        let found = (GROUPS[1].group(), Pointer { id, anchor: GROUPS[0] });
        let telling = async {
            for _ in 0..3 {
                sender.send(vec![found.clone(), found.clone()]).await.unwrap();
            }
            fake.until(Kind::Probe, 1).await;
            fake.release();
            fake.until(Kind::Settle, 1).await;
            // It is over, so it is brought to its end once more when it is told of once more.
            while fake.count(Kind::Probe) < 2 {
                sender.send(vec![found.clone()]).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(sender);
        };
        tokio::join!(recovering, telling);
        let first = &fake.entries()[0];
        assert_eq!(first.0, GROUPS[1].group());
        assert!(matches!(first.1[..], [Settle::Resolve { decision: Decision::Abort, .. }]), "{first:?}");
    });
}
