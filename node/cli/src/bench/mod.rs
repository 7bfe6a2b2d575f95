//! `annulus bench`: a closed loop of clients, each with one request under way, straight to the leaders.
//!
//! ```text
//! main ─┬─ thread 1: runtime, client, its share of the loops ─▶ tally ─┐
//!       ├─ thread 2: …                                                 ├─▶ report
//!       └─ watches: Ctrl-C, the progress bar                           ┘
//! ```
//!
//! Threads share nothing but two counters and the word to stop. The measurement retries nothing but what `--retries` asks
//! for: a request that fails is counted by its kind, and the loop goes on with the next.

mod load;
mod report;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use annulus_client::Client;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use rand::Rng;
use tokio::runtime::{Builder, Runtime};

use crate::args;
use crate::exit::Failure;
use load::Tally;

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What the threads of a load share.
#[derive(Debug)]
struct Load {
    arguments: Arc<args::Bench>,
    value: Bytes,
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
        let load = Load::new(&arguments, value.clone());
        let bar = bar(arguments.keys, "fill {bar:40} {pos}/{len} keys, {eta} left");
        let ended = load.spread(&runtime, &bar, Load::run_fill)?;
        ended.into_iter().collect::<Result<(), _>>()?;
        if load.stop.load(Ordering::Relaxed) {
            return Err(Failure::Refused("interrupted while filling; nothing was measured".into()));
        }
    }
    let load = Load::new(&arguments, value);
    let began = Instant::now();
    let bar = bar(arguments.secs, "{msg} {bar:40} {pos}/{len} s");
    let tallies = load.spread(&runtime, &bar, Load::run_measured)?;
    let mut sum = Tally::new();
    for tally in tallies {
        sum.add(&tally?);
    }
    // The time that was asked for, unless it was cut short, and however long the last answer took.
    let stopped = began.elapsed().min(Duration::from_secs(arguments.secs));
    let took = sum.last_answer.map_or(stopped, |last| stopped.max(last - began));
    let report = report::Report::new(&arguments, ring.members.len(), &sum, took);
    report.write(arguments.output)?;
    match sum.answered() {
        0 => Err(Failure::Unavailable("not one request was answered well".into())),
        _ => Ok(()),
    }
}

impl Load {
    fn new(arguments: &Arc<args::Bench>, value: Bytes) -> Arc<Self> {
        let arguments = Arc::clone(arguments);
        Arc::new(Self { arguments, value, done: AtomicU64::new(0), stop: AtomicBool::new(false) })
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
