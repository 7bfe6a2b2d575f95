//! How answers find their way back to the I/O thread that waits for them: a batch a round, so that a round wakes an I/O
//! thread once, not once for each answer. And how requests end that get none: with the link, or by their time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::id::MemberId;
use annulus_core::lane::{Refusal, Reply};
use slab::Slab;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep};

/// Most batches on their way to one I/O thread.
const QUEUE: usize = 16 * 1024;

/// How often requests that have waited too long are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Answers for one I/O thread, each with the number that it waits under.
pub type ReplyBatch = Vec<(u64, Reply)>;

/// What an I/O thread is sent.
#[derive(Debug)]
pub enum Delivery {
    /// Answers.
    Replies(ReplyBatch),
    /// The link to this member is gone: what was forwarded to it gets no answer.
    LinkLost(MemberId),
}

/// The way to one I/O thread, for every other thread.
#[derive(Debug, Clone)]
pub struct ReplyQueue(mpsc::Sender<Delivery>);

impl ReplyQueue {
    /// Sends answers. When the thread is too far behind they are lost, and their requests end by their timeout.
    pub fn send(&self, replies: ReplyBatch) {
        if self.0.try_send(Delivery::Replies(replies)).is_err() {
            tracing::warn!("an I/O thread is too far behind to take answers");
        }
    }

    /// Says that the link to a member is gone.
    pub fn link_lost(&self, member: MemberId) {
        // If the queue is full the requests end by their timeout.
        let _ = self.0.try_send(Delivery::LinkLost(member));
    }
}

struct Waiter {
    /// Tells this use of the slot from earlier ones.
    turn: u32,
    answer: oneshot::Sender<Reply>,
    waits_for: WaitsFor,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy)]
pub struct WaitsFor {
    /// Whether it may change something.
    pub is_write: bool,
    /// The member that it was forwarded to; `None`: a lane of this one.
    pub forwarded_to: Option<MemberId>,
    /// When the answer is given up. Whoever is asked answers by itself before that, unless something was lost.
    pub until: Instant,
}

impl WaitsFor {
    /// The link to whom it was forwarded is lost: a write may have happened, a read may be tried again.
    fn lost(self) -> Reply {
        if self.is_write { Reply::OutcomeUnknown } else { Reply::Refused(Refusal::NotLeader { leader: None }) }
    }

    /// No answer has come.
    fn timed_out(self) -> Reply {
        if self.is_write { Reply::OutcomeUnknown } else { Reply::Refused(Refusal::TimedOut) }
    }
}

/// The requests that one I/O thread waits for.
#[derive(Clone)]
pub struct Waiters {
    thread: u16,
    slots: Rc<RefCell<Slots>>,
    /// Says that somebody waits, to the task that looks for those who have waited too long.
    waiting: Rc<Notify>,
}

#[derive(Default)]
struct Slots {
    waiters: Slab<Waiter>,
    turn: u32,
}

impl Waiters {
    /// For the I/O thread with this number: what it waits for, and the way to it. Must be made on that thread, inside
    /// its runtime.
    pub fn start(thread: u16) -> (Self, ReplyQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let waiters = Self { thread, slots: Rc::default(), waiting: Rc::default() };
        tokio::task::spawn_local(deliver(waiters.clone(), receiver));
        tokio::task::spawn_local(give_up(waiters.clone()));
        (waiters, ReplyQueue(sender))
    }

    /// A number to wait under, and the answer to come. Dropping the guard gives the number back.
    pub fn wait(&self, waits_for: WaitsFor) -> (Waiting, oneshot::Receiver<Reply>) {
        let (answer, receiver) = oneshot::channel();
        self.waiting.notify_one();
        let mut slots = self.slots.borrow_mut();
        slots.turn = slots.turn.wrapping_add(1);
        let turn = slots.turn;
        let at = slots.waiters.insert(Waiter { turn, answer, waits_for });
        let number = number(self.thread, turn, at);
        (Waiting { waiters: self.clone(), number }, receiver)
    }

    fn take(&self, number: u64) -> Option<Waiter> {
        let (turn, at) = ((number >> SLOT_BITS) as u32, (number & SLOT_MASK) as usize);
        let mut slots = self.slots.borrow_mut();
        if slots.waiters.get(at)?.turn != turn {
            return None;
        }
        slots.waiters.try_remove(at)
    }

    fn answer(&self, number: u64, reply: Reply) {
        if let Some(waiter) = self.take(number) {
            // Whoever waited may have gone.
            let _ = waiter.answer.send(reply);
        }
    }

    fn link_lost(&self, member: MemberId) {
        self.end(|waits_for| waits_for.forwarded_to == Some(member), WaitsFor::lost);
    }

    /// Answers all requests that wait for something of the kind.
    fn end(&self, is_over: impl Fn(&WaitsFor) -> bool, reply: fn(WaitsFor) -> Reply) {
        let mut slots = self.slots.borrow_mut();
        let over = slots.waiters.iter().filter(|(_, waiter)| is_over(&waiter.waits_for));
        for at in over.map(|(at, _)| at).collect::<Vec<_>>() {
            let waiter = slots.waiters.remove(at);
            let _ = waiter.answer.send(reply(waiter.waits_for));
        }
    }
}

const SLOT_BITS: u32 = 22;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const THREAD_SHIFT: u32 = SLOT_BITS + u32::BITS;

/// `thread:10 turn:32 slot:22`. No request waits for so long that turns begin anew meanwhile.
fn number(thread: u16, turn: u32, at: usize) -> u64 {
    let at = at as u64;
    assert!(at <= SLOT_MASK, "requests in flight are bounded far below this");
    u64::from(thread) << THREAD_SHIFT | u64::from(turn) << SLOT_BITS | at
}

/// The I/O thread that a number belongs to.
pub fn thread_of(number: u64) -> usize {
    (number >> THREAD_SHIFT) as usize
}

/// A place among the waiting requests; given back when dropped.
pub struct Waiting {
    waiters: Waiters,
    number: u64,
}

impl Waiting {
    /// The number that the answer must carry.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.take(self.number);
    }
}

async fn deliver(waiters: Waiters, mut receiver: mpsc::Receiver<Delivery>) {
    while let Some(delivery) = receiver.recv().await {
        match delivery {
            Delivery::Replies(replies) => {
                replies.into_iter().for_each(|(number, reply)| waiters.answer(number, reply));
            }
            Delivery::LinkLost(member) => waiters.link_lost(member),
        }
    }
}

/// Ends requests that have waited too long. One look now and then for all of them: a timer for each request would cost more
/// than many a request itself.
async fn give_up(waiters: Waiters) {
    loop {
        waiters.waiting.notified().await;
        while !waiters.slots.borrow().waiters.is_empty() {
            sleep(LOOK_EVERY).await;
            let now = Instant::now();
            waiters.end(|waits_for| waits_for.until <= now, WaitsFor::timed_out);
        }
    }
}

#[cfg(test)]
mod tests {
    use annulus_core::id::MemberId;
    use tokio::task::LocalSet;

    use super::*;

    /// Runs a test as an I/O thread would, within ten seconds.
    fn on_thread<F: Future<Output = ()>>(test: impl FnOnce(Waiters, ReplyQueue) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (waiters, queue) = Waiters::start(3);
            let test = test(waiters, queue);
            tokio::time::timeout(Duration::from_secs(10), test).await.expect("the test ends in time");
        });
    }

    fn waits_for(is_write: bool, forwarded_to: Option<u64>, time: Duration) -> WaitsFor {
        WaitsFor { is_write, forwarded_to: forwarded_to.and_then(MemberId::new), until: Instant::now() + time }
    }

    #[test]
    fn an_answer_goes_to_whoever_waits_under_its_number_and_to_no_later_one() {
        on_thread(async |waiters, queue| {
            let (first, answer) = waiters.wait(waits_for(false, None, Duration::from_secs(5)));
            assert_eq!(thread_of(first.number()), 3);
            let old = first.number();
            drop(first);
            assert!(answer.await.is_err());
            // It has the same place, and is another.
            let (second, answer) = waiters.wait(waits_for(false, None, Duration::from_secs(5)));
            queue.send(vec![(old, Reply::Get(None)), (second.number(), Reply::OutcomeUnknown)]);
            assert_eq!(answer.await, Ok(Reply::OutcomeUnknown));
        });
    }

    #[test]
    fn who_is_not_answered_in_time_is_told_so_soon_after_and_not_before() {
        on_thread(async |waiters, _queue| {
            // Time without anybody waiting does not count.
            sleep(LOOK_EVERY).await;
            let begin = Instant::now();
            let (_read, read) = waiters.wait(waits_for(false, None, Duration::from_millis(50)));
            let (_write, write) = waiters.wait(waits_for(true, Some(7), Duration::from_millis(350)));
            assert_eq!(read.await, Ok(Reply::Refused(Refusal::TimedOut)));
            assert!(begin.elapsed() >= Duration::from_millis(50));
            assert_eq!(write.await, Ok(Reply::OutcomeUnknown));
            assert!(begin.elapsed() >= Duration::from_millis(350));
        });
    }

    #[test]
    fn a_lost_link_ends_what_went_over_it_and_nothing_else() {
        on_thread(async |waiters, queue| {
            let long = Duration::from_secs(60);
            let (_read, read) = waiters.wait(waits_for(false, Some(7), long));
            let (_write, write) = waiters.wait(waits_for(true, Some(7), long));
            let (other, still) = waiters.wait(waits_for(true, Some(8), long));
            queue.link_lost(MemberId::new(7).unwrap());
            assert_eq!(read.await, Ok(Reply::Refused(Refusal::NotLeader { leader: None })));
            assert_eq!(write.await, Ok(Reply::OutcomeUnknown));
            queue.send(vec![(other.number(), Reply::Get(None))]);
            assert_eq!(still.await, Ok(Reply::Get(None)));
        });
    }
}
