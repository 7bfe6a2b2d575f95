//! The judges of transactions: what must hold of everything that clients were told, of what is there in the end, and of what
//! the partitions know.

use std::collections::{BTreeMap, BTreeSet};

use annulus_core::id::GroupId;
use annulus_core::partition::txn::{Decision, Finished, Known, Name};

use super::graph;
use super::record::{Record, Told};
use super::{Account, Thing, TxnId};
use crate::simulator::history::WriteId;

/// What a run has broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An account holds what nobody has put there.
    #[error("account {thing} held {account:?} at place {place}, which nobody has put there")]
    FromNowhere {
        /// The account.
        thing: Thing,
        /// Under which of its keys.
        place: usize,
        /// What it held.
        account: Option<Account>,
    },
    /// What a transaction has put was seen under two versions.
    #[error("what transaction {txn} has put in account {thing} has version {version} and {other}")]
    TwoVersions {
        /// The account.
        thing: Thing,
        /// The transaction.
        txn: TxnId,
        /// One version.
        version: u64,
        /// The other.
        other: u64,
    },
    /// All accounts were read at one moment, and there was more or less money than there is.
    #[error("there was {found} in all accounts, and not {expected}: {seen:?}")]
    MoneyMadeOrLost {
        /// How much there was.
        found: i64,
        /// How much there is.
        expected: i64,
        /// Who had written them.
        seen: Vec<(Thing, Option<TxnId>)>,
    },
    /// The baton was in two places at one moment.
    #[error("the baton was in two places: {seen:?}")]
    TwoBatons {
        /// What was seen in each place.
        seen: Vec<Option<TxnId>>,
    },
    /// A transaction was answered in two ways.
    #[error("a transaction was answered otherwise before it was answered with {answer}")]
    AnsweredTwice {
        /// The second answer.
        answer: String,
    },
    /// A transaction is done in some of its accounts.
    #[error("transaction {txn} ({told:?}) is done in {found:?}, and it writes {writes:?}")]
    HalfDone {
        /// The transaction.
        txn: TxnId,
        /// What was told of it.
        told: Told,
        /// Where it is done.
        found: BTreeSet<Thing>,
        /// Where it should be done, or nowhere.
        writes: BTreeSet<Thing>,
    },
    /// A transaction is done, and was said not to be, or the other way around.
    #[error("transaction {txn} was said to be {told:?}, and is done in {found:?}")]
    ToldWrong {
        /// The transaction.
        txn: TxnId,
        /// What was told of it.
        told: Told,
        /// Where it is done.
        found: BTreeSet<Thing>,
    },
    /// A transaction is done twice.
    #[error("transaction {txn} is done twice in account {thing}")]
    DoneTwice {
        /// The transaction.
        txn: TxnId,
        /// The account.
        thing: Thing,
    },
    /// Something was seen that is not among what came before the end.
    #[error(
        "account {thing} was seen as transaction {txn} had left it, and that is not among what came before the end"
    )]
    Forgotten {
        /// The account.
        thing: Thing,
        /// The transaction.
        txn: TxnId,
    },
    /// A condition was said not to hold that held all the time.
    #[error("transaction {txn} was not done as a condition did not hold, and all of them held all the time")]
    FailedForNothing {
        /// The transaction.
        txn: TxnId,
    },
    /// There is no order that explains everything.
    #[error("no order explains this: {0}")]
    Circle(String),
    /// Two partitions know different things of one attempt.
    #[error("of one attempt at {name:?} different things are known: {decisions}")]
    DecidedTwice {
        /// The transaction.
        name: Name,
        /// What.
        decisions: String,
    },
    /// Two attempts at one transaction are committed.
    #[error("{name:?} was committed twice: {attempts}")]
    CommittedTwice {
        /// The transaction.
        name: Name,
        /// The attempts.
        attempts: String,
    },
    /// What partitions know of a transaction is not what its client was told.
    #[error("transaction {txn} was said to be {told:?}, and the partitions know {known}")]
    KnownOtherwise {
        /// The transaction.
        txn: TxnId,
        /// What was told of it.
        told: Told,
        /// What is known.
        known: String,
    },
}

/// Judges a whole run, once everything was looked at for the last time.
pub fn check(record: &Record) -> Result<(), Violation> {
    let Some(last) = record.last else { return Ok(()) };
    let mut final_marks: BTreeMap<Thing, Vec<TxnId>> = BTreeMap::new();
    for (thing, mark) in &record.sights[last].seen {
        let marks = mark.map_or_else(Vec::new, |mark| record.noted[&(*thing, mark)].account.marks.clone());
        final_marks.insert(*thing, marks);
    }
    check_effects(record, &final_marks)?;
    check_failures(record, &final_marks)?;
    graph::check(record, &final_marks)
}

/// Everything is done where it should be, once, or nowhere.
fn check_effects(record: &Record, final_marks: &BTreeMap<Thing, Vec<TxnId>>) -> Result<(), Violation> {
    let mut found: BTreeMap<TxnId, BTreeSet<Thing>> = BTreeMap::new();
    for (thing, marks) in final_marks {
        for txn in marks {
            if !found.entry(*txn).or_default().insert(*thing) {
                return Err(Violation::DoneTwice { txn: *txn, thing: *thing });
            }
        }
    }
    for (txn, this) in record.txns.iter().enumerate() {
        let txn = TxnId::try_from(txn).expect("few transactions");
        let (told, found) = (this.told, found.get(&txn).cloned().unwrap_or_default());
        if this.writes.is_empty() {
            continue;
        }
        if !found.is_empty() && found != this.writes {
            return Err(Violation::HalfDone { txn, told, found, writes: this.writes.clone() });
        }
        if (told == Told::Done && found.is_empty())
            || (told == Told::NotDone || told == Told::Otherwise) && !found.is_empty()
        {
            return Err(Violation::ToldWrong { txn, told, found });
        }
    }
    Ok(())
}

/// Whoever was told that a condition does not hold was told so for a reason: somebody wrote after what it had seen, and may
/// have done so by then.
fn check_failures(record: &Record, final_marks: &BTreeMap<Thing, Vec<TxnId>>) -> Result<(), Violation> {
    for (number, txn) in record.txns.iter().enumerate() {
        let Some(by) = txn.failed_by.filter(|_| txn.keys.is_empty()) else { continue };
        let may_fail = txn.reads.iter().any(|(thing, last)| {
            let marks = &final_marks[thing];
            let next = match last {
                None => marks.first(),
                Some(last) => marks.iter().skip_while(|mark| *mark != last).nth(1),
            };
            let may_come = next.is_some_and(|next| record.txns[*next as usize].invoked < by);
            // What was seen may be of a transaction that nobody knew to be done; a version is known of nothing else.
            may_come || last.is_some_and(|last| !marks.contains(&last))
        });
        if !may_fail {
            return Err(Violation::FailedForNothing { txn: TxnId::try_from(number).expect("few transactions") });
        }
    }
    Ok(())
}

/// Whatever of a transaction was seen among the keys that all clients use, the rest of it is done, too.
pub fn check_keys(record: &Record, versions: &BTreeMap<WriteId, u64>) -> Result<(), Violation> {
    let Some(last) = record.last else { return Ok(()) };
    let is_done = |txn: TxnId| {
        let marks =
            record.sights[last].seen.iter().filter_map(|(thing, mark)| Some(&record.noted[&(*thing, (*mark)?)]));
        marks.into_iter().any(|noted| noted.account.marks.contains(&txn))
    };
    for (number, txn) in record.txns.iter().enumerate() {
        let number = TxnId::try_from(number).expect("few transactions");
        let is_seen = txn.keys.iter().any(|write| versions.contains_key(write));
        if is_seen && !txn.writes.is_empty() && !is_done(number) {
            let (told, writes) = (txn.told, txn.writes.clone());
            return Err(Violation::HalfDone { txn: number, told, found: BTreeSet::new(), writes });
        }
    }
    Ok(())
}

/// What partitions know of a transaction.
pub type KnownBy = BTreeMap<GroupId, Vec<Known>>;

/// Judges what the partitions know in the end of a transaction.
pub fn check_known(record: &Record, txn: TxnId, known: &KnownBy) -> Result<(), Violation> {
    let this = &record.txns[txn as usize];
    let Some(name) = this.name.clone() else { return Ok(()) };
    let mut attempts = BTreeMap::<_, BTreeMap<GroupId, Decision>>::new();
    for (group, known) in known {
        for known in known {
            // What is open is judged elsewhere.
            let Known::Finished(Finished { id, decision, .. }) = known else { continue };
            attempts.entry((id.coordinator, id.attempt)).or_default().insert(*group, *decision);
        }
    }
    let differ =
        |said: &&BTreeMap<GroupId, Decision>| said.values().any(|decision| Some(decision) != said.values().next());
    if let Some(decisions) = attempts.values().find(differ) {
        return Err(Violation::DecidedTwice { name, decisions: format!("{decisions:?}") });
    }
    let is_committed = |said: &&BTreeMap<GroupId, Decision>| said.values().any(|decision| *decision != Decision::Abort);
    let committed: Vec<_> = attempts.values().filter(is_committed).collect();
    if committed.len() > 1 {
        return Err(Violation::CommittedTwice { name, attempts: format!("{committed:?}") });
    }
    let expected = match this.told {
        Told::Done => Some(Decision::Then),
        Told::Otherwise => Some(Decision::Otherwise),
        Told::NotDone | Told::Nothing => None,
    };
    let everywhere = |decision: Decision| {
        let here = |group| committed.first().and_then(|said| said.get(group)) == Some(&decision);
        this.groups.iter().all(here)
    };
    let is_right = match expected {
        Some(decision) => everywhere(decision),
        // What is committed is known to all that take part.
        None => match committed.first().and_then(|said| said.values().next()) {
            Some(Decision::Then) => this.told == Told::Nothing && everywhere(Decision::Then),
            Some(decision) => everywhere(*decision),
            None => true,
        },
    };
    if is_right {
        return Ok(());
    }
    Err(Violation::KnownOtherwise { txn, told: this.told, known: format!("{attempts:?} of {:?}", this.groups) })
}
