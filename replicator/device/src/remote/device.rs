//! `RemoteDevice`: the calls, the connection that comes and goes below them, and the end.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use super::backlog::{Backlog, Request};
use super::handshake::{broken, choose};
use crate::limits::{NBD_HANDSHAKE_TIMEOUT, RECONNECT_PAUSE_MAX, RECONNECT_PAUSE_MIN};
use crate::nbd::wire;
use crate::{BlockDevice, Geometry, IoError};

const READ_BUFFER_BYTES: usize = 64 << 10;

type Answer = Result<Bytes, IoError>;

/// A device behind an NBD server on a unix socket. Requests wait while there is no server that knows the export.
pub struct RemoteDevice {
    shared: Arc<Shared>,
}

struct Shared {
    export: String,
    geometry: Geometry,
    size_bytes: AtomicU64,
    state: Mutex<State>,
    /// The outbox is not empty.
    outgoing: Notify,
    /// A server may be there: don't wait for the next attempt.
    poked: Notify,
    ended: watch::Sender<bool>,
}

struct State {
    backlog: Backlog<oneshot::Sender<Answer>>,
    link: Option<Link>,
    socket: PathBuf,
    ended: Option<String>,
}

/// A connection after its handshake. What the socket did not take at once waits in the outbox.
struct Link {
    writer: Arc<OwnedWriteHalf>,
    outbox: VecDeque<Bytes>,
}

impl RemoteDevice {
    /// Must be called with the runtime entered: it connects from there, for as long as the device is not ended.
    pub fn new(socket: &Path, export: &str, geometry: Geometry) -> RemoteDevice {
        let shared = Arc::new(Shared {
            export: export.to_owned(),
            geometry,
            size_bytes: AtomicU64::new(geometry.size_bytes),
            state: Mutex::new(State {
                backlog: Backlog::default(),
                link: None,
                socket: socket.to_owned(),
                ended: None,
            }),
            outgoing: Notify::new(),
            poked: Notify::new(),
            ended: watch::Sender::new(false),
        });
        tokio::spawn(shared.clone().run());
        RemoteDevice { shared }
    }

    /// A server listens there now.
    pub fn server_at(&self, socket: &Path) {
        let mut state = self.shared.lock();
        if state.socket != socket {
            state.socket = socket.to_owned();
        }
        if state.link.is_none() {
            self.shared.poked.notify_one();
        }
    }

    /// The session is over: every request fails, those that wait and those to come.
    pub fn end(&self, reason: &str) {
        self.shared.end(reason);
    }

    /// Takes over a larger size; a smaller one is ignored.
    pub fn grow(&self, size_bytes: u64) {
        self.shared.size_bytes.fetch_max(size_bytes, Ordering::Relaxed);
    }

    pub fn is_connected(&self) -> bool {
        self.shared.lock().link.is_some()
    }

    /// Requests without an answer.
    pub fn waiting(&self) -> usize {
        self.shared.lock().backlog.len()
    }
}

impl Drop for RemoteDevice {
    fn drop(&mut self) {
        self.shared.end("the device is closed");
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Sends the request, or leaves it to be sent: by the link's task, by the answer that it waits for, or by the next link.
    fn submit(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        if let Some(reason) = &state.ended {
            // Whoever asked may have gone.
            let _ = reply.send(Err(IoError::Fenced(reason.clone())));
            return answer;
        }
        let (cookie, may_go) = state.backlog.push(request, reply);
        if may_go {
            self.transmit(&mut state, &[cookie]);
        }
        answer
    }

    fn transmit(&self, state: &mut State, cookies: &[u64]) {
        let State { backlog, link: Some(link), .. } = state else { return };
        for cookie in cookies {
            if let Some(request) = backlog.sent(*cookie) {
                let (header, payload) = request.encode(*cookie);
                link.push(header, payload);
            }
        }
        if !link.outbox.is_empty() {
            self.outgoing.notify_one();
        }
    }

    fn end(&self, reason: &str) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(reason.to_owned());
        }
        state.link = None;
        let left: Vec<_> = state.backlog.give_up().collect();
        drop(state);
        for entry in left {
            let _ = entry.reply.send(Err(IoError::Fenced(reason.to_owned())));
        }
        self.ended.send_replace(true);
    }

    /// Connects, serves, connects again, until the device is ended.
    async fn run(self: Arc<Self>) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            // An error is the same: nobody is left who could end it.
            _ = ended.wait_for(|ended| *ended) => {}
            () = self.connect_for_ever() => {}
        }
    }

    async fn connect_for_ever(&self) {
        let mut pause = RECONNECT_PAUSE_MIN;
        let mut told = false;
        loop {
            match self.connect().await {
                Ok((reader, writer)) => {
                    let again = self.adopt(writer.clone());
                    tracing::info!(
                        export = self.export,
                        again,
                        "connected; requests without an answer were issued again"
                    );
                    let (why, answers) = self.serve(reader, writer).await;
                    self.lock().link = None;
                    tracing::warn!(export = self.export, %why, "the connection ended; requests wait for the next one");
                    told = true;
                    if answers > 0 {
                        pause = RECONNECT_PAUSE_MIN;
                    }
                }
                Err(error) if !told => {
                    tracing::warn!(export = self.export, %error, "no connection yet; requests wait");
                    told = true;
                }
                Err(error) => tracing::debug!(export = self.export, %error, "no connection yet"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RECONNECT_PAUSE_MAX),
                () = self.poked.notified() => pause = RECONNECT_PAUSE_MIN,
            }
        }
    }

    async fn connect(&self) -> io::Result<(OwnedReadHalf, Arc<OwnedWriteHalf>)> {
        let socket = self.lock().socket.clone();
        let mut stream = UnixStream::connect(&socket).await?;
        let chosen = timeout(NBD_HANDSHAKE_TIMEOUT, choose(&mut stream, &self.export)).await;
        let size_bytes = chosen.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?.size_bytes;
        let ours = self.size_bytes.load(Ordering::Relaxed);
        if size_bytes < ours {
            return Err(broken(&format!("the export has {size_bytes} bytes, the device {ours}")));
        }
        let (reader, writer) = stream.into_split();
        Ok((reader, Arc::new(writer)))
    }

    /// A new connection begins with all that has no answer, in its order; how many those are.
    fn adopt(&self, writer: Arc<OwnedWriteHalf>) -> usize {
        let mut state = self.lock();
        if state.ended.is_some() {
            return 0;
        }
        state.link = Some(Link { writer, outbox: VecDeque::new() });
        let again: Vec<u64> = state.backlog.sendable().collect();
        self.transmit(&mut state, &again);
        again.len()
    }

    /// Until the connection breaks: why, and how many answers came.
    async fn serve(&self, reader: OwnedReadHalf, writer: Arc<OwnedWriteHalf>) -> (io::Error, u64) {
        let mut answers = 0;
        let ended = tokio::select! {
            ended = self.take_answers(reader, &mut answers) => ended,
            ended = self.empty_outbox(&writer) => ended,
        };
        (ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into()), answers)
    }

    async fn take_answers(&self, reader: OwnedReadHalf, answers: &mut u64) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(READ_BUFFER_BYTES, reader);
        loop {
            let mut header = [0; wire::SIMPLE_REPLY_BYTES];
            reader.read_exact(&mut header).await?;
            let mut fields = &header[..];
            if fields.get_u32() != wire::SIMPLE_REPLY_MAGIC {
                return Err(broken("a reply without its magic"));
            }
            let (code, cookie) = (fields.get_u32(), fields.get_u64());
            let asked = match self.lock().backlog.sent(cookie) {
                Some(Request::Read { length, .. }) => *length,
                Some(_) => 0,
                None => return Err(broken("a reply to nothing that was asked")),
            };
            let result = match code {
                0 => Ok(payload(&mut reader, asked).await?),
                // The server's end, perhaps, and not the session's: if it is that, we are told.
                wire::ESHUTDOWN => return Err(io::Error::other("the server has closed the device")),
                code => Err(refusal(code)),
            };
            self.answered(cookie, result);
            *answers += 1;
        }
    }

    fn answered(&self, cookie: u64, result: Answer) {
        let mut state = self.lock();
        // Gone when the device was ended meanwhile.
        let Some((entry, freed)) = state.backlog.answered(cookie) else { return };
        self.transmit(&mut state, &freed);
        drop(state);
        let _ = entry.reply.send(result);
    }

    async fn empty_outbox(&self, writer: &OwnedWriteHalf) -> io::Result<()> {
        loop {
            self.outgoing.notified().await;
            loop {
                writer.writable().await?;
                let mut state = self.lock();
                let Some(link) = &mut state.link else { return Ok(()) };
                link.write()?;
                if link.outbox.is_empty() {
                    break;
                }
            }
        }
    }

    async fn ask(&self, request: Result<Request, IoError>) -> Answer {
        // At the first poll, as the trait wants it.
        let answer = self.submit(request?);
        answer.await.unwrap_or_else(|_| Err(IoError::Fenced("the device is closed".into())))
    }
}

async fn payload(reader: &mut BufReader<OwnedReadHalf>, length: u32) -> io::Result<Bytes> {
    let mut payload = BytesMut::with_capacity(length as usize);
    let mut source = reader.take(length.into());
    while payload.len() < length as usize {
        if source.read_buf(&mut payload).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(payload.freeze())
}

/// The protocol's errors in the device's words.
fn refusal(code: u32) -> IoError {
    match code {
        wire::EPERM => IoError::ReadOnly,
        wire::ENOSPC => IoError::NoSpace,
        wire::EINVAL => IoError::Misaligned,
        code => IoError::Io(format!("the replicator answered with error {code}, its log says why")),
    }
}

impl Link {
    /// Straight into the socket if it has room: nobody else needs to wake up for that.
    fn push(&mut self, header: Bytes, payload: Bytes) {
        let mut parts = [header, payload];
        if self.outbox.is_empty() {
            let [header, payload] = &parts;
            // A broken connection is for its reader to find.
            let taken = self.writer.try_write_vectored(&[IoSlice::new(header), IoSlice::new(payload)]).unwrap_or(0);
            let of_header = taken.min(parts[0].len());
            parts[0].advance(of_header);
            parts[1].advance(taken - of_header);
        }
        self.outbox.extend(parts.into_iter().filter(|part| !part.is_empty()));
    }

    /// As much as the socket takes.
    fn write(&mut self) -> io::Result<()> {
        while let Some(part) = self.outbox.front_mut() {
            match self.writer.try_write(part) {
                Ok(taken) => part.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if part.is_empty() {
                self.outbox.pop_front();
            }
        }
        Ok(())
    }
}

/// The protocol has 32 bits for a length; callers stay below by the trait's own limits.
fn length(len: u64) -> Result<u32, IoError> {
    u32::try_from(len).map_err(|_| IoError::Io(format!("a request of {len} bytes is longer than the protocol allows")))
}

impl BlockDevice for RemoteDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: self.shared.size_bytes.load(Ordering::Relaxed), ..self.shared.geometry }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(self.shared.ask(Ok(Request::Read { offset, length: len })))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let request = length(data.len() as u64).map(|_| Request::Write { offset, data, fua });
        Box::pin(async move { self.shared.ask(request).await.map(drop) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.shared.ask(Ok(Request::Flush)).await.map(drop) })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        let request = length(len).map(|length| Request::Trim { offset, length });
        Box::pin(async move { self.shared.ask(request).await.map(drop) })
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let request = length(len).map(|length| Request::Zero { offset, length, unmap, fua });
        Box::pin(async move { self.shared.ask(request).await.map(drop) })
    }
}
