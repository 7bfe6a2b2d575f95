//! One machine of `annulus_core::txn`, from its beginning to its end.

use std::future::{Future, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use annulus_core::lane::{Operation, Reply};
use annulus_core::partition::txn::{Command, Outcome, Settle, Settled};
use annulus_core::txn::{Ask, Coordinator, Machine, Recovery, Snapshot, Turn};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::settler::Settler;
use crate::router::Router;

/// How long is waited for what ends a transaction, after its time is over or its answer is given.
const SETTLING: Duration = Duration::from_secs(2);

/// What can be driven within a time.
pub(super) trait Timed: Machine {
    /// The time is over.
    fn give_up(&mut self) -> Turn<Self::Answer>;
    /// How many attempts it has made.
    fn attempts(&self) -> u32;
}

impl Timed for Coordinator {
    fn give_up(&mut self) -> Turn<Self::Answer> {
        Self::give_up(self)
    }

    fn attempts(&self) -> u32 {
        Self::attempts(self)
    }
}

impl Timed for Recovery {
    fn give_up(&mut self) -> Turn<Self::Answer> {
        Turn { is_over: true, ..Turn::default() }
    }

    fn attempts(&self) -> u32 {
        1
    }
}

impl Timed for Snapshot {
    fn give_up(&mut self) -> Turn<Self::Answer> {
        Turn { is_over: true, ..Turn::default() }
    }

    fn attempts(&self) -> u32 {
        1
    }
}

type Asking = Pin<Box<dyn Future<Output = (u32, Reply)>>>;

/// Drives a machine to its end. The answer goes to whoever waits for it as soon as there is one; if there is none by the
/// deadline, the machine is told, and has [`SETTLING`] to find one.
pub(super) async fn drive<R: Router + 'static, M: Timed>(
    router: Rc<R>,
    settler: Rc<Settler<R>>,
    mut machine: M,
    deadline: Instant,
    answer: oneshot::Sender<(M::Answer, u32)>,
) {
    let mut answer = Some(answer);
    let mut asking = FuturesUnordered::<Asking>::new();
    let mut gave_up = false;
    let mut wakes_at = None;
    let mut turn = machine.begin();
    loop {
        if let Some((answer, given)) = turn.answer.and_then(|given| answer.take().zip(Some(given))) {
            // Whoever asked may be gone.
            let _ = answer.send((given, machine.attempts()));
        }
        let until = if gave_up || answer.is_none() { Instant::now() + SETTLING } else { deadline };
        let is_last = turn.is_over && !turn.asks.is_empty();
        asking.extend(turn.asks.into_iter().map(|ask| ask_group(&router, &settler, ask, until)));
        wakes_at = turn.wake_in.map(|wait| Instant::now() + wait).or(wakes_at);
        if is_last {
            // Nobody waits for the answers, but it must have been asked.
            while asking.next().await.is_some() {}
        }
        if turn.is_over {
            return;
        }
        if asking.is_empty() && wakes_at.is_none() {
            // It waits for nothing, so nothing will come: a bug of the core's, but no reason to wait for ever.
            tracing::error!("a transaction waits for nothing");
            return;
        }
        let times_out = !gave_up && answer.is_some();
        turn = tokio::select! {
            Some((number, reply)) = asking.next() => {
                if times_out && Instant::now() >= deadline {
                    // This member may have stood still for so long that others have forgotten what they have answered to.
                    gave_up = true;
                    let mut last = machine.give_up();
                    let heard = machine.hear(number, reply);
                    last.asks.extend(heard.asks);
                    Turn { answer: last.answer.or(heard.answer), is_over: last.is_over || heard.is_over, ..last }
                } else {
                    machine.hear(number, reply)
                }
            }
            () = sleep_until(wakes_at.unwrap_or(deadline)), if wakes_at.is_some() => {
                wakes_at = None;
                machine.wake()
            }
            () = sleep_until(deadline), if times_out => {
                gave_up = true;
                machine.give_up()
            }
        };
    }
}

/// Steps towards an end take along what their group can close, and nobody waits for that; everything else goes by itself.
fn ask_group<R: Router + 'static>(router: &Rc<R>, settler: &Rc<Settler<R>>, ask: Ask, until: Instant) -> Asking {
    let Ask { number, group, operation } = ask;
    let timeout = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    match operation {
        Operation::Txn(Command::Settle(mut steps)) if steps.len() == 1 => {
            let step: Settle = steps.remove(0);
            if let Settle::Close { id } = step {
                Settler::close_later(settler, group, id);
                return Box::pin(ready((number, Reply::Txn(Outcome::Settled(vec![Settled::Done])))));
            }
            let settled = Settler::settle(settler, group, step, timeout);
            Box::pin(async move { (number, settled.await) })
        }
        operation => {
            let router = Rc::clone(router);
            Box::pin(async move { (number, router.submit(group, operation, timeout).await) })
        }
    }
}
