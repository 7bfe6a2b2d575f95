//! How far a change of the members has come, for who waits for it: a bar or a picture on a terminal, nothing elsewhere.

use std::io::{self, IsTerminal};
use std::time::Duration;

use annulus_client::Error;
use annulus_client::admin::{Admin, Plan};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::exit::Failure;
use crate::plan;

/// How often the plan is looked at.
pub(crate) const LOOK: Duration = Duration::from_millis(250);
/// Who waits gives up after this long in which nothing has come any further.
const PATIENCE: Duration = Duration::from_secs(120);

/// Text on a terminal that replaces what it showed before.
#[derive(Debug)]
pub(crate) struct Live {
    bar: ProgressBar,
    seen: bool,
}

impl Live {
    pub(crate) fn new() -> Self {
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_style(style);
        Self { bar, seen: io::stdout().is_terminal() }
    }

    /// Whether somebody can see it.
    pub(crate) fn seen(&self) -> bool {
        self.seen
    }

    /// Shows these lines in place of the last ones.
    pub(crate) fn show(&self, lines: &[String]) {
        self.bar.set_message(lines.join("\n"));
        self.bar.tick();
    }

    /// The last lines stay.
    pub(crate) fn end(&self) {
        self.bar.abandon();
    }
}

/// Looks at the plan until nothing is left of it.
#[derive(Debug)]
pub(crate) struct Follow {
    admin: Admin,
    /// The epoch of the change that is waited for: a plan of an older one says nothing about it.
    epoch: u64,
    most_moves: u64,
    bar: ProgressBar,
    last: Option<Plan>,
    /// When something came further last.
    further: Instant,
}

impl Follow {
    pub(crate) fn new(admin: Admin, epoch: u64) -> Self {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} moves  {msg}");
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { admin, epoch, most_moves: 0, bar, last: None, further: Instant::now() }
    }

    /// Looks at the plan once and shows how far it is; `None`: nobody could tell one that knows of the change.
    pub(crate) async fn look(&mut self) -> Result<Option<Plan>, Error> {
        let plan = match self.admin.plan().await {
            Ok(plan) => plan,
            // A leader is lost now and then.
            Err(Error::Unavailable { reason, .. }) => {
                self.bar.set_message(reason);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if plan.epoch < self.epoch {
            return Ok(None);
        }
        self.take(&plan);
        Ok(Some(plan))
    }

    fn take(&mut self, plan: &Plan) {
        self.most_moves = self.most_moves.max(plan.moves_left);
        self.bar.set_length(self.most_moves);
        self.bar.set_position(self.most_moves - plan.moves_left);
        self.bar.set_message(plan::outlook(plan));
        if self.last.as_ref().is_none_or(|last| plan::is_further(last, plan)) {
            self.further = Instant::now();
        }
        self.last = Some(plan.clone());
    }

    /// For how long nothing has come any further.
    pub(crate) fn stalled(&self) -> Duration {
        self.further.elapsed()
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// Writes a line above the bar.
    pub(crate) fn say(&self, line: &str) {
        self.aside(|| eprintln!("{line}"));
    }

    /// Writes something while the bar is not in the way.
    pub(crate) fn aside(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// What is still to come, in words.
    pub(crate) fn outlook(&self) -> String {
        self.last.as_ref().map_or_else(|| "no member tells its plan".to_owned(), plan::outlook)
    }

    /// Waits until everything is where it should be.
    pub(crate) async fn wait(mut self) -> Result<Plan, Failure> {
        let settled = loop {
            match self.look().await {
                Ok(Some(plan)) if plan.settled => break Ok(plan),
                Ok(_) if self.stalled() > PATIENCE => break Err(self.gave_up()),
                Ok(_) => sleep(LOOK).await,
                Err(error) => break Err(error.into()),
            }
        };
        self.end();
        settled
    }

    fn gave_up(&self) -> Failure {
        let left = self.outlook();
        Failure::Unavailable(format!(
            "nothing has come any further for {} s: {left}.\n  The change itself was made, and the store goes on with it: \
             `annulus plan` tells how far it is.",
            PATIENCE.as_secs()
        ))
    }
}
