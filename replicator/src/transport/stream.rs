//! A stream of its own between two peers, both ways, for one user of it: its messages wait for nobody else's, and it ends
//! with the connection. What is said on it is the engine's.
//!
//! ```text
//!  opener   tag, then `length u32, bytes` ...  ─►
//!           ◄─  `length u32, bytes` ...            acceptor
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::cutter::MESSAGE_BYTES_MAX;
use super::frame::{FrameReader, frame};
use super::name::PeerName;
use super::queue::message_bytes;

/// The first byte. Lanes have the numbers below it.
pub(super) const TAG: u8 = 4;
/// Of one peer, at a time, each way.
pub const STREAMS_MAX: u32 = 256;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("{0} is not connected")]
    NotConnected(PeerName),
    #[error("the stream with {0} has ended: {1}")]
    Ended(PeerName, String),
}

pub struct PeerStream {
    peer: PeerName,
    send: quinn::SendStream,
    receive: FrameReader,
}

pub struct StreamSender {
    peer: PeerName,
    send: quinn::SendStream,
    parts: Vec<Bytes>,
}

pub struct StreamReceiver {
    peer: PeerName,
    receive: FrameReader,
}

impl PeerStream {
    pub(super) async fn open(peer: PeerName, connection: &quinn::Connection) -> Result<PeerStream, StreamError> {
        let ended = |error: String| StreamError::Ended(peer.clone(), error);
        let (mut send, receive) = connection.open_bi().await.map_err(|e| ended(e.to_string()))?;
        send.write_all(&[TAG]).await.map_err(|e| ended(e.to_string()))?;
        Ok(PeerStream { peer, send, receive: FrameReader::new(receive) })
    }

    /// After its tag was read.
    pub(super) fn accepted(peer: PeerName, send: quinn::SendStream, receive: FrameReader) -> PeerStream {
        PeerStream { peer, send, receive }
    }

    pub fn split(self) -> (StreamSender, StreamReceiver) {
        let sender = StreamSender { peer: self.peer.clone(), send: self.send, parts: Vec::new() };
        (sender, StreamReceiver { peer: self.peer, receive: self.receive })
    }
}

impl StreamSender {
    /// One message in parts, which are not copied. Waits while the peer does not read.
    pub async fn send(&mut self, message: Vec<Bytes>) -> Result<(), StreamError> {
        assert!(message_bytes(&message) <= MESSAGE_BYTES_MAX, "no message is longer");
        self.parts.clear();
        frame(&mut vec![message], &mut self.parts);
        let sent = self.send.write_all_chunks(&mut self.parts).await;
        sent.map_err(|error| StreamError::Ended(self.peer.clone(), error.to_string()))
    }
}

impl StreamReceiver {
    /// May be dropped while it waits, and called again.
    pub async fn next(&mut self) -> Result<Bytes, StreamError> {
        match self.receive.next().await {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(StreamError::Ended(self.peer.clone(), "the peer closed it".into())),
            Err(error) => Err(StreamError::Ended(self.peer.clone(), error.to_string())),
        }
    }
}

/// A stream that a peer opened, for whoever takes it first.
#[derive(Clone)]
pub struct Opened(Arc<Mutex<Option<PeerStream>>>);

impl Opened {
    pub(super) fn new(stream: PeerStream) -> Opened {
        Opened(Arc::new(Mutex::new(Some(stream))))
    }

    pub fn take(&self) -> Option<PeerStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opened")
    }
}
