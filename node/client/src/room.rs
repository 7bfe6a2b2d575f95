//! Memory for bodies: how much one may take, and how much all of them together.
//!
//! What is read whole is counted before it is read, and counted until the last one who uses it lets go of it: an answer that is
//! passed on, until it is written.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// So many of something, and no more.
#[derive(Debug, Clone)]
pub(crate) struct Quota {
    limit: usize,
    free: Arc<Semaphore>,
}

/// A part of a [`Quota`], given back when dropped.
pub(crate) type Reservation = OwnedSemaphorePermit;

impl Quota {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { limit, free: Arc::new(Semaphore::new(limit)) }
    }

    /// Takes `amount`, unless that would be too much.
    pub(crate) fn take(&self, amount: usize) -> Option<Reservation> {
        Arc::clone(&self.free).try_acquire_many_owned(u32::try_from(amount).ok()?).ok()
    }

    /// How many are taken.
    pub(crate) fn used(&self) -> usize {
        self.limit - self.free.available_permits()
    }
}

/// Room for the answers of a call.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// Most bytes of one answer.
    each: usize,
    /// What it shares with others.
    all: Option<Quota>,
}

/// Why an answer that came was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lack {
    /// It has more bytes than one may have.
    #[error("the answer has more than {0} bytes, the most that are read")]
    TooLong(usize),
    /// Others take the memory.
    #[error("there is no memory for the answer now: requests and answers may take {0} bytes, and do")]
    Full(usize),
}

/// Why a body was not read whole.
#[derive(Debug)]
pub(crate) enum Unread<E> {
    Lack(Lack),
    Broken(E),
}

/// Bytes and the memory that is counted for them.
struct Counted {
    bytes: Vec<u8>,
    _memory: Reservation,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Lack {
    /// The error of a call that changes nothing and whose answer was not read.
    pub(crate) fn error(self, attempts: u32) -> Error {
        match self {
            Self::TooLong(limit) => Error::AnswerTooLong { limit },
            Self::Full(_) => Error::Unavailable { reason: self.to_string(), overloaded: true, attempts },
        }
    }
}

impl Room {
    /// For answers of up to `each` bytes that are not counted.
    pub(crate) fn uncounted(each: usize) -> Self {
        Self { each, all: None }
    }

    /// For answers of up to `each` bytes that take their memory from `all`.
    pub(crate) fn of(all: &Quota, each: usize) -> Self {
        Self { each: each.min(all.limit), all: Some(all.clone()) }
    }

    fn reserve(&self, bytes: usize) -> Result<Option<Reservation>, Lack> {
        self.all.as_ref().map(|all| all.take(bytes).ok_or(Lack::Full(all.limit))).transpose()
    }

    /// Reads a body whole.
    pub(crate) async fn collect<B>(&self, mut body: B) -> Result<Bytes, Unread<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut reserved = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        if reserved > self.each {
            return Err(Unread::Lack(Lack::TooLong(self.each)));
        }
        let mut memory = self.reserve(reserved).map_err(Unread::Lack)?;
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            // Trailers say nothing that is understood here.
            let Ok(data) = frame.map_err(Unread::Broken)?.into_data() else { continue };
            let total = bytes.len() + data.len();
            if total > self.each {
                return Err(Unread::Lack(Lack::TooLong(self.each)));
            }
            if total > reserved {
                // One that does not say how long it is takes twice as much each time, as its buffer does.
                let more = total.max(reserved.saturating_mul(2)).min(self.each);
                let added = self.reserve(more - reserved).map_err(Unread::Lack)?;
                if let (Some(memory), Some(added)) = (&mut memory, added) {
                    memory.merge(added);
                }
                reserved = more;
            }
            bytes.reserve_exact(reserved - bytes.len());
            bytes.extend_from_slice(&data);
        }
        Ok(match memory {
            Some(memory) if !bytes.is_empty() => Bytes::from_owner(Counted { bytes, _memory: memory }),
            _ => Bytes::from(bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    /// A body in pieces that does not say how long it is.
    struct Pieces(VecDeque<usize>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(Bytes::from(vec![b'x'; piece])))))
        }
    }

    fn declared(bytes: usize) -> Full<Bytes> {
        Full::new(Bytes::from(vec![b'x'; bytes]))
    }

    fn pieces(pieces: &[usize]) -> Pieces {
        Pieces(pieces.iter().copied().collect())
    }

    fn lack<E>(read: Result<Bytes, Unread<E>>) -> Lack {
        match read {
            Err(Unread::Lack(lack)) => lack,
            Err(Unread::Broken(_)) => panic!("it did not break off"),
            Ok(bytes) => panic!("{} bytes were read", bytes.len()),
        }
    }

    #[test]
    fn a_quota_is_never_overdrawn_and_gets_everything_back() {
        let quota = Quota::new(10);
        let first = quota.take(6).unwrap();
        assert!(quota.take(5).is_none() && quota.take(usize::MAX).is_none());
        let second = quota.take(4).unwrap();
        assert_eq!(quota.used(), 10);
        drop((first, second));
        assert_eq!(quota.used(), 0);
    }

    #[tokio::test]
    async fn an_answer_is_counted_until_the_last_one_lets_go_of_it() {
        let quota = Quota::new(100);
        let room = Room::of(&quota, 1000);
        let answer = room.collect(declared(60)).await.unwrap_or_default();
        assert_eq!((answer.len(), quota.used()), (60, 60));
        let part = answer.slice(59..);
        drop(answer);
        assert_eq!(quota.used(), 60, "a part of it keeps it all in memory");
        assert_eq!(lack(room.collect(declared(41)).await), Lack::Full(100));
        assert_eq!(quota.used(), 60, "what was not read is not counted");
        drop(part);
        assert_eq!(quota.used(), 0);
    }

    #[tokio::test]
    async fn one_that_does_not_say_how_long_it_is_is_counted_as_it_grows() {
        let quota = Quota::new(100);
        let room = Room::of(&quota, 1000);
        let answer = room.collect(pieces(&[10, 15, 5, 30])).await.unwrap_or_default();
        assert_eq!(answer.len(), 60);
        assert!((60..=100).contains(&quota.used()), "{}", quota.used());
        assert_eq!(lack(room.collect(pieces(&[10, 40])).await), Lack::Full(100));
        drop(answer);
        assert_eq!(quota.used(), 0);
        assert_eq!(room.collect(pieces(&[])).await.unwrap_or_default(), Bytes::new());
    }

    #[tokio::test]
    async fn one_that_is_longer_than_one_may_be_is_refused_however_much_is_free() {
        let quota = Quota::new(100);
        for (room, most) in [(Room::of(&quota, 50), 50), (Room::of(&quota, 1000), 100), (Room::uncounted(50), 50)] {
            assert_eq!(lack(room.collect(declared(most + 1)).await), Lack::TooLong(most));
            assert_eq!(lack(room.collect(pieces(&[most, 1])).await), Lack::TooLong(most));
            assert_eq!(room.collect(declared(most)).await.unwrap_or_default().len(), most);
            assert_eq!(quota.used(), 0);
        }
    }
}
