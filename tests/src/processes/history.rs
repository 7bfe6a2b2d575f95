//! What clients asked and what they were told, and whether it can be true.
//!
//! Every put writes a value that no other put writes, and a key's versions rise with every write; so the order of a key's
//! writes is known, and whether its history is linearizable needs no search. Going through the versions in order, each
//! operation takes effect as early as it can: not before it was asked for, and not before what has an older version. If
//! one was answered before it can have taken effect, no order explains the history, and somebody was lied to. That
//! catches an acknowledged write that was lost, a stale read, and a version that was given twice.
//!
//! A put without a clear answer may take effect at any time after it was asked for, or never. A put that was refused has
//! never happened: nobody may see its value.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It has this version.
    Acknowledged(u64),
    /// It was not done and never will be.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// A value as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The put that it is from.
    pub put: usize,
    /// Its version.
    pub version: u64,
}

#[derive(Debug, Clone)]
struct Put {
    key: String,
    invoked: Duration,
    returned: Option<Duration>,
    fate: Fate,
}

#[derive(Debug, Clone)]
struct Read {
    invoked: Duration,
    returned: Duration,
    seen: Option<Seen>,
    through: String,
}

/// Everything that clients asked and were told. Times are since the history began, on one clock.
#[derive(Debug, Clone, Default)]
pub struct History {
    puts: Vec<Put>,
    reads: BTreeMap<String, Vec<Read>>,
}

/// What can't be true, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct Violation {
    key: String,
    what: String,
}

impl History {
    /// A client is about to put; the number that tells this put from all others.
    pub fn invoke(&mut self, key: &str, now: Duration) -> usize {
        self.puts.push(Put { key: key.to_owned(), invoked: now, returned: None, fate: Fate::Unknown });
        self.puts.len() - 1
    }

    /// The put's fate is known, or nobody will ever know it.
    pub fn settle(&mut self, put: usize, now: Duration, fate: Fate) {
        self.puts[put].fate = fate;
        self.puts[put].returned = Some(now);
    }

    /// A read was answered. `through` tells how it was asked.
    pub fn read(&mut self, key: &str, asked: (Duration, Duration), seen: Option<Seen>, through: &str) {
        let (invoked, returned) = asked;
        let read = Read { invoked, returned, seen, through: through.to_owned() };
        self.reads.entry(key.to_owned()).or_default().push(read);
    }

    /// The keys that somebody has put, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.puts.iter().map(|put| put.key.clone()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// How many puts were acknowledged and how many ended without anybody knowing their fate.
    pub fn counts(&self) -> (usize, usize) {
        let acknowledged = self.puts.iter().filter(|put| matches!(put.fate, Fate::Acknowledged(_))).count();
        let unknown = self.puts.iter().filter(|put| put.fate == Fate::Unknown).count();
        (acknowledged, unknown)
    }

    /// Everything that can't be true; at most one thing for each key.
    pub fn violations(&self) -> Vec<Violation> {
        let mut puts: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, put) in self.puts.iter().enumerate() {
            puts.entry(&put.key).or_default().push(number);
        }
        for key in self.reads.keys() {
            puts.entry(key).or_default();
        }
        let check = |(key, puts): (&str, Vec<usize>)| {
            let what = self.check_key(key, &puts).err()?;
            Some(Violation { key: key.to_owned(), what })
        };
        puts.into_iter().filter_map(check).collect()
    }

    fn check_key(&self, key: &str, puts: &[usize]) -> Result<(), String> {
        let mut writers = Writers::default();
        let mut readers: BTreeMap<u64, Vec<&Read>> = BTreeMap::new();
        for &number in puts {
            if let Fate::Acknowledged(version) = self.puts[number].fate {
                writers.learn(number, version)?;
            }
        }
        for read in self.reads.get(key).into_iter().flatten() {
            if let Some(seen) = read.seen {
                let put = self.puts.get(seen.put).filter(|put| put.key == key);
                let put = put.ok_or_else(|| format!("nobody has put what was seen by {read}"))?;
                match put.fate {
                    Fate::Refused => return Err(format!("put {} was refused, but seen by {read}", seen.put)),
                    Fate::Acknowledged(version) if version != seen.version => {
                        return Err(format!("put {} was told version {version}, unlike {read}", seen.put));
                    }
                    Fate::Acknowledged(_) | Fate::Unknown => writers.learn(seen.put, seen.version)?,
                }
            }
            // Versions begin at 1: before that there was nothing.
            readers.entry(read.seen.map_or(0, |seen| seen.version)).or_default().push(read);
        }
        let versions: Vec<u64> = [0].into_iter().chain(writers.by_version.keys().copied()).collect();
        let mut latest = Latest { at: Duration::ZERO, what: "the beginning".to_owned() };
        for version in versions {
            if let Some(&number) = writers.by_version.get(&version) {
                let put = &self.puts[number];
                let known = put.returned.filter(|_| put.fate != Fate::Unknown);
                latest = latest.then(put.invoked, known, || format!("put {number} as version {version} ({put})"))?;
            }
            let before = latest.clone();
            for read in readers.get(&version).into_iter().flatten() {
                let after = before.then(read.invoked, Some(read.returned), || read.to_string())?;
                if after.at > latest.at {
                    latest = after;
                }
            }
        }
        Ok(())
    }
}

/// Which put has which version of a key.
#[derive(Default)]
struct Writers {
    by_version: BTreeMap<u64, usize>,
    by_put: BTreeMap<usize, u64>,
}

impl Writers {
    /// A put has one version, and a version is of one put.
    fn learn(&mut self, put: usize, version: u64) -> Result<(), String> {
        let known = *self.by_put.entry(put).or_insert(version);
        if known != version {
            return Err(format!("put {put} has two versions, {known} and {version}"));
        }
        let other = *self.by_version.entry(version).or_insert(put);
        if other != put {
            return Err(format!("version {version} was given to put {other} and to put {put}"));
        }
        Ok(())
    }
}

/// The operation that takes effect last, of those gone through so far.
#[derive(Debug, Clone)]
struct Latest {
    at: Duration,
    what: String,
}

impl Latest {
    /// An operation that takes effect after this one.
    fn then(&self, invoked: Duration, returned: Option<Duration>, what: impl Fn() -> String) -> Result<Self, String> {
        if returned.is_some_and(|returned| returned < self.at) {
            return Err(format!("{} was answered before this began, of an older version: {}", what(), self.what));
        }
        if invoked > self.at { Ok(Self { at: invoked, what: what() }) } else { Ok(self.clone()) }
    }
}

impl fmt::Display for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "asked at {:?}, {:?} at {:?}", self.invoked, self.fate, self.returned)
    }
}

impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invoked, returned, seen, through } = self;
        match seen {
            Some(seen) => write!(f, "a read of put {} as version {}", seen.put, seen.version)?,
            None => write!(f, "a read of nothing")?,
        }
        write!(f, " through {through} (asked at {invoked:?}, answered at {returned:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes histories of one key, in milliseconds.
    #[derive(Default)]
    struct Script(History);

    impl Script {
        fn put(mut self, invoked: u64, returned: u64, fate: Fate) -> Self {
            let put = self.0.invoke("k", Duration::from_millis(invoked));
            self.0.settle(put, Duration::from_millis(returned), fate);
            self
        }

        fn read(mut self, invoked: u64, returned: u64, seen: Option<(usize, u64)>) -> Self {
            let asked = (Duration::from_millis(invoked), Duration::from_millis(returned));
            self.0.read("k", asked, seen.map(|(put, version)| Seen { put, version }), "node-1");
            self
        }

        fn verdict(self) -> Option<String> {
            self.0.violations().pop().map(|violation| violation.to_string())
        }
    }

    fn acknowledged_at(version: u64) -> Fate {
        Fate::Acknowledged(version)
    }

    #[test]
    fn operations_that_overlap_may_take_effect_in_any_order() {
        let script = Script::default().put(0, 10, acknowledged_at(1)).put(5, 9, acknowledged_at(2));
        assert_eq!(script.read(1, 8, None).read(2, 9, Some((0, 1))).read(11, 12, Some((1, 2))).verdict(), None);
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_noticed() {
        let verdict = Script::default().put(0, 1, acknowledged_at(1)).read(2, 3, None).verdict();
        assert!(verdict.expect("it is a lie").contains("put 0 as version 1"));
    }

    #[test]
    fn a_stale_read_is_noticed_after_a_write_and_after_another_read() {
        let two = || Script::default().put(0, 1, acknowledged_at(1)).put(2, 9, acknowledged_at(2));
        assert!(two().read(10, 11, Some((0, 1))).verdict().is_some());
        assert!(two().read(3, 4, Some((1, 2))).read(5, 6, Some((0, 1))).verdict().is_some());
        assert_eq!(two().read(3, 5, Some((1, 2))).read(4, 6, Some((0, 1))).verdict(), None);
    }

    #[test]
    fn a_write_of_unknown_fate_may_take_effect_late_or_never_but_not_come_and_go() {
        let unknown = || Script::default().put(0, 1, acknowledged_at(1)).put(2, 3, Fate::Unknown);
        assert_eq!(unknown().read(50, 51, Some((0, 1))).verdict(), None);
        assert_eq!(unknown().read(4, 5, Some((0, 1))).read(50, 51, Some((1, 7))).verdict(), None);
        assert!(unknown().read(4, 5, Some((1, 7))).read(50, 51, Some((0, 1))).verdict().is_some());
        assert!(unknown().read(4, 5, Some((1, 7))).read(6, 7, Some((1, 8))).verdict().is_some());
    }

    #[test]
    fn a_refused_write_a_foreign_value_and_a_version_given_twice_are_noticed() {
        assert!(Script::default().put(0, 1, Fate::Refused).read(2, 3, Some((0, 1))).verdict().is_some());
        assert!(Script::default().read(2, 3, Some((7, 1))).verdict().is_some());
        let twice = Script::default().put(0, 1, acknowledged_at(1)).put(2, 3, acknowledged_at(1));
        assert!(twice.verdict().expect("it is a lie").contains("given to put 0 and to put 1"));
        let lower = Script::default().put(0, 1, acknowledged_at(5)).put(2, 3, acknowledged_at(4));
        assert!(lower.verdict().is_some());
    }
}
