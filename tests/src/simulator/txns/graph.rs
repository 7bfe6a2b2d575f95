//! Strict serializability: one order of all transactions and reads explains what all of them saw, and puts nothing before what
//! was over when it began.
//!
//! The lists in the accounts say in which order each account was written. From there it is known of everybody who must come
//! before whom; there is an order if nobody must come before himself.
//!
//! Source: the list-append checker of Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental
//! Observations" (2020).

use std::collections::BTreeMap;

use super::checks::Violation;
use super::record::{Record, Told};
use super::{Thing, TxnId};

/// Somebody who takes effect at one moment.
struct Node {
    name: String,
    invoked: u64,
    returned: Option<u64>,
    reads: Vec<(Thing, Option<TxnId>)>,
}

/// Who must come before whom. Behind the nodes stand moments: a node comes before the moment at which it was answered.
struct Graph {
    nodes: Vec<Node>,
    after: Vec<Vec<usize>>,
}

/// Finds out whether an order explains everything.
pub fn check(record: &Record, marks: &BTreeMap<Thing, Vec<TxnId>>) -> Result<(), Violation> {
    let mut graph = Graph { nodes: Vec::new(), after: Vec::new() };
    let mut writers: BTreeMap<TxnId, usize> = BTreeMap::new();
    for txn in marks.values().flatten() {
        writers.entry(*txn).or_insert_with(|| {
            let this = &record.txns[*txn as usize];
            let returned = this.returned.filter(|_| this.told == Told::Done);
            let (name, reads) = (format!("transaction {txn}"), this.reads.clone());
            graph.nodes.push(Node { name, invoked: this.invoked, returned, reads });
            graph.nodes.len() - 1
        });
    }
    for (number, sight) in record.sights.iter().enumerate() {
        let (name, returned) = (format!("read {number}"), Some(sight.returned));
        graph.nodes.push(Node { name, invoked: sight.invoked, returned, reads: sight.seen.clone() });
    }
    graph.after = vec![Vec::new(); graph.nodes.len()];
    for marks in marks.values() {
        for pair in marks.windows(2) {
            graph.after[writers[&pair[0]]].push(writers[&pair[1]]);
        }
    }
    graph.order_reads(marks, &writers)?;
    graph.order_by_time();
    graph.find_circle().map_or(Ok(()), |circle| Err(Violation::Circle(circle)))
}

impl Graph {
    /// Whoever has read comes after whoever wrote that, and before the next who wrote.
    fn order_reads(
        &mut self,
        marks: &BTreeMap<Thing, Vec<TxnId>>,
        writers: &BTreeMap<TxnId, usize>,
    ) -> Result<(), Violation> {
        let mut places: BTreeMap<(Thing, TxnId), usize> = BTreeMap::new();
        for (thing, marks) in marks {
            places.extend(marks.iter().enumerate().map(|(place, txn)| ((*thing, *txn), place)));
        }
        for reader in 0..self.nodes.len() {
            for (thing, last) in self.nodes[reader].reads.clone() {
                let next = match last {
                    None => 0,
                    Some(txn) => *places.get(&(thing, txn)).ok_or(Violation::Forgotten { thing, txn })? + 1,
                };
                if let Some(last) = last.filter(|last| writers[last] != reader) {
                    self.after[writers[&last]].push(reader);
                }
                if let Some(next) = marks[&thing].get(next).filter(|next| writers[next] != reader) {
                    self.after[reader].push(writers[next]);
                }
            }
        }
        Ok(())
    }

    /// Whoever was answered before another was asked comes before it: by way of the moment of its answer, and those after it.
    fn order_by_time(&mut self) {
        let answered = |(at, node): (usize, &Node)| Some((node.returned?, at));
        let mut answers: Vec<(u64, usize)> = self.nodes.iter().enumerate().filter_map(answered).collect();
        answers.sort_unstable();
        let first = self.nodes.len();
        for (number, (_, node)) in answers.iter().enumerate() {
            self.after[*node].push(first + number);
            let next = first + number + 1;
            self.after.push(if number + 1 < answers.len() { vec![next] } else { Vec::new() });
        }
        for (at, node) in self.nodes.iter().enumerate() {
            let earlier = answers.partition_point(|(returned, _)| *returned < node.invoked);
            if earlier > 0 {
                self.after[first + earlier - 1].push(at);
            }
        }
    }

    /// Some who each must come before the next, and the last before the first.
    fn find_circle(&self) -> Option<String> {
        const NEW: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let mut states = vec![NEW; self.after.len()];
        for start in 0..self.after.len() {
            if states[start] != NEW {
                continue;
            }
            states[start] = OPEN;
            let mut path = vec![(start, 0)];
            while let Some((at, next)) = path.last_mut() {
                let Some(to) = self.after[*at].get(*next).copied() else {
                    states[*at] = DONE;
                    path.pop();
                    continue;
                };
                *next += 1;
                match states[to] {
                    NEW => {
                        states[to] = OPEN;
                        path.push((to, 0));
                    }
                    OPEN => return Some(self.describe(&path, to)),
                    _ => {}
                }
            }
        }
        None
    }

    fn describe(&self, path: &[(usize, usize)], first: usize) -> String {
        let circle = path.iter().map(|(at, _)| *at).skip_while(|at| *at != first);
        let show = |at: usize| {
            let Some(Node { name, invoked, returned, reads }) = self.nodes.get(at) else { return "time".to_owned() };
            format!("{name} ({invoked} to {returned:?}, saw {reads:?})")
        };
        let mut shown: Vec<String> = circle.map(show).collect();
        shown.dedup();
        shown.join(" before ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::simulator::txns::record::{Sight, Txn};

    fn txn(writes: &[Thing], reads: &[(Thing, Option<TxnId>)], invoked: u64, returned: Option<u64>) -> Txn {
        Txn {
            name: None,
            invoked,
            returned,
            told: if returned.is_some() { Told::Done } else { Told::Nothing },
            failed_by: None,
            reads: reads.to_vec(),
            writes: writes.iter().copied().collect(),
            keys: Vec::new(),
            groups: BTreeSet::new(),
        }
    }

    /// From when to when things were looked at, and what was seen of each.
    type Look<'a> = (u64, u64, &'a [(Thing, Option<TxnId>)]);

    fn record(txns: Vec<Txn>, sights: &[Look<'_>]) -> Record {
        let sight = |(invoked, returned, seen): &(u64, u64, &[(Thing, Option<TxnId>)])| Sight {
            invoked: *invoked,
            returned: *returned,
            seen: seen.to_vec(),
        };
        Record { accounts: 2, txns, sights: sights.iter().map(sight).collect(), ..Record::default() }
    }

    fn marks(of: &[&[TxnId]]) -> BTreeMap<Thing, Vec<TxnId>> {
        of.iter().enumerate().map(|(thing, marks)| (thing, marks.to_vec())).collect()
    }

    #[test]
    fn transactions_at_the_same_time_may_be_in_any_order() {
        let txns = vec![txn(&[0], &[(0, None)], 0, Some(9)), txn(&[1], &[(1, None)], 0, Some(9))];
        let sights: &[(u64, u64, &[_])] = &[(1, 8, &[(0, Some(0)), (1, None)])];
        assert_eq!(check(&record(txns, sights), &marks(&[&[0], &[1]])), Ok(()));
    }

    #[test]
    fn two_reads_must_not_see_two_writes_in_two_orders() {
        let txns = vec![txn(&[0], &[(0, None)], 0, Some(9)), txn(&[1], &[(1, None)], 0, Some(9))];
        let sights: &[(u64, u64, &[_])] = &[(1, 8, &[(0, Some(0)), (1, None)]), (1, 8, &[(0, None), (1, Some(1))])];
        assert!(matches!(check(&record(txns, sights), &marks(&[&[0], &[1]])), Err(Violation::Circle(_))));
    }

    #[test]
    fn a_read_sees_what_was_done_when_it_began() {
        let txns = vec![txn(&[0], &[(0, None)], 0, Some(3))];
        let late: &[(u64, u64, &[_])] = &[(4, 8, &[(0, None)])];
        assert!(matches!(check(&record(txns.clone(), late), &marks(&[&[0]])), Err(Violation::Circle(_))));
        let meanwhile: &[(u64, u64, &[_])] = &[(2, 8, &[(0, None)])];
        assert_eq!(check(&record(txns, meanwhile), &marks(&[&[0]])), Ok(()));
    }

    #[test]
    fn two_that_each_read_what_the_other_writes_are_not_both_done() {
        let skew = [(0, None), (1, None)];
        let txns = vec![txn(&[0], &skew, 0, Some(9)), txn(&[1], &skew, 0, Some(9))];
        assert!(matches!(check(&record(txns, &[]), &marks(&[&[0], &[1]])), Err(Violation::Circle(_))));
    }

    #[test]
    fn nobody_has_seen_what_is_not_there_in_the_end() {
        let txns = vec![txn(&[0], &[(0, None)], 0, None)];
        let sights: &[(u64, u64, &[_])] = &[(1, 2, &[(0, Some(0))])];
        let forgotten = Err(Violation::Forgotten { thing: 0, txn: 0 });
        assert_eq!(check(&record(txns, sights), &marks(&[&[]])), forgotten);
    }
}
