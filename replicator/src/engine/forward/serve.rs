//! The member's side: a stream's requests carried out on the volume, for as long as the stream, the session and the turn last.
//!
//! ```text
//!   stream ─► reader ── budget ── submit, in order ──► SessionDevice of this turn ──► volume
//!   stream ◄─ writer ◄──── answers (bounded) ◄──────────────────────────────────────────┘
//! ```

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::{SessionId, Tick, VolumeId};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::device::{BYTES_MAX, REQUESTS_MAX, cost};
use super::frame::{Ask, Say};
use super::place::{Place, forwarded_to};
use crate::device::remote::Request;
use crate::device::{BlockDevice, IoError, submit};
use crate::engine::attachments::of_session;
use crate::engine::clock;
use crate::engine::driver::{VolumeHandle, lock};
use crate::engine::io_limits::MeteredDevice;
use crate::engine::node::Node;
use crate::engine::reader_device::ReaderDevice;
use crate::engine::readers::is_read_only;
use crate::engine::register_read::Fencing;
use crate::engine::session_device::SessionDevice;
use crate::transport::{PeerName, PeerStream, StreamReceiver, StreamSender};

const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// Pings wait for their answers as requests do, and hold no budget.
const PINGS_MAX: usize = 16;

/// What a member serves for another node.
#[derive(Clone)]
pub struct Served {
    pub place: Place,
    pub lending: Arc<Lending>,
}

/// How much of this member's lease the node of the device may use.
pub struct Lending(Mutex<Lent>);

struct Lent {
    ended: bool,
    /// By our clock: then nothing is left of what was lent.
    until: Tick,
}

impl Lending {
    /// An earlier life of this daemon may have lent as much as a lease.
    pub fn new(lease_us: u64) -> Arc<Lending> {
        Arc::new(Lending(Mutex::new(Lent { ended: false, until: clock::now().plus(lease_us) })))
    }

    /// Of what is left of our own lease now.
    fn lend(&self, left_us: u64) -> u64 {
        let mut lent = lock(&self.0);
        if lent.ended {
            return 0;
        }
        lent.until = lent.until.max(clock::now().plus(left_us));
        left_us
    }

    /// Nothing is lent any more.
    pub fn end(&self) {
        lock(&self.0).ended = true;
    }

    /// How long the node of the device may still tell answers that it has, once nothing more is lent.
    pub fn left(&self) -> Duration {
        Duration::from_micros(lock(&self.0).until.since(clock::now()))
    }
}

/// Whoever has been let in.
struct Turn {
    handle: Arc<VolumeHandle>,
    /// None: nobody writes the volume, so that an answer is never too late.
    lending: Option<Arc<Lending>>,
    of_stream: Arc<SessionDevice>,
    device: Arc<dyn BlockDevice>,
}

/// Later, or never again.
struct Refused {
    session_is_over: bool,
    why: String,
}

fn later<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { session_is_over: false, why: why.into() })
}

fn over<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { session_is_over: true, why: why.into() })
}

/// With the budget that it holds until it is on the stream.
struct Answer {
    say: Say,
    _request: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Node {
    /// Until the stream ends, or its turn.
    pub(in crate::engine) async fn serve_stream(self: Arc<Self>, peer: PeerName, stream: PeerStream) {
        let (mut sender, mut receiver) = stream.split();
        let hello = match timeout(HELLO_PATIENCE, receiver.next()).await {
            Ok(Ok(bytes)) => Ask::decode(bytes),
            _ => return,
        };
        let (volume, session) = match hello {
            Ok(Ask::Hello { volume, session }) => (volume, session),
            other => return tracing::warn!(%peer, ?other, "a stream that does not begin with a hello; it is closed"),
        };
        let turn = match self.admit(&peer, volume, session).await {
            Ok(turn) => turn,
            Err(Refused { session_is_over, why }) => {
                tracing::debug!(%peer, %volume, session_is_over, why, "a device elsewhere is not served");
                let _ = sender.send(Say::Refused { session_is_over, why }.encode()).await;
                // Dropped at once it might be reset before it has arrived.
                let _ = timeout(HELLO_PATIENCE, receiver.next()).await;
                return;
            }
        };
        drop(self);
        let volume = turn.handle.name();
        tracing::info!(volume, %peer, "the device of a session at another node is served");
        if sender.send(Say::Welcome { geometry: turn.device.geometry() }.encode()).await.is_ok() {
            let (answers, queue) = mpsc::channel(REQUESTS_MAX + PINGS_MAX);
            tokio::select! {
                () = take_requests(&peer, &turn, receiver, answers) => {}
                () = write_answers(sender, queue) => {}
            }
        }
        // What was taken has its place in the order; what lies in the stream has none any more.
        turn.of_stream.end();
        tracing::info!(volume, %peer, "a stream of a device at another node has ended");
    }

    async fn admit(self: &Arc<Self>, peer: &PeerName, volume: VolumeId, session: SessionId) -> Result<Turn, Refused> {
        let Some(handle) = self.catalog.get(volume) else { return later("no copy of the volume is here") };
        if is_read_only(&handle.config.borrow().volume) {
            return self.admit_reader(peer, handle).await;
        }
        if let Some(served) = self.attachments.served(volume).await
            && served.place.session == session
            && served.place.node == *peer
            && let Some((of_stream, device)) = self.attachments.exports.open_for_peer(peer, &handle.name(), session)
        {
            return Ok(Turn { handle, lending: Some(served.lending), of_stream, device });
        }
        let Some(status) = handle.status().await else { return later("the volume is stopping") };
        let named = match status.role {
            // Under a lease its own word is the newest.
            "primary" if status.settled && status.lease_left_us > Some(0) => status.config.attached,
            _ => match self.read_register(&handle, None).await {
                Ok(register) => match register.fencing(None) {
                    Fencing::Named(attached) => Some(attached),
                    Fencing::Done(_) => None,
                    _ => return later("the register can't be read now"),
                },
                Err(error) => return later(error.to_string()),
            },
        };
        match named {
            Some(attached) if attached.session == session => match forwarded_to(&handle.config.borrow()) {
                Some((_, place)) if place.session == session && place.node != *peer => {
                    over(format!("the device of the session is at {}", place.node))
                }
                _ => later("the session is not taken up here"),
            },
            Some(_) => over("the volume is attached for another session"),
            None => over("the session has ended: the volume is attached nowhere"),
        }
    }
}

impl Node {
    /// Of a volume that nobody writes: any node of the site may read, for any session.
    async fn admit_reader(&self, peer: &PeerName, handle: Arc<VolumeHandle>) -> Result<Turn, Refused> {
        if peer.site != self.shared.me.site {
            return over("a copy of another site is not read from here");
        }
        if let Err(error) = self.refuse_without_image(&handle).await {
            return later(error.to_string());
        }
        let copy = Arc::new(ReaderDevice::new(self.shared.clone(), handle.clone()));
        let (_, of_stream, meter) = of_session(&handle, copy, true);
        let device = Arc::new(MeteredDevice::new(of_stream.clone(), meter));
        Ok(Turn { handle, lending: None, of_stream, device })
    }
}

async fn take_requests(peer: &PeerName, turn: &Turn, mut receiver: StreamReceiver, answers: mpsc::Sender<Answer>) {
    let (requests, bytes) = (Arc::new(Semaphore::new(REQUESTS_MAX)), Arc::new(Semaphore::new(BYTES_MAX)));
    loop {
        let ask = match receiver.next().await.map(Ask::decode) {
            Ok(Ok(ask)) => ask,
            Ok(Err(error)) => {
                return tracing::warn!(%peer, %error, "a forwarded request does not decode; its stream ends");
            }
            Err(_) => return,
        };
        match ask {
            Ask::Io { cookie, request } => {
                let held = acquire(&requests, 1).await;
                let size = cost(&request);
                let held_bytes = if size > 0 { Some(acquire(&bytes, size).await) } else { None };
                let (device, answers) = (turn.device.clone(), answers.clone());
                let operation = async move {
                    let say = match carry_out(&*device, request).await {
                        Ok(data) => Say::Done { cookie, data },
                        Err(error) => Say::Failed { cookie, error },
                    };
                    // A writer that is gone means a stream that is gone: there is nobody to tell.
                    let _ = answers.send(Answer { say, _request: Some(held), _bytes: held_bytes }).await;
                };
                submit(&Handle::current(), Box::pin(operation));
            }
            Ask::Ping { at } => {
                // In its turn: a lease that is asked for late is lent late.
                let lent_us = match &turn.lending {
                    Some(lending) => {
                        let status = turn.handle.status().await;
                        lending.lend(status.and_then(|status| status.lease_left_us).unwrap_or(0))
                    }
                    None => turn.handle.config.borrow().volume.lease_us,
                };
                let say = Say::Pong { at, lent_us, size_bytes: turn.device.geometry().size_bytes };
                if answers.send(Answer { say, _request: None, _bytes: None }).await.is_err() {
                    return;
                }
            }
            Ask::Hello { .. } => return tracing::warn!(%peer, "a second hello; its stream ends"),
        }
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: usize) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_many_owned(permits as u32).await.expect("these semaphores are never closed")
}

async fn carry_out(device: &dyn BlockDevice, request: Request) -> Result<Bytes, IoError> {
    let done = |result: Result<(), IoError>| result.map(|()| Bytes::new());
    match request {
        Request::Read { offset, length } => device.read(offset, length).await,
        Request::Write { offset, data, fua } => done(device.write(offset, data, fua).await),
        Request::Flush => done(device.flush().await),
        Request::Trim { offset, length } => done(device.discard(offset, length.into()).await),
        Request::Zero { offset, length, unmap, fua } => {
            done(device.write_zeroes(offset, length.into(), unmap, fua).await)
        }
    }
}

/// Ends with the stream.
async fn write_answers(mut sender: StreamSender, mut queue: mpsc::Receiver<Answer>) {
    while let Some(answer) = queue.recv().await {
        if sender.send(answer.say.encode()).await.is_err() {
            return;
        }
    }
}
