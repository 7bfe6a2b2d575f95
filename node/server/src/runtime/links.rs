//! The way to other members, as lanes and routers see it: a bounded queue of frames for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use annulus_core::id::MemberId;
use bytes::Bytes;
use tokio::sync::mpsc;

/// Most frames that wait for one link.
const QUEUE_FRAMES: usize = 1024;
/// Most bytes that wait for one link.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// The ways to all other members.
#[derive(Debug, Clone, Default)]
pub struct Links {
    queues: Arc<RwLock<HashMap<MemberId, LinkQueue>>>,
    /// How many connections each member has open to this one.
    heard: Arc<RwLock<HashMap<MemberId, usize>>>,
}

/// The way to one other member.
#[derive(Debug, Clone)]
pub struct LinkQueue {
    frames: mpsc::Sender<Bytes>,
    state: Arc<LinkState>,
}

/// What is known of a link.
#[derive(Debug, Default)]
pub struct LinkState {
    connected: AtomicBool,
    queued_bytes: AtomicUsize,
}

impl Links {
    /// Opens the way to a member. The receiver is the link's own; `None` when there is a way already.
    pub fn add(&self, member: MemberId) -> Option<(mpsc::Receiver<Bytes>, Arc<LinkState>)> {
        let mut queues = self.queues.write().unwrap_or_else(PoisonError::into_inner);
        if queues.contains_key(&member) {
            return None;
        }
        let (frames, receiver) = mpsc::channel(QUEUE_FRAMES);
        let state = Arc::new(LinkState::default());
        queues.insert(member, LinkQueue { frames, state: Arc::clone(&state) });
        Some((receiver, state))
    }

    /// Takes the way to a member down.
    pub fn remove(&self, member: MemberId) {
        self.queues.write().unwrap_or_else(PoisonError::into_inner).remove(&member);
    }

    /// The way to a member.
    pub fn to(&self, member: MemberId) -> Option<LinkQueue> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner).get(&member).cloned()
    }

    /// A member has opened a connection to this one.
    pub fn opened_by(&self, member: MemberId) {
        *self.heard.write().unwrap_or_else(PoisonError::into_inner).entry(member).or_default() += 1;
    }

    /// A member's connection to this one has ended.
    pub fn closed_by(&self, member: MemberId) {
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = heard.get_mut(&member) {
            *count = count.saturating_sub(1);
        }
    }

    /// Whether a member can be asked something: the link to it is up, and so is the one that its answer comes on.
    pub fn is_up(&self, member: MemberId) -> bool {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        heard.get(&member).is_some_and(|count| *count > 0) && self.to(member).is_some_and(|link| link.is_connected())
    }

    /// Sends a frame to a member. `false` when there is no way or no room: the frame is lost, as on any network.
    pub fn send(&self, member: MemberId, frame: Bytes) -> bool {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.get(&member).is_some_and(|queue| queue.send(frame))
    }

    /// Every member that there is a way to, and whether its link is up.
    pub fn states(&self) -> Vec<(MemberId, bool)> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|(member, queue)| (*member, queue.is_connected())).collect()
    }
}

impl LinkQueue {
    /// Whether the link is up.
    pub fn is_connected(&self) -> bool {
        self.state.connected.load(Ordering::Relaxed)
    }

    /// Queues a frame, if the link is up and has room.
    pub fn send(&self, frame: Bytes) -> bool {
        let bytes = frame.len();
        if !self.is_connected() || self.state.queued_bytes.load(Ordering::Relaxed) + bytes > QUEUE_BYTES {
            return false;
        }
        self.state.queued(bytes);
        let sent = self.frames.try_send(frame).is_ok();
        if !sent {
            self.state.took(bytes);
        }
        sent
    }
}

impl LinkState {
    /// The link has come up or gone down.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// This much is to be sent.
    pub fn queued(&self, bytes: usize) {
        self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The link has taken this much out of its queue.
    pub fn took(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
