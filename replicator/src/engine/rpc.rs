//! What nodes say to each other beside the volumes' protocol: calls with one answer each.
//!
//! The first byte of every transport message tells what follows: 0 a volume's message, 1 a call, 2 an answer.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::codec::{DecodeError, Reader, Writer};
use farshore_core::durable::LogBase;
use farshore_core::history::History;
use farshore_core::ids::{Seq, VolumeId};
use farshore_core::message::Message;
use farshore_core::record::RecordHash;
use tokio::sync::oneshot;

use super::driver::lock;
use crate::control::{OpError, OpKind};
use crate::transport::{Lane, PeerName, SendError, Transport};

const VOLUME: u8 = 0;
const CALL: u8 = 1;
const ANSWER: u8 = 2;

/// Calls that wait for their answers; one more is refused.
const CALLS_MAX: usize = 1024;

/// A stretch of a shipped image: blocks of one extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShippedRun {
    pub offset: u64,
    pub length: u64,
    /// `None`: a hole.
    pub data: Option<Bytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Hold a member of this volume from now on; the blob is the replica's first durable state.
    Join {
        volume: VolumeId,
        durable: Bytes,
    },
    /// The volume is deleted, or this member was taken out of it.
    Forget {
        volume: VolumeId,
    },
    /// A verb for this node's control plane: gRPC method and request, by name.
    Forward {
        method: String,
        request: Bytes,
    },
    /// An image follows: everything changed since `base`, as of `image`.
    ShipBegin {
        volume: VolumeId,
        ship: u128,
        base: Seq,
        image: LogBase,
        history: History,
    },
    ShipPage {
        volume: VolumeId,
        ship: u128,
        runs: Vec<ShippedRun>,
    },
    ShipEnd {
        volume: VolumeId,
        ship: u128,
    },
}

/// What arrived, sorted by its first byte.
pub enum Arrival {
    Volume(Message),
    Call { nonce: u64, call: Call },
    Answer { nonce: u64, result: Result<Bytes, OpError> },
}

pub fn volume_message(message: Message) -> Vec<Bytes> {
    let mut parts = vec![Bytes::from_static(&[VOLUME])];
    parts.extend(message.encode());
    parts
}

pub fn decode(mut bytes: Bytes) -> Result<Arrival, DecodeError> {
    const WHAT: &str = "node message";
    if bytes.is_empty() {
        return Err(DecodeError::Short { what: WHAT, needed: 1, left: 0 });
    }
    let tag = bytes.split_to(1)[0];
    if tag == VOLUME {
        return Message::decode(bytes).map(Arrival::Volume);
    }
    let mut r = Reader::new(WHAT, bytes);
    let nonce = r.u64()?;
    match tag {
        CALL => Ok(Arrival::Call { nonce, call: decode_call(r)? }),
        ANSWER => {
            let result = if r.bool()? {
                Ok(r.bytes()?)
            } else {
                let kind = OpKind::from_name(&r.string()?).unwrap_or(OpKind::Internal);
                let (message, why, remedy) = (r.string()?, r.string()?, r.string()?);
                Err(OpError { kind, message, why, remedy })
            };
            Ok(Arrival::Answer { nonce, result })
        }
        found => Err(DecodeError::Unknown { what: WHAT, found: found.into() }),
    }
}

fn encode_call(nonce: u64, call: &Call) -> Bytes {
    let mut w = Writer::default();
    w.u8(CALL);
    w.u64(nonce);
    match call {
        Call::Join { volume, durable } => {
            w.u8(1);
            w.u128(volume.0);
            w.bytes(durable);
        }
        Call::Forget { volume } => {
            w.u8(2);
            w.u128(volume.0);
        }
        Call::Forward { method, request } => {
            w.u8(3);
            w.string(method);
            w.bytes(request);
        }
        Call::ShipBegin { volume, ship, base, image, history } => {
            w.u8(4);
            w.u128(volume.0);
            w.u128(*ship);
            w.seq(*base);
            w.seq(image.seq);
            w.u128(image.hash.0);
            w.list(&history.0, |w, (epoch, seq)| {
                w.epoch(*epoch);
                w.seq(*seq);
            });
        }
        Call::ShipPage { volume, ship, runs } => {
            w.u8(5);
            w.u128(volume.0);
            w.u128(*ship);
            w.list(runs, |w, run| {
                w.u64(run.offset);
                w.u64(run.length);
                w.option(run.data.as_ref(), |w, data| {
                    w.bytes(data);
                    w.u32(crc32fast::hash(data));
                });
            });
        }
        Call::ShipEnd { volume, ship } => {
            w.u8(6);
            w.u128(volume.0);
            w.u128(*ship);
        }
    }
    w.finish()
}

fn decode_call(mut r: Reader) -> Result<Call, DecodeError> {
    let call = match r.u8()? {
        1 => Call::Join { volume: r.volume()?, durable: r.bytes()? },
        2 => Call::Forget { volume: r.volume()? },
        3 => Call::Forward { method: r.string()?, request: r.bytes()? },
        4 => Call::ShipBegin {
            volume: r.volume()?,
            ship: r.u128()?,
            base: r.seq()?,
            image: LogBase { seq: r.seq()?, hash: RecordHash(r.u128()?) },
            history: {
                let history = History(r.list(|r| Ok((r.epoch()?, r.seq()?)))?);
                if !history.is_ordered() {
                    return Err(DecodeError::Invalid { what: "shipment", reason: "its epoch history is out of order" });
                }
                history
            },
        },
        5 => Call::ShipPage {
            volume: r.volume()?,
            ship: r.u128()?,
            runs: r.list(|r| {
                Ok(ShippedRun {
                    offset: r.u64()?,
                    length: r.u64()?,
                    data: r.option(|r| {
                        let data = r.bytes()?;
                        let found = r.u32()?;
                        let computed = crc32fast::hash(&data);
                        if found == computed {
                            Ok(data)
                        } else {
                            Err(DecodeError::Checksum { what: "shipped blocks", found, computed })
                        }
                    })?,
                })
            })?,
        },
        6 => Call::ShipEnd { volume: r.volume()?, ship: r.u128()? },
        found => return Err(r.unknown(found.into())),
    };
    r.end()?;
    Ok(call)
}

pub fn encode_answer(nonce: u64, result: &Result<Bytes, OpError>) -> Bytes {
    let mut w = Writer::default();
    w.u8(ANSWER);
    w.u64(nonce);
    match result {
        Ok(bytes) => {
            w.bool(true);
            w.bytes(bytes);
        }
        Err(error) => {
            w.bool(false);
            for text in [error.kind.as_str(), &error.message, &error.why, &error.remedy] {
                w.string(text);
            }
        }
    }
    w.finish()
}

/// Who was asked, and who waits for the answer.
type Asked = (PeerName, oneshot::Sender<Result<Bytes, OpError>>);

/// The calls of this node that wait for their answers.
#[derive(Default)]
pub struct Calls {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Asked>>,
}

impl Calls {
    pub async fn call(
        &self,
        transport: &Transport,
        peer: &PeerName,
        call: &Call,
        patience: Duration,
    ) -> Result<Bytes, OpError> {
        let lane = if matches!(call, Call::ShipPage { .. }) { Lane::Bulk } else { Lane::Control };
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
                Ok(Ok(result)) => result,
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
