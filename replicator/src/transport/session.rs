//! Messages over one connection in use: a task per stream and direction, until the connection ends.
//!
//! ```text
//!  lane control ─ 1 stream ─┐
//!  lane records ─ N streams ┼─ main connection          lane bulk ─ striped ─ bulk connection
//!  opened by the engine ────┘
//! ```
//! Nothing is dialled or decided here: see `peer`.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use tokio::task::JoinSet;

use super::explain::explain;
use super::frame::{FrameError, FrameReader, Lane, frame};
use super::hello::Purpose;
use super::node::{Node, Peer, TransportEvent, close};
use super::refusal::{Refusal, RefusalCode};
use super::stream::{self, Opened, PeerStream};
use super::stripe;

/// What a writer takes from its lane at a time. Small enough that the streams of the pool share a burst.
const BATCH_BYTES: usize = 64 << 10;
/// Control goes before records whenever both wait.
const CONTROL_PRIORITY: i32 = 1;

/// Carries messages until the connection ends; says why it did. When it returns, no message of this connection comes
/// any more.
pub(super) async fn run(node: Arc<Node>, peer: Arc<Peer>, connection: Connection, purpose: Purpose) -> Refusal {
    let mut tasks = JoinSet::new();
    match purpose {
        Purpose::Main => {
            tasks.spawn(write_lane(peer.clone(), connection.clone(), Lane::Control));
            for _ in 0..node.config.limits.record_streams {
                tasks.spawn(write_lane(peer.clone(), connection.clone(), Lane::Records));
            }
        }
        Purpose::Bulk => {
            tasks.spawn(stripe::write(peer.clone(), connection.clone()));
            tasks.spawn(stripe::read(node.clone(), peer.clone(), connection.clone()));
        }
    }
    let verdict = serve(&node, &peer, &connection, purpose, &mut tasks).await;
    if let Some(refusal) = &verdict {
        close(&connection, refusal);
    }
    tasks.shutdown().await;
    let end = connection.closed().await;
    verdict.unwrap_or_else(|| explain(&end, &peer.name.to_string()))
}

/// Takes the peer's streams of the main connection as they come; bulk takes its own. Returns what the peer did wrong, or
/// `None` when the connection has ended.
async fn serve(
    node: &Arc<Node>,
    peer: &Arc<Peer>,
    connection: &Connection,
    purpose: Purpose,
    tasks: &mut JoinSet<Result<(), Refusal>>,
) -> Option<Refusal> {
    loop {
        tokio::select! {
            stream = connection.accept_uni(), if purpose == Purpose::Main => match stream {
                Ok(stream) => {
                    tasks.spawn(read_stream(node.clone(), peer.clone(), stream));
                }
                Err(_) => return None,
            },
            streams = connection.accept_bi(), if purpose == Purpose::Main => match streams {
                Ok((send, receive)) => {
                    tasks.spawn(hand_over(node.clone(), peer.clone(), send, receive));
                }
                Err(_) => return None,
            },
            _ = connection.closed() => return None,
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(refusal)) => return Some(refusal),
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => {}
            },
        }
    }
}

/// Feeds one stream from its lane for as long as the connection lasts.
async fn write_lane(peer: Arc<Peer>, connection: Connection, lane: Lane) -> Result<(), Refusal> {
    let Ok(mut stream) = connection.open_uni().await else { return Ok(()) };
    if lane == Lane::Control {
        // Fails only on a stream that is closed, and then so does the write below.
        let _ = stream.set_priority(CONTROL_PRIORITY);
    }
    ended_well(&peer, write_messages(&peer, &mut stream, lane).await)
}

/// A writer ends with its connection; if it ends for another reason, the peer did something wrong.
pub(super) fn ended_well(peer: &Peer, written: Result<(), quinn::WriteError>) -> Result<(), Refusal> {
    match written {
        Err(quinn::WriteError::Stopped(_)) => {
            Err(Refusal::new(RefusalCode::Protocol, format!("{} stopped a stream of ours", peer.name)))
        }
        _ => Ok(()),
    }
}

async fn write_messages(peer: &Peer, stream: &mut SendStream, lane: Lane) -> Result<(), quinn::WriteError> {
    let queue = peer.lane(lane);
    stream.write_all(&[lane.tag()]).await?;
    let (mut batch, mut parts): (Vec<Vec<Bytes>>, Vec<Bytes>) = (Vec::new(), Vec::new());
    loop {
        queue.take(BATCH_BYTES, &mut batch).await;
        if lane == Lane::Records {
            peer.pass_records(batch.len());
        }
        let bytes = frame(&mut batch, &mut parts);
        stream.write_all_chunks(&mut parts).await?;
        parts.clear();
        queue.written(bytes);
    }
}

/// A reader's error as the peer's fault, or `Ok` where the connection is gone.
pub(super) fn broken(peer: &Peer, error: &FrameError) -> Result<(), Refusal> {
    match error {
        FrameError::Read(quinn::ReadError::ConnectionLost(_)) => Ok(()),
        error => Err(Refusal::new(RefusalCode::Protocol, format!("{} broke a stream: {error}", peer.name))),
    }
}

pub(super) async fn deliver(node: &Node, peer: &Peer, lane: Lane, message: Bytes) -> Result<(), Refusal> {
    #[cfg(test)]
    super::tap::message(&peer.name, node.name(), lane, &message);
    let event = TransportEvent::Message { peer: peer.name.clone(), lane, message };
    let sent = node.events.send(event).await;
    sent.map_err(|_| Refusal::new(RefusalCode::Shutdown, format!("{} is going down", node.name())))
}

/// A stream for one user goes to the owner as it is, once it has said what it is.
async fn hand_over(node: Arc<Node>, peer: Arc<Peer>, send: SendStream, receive: RecvStream) -> Result<(), Refusal> {
    let mut frames = FrameReader::new(receive);
    match frames.header::<1>().await {
        Ok([stream::TAG]) => {}
        Ok(_) => {
            let text = format!("{} opened a stream of a kind that is not known", peer.name);
            return Err(Refusal::new(RefusalCode::Protocol, text));
        }
        // Whoever opened it has changed its mind.
        Err(_) => return Ok(()),
    }
    let stream = Opened::new(PeerStream::accepted(peer.name.clone(), send, frames));
    let sent = node.events.send(TransportEvent::Stream { peer: peer.name.clone(), stream }).await;
    sent.map_err(|_| Refusal::new(RefusalCode::Shutdown, format!("{} is going down", node.name())))
}

/// Hands every message of one stream to the owner. Waiting for room there holds the stream's flow control, and so the
/// peer, back.
async fn read_stream(node: Arc<Node>, peer: Arc<Peer>, stream: RecvStream) -> Result<(), Refusal> {
    let mut frames = FrameReader::new(stream);
    let lane = match frames.header::<1>().await.map(|[tag]| Lane::from_tag(tag)) {
        Ok(Some(lane @ (Lane::Control | Lane::Records))) => lane,
        Ok(_) => {
            let text = format!("{} opened a stream for no lane of this connection", peer.name);
            return Err(Refusal::new(RefusalCode::Protocol, text));
        }
        Err(error) => return broken(&peer, &error),
    };
    loop {
        match frames.next().await {
            Ok(Some(message)) => {
                if lane == Lane::Records {
                    peer.pass_records(1);
                }
                deliver(&node, &peer, lane, message).await?;
            }
            Ok(None) => return Ok(()),
            Err(error) => return broken(&peer, &error),
        }
    }
}
