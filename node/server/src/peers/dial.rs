//! The side of a link that speaks.

use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{FrameWriter, Hello, Item};
use annulus_core::id::MemberId;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Peers;
use crate::runtime::LinkState;

/// The pause after a failed attempt: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// A link that ends sooner was turned away: trying again at once would only fill two logs.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// How long connecting may take, and writing what has piled up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most frames that are written at once.
const BATCH: usize = 64;

/// Keeps a link to a member up, and sends what its queue holds, for as long as the node runs.
pub async fn dial(peers: Peers, member: MemberId) {
    let Some((mut frames, state)) = peers.links.add(member) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        match connect(&peers, member).await {
            Ok(stream) => {
                let since = Instant::now();
                state.set_connected(true);
                tracing::info!(peer = %member, "link up");
                let error = speak(stream, &mut frames, &state).await;
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
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(peers: &Peers, member: MemberId) -> std::io::Result<TcpStream> {
    let map = peers.shared.map().ok_or_else(|| std::io::Error::other("there is no map"))?;
    let address = map.member(member).map(|member| member.peer_address.clone());
    let address = address.ok_or_else(|| std::io::Error::other("the map has no such member"))?;
    let mut stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let mut frame = FrameWriter::default();
    let (cluster, from, epoch) = (map.cluster, peers.shared.member, map.epoch);
    frame.push(&Item::Hello(Hello { cluster, from, to: member, epoch }));
    frame.push(&Item::Map(map.encode()));
    timeout(WRITE_TIMEOUT, stream.write_all(&frame.finish())).await??;
    Ok(stream)
}

/// Sends frames until something goes wrong, and returns that. The other side never says anything: what can be read is
/// only that it has gone.
async fn speak(stream: TcpStream, frames: &mut mpsc::Receiver<Bytes>, state: &Arc<LinkState>) -> std::io::Error {
    let (mut reading, mut writing) = stream.into_split();
    let mut batch = Vec::with_capacity(BATCH);
    let mut nothing = [0];
    loop {
        tokio::select! {
            read = reading.read(&mut nothing) => {
                return read.err().unwrap_or_else(|| std::io::Error::other("the other side closed it; its log says why"));
            }
            count = frames.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return std::io::Error::other("the node stops");
                }
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
