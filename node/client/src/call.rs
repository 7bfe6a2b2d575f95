//! One call: as many attempts as are safe, allowed and in time.

use std::time::Duration;

use http::Method;
use http::uri::Authority;
use rand::RngExt;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Error;
use crate::directory::{Directory, Place, Table};
use crate::room::Room;
use crate::transport::{Answer, Failure, Message, Transport};
use crate::verdict::{Safety, Trouble, Verdict, judge, settles};

/// The first wait between two rounds of attempts; each next one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// The longest such wait, unless a node asks for a longer one.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// How often the ring is looked at during a longer wait: a new leader ends it.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// An attempt that may be repeated gets this part of the call's time, so that a member that hangs does not use up all.
const ATTEMPT_SHARE: u32 = 4;

/// Completes a message for an attempt that may take so long.
pub(crate) type Complete<'a> = dyn Fn(&mut Message, Duration) + Sync + 'a;

/// What is called for.
pub(crate) struct Call<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) message: Message,
    /// For a message that says how much time is left.
    pub(crate) complete: Option<&'a Complete<'a>>,
    pub(crate) safety: Safety,
    /// How long it may take, all in all.
    pub(crate) time: Duration,
    /// How long one attempt may take; `None`: all of the time, or a share of it if the call may be repeated.
    pub(crate) patience: Option<Duration>,
    /// How many requests it may send.
    pub(crate) max_attempts: u32,
    /// For its answers.
    pub(crate) room: Room,
}

/// How far a call has come.
#[derive(Debug)]
struct Course {
    deadline: Instant,
    attempts: u32,
    waits: u32,
    /// Who has been asked since the last wait.
    asked: Vec<Authority>,
    /// Who was taken for the key's leader when somebody was asked last.
    leader: Option<Authority>,
    /// Why an earlier attempt may have happened.
    doubt: Option<String>,
    last: String,
    trouble: Trouble,
    /// What the last attempt was answered with, if that was that it can't be done now.
    refusal: Option<Answer>,
}

/// How a call ends without an answer that says what happened.
#[derive(Debug)]
struct GaveUp {
    error: Error,
    /// The refusal that the error tells of, word for word, if a node gave one.
    refusal: Option<Answer>,
}

/// What to do between two attempts.
enum Next {
    Ask,
    Wait(Option<Duration>),
}

impl Call<'_> {
    /// Makes the call. An answer that comes back is one that says what happened.
    pub(crate) async fn run(&self, transport: &Transport, directory: &Directory) -> Result<Answer, Error> {
        self.ended(transport, directory).await.map_err(|gave_up| gave_up.error)
    }

    /// Makes the call for somebody who reads answers himself: what comes back may also be the last refusal of a node that
    /// could not do it, or of one that others were in the way of.
    pub(crate) async fn relay(&self, transport: &Transport, directory: &Directory) -> Result<Answer, Error> {
        self.ended(transport, directory).await.or_else(|gave_up| {
            let GaveUp { error, refusal } = *gave_up;
            refusal.ok_or(error)
        })
    }

    async fn ended(&self, transport: &Transport, directory: &Directory) -> Result<Answer, Box<GaveUp>> {
        let mut course = Course::new(Instant::now() + self.time);
        loop {
            let table = directory.table(course.deadline).await.map_err(|error| course.end(error))?;
            let Some(address) = directory.pick(Some(&table), self.place, &course.asked) else {
                self.wait(directory, &table, &mut course, None).await?;
                continue;
            };
            course.attempts += 1;
            if course.attempts > 1 {
                directory.count_retry();
            }
            course.leader = self.leader(&table);
            let sent = self.attempt(transport, &table, &address, course.deadline).await;
            let next = match judge(self.safety, sent) {
                Verdict::Answered(answer) => {
                    directory.mark_up(&address);
                    if let Some(epoch) = answer.epoch() {
                        directory.saw_epoch(epoch, &address);
                    }
                    if let (Place::Leader(key), Some(leader)) = (self.place, answer.leader()) {
                        table.saw_leader(key, leader);
                    }
                    // Of what is no GET, the status says what became of it.
                    return match answer.lack {
                        Some(lack) if self.message.method == Method::GET => {
                            let error = lack.error(course.attempts);
                            Err(course.end(error))
                        }
                        _ => course.settle(self.safety, answer),
                    };
                }
                Verdict::Elsewhere(reason) => {
                    directory.mark_down(&address);
                    course.note(&address, &reason, Trouble::Away);
                    self.after_loss(directory, &table, &mut course, address).await?
                }
                Verdict::Unknown(reason) => {
                    directory.mark_down(&address);
                    course.note(&address, &reason, Trouble::Away);
                    course.doubt.get_or_insert_with(|| format!("{address}: {reason}"));
                    let next = self.after_loss(directory, &table, &mut course, address).await?;
                    if !self.safety.repeatable() {
                        return Err(course.give_up());
                    }
                    next
                }
                Verdict::Later { reason, after, trouble, answer } => {
                    directory.mark_up(&address);
                    course.note(&address, &reason, trouble);
                    course.refusal = Some(answer).filter(|answer| answer.lack.is_none());
                    course.asked.push(address);
                    match trouble {
                        Trouble::Away => self.after_refusal(directory, &table, &mut course, after).await?,
                        Trouble::Overloaded | Trouble::Conflict => Next::Wait(after),
                    }
                }
            };
            if course.attempts >= self.max_attempts || Instant::now() >= course.deadline {
                return Err(course.give_up());
            }
            if let Next::Wait(after) = next {
                self.wait(directory, &table, &mut course, after).await?;
            }
        }
    }

    async fn attempt(
        &self,
        transport: &Transport,
        table: &Table,
        to: &Authority,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let deadline = self.attempt_deadline(deadline);
        match self.complete {
            None => transport.send_with(to, &self.message, Some(&table.cluster), deadline, &self.room).await,
            Some(complete) => {
                let mut message = self.message.clone();
                complete(&mut message, deadline.saturating_duration_since(Instant::now()));
                transport.send_with(to, &message, Some(&table.cluster), deadline, &self.room).await
            }
        }
    }

    /// A member was lost: the ring may have changed, and somebody else may know the way.
    async fn after_loss(
        &self,
        directory: &Directory,
        table: &Table,
        course: &mut Course,
        lost: Authority,
    ) -> Result<Next, Box<GaveUp>> {
        course.asked.push(lost);
        directory.refresh(table, course.deadline).await.map_err(|error| course.end(error))?;
        Ok(Next::Ask)
    }

    /// A node did not do it now: if another one leads by now, that one is asked at once; otherwise the node's wish to be
    /// left alone is respected, because whoever else is asked would only forward to the same leader.
    async fn after_refusal(
        &self,
        directory: &Directory,
        table: &Table,
        course: &mut Course,
        after: Option<Duration>,
    ) -> Result<Next, Box<GaveUp>> {
        let new = self.new_leader(directory, table, course).await?;
        let unasked = new.is_some_and(|leader| !course.asked.contains(&leader));
        Ok(if unasked { Next::Ask } else { Next::Wait(after) })
    }

    /// The key's leader, as far as is known.
    fn leader(&self, table: &Table) -> Option<Authority> {
        let Place::Leader(key) = self.place else { return None };
        table.leader_address(key).cloned()
    }

    /// Looks at the ring again; the key's leader, if it is not who it was taken for before.
    async fn new_leader(
        &self,
        directory: &Directory,
        table: &Table,
        course: &mut Course,
    ) -> Result<Option<Authority>, Box<GaveUp>> {
        let refreshed = directory.refresh(table, course.deadline).await.map_err(|error| course.end(error))?;
        let leader = refreshed.and_then(|refreshed| self.leader(&refreshed));
        Ok(leader.filter(|leader| Some(leader) != course.leader.as_ref()))
    }

    /// Waits before the next round of attempts. A wait that a node asked for ends early when somebody else leads: it
    /// was for the old leader that the node spoke.
    async fn wait(
        &self,
        directory: &Directory,
        table: &Table,
        course: &mut Course,
        after: Option<Duration>,
    ) -> Result<(), Box<GaveUp>> {
        let until = course.next_round(after)?;
        while until - Instant::now() > LOOK_INTERVAL {
            sleep(LOOK_INTERVAL).await;
            if course.trouble == Trouble::Away && self.new_leader(directory, table, course).await?.is_some() {
                return Ok(());
            }
        }
        sleep_until(until).await;
        Ok(())
    }

    fn attempt_deadline(&self, deadline: Instant) -> Instant {
        let share =
            if self.safety.repeatable() && self.max_attempts > 1 { self.time / ATTEMPT_SHARE } else { self.time };
        deadline.min(Instant::now() + self.patience.unwrap_or(share))
    }
}

impl Course {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            attempts: 0,
            waits: 0,
            asked: Vec::new(),
            leader: None,
            doubt: None,
            last: "no time was left to ask".to_owned(),
            trouble: Trouble::Away,
            refusal: None,
        }
    }

    fn note(&mut self, address: &Authority, reason: &str, trouble: Trouble) {
        self.last = format!("{address}: {reason}");
        self.trouble = trouble;
        self.refusal = None;
    }

    /// When the next round of attempts begins; gives up at once when that is past the deadline.
    fn next_round(&mut self, after: Option<Duration>) -> Result<Instant, Box<GaveUp>> {
        let longest = (FIRST_WAIT * 2_u32.pow(self.waits.min(10))).min(LONGEST_WAIT);
        let jittered = longest.mul_f64(rand::rng().random_range(0.5..1.0));
        let after = after.unwrap_or_default();
        // Those that met are asked to wait for the same time, and should not meet again after it.
        let wait = if self.trouble == Trouble::Conflict { after + jittered } else { after.max(jittered) };
        let begin = Instant::now() + wait;
        if begin >= self.deadline {
            return Err(self.give_up());
        }
        self.waits += 1;
        self.asked.clear();
        Ok(begin)
    }

    /// The answer, if it says what became of the call as a whole.
    fn settle(mut self, safety: Safety, answer: Answer) -> Result<Answer, Box<GaveUp>> {
        let doubted = self.doubt.is_some();
        if !doubted || settles(safety, answer.status) { Ok(Answer { doubted, ..answer }) } else { Err(self.give_up()) }
    }

    /// The error that ends the call, unless an earlier attempt may have happened: then that is what there is to say.
    fn end(&mut self, error: Error) -> Box<GaveUp> {
        Box::new(match self.doubt.take() {
            Some(reason) => GaveUp { error: Error::OutcomeUnknown { reason }, refusal: None },
            None => GaveUp { error, refusal: None },
        })
    }

    fn give_up(&mut self) -> Box<GaveUp> {
        let reason = std::mem::take(&mut self.last);
        let attempts = self.attempts;
        let refusal = self.refusal.take().filter(|_| self.doubt.is_none());
        let mut gave_up = self.end(match self.trouble {
            Trouble::Conflict => Error::TxnConflict { reason, attempts },
            trouble => Error::Unavailable { reason, overloaded: trouble == Trouble::Overloaded, attempts },
        });
        gave_up.refusal = refusal;
        gave_up
    }
}
