//! The side of a link that listens.

use std::sync::Arc;
use std::time::Duration;

use annulus_core::codec::frame::{
    FrameWriter, HEADER_BYTES, Hello, Item, MAX_PAYLOAD_BYTES, read_header, read_payload,
};
use annulus_core::codec::{self};
use annulus_core::map::Map;
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Peers, SPEAK_EVERY};

/// Most connections from other members at once.
const CONNECTIONS: usize = 2048;
/// A link that brings nothing for so long is given up: whoever waits for an answer on it is told, and asks elsewhere.
const SILENT_AFTER: Duration = SPEAK_EVERY.saturating_mul(4);
/// How long the hello may take.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A hello comes with a map; nobody who has not said hello may send more.
const MAX_HELLO_BYTES: usize = 4 * 1024 * 1024;

/// Why a link ends.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("what came is no frame: {0}")]
    Frame(#[from] codec::Error),
    #[error("nothing came for {waited:?}: the member hangs, or nothing passes between it and this one")]
    Silent { waited: Duration },
    #[error("no hello came in time")]
    NoHelloInTime,
    #[error("it began with something else than a hello")]
    NoHello,
    #[error("it is of another cluster: {theirs}; this member belongs to {ours}")]
    OtherCluster { ours: annulus_core::id::ClusterId, theirs: annulus_core::id::ClusterId },
    #[error("it says that it is this very member, {here}: two processes run with copies of one volume")]
    Oneself { here: annulus_core::id::MemberId },
    #[error("it is from {from}, which is no member of this cluster")]
    Stranger { from: annulus_core::id::MemberId },
    #[error("it means member {meant}; this is member {here}")]
    OtherMember { meant: annulus_core::id::MemberId, here: annulus_core::id::MemberId },
}

/// Takes connections from other members for as long as the node runs.
pub async fn serve(listener: TcpListener, peers: Peers) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            // Out of descriptors, or a connection that was gone at once: neither passes quicker by asking again.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%address, "too many peer connections; this one is closed");
            continue;
        };
        let peers = peers.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = listen(stream, &peers).await {
                tracing::info!(%address, %error, "peer connection ended");
            }
            drop(place);
        });
    }
}

async fn listen(mut stream: TcpStream, peers: &Peers) -> Result<(), LinkError> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let first = timeout(HELLO_TIMEOUT, read_frame(&mut stream, &mut buffer, MAX_HELLO_BYTES)).await;
    let mut items = first.map_err(|_| LinkError::NoHelloInTime)??.into_iter();
    let Some(Item::Hello(hello)) = items.next() else { return Err(LinkError::NoHello) };
    let items: Vec<Item> = items.collect();
    let checked = check(&hello, peers, &items);
    if let Err(LinkError::Stranger { .. }) = checked {
        say_goodbye(&mut stream, peers, &hello).await;
    }
    checked?;
    tracing::debug!(from = %hello.from, "peer connected");
    peers.links.opened_by(hello.from);
    peers.deliver(hello.from, items);
    let error = loop {
        match read_frame(&mut stream, &mut buffer, MAX_PAYLOAD_BYTES).await {
            // Until this member belongs to the cluster, there is nothing that a message could be for.
            Ok(_) if peers.cluster().is_none() => {}
            Ok(items) => peers.deliver(hello.from, items),
            Err(error) => break error,
        }
    };
    peers.links.closed_by(hello.from);
    peers.lost(hello.from);
    Err(error)
}

/// Tells a member that was removed, and has not heard of that yet, that it was.
async fn say_goodbye(stream: &mut TcpStream, peers: &Peers, hello: &Hello) {
    let Some(map) = peers.shared.map().filter(|map| map.epoch > hello.epoch) else { return };
    let mut frame = FrameWriter::default();
    frame.push(&Item::Map(map.encode()));
    // It may not be there any more to hear it.
    let _ = timeout(HELLO_TIMEOUT, stream.write_all(&frame.finish())).await;
    let _ = timeout(HELLO_TIMEOUT, stream.shutdown()).await;
}

/// Whether a newer map that came with a hello says that whoever speaks is a member.
fn is_introduced(hello: &Hello, ours: &Map, items: &[Item]) -> bool {
    let maps = items.iter().filter_map(|item| match item {
        Item::Map(map) if hello.epoch > ours.epoch => Map::decode(map.clone()).ok(),
        _ => None,
    });
    maps.into_iter()
        .any(|map| map.cluster == ours.cluster && map.epoch > ours.epoch && map.member(hello.from).is_some())
}

fn check(hello: &Hello, peers: &Peers, items: &[Item]) -> Result<(), LinkError> {
    if hello.to != peers.shared.member {
        return Err(LinkError::OtherMember { meant: hello.to, here: peers.shared.member });
    }
    if hello.from == peers.shared.member {
        return Err(LinkError::Oneself { here: hello.from });
    }
    match peers.shared.map() {
        Some(map) if map.cluster != hello.cluster => {
            Err(LinkError::OtherCluster { ours: map.cluster, theirs: hello.cluster })
        }
        Some(map) if map.member(hello.from).is_none() && !is_introduced(hello, &map, items) => {
            Err(LinkError::Stranger { from: hello.from })
        }
        _ => Ok(()),
    }
}

async fn read_frame(stream: &mut TcpStream, buffer: &mut BytesMut, most: usize) -> Result<Vec<Item>, LinkError> {
    fill(stream, buffer, HEADER_BYTES).await?;
    let header = buffer.split_to(HEADER_BYTES);
    let (length, checksum) = read_header(header[..].try_into().expect("as many bytes as a header has"))?;
    if length > most {
        return Err(codec::Error::OutOfRange { what: "frame length" }.into());
    }
    fill(stream, buffer, length).await?;
    // A copy of its own: a value that is kept must not keep the whole of the read buffer.
    let payload = Bytes::copy_from_slice(&buffer.split_to(length));
    Ok(read_payload(payload, checksum)?)
}

async fn fill(stream: &mut TcpStream, buffer: &mut BytesMut, bytes: usize) -> Result<(), LinkError> {
    while buffer.len() < bytes {
        buffer.reserve((bytes - buffer.len()).max(16 * 1024));
        let read = timeout(SILENT_AFTER, stream.read_buf(buffer)).await;
        if read.map_err(|_| LinkError::Silent { waited: SILENT_AFTER })?? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
    Ok(())
}
