//! `annulus bench`: a closed loop of clients, each with one request under way, straight to the leaders.
//!
//! ```text
//! main ─┬─ thread 1: runtime, client, its share of the loops ─▶ tally ─┐
//!       ├─ thread 2: …                                                 ├─▶ report
//!       └─ watches: Ctrl-C, the progress bar                           ┘
//! ```
//!
//! Threads share nothing but two counters, the word to stop, and what is seen of the one lock that all wait for (`queue`). The measurement retries nothing but what `--retries` asks
//! for: a request that fails is counted by its kind, and the loop goes on with the next.

mod load;
mod locks;
mod report;
mod tally;
mod txns;

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use annulus_client::{Client, Ring};
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use tokio::runtime::{Builder, Runtime};

use crate::args::{self, Operation};
use crate::exit::Failure;
use locks::Queue;
use tally::Tally;
use txns::Neighbours;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What the threads of a load share.
#[derive(Debug)]
struct Load {
    arguments: Arc<args::Bench>,
    value: Bytes,
    neighbours: Neighbours,
    /// The one lock that all wait for. It has a name of its own: one that is still held of a load that was killed is not
    /// waited for.
    lock_name: String,
    queue: Mutex<Queue>,
    /// Requests answered so far; of a fill, keys taken so far.
    done: AtomicU64,
    stop: AtomicBool,
}

/// Measures.
pub(crate) fn run(arguments: args::Bench) -> Result<(), Failure> {
    let arguments = Arc::new(arguments);
    let runtime = runtime()?;
    // Finds out early, and with all its words, whether there is a store to measure.
    let ring = runtime.block_on(async { arguments.connect.client()?.ring().await.map_err(Failure::from) })?;
    let mut value = vec![0; arguments.value as usize];
    rand::rng().fill_bytes(&mut value);
    let value = Bytes::from(value);
    if arguments.fill {
        let load = Load::new(&arguments, value.clone(), Neighbours::default());
        let bar = bar(arguments.keys, "fill {bar:40} {pos}/{len} keys, {eta} left");
        let ended = load.spread(&runtime, &bar, Load::run_fill)?;
        ended.into_iter().collect::<Result<(), _>>()?;
        if load.stop.load(Ordering::Relaxed) {
            return Err(Failure::Refused("interrupted while filling; nothing was measured".into()));
        }
    }
    let neighbours = neighbours(&arguments, &ring)?;
    let load = Load::new(&arguments, value, neighbours);
    let began = Instant::now();
    let bar = bar(arguments.secs, "{msg} {bar:40} {pos}/{len} s");
    let tallies = load.spread(&runtime, &bar, Load::run_measured)?;
    let mut sum = Tally::new(arguments.op);
    for tally in tallies {
        sum.add(&tally?);
    }
    // The time that was asked for, unless it was cut short, and however long the last answer took.
    let stopped = began.elapsed().min(Duration::from_secs(arguments.secs));
    let took = sum.last_answer.map_or(stopped, |last| stopped.max(last - began));
    let queue = load.queue();
    let report = report::Report::new(&arguments, ring.members.len(), &sum, &queue, took);
    report.write(arguments.output)?;
    match sum.answered() {
        _ if !queue.is_in_order() => {
            Err(Failure::Refused("the lock did not go from one to the next in the order of their tokens".into()))
        }
        0 => Err(Failure::Unavailable("not one request was answered well".into())),
        _ => Ok(()),
    }
}

/// The keys that lie together, if there is to be a load of those.
fn neighbours(arguments: &args::Bench, ring: &Ring) -> Result<Neighbours, Failure> {
    match arguments.op {
        Operation::Txn | Operation::Rmw if arguments.keys < 2 => {
            Err(Failure::Usage("a transaction of this load has two keys: --keys must be 2 at least".into()))
        }
        Operation::TxnOne => Some(Neighbours::find(ring, arguments.keys))
            .filter(|neighbours| !neighbours.are_none())
            .ok_or_else(|| Failure::Usage("no two of so few --keys lie in one partition; give more".into())),
        _ => Ok(Neighbours::default()),
    }
}

impl Load {
    fn new(arguments: &Arc<args::Bench>, value: Bytes, neighbours: Neighbours) -> Arc<Self> {
        let lock_name = format!("bench/queue-{:016x}", rand::random::<u64>());
        Arc::new(Self {
            arguments: Arc::clone(arguments),
            value,
            neighbours,
            lock_name,
            queue: Mutex::default(),
            done: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Runs this on every thread, each with its share of the clients; meanwhile moves the bar and listens for Ctrl-C.
    fn spread<T: Send + 'static>(
        self: &Arc<Self>,
        runtime: &Runtime,
        bar: &ProgressBar,
        work: fn(Arc<Self>, u32) -> T,
    ) -> Result<Vec<T>, Failure> {
        let clients = self.arguments.clients;
        let cores = thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        let threads = self.arguments.threads.unwrap_or((cores / 2).max(1)).min(clients);
        let handles = (0..threads).map(|place| {
            let load = Arc::clone(self);
            let share = clients / threads + u32::from(place < clients % threads);
            thread::spawn(move || work(load, share))
        });
        let handles: Vec<_> = handles.collect();
        runtime.block_on(self.watch(bar, &|| handles.iter().all(thread::JoinHandle::is_finished)))?;
        let joined = handles.into_iter().map(thread::JoinHandle::join).collect::<Result<_, _>>();
        joined.map_err(|_| Failure::Refused("a thread of the load has panicked: this is a bug of annulus".into()))
    }

    async fn watch(&self, bar: &ProgressBar, finished: &dyn Fn() -> bool) -> Result<(), Failure> {
        let began = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        let fill = bar.length() != Some(self.arguments.secs);
        while !finished() {
            tokio::select! {
                _ = tick.tick() => {}
                interrupted = tokio::signal::ctrl_c() => {
                    interrupted.map_err(|error| Failure::system("signals can't be received", &error))?;
                    self.stop.store(true, Ordering::Relaxed);
                }
            }
            let done = self.done.load(Ordering::Relaxed);
            let seconds = began.elapsed().as_secs_f64();
            if fill {
                bar.set_position(done.min(self.arguments.keys));
            } else {
                bar.set_position(began.elapsed().as_secs());
                bar.set_message(format!("{:.0}/s", done as f64 / seconds.max(0.001)));
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn client(&self, retries: bool) -> Result<Client, Failure> {
        let connect = &self.arguments.connect;
        let builder = Client::builder(&connect.endpoint).deadline(connect.timeout);
        Ok(if retries { builder } else { builder.max_attempts(1) }.build()?)
    }
}

fn runtime() -> Result<Runtime, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::system("the runtime could not be started", &error))
}

/// A progress bar, on a terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}
