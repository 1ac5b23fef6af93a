//! The transmission phase of one connection: requests in, replies out, in the order in which they are done.
//!
//! ```text
//!   socket ─► reader ── judge, budget, payload ── submit ──► device
//!   socket ◄─ writer ◄──── replies (bounded) ◄─────────────────┘
//! ```
//! The reader takes a request's budget before its payload and stops reading while there is none: that is the
//! back-pressure. A budget is returned when its reply is on the socket, so a client that does not read its replies
//! stops itself and nobody else.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::negotiate::ClientError;
use super::reply::{self, Parts};
use super::request::{Agreed, Refusal, Request, judge};
use super::server::stopped;
use super::wire::{self, Header};
use crate::limits::{NBD_EXTENTS_MAX, NBD_IN_FLIGHT_BYTES_MAX, NBD_IN_FLIGHT_MAX, NBD_SKIP_BYTES_MAX};
use crate::submit::submit;
use crate::{BlockDevice, IoError, pieces};

/// Requests are small; their payloads bypass this buffer when they are larger than it.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Replies up to this size are gathered into one write.
const GATHER_BYTES: usize = 64 << 10;
const GATHER_REPLIES: usize = 64;

/// A reply on its way to the socket, with the budget that it still holds.
struct Reply {
    parts: Parts,
    _budget: Budget,
}

/// What a request holds while it is in flight. Dropping it lets the reader go on.
struct Budget {
    _request: OwnedSemaphorePermit,
    _connection_bytes: Option<OwnedSemaphorePermit>,
    _server_bytes: Option<OwnedSemaphorePermit>,
}

pub struct Transmission {
    pub device: Arc<dyn BlockDevice>,
    pub agreed: Agreed,
    /// When the device is fenced the connection ends, and nothing is answered.
    pub hangs_up: bool,
    /// The server's budget of payload bytes, shared by all its connections.
    pub server_bytes: Arc<Semaphore>,
    /// Turns true when the server stops.
    pub stop: watch::Receiver<bool>,
}

impl Transmission {
    /// Serves until the client disconnects, breaks the protocol or the server stops; every request that was taken
    /// is finished, and answered if the client still listens.
    pub async fn run<R, W>(self, reader: R, writer: W) -> Result<(), ClientError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        // Every reply holds a request's budget, so this never fills before the budget is spent.
        let (replies, queue) = mpsc::channel(NBD_IN_FLIGHT_MAX);
        // In a set of one, so that it ends with this future when the server loses its patience.
        let mut writing = JoinSet::new();
        writing.spawn(write_replies(writer, queue));
        let mut requests = Requests {
            reader: BufReader::with_capacity(READ_BUFFER_BYTES, reader),
            runtime: Handle::current(),
            requests: Arc::new(Semaphore::new(NBD_IN_FLIGHT_MAX)),
            connection_bytes: Arc::new(Semaphore::new(NBD_IN_FLIGHT_BYTES_MAX as usize)),
            server_bytes: self.server_bytes,
            device: self.device,
            agreed: self.agreed,
            hang_up: self.hangs_up.then(|| Arc::new(Notify::new())),
            replies,
        };
        let mut stop = self.stop;
        let hang_up = requests.hang_up.clone();
        let read = tokio::select! {
            read = requests.serve() => read,
            () = stopped(&mut stop) => Ok(()),
            () = told(hang_up.as_deref()) => return Ok(()),
        };
        drop(requests);
        let written = tokio::select! {
            written = writing.join_next() => match written {
                Some(Ok(written)) => written,
                Some(Err(failed)) => Err(io::Error::other(failed)),
                None => Ok(()),
            },
            () = told(hang_up.as_deref()) => Ok(()),
        };
        read.and(written.map_err(ClientError::Io))
    }
}

/// Until the device was found to be fenced, where that ends the connection.
async fn told(hang_up: Option<&Notify>) {
    match hang_up {
        Some(hang_up) => hang_up.notified().await,
        None => std::future::pending().await,
    }
}

struct Requests<R> {
    reader: BufReader<R>,
    runtime: Handle,
    requests: Arc<Semaphore>,
    connection_bytes: Arc<Semaphore>,
    server_bytes: Arc<Semaphore>,
    device: Arc<dyn BlockDevice>,
    agreed: Agreed,
    hang_up: Option<Arc<Notify>>,
    replies: mpsc::Sender<Reply>,
}

impl<R: AsyncRead + Unpin> Requests<R> {
    async fn serve(&mut self) -> Result<(), ClientError> {
        while let Some(header) = self.next_header().await? {
            if header.command == wire::CMD_DISC {
                return Ok(());
            }
            let judged = judge(&header, &self.device.geometry(), self.agreed);
            match judged {
                Ok(request) => self.start(header, request).await?,
                Err(refusal) => self.refuse(header, refusal).await?,
            }
        }
        Ok(())
    }

    /// None when the client closed the connection between two requests.
    async fn next_header(&mut self) -> Result<Option<Header>, ClientError> {
        let mut bytes = [0; wire::REQUEST_BYTES];
        match self.reader.read(&mut bytes).await? {
            0 => return Ok(None),
            got => self.reader.read_exact(&mut bytes[got..]).await?,
        };
        Header::decode(&bytes).map(Some).ok_or(ClientError::Protocol("a request without its magic"))
    }

    async fn start(&mut self, header: Header, request: Request) -> Result<(), ClientError> {
        let bytes = match request {
            Request::Read { length, .. } | Request::Write { length, .. } => length,
            _ => 0,
        };
        let budget = self.budget(bytes).await;
        let payload = match request {
            Request::Write { length, .. } => self.payload(length).await?,
            _ => Bytes::new(),
        };
        let device = self.device.clone();
        let structured = self.agreed.structured;
        let (replies, hang_up) = (self.replies.clone(), self.hang_up.clone());
        let operation = async move {
            let result = carry_out(&*device, header.cookie, request, payload, structured).await;
            let parts = match (result, hang_up) {
                (Ok(parts), _) => parts,
                (Err(Refused { error: IoError::Fenced(_), .. }), Some(hang_up)) => return hang_up.notify_one(),
                (Err(refused), _) => reply::refused(header.cookie, &refused.error.into(), refused.structured),
            };
            // A writer that is gone means a client that is gone: there is nobody to tell.
            let _ = replies.send(Reply { parts, _budget: budget }).await;
        };
        submit(&self.runtime, Box::pin(operation));
        Ok(())
    }

    async fn refuse(&mut self, header: Header, refusal: Refusal) -> Result<(), ClientError> {
        if header.command == wire::CMD_WRITE {
            if header.length > NBD_SKIP_BYTES_MAX {
                return Err(ClientError::Protocol("a write of absurd length"));
            }
            let mut payload = (&mut self.reader).take(header.length.into());
            let skipped = tokio::io::copy_buf(&mut payload, &mut tokio::io::sink()).await?;
            if skipped < header.length.into() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        let structured = self.agreed.structured && wants_structured(header.command);
        let parts = reply::refused(header.cookie, &refusal, structured);
        let _ = self.replies.send(Reply { parts, _budget: self.budget(0).await }).await;
        Ok(())
    }

    async fn budget(&self, bytes: u32) -> Budget {
        Budget {
            _request: acquire(&self.requests, 1).await,
            _connection_bytes: if bytes > 0 { Some(acquire(&self.connection_bytes, bytes).await) } else { None },
            _server_bytes: if bytes > 0 { Some(acquire(&self.server_bytes, bytes).await) } else { None },
        }
    }

    async fn payload(&mut self, length: u32) -> Result<Bytes, ClientError> {
        let mut payload = BytesMut::with_capacity(length as usize);
        let mut source = (&mut self.reader).take(length.into());
        while payload.len() < length as usize {
            if source.read_buf(&mut payload).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        Ok(payload.freeze())
    }
}

async fn acquire(semaphore: &Arc<Semaphore>, permits: u32) -> OwnedSemaphorePermit {
    semaphore.clone().acquire_many_owned(permits).await.expect("these semaphores are never closed")
}

/// Once structured replies are negotiated, these two must use them for errors too.
fn wants_structured(command: u16) -> bool {
    matches!(command, wire::CMD_READ | wire::CMD_BLOCK_STATUS)
}

/// A request that the device refused, and the form that its reply must have.
struct Refused {
    error: IoError,
    structured: bool,
}

async fn carry_out(
    device: &dyn BlockDevice,
    cookie: u64,
    request: Request,
    payload: Bytes,
    structured: bool,
) -> Result<Parts, Refused> {
    let refused = |structured| move |error| Refused { error, structured };
    let done = |result: Result<(), IoError>| result.map(|()| reply::done(cookie)).map_err(refused(false));
    match request {
        Request::Read { offset, length } => {
            let data = pieces::read(device, offset, length).await.map_err(refused(structured))?;
            Ok(reply::data(cookie, offset, data, structured))
        }
        Request::Write { offset, fua, .. } => done(pieces::write(device, offset, payload, fua).await),
        Request::Flush => done(device.flush().await),
        Request::Trim { offset, length, fua } => {
            let discarded = pieces::discard(device, offset, length.into()).await;
            done(match discarded {
                Ok(()) if fua => device.flush().await,
                other => other,
            })
        }
        // A hint that we do not take.
        Request::Cache => Ok(reply::done(cookie)),
        Request::WriteZeroes { offset, length, unmap, fua } => {
            done(pieces::write_zeroes(device, offset, length.into(), unmap, fua).await)
        }
        Request::BlockStatus { offset, length, one } => {
            let extents = device.extents(offset, length.into()).await.map_err(refused(true))?;
            Ok(reply::block_status(cookie, length, &extents, if one { 1 } else { NBD_EXTENTS_MAX }))
        }
    }
}

/// Ends when no request is left that could reply, or with the socket.
async fn write_replies<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Reply>) -> io::Result<()> {
    let mut batch = Vec::with_capacity(GATHER_REPLIES);
    let mut gathered = BytesMut::with_capacity(GATHER_BYTES);
    while queue.recv_many(&mut batch, GATHER_REPLIES).await > 0 {
        // A reply returns its budget at the end of its turn, when it is on the socket or in the small gathering.
        for reply in batch.drain(..) {
            for part in &reply.parts {
                if gathered.len() + part.len() > GATHER_BYTES {
                    writer.write_all(&gathered).await?;
                    gathered.clear();
                }
                if part.len() > GATHER_BYTES {
                    writer.write_all(part).await?;
                } else {
                    gathered.extend_from_slice(part);
                }
            }
        }
        writer.write_all(&gathered).await?;
        gathered.clear();
        writer.flush().await?;
    }
    writer.shutdown().await
}
