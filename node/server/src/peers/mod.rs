//! Links between members over TCP: each member dials every other and speaks only on the connections that it dialled.
//!
//! ```text
//!   this member                                              another
//!   LinkQueue ─frames─▶ dial: Hello, Map, frame, frame … ───▶ accept ─▶ lanes, forwards, answers
//!   accept ◀──────────────────────────── Hello, Map, frame … ◀ dial
//! ```
//!
//! A frame that can't be sent is lost, as on any network: Raft sends again, and forwarded requests end by the link's loss
//! or their timeout. A link begins with a hello; whoever is of another cluster, or means another member, is turned away.
//! Every link says something twice a second, if only an empty frame, so that a member that hangs is found out.

mod accept;
mod dial;

use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{Forward, HEADER_BYTES, Item, read_header, read_payload};
use annulus_core::id::{ClusterId, MemberId};
use annulus_core::lane::{Refusal, Reply};
use annulus_core::map::Map;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::runtime::{Clock, IoLanes, LaneInput, Links, ReplyQueue, ReplyTo, Shared, thread_of};

pub use accept::serve;
pub use dial::dial;

/// How often a link says something at least.
const SPEAK_EVERY: Duration = Duration::from_millis(500);

/// What a link needs of its node.
#[derive(Debug, Clone)]
pub struct Peers {
    /// What all threads look at.
    pub shared: Arc<Shared>,
    /// The lanes, as the thread that the links are on sees them.
    pub lanes: IoLanes,
    /// The ways to the I/O threads, by number.
    pub replies: Vec<ReplyQueue>,
    /// The ways to other members.
    pub links: Links,
    /// The node's clock.
    pub clock: Clock,
    /// Maps that others have sent, for the node to look at.
    pub maps: mpsc::Sender<Arc<Map>>,
}

impl Peers {
    fn cluster(&self) -> Option<ClusterId> {
        self.shared.map().map(|map| map.cluster)
    }

    /// Hands the items of a frame to whom they are for.
    fn deliver(&self, from: MemberId, items: Vec<Item>) {
        let mut batches: Vec<Vec<_>> = vec![Vec::new(); self.lanes.count()];
        let mut answers: Vec<Vec<(u64, Reply)>> = self.replies.iter().map(|_| Vec::new()).collect();
        for item in items {
            match item {
                Item::Group(message) => batches[self.shared.lane_of(message.group)].push(message),
                Item::Forward(forward) => self.forwarded(from, forward),
                Item::Forwarded { ticket, reply } => {
                    // What this member asked before it died has nobody who waits for it.
                    let number = ticket.number_in(self.shared.life);
                    let thread = number.and_then(|number| answers.get_mut(thread_of(number)));
                    if let Some((batch, number)) = thread.zip(number) {
                        batch.push((number, reply));
                    }
                }
                Item::Cancel { ticket, group } => {
                    let input = LaneInput::Cancel { group, reply_to: ReplyTo::Peer(from, ticket) };
                    // No room: the place at the lock goes when its wait is over.
                    let _ = self.lanes.send(self.shared.lane_of(group), input);
                }
                Item::Map(map) => self.offer_map(from, map),
                Item::Hello(_) => tracing::warn!(%from, "a second hello on a link is passed over"),
            }
        }
        for (lane, messages) in batches.into_iter().enumerate() {
            if !messages.is_empty() {
                // No room: as if lost on the way.
                let _ = self.lanes.send(lane, LaneInput::Peer { from, messages });
            }
        }
        for (queue, batch) in self.replies.iter().zip(answers) {
            if !batch.is_empty() {
                queue.send(batch);
            }
        }
    }

    fn forwarded(&self, from: MemberId, forward: Forward) {
        let Forward { ticket, group, timeout_ms, operation } = forward;
        let deadline = self.clock.now() + Duration::from_millis(u64::from(timeout_ms));
        let input = LaneInput::Request { group, operation, deadline, reply_to: ReplyTo::Peer(from, ticket) };
        if self.lanes.send(self.shared.lane_of(group), input).is_err() {
            let reply = Reply::Refused(Refusal::Busy);
            let mut frame = annulus_core::codec::frame::FrameWriter::default();
            frame.push(&Item::Forwarded { ticket, reply });
            self.links.send(from, frame.finish());
        }
    }

    fn offer_map(&self, from: MemberId, map: Bytes) {
        match Map::decode(map) {
            // When the node is still busy with an earlier map, the next hello brings this one again.
            Ok(map) if self.shared.map().is_some_and(|known| known.epoch >= map.epoch) => {}
            Ok(map) => drop(self.maps.try_send(Arc::new(map))),
            Err(error) => tracing::warn!(%from, %error, "a map that can't be read is passed over"),
        }
    }

    /// What the other side of a link has said before it hung up: the map in which this member is none any more.
    fn hear_parting_words(&self, from: MemberId, said: Bytes) {
        let Some(header) = said.first_chunk::<HEADER_BYTES>() else { return };
        let Ok((length, checksum)) = read_header(*header) else { return };
        if said.len() != HEADER_BYTES + length {
            return;
        }
        for item in read_payload(said.slice(HEADER_BYTES..), checksum).unwrap_or_default() {
            if let Item::Map(map) = item {
                self.offer_map(from, map);
            }
        }
    }

    /// A link to or from a member is down.
    fn lost(&self, member: MemberId) {
        for lane in 0..self.lanes.count() {
            // No room: the lane will notice by the missing answers.
            let _ = self.lanes.send(lane, LaneInput::Unreachable(member));
        }
        for queue in &self.replies {
            queue.link_lost(member);
        }
    }
}
