//! `annulus lock` and `annulus elect`: a command that runs only while a lock is held.
//!
//! ```text
//!  waits ──granted──▶ command runs ─┬─ ends ──▶ lock given up ──▶ its exit code (elect --again: waits again)
//!    ▲                              └─ lease lost ──▶ command ended ──▶ exit code 1
//!    └──────────────────────────────────────────────────┘ elect
//! ```
//!
//! What it never does: let the command go on once it knows that the lock is lost. It can't know while it is stopped itself
//! (SIGSTOP), nor end what has left the command's process group; what such a command writes under its fence is refused.

mod child;
mod list;
mod signals;

use std::time::Duration;

use annulus_client::lock::{Lock, Loss, Request};
use annulus_client::{Client, Error};
use rustix::system::uname;

use child::Running;
pub(crate) use child::tied;
pub(crate) use list::list;
use signals::{Signals, code, ends};

use crate::args;
use crate::exit::Failure;
use crate::input;
use crate::output::on_a_line;

/// The pause before a command is run again that has ended by itself.
const PAUSE: Duration = Duration::from_secs(1);

/// How a command ended that ran under a lock.
#[derive(Debug)]
enum Ended {
    /// With this exit code, while the lock was held; because this process was told to end, or of its own.
    Exited { code: u8, told: bool },
    /// The lock was lost.
    Lost { loss: Loss, told: bool },
}

/// How long to wait for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    No,
    For(Duration),
    Forever,
}

/// Runs a command while it holds a lock.
pub(crate) async fn lock(arguments: args::Lock) -> Result<(), Failure> {
    let wait = match (arguments.no_wait, arguments.wait) {
        (true, _) => Wait::No,
        (false, Some(wait)) => Wait::For(wait),
        (false, None) => Wait::Forever,
    };
    let mut post = Post::new(&arguments.holding)?;
    post.shared = arguments.shared;
    let lock = post.acquire(wait).await?;
    match post.run_under(lock).await? {
        Ended::Exited { code: 0, .. } => Ok(()),
        Ended::Exited { code, .. } => Err(Failure::Code(code)),
        Ended::Lost { loss, .. } => {
            Err(Failure::Refused(format!("the lock {} was lost, and the command with it: {loss}", post.name)))
        }
    }
}

/// Runs a command whenever it leads: while it holds a lock that others stand in line for.
pub(crate) async fn elect(arguments: args::Elect) -> Result<(), Failure> {
    let mut post = Post::new(&arguments.holding)?;
    let mut lock = post.acquire(Wait::Forever).await?;
    loop {
        eprintln!("annulus: leads {} with token {}", post.name, lock.token());
        let again = match post.run_under(lock).await? {
            Ended::Exited { told: true, code } | Ended::Exited { code, .. } if !arguments.again => Some(code),
            Ended::Exited { told: true, code } => Some(code),
            Ended::Lost { told: true, loss } => {
                return Err(Failure::Refused(format!("{} was lost while its command ended: {loss}", post.name)));
            }
            Ended::Exited { code, .. } => {
                eprintln!("annulus: the command ended with code {code}; stands for {} again", post.name);
                post.pause().await?;
                None
            }
            Ended::Lost { loss, .. } => {
                eprintln!("annulus: {} was lost, and the command with it: {loss}. Stands again.", post.name);
                None
            }
        };
        match again {
            Some(0) => return Ok(()),
            Some(code) => return Err(Failure::Code(code)),
            // That the store is away for now is no reason to stop standing.
            None => lock = post.wait(post.request(Wait::Forever)).await?,
        }
    }
}

/// Where a lock is asked for, and what is run under it.
struct Post<'a> {
    arguments: &'a args::Holding,
    client: Client,
    signals: Signals,
    /// The lock's name, for people.
    name: String,
    owner: String,
    shared: bool,
}

impl<'a> Post<'a> {
    fn new(arguments: &'a args::Holding) -> Result<Self, Failure> {
        let client = arguments.connect.client()?;
        let owner = arguments
            .owner
            .clone()
            .unwrap_or_else(|| format!("{}:{}", uname().nodename().to_string_lossy(), std::process::id()));
        let name = format!("`{}`", on_a_line(input::bytes(&arguments.name)));
        let signals = Signals::new(arguments.foreground)?;
        Ok(Self { arguments, client, signals, name, owner, shared: false })
    }

    /// A wish of its own, which finds its place again however often it is asked.
    fn request(&self, wait: Wait) -> Request {
        let request = self.client.lock(input::bytes(&self.arguments.name)).owner(&self.owner).ttl(self.arguments.ttl);
        let request = request.description(&self.arguments.description);
        let request = request.idempotency_key(format!("{:032x}", rand::random::<u128>()));
        let request = if self.shared { request.shared() } else { request };
        waiting(request, wait)
    }

    /// Asks for the lock; says who holds it when it has to wait.
    async fn acquire(&mut self, wait: Wait) -> Result<Lock, Failure> {
        let request = self.request(Wait::No);
        match self.asked(request.clone()).await? {
            Ok(lock) => return Ok(lock),
            Err(Error::LockHeld(held)) if wait != Wait::No => {
                eprintln!("annulus: waits for the lock {}, which is {held}", self.name);
            }
            // It may be held already, under this very name.
            Err(Error::OutcomeUnknown { .. }) if wait != Wait::No => {}
            Err(error) => return Err(self.failure(error)),
        }
        self.wait(waiting(request, wait)).await
    }

    async fn wait(&mut self, request: Request) -> Result<Lock, Failure> {
        self.asked(request).await?.map_err(|error| self.failure(error))
    }

    /// Asks for the lock, unless a signal ends that.
    async fn asked(&mut self, request: Request) -> Result<Result<Lock, Error>, Failure> {
        let acquiring = request.acquire();
        tokio::pin!(acquiring);
        loop {
            tokio::select! {
                acquired = &mut acquiring => return Ok(acquired),
                signal = self.signals.next() => if ends(signal) { return Err(Failure::Code(code(signal))) },
            }
        }
    }

    fn failure(&self, error: Error) -> Failure {
        match error {
            Error::LockHeld(held) => Failure::Refused(format!("the lock {} is {held}", self.name)),
            Error::OutcomeUnknown { reason } => Failure::OutcomeUnknown(format!(
                "outcome unknown: {reason}\n  The lock {} may be held by `{}` until its lease ends, in at most {:?}.",
                self.name, self.owner, self.arguments.ttl
            )),
            error => error.into(),
        }
    }

    /// Waits for a moment, unless a signal ends that.
    async fn pause(&mut self) -> Result<(), Failure> {
        let pause = tokio::time::sleep(PAUSE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return Ok(()),
                signal = self.signals.next() => if ends(signal) { return Err(Failure::Code(code(signal))) },
            }
        }
    }

    /// Runs the command to its end, or to that of the lock, which is given up then.
    async fn run_under(&mut self, lock: Lock) -> Result<Ended, Failure> {
        let mut told = false;
        let mut running = match Running::start(self.arguments, &lock) {
            Ok(running) => running,
            Err(failure) => {
                self.give_up(lock).await;
                return Err(failure);
            }
        };
        let code = loop {
            tokio::select! {
                code = running.ended() => break code?,
                loss = lock.lost() => {
                    running.end(self.arguments.grace, &mut self.signals, &mut told).await?;
                    return Ok(Ended::Lost { loss, told });
                }
                signal = self.signals.next() => {
                    told |= ends(signal);
                    running.pass_on(signal);
                }
            }
        };
        let loss = lock.loss();
        let loss = self.give_up(lock).await.or(loss);
        Ok(match loss {
            Some(loss) => Ended::Lost { loss, told },
            None => Ended::Exited { code, told },
        })
    }

    /// Gives the lock up; says why if it was lost before.
    async fn give_up(&self, lock: Lock) -> Option<Loss> {
        match lock.release().await {
            Ok(()) => None,
            Err(Error::LockNotHeld(problem)) => Some(Loss::Refused(problem.to_string())),
            Err(error) => {
                let (name, ttl) = (&self.name, self.arguments.ttl);
                eprintln!(
                    "annulus: {name} could not be given up: {error}. It is free when its lease ends, within {ttl:?}."
                );
                None
            }
        }
    }
}

fn waiting(request: Request, wait: Wait) -> Request {
    match wait {
        Wait::No => request.wait(Duration::ZERO),
        Wait::For(wait) => request.wait(wait),
        Wait::Forever => request.wait_forever(),
    }
}
