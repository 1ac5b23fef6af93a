//! Calls of this node at its peers, and those that still wait for their answers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::clock::random_u128;
use super::driver::lock;
use super::rpc::{Call, encode_call};
use crate::control::OpError;
use crate::transport::{Lane, PeerName, SendError, Transport};

/// Calls that wait for their answers; one more is refused.
const CALLS_MAX: usize = 1024;

/// Who was asked, and who waits for the answer.
type Asked = (PeerName, oneshot::Sender<Result<Bytes, OpError>>);

/// The calls of this node that wait for their answers.
pub struct Calls {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Asked>>,
}

impl Default for Calls {
    /// Numbers begin anywhere: an answer to the same number of an earlier life must not be taken for ours.
    fn default() -> Calls {
        Calls { next: AtomicU64::new(random_u128() as u64), waiting: Mutex::default() }
    }
}

impl Calls {
    pub async fn call(
        &self,
        transport: &Transport,
        peer: &PeerName,
        call: &Call,
        patience: Duration,
    ) -> Result<Bytes, OpError> {
        self.ask(transport, peer, call, patience).await?
    }

    /// As [`Calls::call`], with what the peer answered apart from why it gave no answer.
    pub async fn ask(
        &self,
        transport: &Transport,
        peer: &PeerName,
        call: &Call,
        patience: Duration,
    ) -> Result<Result<Bytes, OpError>, OpError> {
        let bulk = matches!(call, Call::ShipPage { .. } | Call::ShipPacked { .. });
        let lane = if bulk { Lane::Bulk } else { Lane::Control };
        let nonce = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= CALLS_MAX {
                return Err(OpError::unavailable("too many calls to peers wait for answers", "try again shortly"));
            }
            waiting.insert(nonce, (peer.clone(), sender));
        }
        let bytes = encode_call(nonce, call);
        let sent = loop {
            match transport.send(peer, lane, vec![bytes.clone()]) {
                Err(SendError::Full) => {
                    if transport.ready(peer, lane).await.is_err() {
                        break false;
                    }
                }
                Err(SendError::NotConnected) => break false,
                Ok(()) => break true,
                Err(_) => break false,
            }
        };
        let result = if sent {
            match tokio::time::timeout(patience, answer).await {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(_)) => Err(unreachable_peer(peer, "the connection was lost before it answered")),
                Err(_) => Err(unreachable_peer(peer, &format!("no answer within {} s", patience.as_secs()))),
            }
        } else {
            Err(unreachable_peer(peer, "it is not connected"))
        };
        lock(&self.waiting).remove(&nonce);
        result
    }

    /// Only the peer that was asked may answer.
    pub fn answered(&self, from: &PeerName, nonce: u64, result: Result<Bytes, OpError>) {
        let mut waiting = lock(&self.waiting);
        if waiting.get(&nonce).is_some_and(|(peer, _)| peer == from)
            && let Some((_, sender)) = waiting.remove(&nonce)
        {
            let _ = sender.send(result);
        }
    }

    /// Calls to a peer that went away get no answer.
    pub fn lost(&self, peer: &PeerName) {
        lock(&self.waiting).retain(|_, (asked, _)| asked != peer);
    }
}

fn unreachable_peer(peer: &PeerName, why: &str) -> OpError {
    OpError::unavailable(format!("{peer} could not be asked"), "see `farshore site list` for the state of the link")
        .because(why)
}
