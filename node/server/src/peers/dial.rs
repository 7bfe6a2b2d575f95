//! The side of a link that speaks.

use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, Hello, Item, MAX_PAYLOAD_BYTES};
use annulus_core::id::MemberId;
use annulus_core::map::{Map, MemberState};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::{Peers, SPEAK_EVERY};
use crate::names;
use crate::runtime::LinkState;

/// The pause after a failed attempt: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A link that ends sooner was turned away: trying again at once would only fill two logs.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How long connecting may take, and writing what has piled up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// A link on which so long nothing that was sent arrived is given up.
#[cfg(target_os = "linux")]
const UNHEARD_AFTER: Duration = Duration::from_secs(4);
/// Most frames that are written at once.
const BATCH: usize = 64;

/// Keeps a link to a member up, and sends what its queue holds, for as long as the map names that member.
pub async fn dial(peers: Peers, member: MemberId) {
    let Some((mut frames, state)) = peers.links.add(member) else { return };
    let mut maps = peers.shared.map_changes();
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(address) = address(&peers, member) else {
            if peers.shared.map().is_some_and(|map| map.member(member).is_none()) {
                break;
            }
            // Another member has taken its place: there is nobody to be reached until the map says otherwise.
            if maps.changed().await.is_err() {
                break;
            }
            continue;
        };
        match connect(&peers, member, &address).await {
            Ok(stream) => {
                let since = Instant::now();
                state.set_connected(true);
                tracing::info!(peer = %member, address, "link up");
                let error = tokio::select! {
                    error = speak(stream, &mut frames, &state, &peers, member) => error,
                    () = moved_away(&mut maps, &peers, member, &address) => std::io::Error::other("the map says otherwise now"),
                };
                state.set_connected(false);
                drop_queued(&mut frames, &state);
                peers.lost(member);
                tracing::warn!(peer = %member, %error, "link down");
                if since.elapsed() >= SETTLED_AFTER {
                    pause = FIRST_PAUSE;
                }
            }
            Err(error) => tracing::debug!(peer = %member, %error, "no link yet"),
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            () = moved_away(&mut maps, &peers, member, &address) => pause = FIRST_PAUSE,
        }
    }
    peers.links.remove(member);
    tracing::info!(peer = %member, "no member any more: its link is given up");
}

/// Where a member is reached; `None` when it is no member, or leaves and another one is there in its place.
fn address(peers: &Peers, member: MemberId) -> Option<String> {
    let map = peers.shared.map()?;
    let known = map.member(member)?;
    let is_taken = |other: &annulus_core::map::Member| {
        other.id != member && other.state != MemberState::Leaving && other.peer_address == known.peer_address
    };
    let taken = known.state == MemberState::Leaving && map.members.iter().any(is_taken);
    (!taken).then(|| known.peer_address.clone())
}

/// Waits until the map says that a member is somewhere else, or nowhere.
async fn moved_away(maps: &mut watch::Receiver<Option<Arc<Map>>>, peers: &Peers, member: MemberId, was_at: &str) {
    while maps.changed().await.is_ok() {
        if address(peers, member).as_deref() != Some(was_at) {
            return;
        }
    }
    std::future::pending().await
}

async fn connect(peers: &Peers, member: MemberId, address: &str) -> std::io::Result<TcpStream> {
    let map = peers.shared.map().ok_or_else(|| std::io::Error::other("there is no map"))?;
    // Its name is looked up anew each time: a pod that comes back has another address.
    let mut stream = names::connect(address, CONNECT_TIMEOUT).await?;
    stream.set_nodelay(true)?;
    // The machine of a member may be gone without a word, and the member be somewhere else under the same name.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD_AFTER))?;
    let mut frame = FrameWriter::default();
    let (cluster, from, epoch) = (map.cluster, peers.shared.member, map.epoch);
    frame.push(&Item::Hello(Hello { cluster, from, to: member, epoch }));
    frame.push(&Item::Map(map.encode()));
    timeout(WRITE_TIMEOUT, stream.write_all(&frame.finish())).await??;
    Ok(stream)
}

/// Sends frames until something goes wrong, and returns that. The other side says at most one thing: a newer map, in which
/// this member is none any more, before it hangs up.
async fn speak(
    stream: TcpStream,
    frames: &mut mpsc::Receiver<Bytes>,
    state: &Arc<LinkState>,
    peers: &Peers,
    member: MemberId,
) -> std::io::Error {
    let (mut reading, mut writing) = stream.into_split();
    let mut batch = Vec::with_capacity(BATCH);
    let mut said = BytesMut::new();
    let mut due = interval(SPEAK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            read = reading.read_buf(&mut said) => {
                match read {
                    Ok(bytes) if bytes > 0 && said.len() <= MAX_PAYLOAD_BYTES => continue,
                    Ok(_) => {}
                    Err(error) => return error,
                }
                peers.hear_parting_words(member, said.freeze());
                return std::io::Error::other("the other side closed it; its log says why");
            }
            count = frames.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return std::io::Error::other("the node stops");
                }
            }
            _ = due.tick() => {
                let nothing = FrameWriter::default().finish();
                state.queued(nothing.len());
                batch.push(nothing);
            }
        }
        let bytes = match &batch[..] {
            [frame] => frame.clone(),
            several => several.concat().into(),
        };
        state.took(bytes.len());
        batch.clear();
        match timeout(WRITE_TIMEOUT, writing.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return std::io::Error::other("the other side takes nothing"),
        }
    }
}

/// What was queued for a link that is gone would come too late on the next.
fn drop_queued(frames: &mut mpsc::Receiver<Bytes>, state: &LinkState) {
    while let Ok(frame) = frames.try_recv() {
        state.took(frame.len());
    }
}
