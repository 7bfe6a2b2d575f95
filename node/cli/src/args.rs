//! The command line's grammar and its help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use annulus_client::lock::Fence;
use annulus_client::{Client, Condition, Consistency, Version};
use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::exit::Failure;
use crate::input;
#[cfg(feature = "kube")]
use crate::kube::args::{Kube, Plugin};
#[cfg(feature = "kube")]
use crate::kube::is_plugin;
use crate::output::Format;
use crate::sidecar;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 refused (not found, conflict, condition failed), 2 usage error (nothing \
                          was sent), 3 outcome unknown (the write may have happened), 4 not available.";

/// Annulus, a distributed key-value store: starts stores and talks to them.
#[derive(Debug, Parser)]
#[command(name = "annulus", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads a command line.
    ///
    /// # Errors
    ///
    /// clap's own, which end the process with 2, or with 0 for `--help`. Under the name of a plugin of kubectl there are only the
    /// verbs of `kube`. A verb with its letters out of order (`gte`), which is too short for clap to see the likeness, gets its
    /// suggestion here.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        #[cfg(feature = "kube")]
        if arguments.first().is_some_and(|program| is_plugin(program)) {
            let plugin = Plugin::try_parse_from(arguments)?;
            return Ok(Self { command: Command::Kube(Box::new(plugin.kube)) });
        }
        Self::try_parse_from(arguments).map_err(|mut error| {
            let sorted = |word: &str| {
                let mut letters: Vec<char> = word.chars().collect();
                letters.sort_unstable();
                letters
            };
            let meant = match error.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(typed)) => Self::command()
                    .get_subcommands()
                    .map(|verb| verb.get_name().to_owned())
                    .find(|verb| sorted(verb) == sorted(typed)),
                _ => None,
            };
            if let Some(meant) = meant {
                error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![meant]));
            }
            error
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a store on this machine, each member a process of its own; Ctrl-C ends it
    Dev(Dev),
    /// Run one node
    Node(Node),
    /// Run beside an application: the store on its localhost, and its locks kept
    Sidecar(Box<sidecar::Arguments>),
    /// Put a value under a key
    Put(Put),
    /// Write the value under a key to stdout, as it is
    Get(Get),
    /// Delete a key
    Delete(Delete),
    /// List keys in order
    Scan(Scan),
    /// Run a command while holding a lock
    Lock(Lock),
    /// Run a command while leading: elects one of all who stand under the same name
    Elect(Elect),
    /// List who holds which lock, and who waits for it
    Locks(Locks),
    /// Read and change several keys at once, or none of them
    Txn(Box<Txn>),
    /// List the transactions that are open now
    Txns(Txns),
    /// Become a command that ends with the process that started it
    #[command(hide = true)]
    Tied(Tied),
    /// Show who holds and leads which part of the ring
    Ring(Ring),
    /// List the members, or change who they are
    Members(Members),
    /// Show what still moves until every member holds what it should
    Plan(Plan),
    /// List the last changes of the map
    History(History),
    /// Show how the store and its members are
    Status(Status),
    /// Show and steer stores in a Kubernetes cluster; the same as `kubectl annulus`
    #[cfg(feature = "kube")]
    Kube(Box<Kube>),
    /// Measure throughput and latency with a closed loop of clients
    Bench(Bench),
    /// Write a completion script for a shell to stdout
    #[command(after_help = "For bash: annulus completions bash > ~/.local/share/bash-completion/completions/annulus")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Where the store is, and how long to wait for it.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Client addresses (HOST:PORT) of some nodes, separated by commas; one is enough
    #[arg(long, short, env = "ANNULUS_ENDPOINT", value_delimiter = ',', default_value = "127.0.0.1:7070")]
    #[arg(value_name = "HOST:PORT,…")]
    pub(crate) endpoint: Vec<String>,
    /// How long to try, all in all
    #[arg(long, default_value = "10s", value_parser = input::duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

impl Connect {
    /// The client of that store.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let endpoints = self.endpoint.iter().map(|endpoint| endpoint.trim());
        Ok(Client::builder(endpoints).deadline(self.timeout).build()?)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The key: 1 to 4096 bytes
    pub(crate) key: OsString,
    /// The value; - reads it from stdin
    #[arg(allow_negative_numbers = true, required_unless_present = "file", conflicts_with = "file")]
    pub(crate) value: Option<OsString>,
    /// Read the value from this file
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Let the key go away by itself after this long, such as 30s
    #[arg(long, value_parser = input::duration, value_name = "DURATION")]
    pub(crate) ttl: Option<Duration>,
    #[command(flatten)]
    pub(crate) condition: Conditions,
    /// A name for this write: repeated under the same name it happens once
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotency_key: Option<String>,
    /// The lock under which it is done, as $ANNULUS_FENCE names it: nothing happens unless the token holds the lock
    #[arg(long, value_name = "NAME=TOKEN")]
    pub(crate) fence: Option<Fence>,
    /// Refuse to send a larger value
    #[arg(long, default_value = "1MiB", value_parser = input::size, value_name = "SIZE")]
    pub(crate) max_value: u64,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) write: Writing,
}

/// What must hold for a write to happen.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Conditions {
    /// Only if the key has exactly this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    /// Only if the key is there
    #[arg(long)]
    if_exists: bool,
    /// Only if the key is not there
    #[arg(long)]
    if_absent: bool,
}

impl Conditions {
    /// The condition that these flags make.
    pub(crate) fn condition(&self) -> Condition {
        match (self.if_version, self.if_exists, self.if_absent) {
            (Some(version), ..) => Condition::Version(Version(version)),
            (None, true, _) => Condition::Exists,
            (None, false, true) => Condition::Absent,
            (None, false, false) => Condition::Always,
        }
    }
}

/// How to write what was found.
#[derive(Debug, Args)]
pub(crate) struct Writing {
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Say on stderr what is known beside the value, such as its version
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The key
    pub(crate) key: OsString,
    /// Who may answer
    #[arg(long, value_enum, default_value = "linearizable", value_name = "WHO")]
    pub(crate) consistency: ReadFrom,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) write: Writing,
}

/// Who may answer a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReadFrom {
    /// The leader under its lease: sees every write acknowledged before
    Linearizable,
    /// The leader after a quorum has confirmed it: the same, and assumes nothing about clocks
    Quorum,
    /// Any replica: may be behind
    Stale,
}

impl From<ReadFrom> for Consistency {
    fn from(from: ReadFrom) -> Self {
        match from {
            ReadFrom::Linearizable => Self::Linearizable,
            ReadFrom::Quorum => Self::Quorum,
            ReadFrom::Stale => Self::Stale,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The key
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) condition: Conditions,
    /// A name for this write: repeated under the same name it happens once
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotency_key: Option<String>,
    /// The lock under which it is done, as $ANNULUS_FENCE names it: nothing happens unless the token holds the lock
    #[arg(long, value_name = "NAME=TOKEN")]
    pub(crate) fence: Option<Fence>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) write: Writing,
}

#[derive(Debug, Args)]
#[command(
    after_help = "As text: a key a line, with --values then a tab and the value; control characters, bytes that are \
                        no UTF-8, and % are percent-encoded. As json: an object a line."
)]
pub(crate) struct Scan {
    /// Only keys that begin with this
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// The values too
    #[arg(long)]
    pub(crate) values: bool,
    /// At most this many keys
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Ask for this many keys at once
    #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) page: u32,
    /// Who may answer
    #[arg(long, value_enum, default_value = "linearizable", value_name = "WHO")]
    pub(crate) consistency: ReadFrom,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// A lock, and what to run while it is held.
#[derive(Debug, Args)]
pub(crate) struct Holding {
    /// The lock's name: 1 to 512 bytes
    pub(crate) name: OsString,
    /// How long the lease is, from 500ms to 24h: how soon others get the lock when this machine dies, and how long the store
    /// may be away before the lock is lost
    #[arg(long, default_value = "10s", value_parser = input::duration, value_name = "DURATION")]
    pub(crate) ttl: Duration,
    /// By which name it is held, for people: 1 to 255 bytes [default: this machine and the process id]
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// What it is wanted for, for people: up to 255 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) description: String,
    /// How long the command may take to end by SIGTERM when the lock is lost, before it gets SIGKILL
    #[arg(long, default_value = "5s", value_parser = input::duration, value_name = "DURATION")]
    pub(crate) grace: Duration,
    /// Let the command read from the terminal, and get its Ctrl-C and Ctrl-Z; its own children are not ended with it then
    #[arg(long)]
    pub(crate) foreground: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

const COMMANDS_ENVIRONMENT: &str = "The command finds the lock's name in ANNULUS_LOCK, its token in ANNULUS_TOKEN, and both in ANNULUS_FENCE: a write \
     with `annulus put … --fence \"$ANNULUS_FENCE\"` does not overwrite what a later holder has written under its own, \
     also when nobody could end the command in time. Signals (HUP, INT, QUIT, TERM, USR1, USR2) are passed on to it. If \
     the lock is lost, it is ended with its process group. Unless --foreground is given, it can't read from the \
     terminal.\n\n\
     --timeout is how long the store may take to be found, and a request to be answered beside its wait; a wait for the \
     lock outlasts a store that is away.\n\n\
     Exit codes: that of the command (128 and the number of a signal that ended it; 127 if there is no such command); 1 \
     also when the lock is held by another or was lost, 2 usage error, 3 outcome unknown (the lock may be held until its \
     lease ends), 4 not available.";

#[derive(Debug, Args)]
#[command(override_usage = "annulus lock [OPTIONS] <NAME> -- <CMD>...", after_help = COMMANDS_ENVIRONMENT)]
pub(crate) struct Lock {
    /// Wait for so long at most [default: without end]
    #[arg(long, value_parser = input::duration, value_name = "DURATION")]
    pub(crate) wait: Option<Duration>,
    /// Do not wait: be refused if it is held
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
    /// Let others hold it too that share it
    #[arg(long)]
    pub(crate) shared: bool,
    #[command(flatten)]
    pub(crate) holding: Holding,
}

#[derive(Debug, Args)]
#[command(override_usage = "annulus elect [OPTIONS] <NAME> -- <CMD>...", before_help = ELECTION)]
#[command(after_help = COMMANDS_ENVIRONMENT)]
pub(crate) struct Elect {
    /// Stand again when the command has ended by itself, however it ended, until a signal says otherwise
    #[arg(long)]
    pub(crate) again: bool,
    #[command(flatten)]
    pub(crate) holding: Holding,
}

const ELECTION: &str = "It waits until it leads, behind whoever stood before, and runs the command while it does. If it leads \
                        no more, the command is ended and it stands again. If the command ends by itself, or by a signal \
                        that was passed on, it resigns and ends with the command's exit code.";

#[derive(Debug, Args)]
pub(crate) struct Locks {
    /// Only locks whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
    /// Show each that waits too
    #[arg(long, short)]
    pub(crate) waiters: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

const TXN_HELP: &str = "\
If all conditions hold, the operations are done, all at one moment. In a FILE there may also be operations that are done if \
one does not hold, times to live, and bytes that are no UTF-8 (key_base64, value_base64, lock_base64):\n\n  \
{\"if\":   [{\"key\":\"alice\",\"version\":5}, {\"key\":\"bob\",\"exists\":true},\n            \
{\"key\":\"c\",\"value\":\"x\"}, {\"lock\":\"l\",\"token\":7}],\n   \
\"then\": [{\"put\":{\"key\":\"alice\",\"value\":\"70\",\"ttl_ms\":30000}},\n            \
{\"delete\":{\"key\":\"c\"}}],\n   \
\"else\": [{\"get\":{\"key\":\"alice\"}}]}\n\n\
It is done once under its id, however often it is sent, for ten minutes. Without --id it has one of its own, and is sent \
again under that when an answer was lost.\n\n\
Exit codes: 0 done, 1 a condition did not hold (`else` was done) or it was refused, 2 usage error (nothing was sent), 3 \
outcome unknown (--status tells), 4 not available. With --status: 0 done, 1 not done, 3 not settled yet.";

#[derive(Debug, Args)]
#[command(after_help = TXN_HELP)]
pub(crate) struct Txn {
    /// Read the transaction from this file, as JSON; - reads it from stdin
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) steps: Steps,
    /// Tell what became of the transaction with this id
    #[arg(long, value_name = "ID", conflicts_with_all = ["file", "Steps", "id", "fence"])]
    #[arg(required_unless_present_any = ["file", "Steps"])]
    pub(crate) status: Option<String>,
    /// Its id: 1 to 64 letters, digits, -, _, . or ~
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The lock under which it is done, as $ANNULUS_FENCE names it: nothing happens unless the token holds the lock
    #[arg(long, value_name = "NAME=TOKEN")]
    pub(crate) fence: Option<Fence>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(flatten)]
    pub(crate) write: Writing,
}

/// A transaction that stands in the arguments.
#[derive(Debug, Args)]
#[group(multiple = true, conflicts_with = "file")]
pub(crate) struct Steps {
    /// Put a value (may be repeated, as the others)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) put: Vec<KeyValue>,
    /// Delete a key
    #[arg(long, value_name = "KEY")]
    pub(crate) delete: Vec<OsString>,
    /// Read a key
    #[arg(long, value_name = "KEY")]
    pub(crate) get: Vec<OsString>,
    /// Only if the key has exactly this version
    #[arg(long, value_name = "KEY=VERSION", value_parser = input::key_version)]
    pub(crate) if_version: Vec<(String, u64)>,
    /// Only if the key has this value
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) if_value: Vec<KeyValue>,
    /// Only if the key is there
    #[arg(long, value_name = "KEY")]
    pub(crate) if_exists: Vec<OsString>,
    /// Only if the key is not there
    #[arg(long, value_name = "KEY")]
    pub(crate) if_absent: Vec<OsString>,
    /// Only if the lock is held with this token
    #[arg(long, value_name = "NAME=TOKEN")]
    pub(crate) if_held: Vec<Fence>,
}

/// A key and a value in one argument: what stands before the first `=`, and what stands after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A line for each partition in which one is open. Few are open for longer than milliseconds; one that \
                        is open for a second was abandoned, and is brought to its end by whoever finds it."
)]
pub(crate) struct Txns {
    /// At most this many
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Tied {
    /// The process that starts it
    pub(crate) parent: i32,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Ring {
    /// Draw the ring also when stdout is not a terminal
    #[arg(long)]
    pub(crate) picture: bool,
    /// Show it again and again, until Ctrl-C; where stdout is no terminal, each time it has changed
    #[arg(long, short)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Members {
    #[command(subcommand)]
    pub(crate) verb: Option<MembersVerb>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum MembersVerb {
    /// Let nodes that run already become members
    Add(Add),
    /// Let replicas and leaders move away from members that stay members
    Drain(Named),
    /// Let drained members hold replicas again
    Undrain(Named),
    /// Let replicas move away from members, which then are members no more
    Remove(Remove),
}

/// How to make a change of the members.
#[derive(Debug, Args)]
pub(crate) struct Change {
    /// Wait until everything is where it should be, and show how far it is
    #[arg(long, short)]
    pub(crate) wait: bool,
    /// Be refused if the store has seen a higher number: for operators that replace each other
    #[arg(long, value_name = "NUMBER")]
    pub(crate) operator_fence: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Start each node first (`annulus node`), with an empty volume and a name of its own. It is asked who \
                        it is; one that belongs to another cluster is refused. A node that has the name of a member takes \
                        its place."
)]
pub(crate) struct Add {
    /// Admin addresses (HOST:PORT) of the new nodes
    #[arg(required = true, value_name = "ADMIN_ADDRESS")]
    pub(crate) nodes: Vec<String>,
    /// Their share of the partitions relative to others [default: as they are configured, else 100]
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) weight: Option<u32>,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The members, by name or id
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) members: Vec<String>,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Its process goes on; end it when its member is gone from `annulus members`. Its volume can't be used \
                        again: a node with an empty one can join under the same name."
)]
pub(crate) struct Remove {
    /// The members, by name or id
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) members: Vec<String>,
    /// Move nothing: remove them at once, or be refused if they hold a replica
    #[arg(long)]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) change: Change,
}

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Show it again and again until nothing moves, with a picture of the ring; where stdout is no terminal, a line each
    /// time it has changed
    #[arg(long, short)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// Show the ring as it was after the change that made this epoch
    #[arg(long, value_name = "EPOCH")]
    pub(crate) epoch: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 4 when a part of the ring has no leader: keys there can't be written.")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

/// What a bench does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    /// Puts
    Put,
    /// Linearizable gets
    Get,
    /// As many puts as gets
    Mixed,
    /// Gets a lock drawn at random and gives it up
    Lock,
    /// All wait in line for one lock, and give it up at once: how long it takes from one to the next
    Queue,
    /// Transactions that put two keys drawn at random
    Txn,
    /// Transactions that put two keys of one partition
    TxnOne,
    /// Reads two keys at one moment, and puts both if they are still the same: what is committed counts
    Rmw,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Each client sends its next request when it has the answer to the last, to the leader of a key \
                        drawn at random from bench/000000000000 on. Without --retries nothing is sent twice: what fails is \
                        counted by kind, and the load goes on. With --rate a request's latency counts from when it was \
                        due, so that a store that stands still is not let off. Ctrl-C ends early, with the figures so far.\n\n\
                        --keys is how many locks there are, too, and for rmw how hot the keys are. queue knows no --rate; \
                        lock, queue and rmw send nothing again."
)]
pub(crate) struct Bench {
    /// What to do
    #[arg(long, value_enum, default_value = "put", value_name = "OPERATION")]
    pub(crate) op: Operation,
    /// How many clients
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// For how many seconds
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) secs: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 256, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(..=8_388_608))]
    pub(crate) value: u32,
    /// How many different keys
    #[arg(long, default_value_t = 100_000, value_name = "COUNT")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..1_000_000_000_000))]
    pub(crate) keys: u64,
    /// Put every key once before the measurement begins
    #[arg(long)]
    pub(crate) fill: bool,
    /// Send this many requests a second at most, evenly spread [default: as many as are answered]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// Send a request that failed again, this many times at most; how many needed that is told
    #[arg(long, default_value_t = 0, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) retries: u32,
    /// Threads of the load; by default half of the machine's cores
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) threads: Option<u32>,
    #[command(flatten)]
    pub(crate) connect: Connect,
    /// How to write the result
    #[arg(long, short, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Member N listens at 127.0.0.1 on --client-port + N - 1 for clients, 100 above that for the operator \
                        and 200 above that for other members. Where everything is stands in DIR/dev.json.\n\nStarted with \
                        another --members than before, the store grows or shrinks while it serves, and keeps as many \
                        copies as it was made with. Whoever leaves is ended when its replicas have moved away; its volume \
                        is put aside as DIR/node-N/left-ID. A member whose DIR/node-N/data was deleted comes back as a new \
                        one in the old one's place. `annulus plan --watch` shows how far it is.\n\nWith --file, replicas, \
                        replicationFactor, partitions and settings of its spec count; the rest has no meaning here. Another \
                        number of replicas in the file scales the store while it runs. Its data is in a folder of its own, by \
                        the cluster's name."
)]
pub(crate) struct Dev {
    /// Run the StorageCluster in this file (YAML), as it would be given to the operator
    #[arg(long, short, value_name = "FILE", conflicts_with = "members")]
    pub(crate) file: Option<PathBuf>,
    /// How many members; a store of three or more goes on when one of them dies. May change from one start to the next
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=99))]
    pub(crate) members: u16,
    /// Zones for the members, separated by commas, in turn by their number; they stay from one start to the next
    #[arg(long, value_delimiter = ',', value_name = "ZONE,…", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) zones: Vec<String>,
    /// Where the data stays from one start to the next [default: in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The first member's client port
    #[arg(long, default_value_t = 7070, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(crate) client_port: u16,
    /// Leave a member that died dead
    #[arg(long)]
    pub(crate) no_restart: bool,
    /// The binary that members run [default: this one]
    #[arg(long, hide = true, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A flag is stronger than a variable of the environment (ANNULUS_NAME, ANNULUS_CLIENT_LISTEN and so \
                        on), and that than the configuration file."
)]
pub(crate) struct Node {
    /// Configuration file (YAML)
    #[arg(long, env = "ANNULUS_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The node's name: unique in its store
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where its data is
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where it listens for clients
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) client_listen: Option<String>,
    /// Where it listens for the operator
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) admin_listen: Option<String>,
    /// Where it listens for other members
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) peer_listen: Option<String>,
    /// The zone it runs in
    #[arg(long)]
    pub(crate) zone: Option<String>,
    /// How to write the log
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<Format>,
    /// Print the configuration as it would be used, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// End when stdin is closed: whoever started this node then takes it along when it dies
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let arguments = std::iter::once("annulus").chain(line.split_whitespace());
        Cli::read(arguments.map(OsString::from)).map(|cli| cli.command)
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_typo_is_a_usage_error_with_a_suggestion() {
        for (typed, meant) in [("gte k", "'get'"), ("ptu k v", "'put'"), ("statsu", "'status'"), ("benhc", "'bench'")] {
            let verb = parse(typed).unwrap_err();
            assert_eq!((verb.exit_code(), verb.to_string().contains(meant)), (2, true), "{verb}");
        }
        let flag = parse("put k v --if-versoin 3").unwrap_err();
        assert_eq!((flag.exit_code(), flag.to_string().contains("--if-version")), (2, true), "{flag}");
    }

    #[test]
    fn a_put_takes_one_value_from_one_place() {
        assert!(parse("put k v").is_ok());
        assert!(parse("put k -").is_ok());
        assert!(parse("put k -5").is_ok());
        assert!(parse("put k --file f").is_ok());
        assert_eq!(parse("put k").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("put k v --file f").unwrap_err().kind(), ErrorKind::ArgumentConflict);
        assert_eq!(parse("put k v --if-absent --if-version 3").unwrap_err().kind(), ErrorKind::ArgumentConflict);
        assert_eq!(parse("put k v --ttl 30").unwrap_err().kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn members_are_listed_or_changed_and_an_option_before_the_verb_is_not_lost_in_silence() {
        assert!(parse("members -o json").is_ok());
        assert!(parse("members drain node-1 node-2 --wait --operator-fence 7 --endpoint a:1").is_ok());
        assert!(parse("members add a:1 b:1 --weight 200").is_ok());
        assert!(parse("members remove node-1 --now").is_ok());
        assert!(parse("members --endpoint a:1 drain node-1").is_err());
        assert_eq!(parse("members drain").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("members add a:1 --weight 1001").unwrap_err().kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn a_command_is_run_under_a_lock_behind_two_hyphens() {
        let Ok(Command::Lock(lock)) = parse("lock l --wait 30s --shared -- sh -c true --wait 1s") else { panic!() };
        assert_eq!((lock.holding.command.len(), lock.wait), (5, Some(Duration::from_secs(30))));
        for wrong in ["lock l", "lock l --", "lock l sh", "elect l", "lock l --wait 30s --no-wait -- sh", "lock -- sh"]
        {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
        let Ok(Command::Put(put)) = parse("put k v --fence a%2Fb=7") else { panic!() };
        assert_eq!(put.fence.unwrap().name(), "a/b");
        assert_eq!(parse("delete k --fence 7").unwrap_err().kind(), ErrorKind::ValueValidation);
    }

    #[test]
    fn a_transaction_stands_in_a_file_or_in_the_arguments_or_is_asked_about() {
        let Ok(Command::Txn(txn)) = parse("txn --put a=1=2 --put b= --if-version a=5 --get c --id t") else { panic!() };
        let pairs = [("a", "1=2"), ("b", "")].map(|(key, value)| KeyValue { key: key.into(), value: value.into() });
        assert_eq!((txn.steps.put, txn.steps.if_version), (pairs.to_vec(), vec![("a".to_owned(), 5)]));
        for right in
            ["txn -f f --id t --fence l=7", "txn -f -", "txn --status t -o json", "txn --if-held l=7 --delete a"]
        {
            assert!(parse(right).is_ok(), "{right}");
        }
        let wrongs = ["txn", "txn --id t", "txn -f f --put a=1", "txn --status t --put a=1", "txn --status t --id u"];
        for wrong in wrongs.into_iter().chain(["txn --put a", "txn --if-version a=x", "txn --put =1"]) {
            assert_eq!(parse(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }

    #[cfg(feature = "kube")]
    #[test]
    fn the_operators_verbs_are_at_kube_and_those_of_the_plugin() {
        assert!(matches!(parse("kube -n shop status demo"), Ok(Command::Kube(_))));
        let plugin = |line: &str| Cli::read(line.split_whitespace().map(OsString::from)).map(|cli| cli.command);
        assert!(matches!(plugin("/usr/bin/kubectl-annulus status -n shop"), Ok(Command::Kube(_))));
        assert_eq!(plugin("kubectl-annulus put k v").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_dev_store_is_told_by_a_file_or_by_flags() {
        let Ok(Command::Dev(dev)) = parse("dev -f cluster.yaml --client-port 8080") else { panic!() };
        assert_eq!((dev.file, dev.client_port), (Some(PathBuf::from("cluster.yaml")), 8080));
        assert_eq!(parse("dev -f cluster.yaml --members 5").unwrap_err().kind(), ErrorKind::ArgumentConflict);
    }

    #[test]
    fn endpoints_are_a_list_with_commas() {
        let Ok(Command::Get(get)) = parse("get k --endpoint a:1,b:2") else { panic!() };
        assert_eq!(get.connect.endpoint, ["a:1", "b:2"]);
        assert!(get.connect.client().is_ok());
    }
}
