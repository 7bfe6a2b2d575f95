//! One partition's machine over a state in memory. Every command becomes an entry, goes through its byte form, and is
//! applied at the next index.
//!
//! ```text
//! put KEY VALUE [if=absent|exists|VERSION] [ttl=D] [name=N] [fence=LOCK:TOKEN]      delete KEY [if=…] …      expire
//! lock acquire LOCK OWNER [mode=shared] [ttl=D] [wait=D] [request=N]      lock renew LOCK TOKEN [ttl=D]
//! lock release LOCK TOKEN      lock leave LOCK TOKEN ASKED      extend      locks [PREFIX] [after=LOCK] [limit=N]
//! txn alone ID …      txn prepare ID [priority=N] [anchor=P] [of=P,P] [fast=yes] WHAT…      txn probe ID
//! txn decide|resolve ID then|else|abort …      txn forget ID      hidden KEY      txns [NAME]
//!     ID is NAME/COORDINATOR.ATTEMPT; WHAT are if:KEY:VERSION, if:KEY:absent, if:KEY:is:VALUE, lock:LOCK:TOKEN, put:KEY:VALUE,
//!     delete:KEY, get:KEY, else:put:KEY:VALUE, else:get:KEY …, fence:LOCK:TOKEN
//! crowd LOCK N [mode=shared]   N owners ask for a lock, and wait
//! clock D              the clock that the entries carry from here on (it may go back, as a new leader's does)
//! get KEY              scan [PREFIX] [after=KEY] [limit=N] [values=no]
//! configure EPOCH STEP…          an entry that changes who votes: nothing to the machine
//! many N [ttl=D] [name=yes]      puts keys many-0, many-1, …
//! records              how many records there are of each kind, and what the machine knows
//! reload               the machine anew from its records
//! ```

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use annulus_core::id::PartitionId;
use annulus_core::lane::Reply;
use annulus_core::partition::{Applied, Command, Entry, Partition, Write, lock, txn};
use annulus_core::state::{MemoryState, State, TableId};

use crate::arguments::{Arguments, Result, configure};
use crate::script;
use crate::trace::{lock_outcome, lock_view, outcome, page, reply, settled, show, txn_outcome, txn_view};

const TABLE: TableId = TableId { group: annulus_core::id::GroupId(1), generation: 1 };

pub struct Player {
    state: MemoryState,
    partition: Partition,
    index: u64,
    clock_ms: u64,
}

impl Default for Player {
    fn default() -> Self {
        assert_eq!(PartitionId(0).group(), TABLE.group);
        let state = MemoryState::default();
        let partition = Partition::load(&state, TABLE).expect("an empty state can be read");
        Self { state, partition, index: 1, clock_ms: 0 }
    }
}

impl Player {
    fn apply(&mut self, command: Command) -> Applied {
        self.index += 1;
        let entry = Entry { clock_ms: self.clock_ms, command }.encode();
        self.partition.apply(&mut self.state, self.index, entry).expect("an entry can be applied")
    }

    fn write(&mut self, write: Write) -> Vec<String> {
        let Applied::Write(done) = self.apply(Command::Write(write)) else { panic!("a write has an outcome") };
        vec![format!("{}: {}", self.index, outcome(done))]
    }

    fn lock(&mut self, command: lock::Command) -> Vec<String> {
        let Applied::Lock(done) = self.apply(Command::Lock(command)) else { panic!("it has an outcome") };
        let first = format!("{}: {}", self.index, lock_outcome(&done.outcome));
        with_settled(first, &done.settled)
    }

    fn txn(&mut self, command: txn::Command) -> Vec<String> {
        let Applied::Txn(done) = self.apply(Command::Txn(command)) else { panic!("it has an outcome") };
        let released = if !done.released.is_empty() { ", lets go" } else { "" };
        vec![format!("{}: {}{released}", self.index, txn_outcome(&done.outcome))]
    }

    fn txns(&self, name: Option<&str>) -> Result<Vec<String>> {
        let clock_ms = self.partition.clock_ms();
        let text = |error: annulus_core::partition::Error| error.to_string();
        match name {
            None => {
                let open = self.partition.open_txns(&self.state, clock_ms, 0, 100).map_err(text)?;
                Ok(open.iter().map(txn_view).collect())
            }
            Some(name) => {
                let name = txn::Name::new(name.to_owned().into()).map_err(|error| error.to_string())?;
                let known = self.partition.known_of(&self.state, &name, clock_ms).map_err(text)?;
                Ok(vec![reply(&Reply::KnownTxn(known))])
            }
        }
    }

    fn crowd(&mut self, arguments: &mut Arguments) -> Result<Vec<String>> {
        let (name, count): (_, u32) = (arguments.need("a lock")?, arguments.number("a count")?);
        let mode = arguments.option("mode").map_or(String::new(), |mode| format!(" mode={mode}"));
        let mut last = Vec::new();
        for number in 0..count {
            let line = format!("lock acquire {name} crowd-{number}{mode} wait=30s");
            last = self.lock(Arguments::new(&line).1.lock()?);
        }
        Ok(last)
    }

    fn locks(&self, arguments: &mut Arguments) -> Result<Vec<String>> {
        let clock_ms = self.clock_ms.max(self.partition.clock_ms());
        let (locks, more) =
            self.partition.list_locks(&self.state, &arguments.scan()?, clock_ms).map_err(|error| error.to_string())?;
        let mut lines = clipped(locks.iter().flat_map(lock_view).collect(), 3);
        lines.extend(more.then(|| "more".to_owned()));
        Ok(lines)
    }

    fn records(&self) -> Vec<String> {
        let names = [
            "meta",
            "values",
            "idempotency",
            "value expiries",
            "idempotency expiries",
            "locks",
            "lock expiries",
            "fences",
            "fence expiries",
            "open txns",
            "finished txns",
            "txn expiries",
        ];
        let mut counts = BTreeMap::<u8, usize>::new();
        let mut count = |key: &[u8], _: &[u8]| {
            *counts.entry(key[0]).or_default() += 1;
            ControlFlow::Continue(())
        };
        self.state.range(TABLE, &[], None, &mut count).expect("a state in memory can be read");
        let counts = counts.iter().map(|(kind, count)| format!("{} {count}", names[usize::from(*kind)]));
        let next = match self.partition.next_expiry_ms() {
            u64::MAX => "never".to_owned(),
            next => format!("{next}ms"),
        };
        vec![
            counts.collect::<Vec<_>>().join(", "),
            format!("clock {}ms, next expiry {next}, {} bytes", self.partition.clock_ms(), self.partition.bytes()),
        ]
    }

    fn many(&mut self, arguments: &mut Arguments) -> Result<Vec<String>> {
        let count: u32 = arguments.number("a count")?;
        let value = arguments.option("value").unwrap_or("x");
        let options = ["ttl", "name"].map(|name| arguments.option(name).map(|value| (name, value)));
        for number in 0..count {
            let options = options.iter().flatten().map(|(name, value)| match *name {
                "name" => format!(" name=n{number}"),
                _ => format!(" {name}={value}"),
            });
            let line = format!("put many-{number} {value}{}", options.collect::<String>());
            let write = Arguments::new(&line).1.put()?;
            self.write(write);
        }
        Ok(vec![format!("{}: the last of {count}", self.index)])
    }
}

/// What an entry did, and what became of those that waited.
fn with_settled(first: String, gone: &[lock::Settled]) -> Vec<String> {
    let lines: Vec<_> = std::iter::once(first).chain(gone.iter().map(settled)).collect();
    clipped(lines, 4)
}

/// The first lines and the last two, if they are many.
fn clipped(mut lines: Vec<String>, first: usize) -> Vec<String> {
    if lines.len() > 2 * first {
        let left_out = lines.len() - first - 2;
        lines.splice(first..lines.len() - 2, [format!("… {left_out} more …")]);
    }
    lines
}

impl script::Player for Player {
    fn play(&mut self, line: &str) -> Result<Vec<String>> {
        let (command, mut arguments) = Arguments::new(line);
        let output = match command {
            "put" => {
                let write = arguments.put()?;
                self.write(write)
            }
            "delete" => {
                let write = arguments.delete()?;
                self.write(write)
            }
            "many" => self.many(&mut arguments)?,
            "expire" => {
                let Applied::Expired(gone) = self.apply(Command::Expire) else { panic!("it lets go") };
                let first = format!("{}: clock {}ms", self.index, self.partition.clock_ms());
                with_settled(first, &gone)
            }
            "lock" => {
                let command = arguments.lock()?;
                self.lock(command)
            }
            "txn" => {
                let command = arguments.txn()?;
                self.txn(command)
            }
            "txns" => self.txns(arguments.word())?,
            "hidden" => match self.partition.hides(&arguments.key()?) {
                None => vec!["no".to_owned()],
                Some(by) => vec![format!("by {}", crate::trace::id(&by.id))],
            },
            "crowd" => self.crowd(&mut arguments)?,
            "locks" => self.locks(&mut arguments)?,
            "extend" => {
                assert_eq!(self.apply(Command::ExtendLeases), Applied::Nothing);
                vec![format!("{}: clock {}ms", self.index, self.partition.clock_ms())]
            }
            "configure" => {
                let step = configure(&mut arguments)?;
                assert_eq!(self.apply(Command::Configure(step)), Applied::Configure(step));
                vec![format!("{}: {}", self.index, crate::trace::step(step))]
            }
            "clock" => {
                self.clock_ms = arguments.duration()?.as_millis() as u64;
                Vec::new()
            }
            "get" => match self.partition.get(&self.state, &arguments.key()?).map_err(|error| error.to_string())? {
                None => vec!["absent".to_owned()],
                Some(item) => vec![format!("{} version {}", show(&item.value), item.version)],
            },
            "scan" => {
                let scan = arguments.scan()?;
                page(&self.partition.scan(&self.state, &scan).map_err(|error| error.to_string())?)
            }
            "records" => self.records(),
            "reload" => {
                self.partition = Partition::load(&self.state, TABLE).map_err(|error| error.to_string())?;
                Vec::new()
            }
            _ => return Err(format!("there is no command `{command}`")),
        };
        arguments.end()?;
        self.partition.check(&self.state).map_err(|error| error.to_string())?;
        Ok(output)
    }
}
