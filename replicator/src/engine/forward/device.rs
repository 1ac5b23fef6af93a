//! The device as its node has it: requests that wait for their answers, and the lease under which an answer may be told. No
//! I/O in here: see `link`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use farshore_core::ids::{SessionId, Tick, VolumeId};
use farshore_core::limits::DRIFT_DIVISOR;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot, watch};

use super::frame::encode_request;
use crate::device::remote::{Backlog, Request};
use crate::device::{BlockDevice, Geometry, IO_BYTES_MAX, IoError};
use crate::engine::clock;
use crate::engine::driver::lock;
use crate::transport::PeerName;

/// Requests under way on a stream; the others wait here. The member that serves has the same bounds.
pub const REQUESTS_MAX: usize = 256;
/// Bytes of writes, and of what reads will bring, under way on a stream.
pub const BYTES_MAX: usize = 4 << 20;

const _: () = assert!(BYTES_MAX >= IO_BYTES_MAX as usize, "the longest request must have room");

pub(super) type Answer = Result<Bytes, IoError>;

/// A device whose volume another node serves. Its requests wait while no node does.
pub struct ForwardedDevice {
    pub volume: VolumeId,
    pub session: SessionId,
    geometry: Geometry,
    size_bytes: watch::Sender<u64>,
    state: Mutex<State>,
    /// Something may be sent.
    pub(super) wake: Notify,
    /// Until then an answer may be told.
    lease: watch::Sender<Tick>,
    ended: watch::Sender<Option<String>>,
    connected: watch::Sender<bool>,
    /// Members of its site that may serve, the last one that did first.
    servers: Mutex<Vec<PeerName>>,
}

#[derive(Default)]
struct State {
    backlog: Backlog<oneshot::Sender<Answer>>,
    /// May be sent, and is not, in order.
    ready: BTreeSet<u64>,
    /// On the present stream, with their bytes.
    sent: BTreeMap<u64, usize>,
    sent_bytes: usize,
}

/// What a request holds of the bound, either way.
pub(super) fn cost(request: &Request) -> usize {
    match request {
        Request::Read { length, .. } => *length as usize,
        Request::Write { data, .. } => data.len(),
        Request::Flush | Request::Trim { .. } | Request::Zero { .. } => 0,
    }
}

impl ForwardedDevice {
    pub fn new(
        volume: VolumeId,
        session: SessionId,
        geometry: Geometry,
        servers: Vec<PeerName>,
    ) -> Arc<ForwardedDevice> {
        Arc::new(ForwardedDevice {
            volume,
            session,
            geometry,
            size_bytes: watch::Sender::new(geometry.size_bytes),
            state: Mutex::default(),
            wake: Notify::new(),
            lease: watch::Sender::new(Tick(0)),
            ended: watch::Sender::new(None),
            connected: watch::Sender::new(false),
            servers: Mutex::new(servers),
        })
    }

    /// The session is over: every request fails, those that wait and those to come.
    pub fn end(&self, reason: &str) {
        let first = self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            first
        });
        if !first {
            return;
        }
        let mut state = self.lock();
        let left: Vec<_> = state.backlog.give_up().collect();
        *state = State::default();
        drop(state);
        for entry in left {
            let _ = entry.reply.send(Err(IoError::Fenced(reason.to_owned())));
        }
        self.wake.notify_one();
    }

    pub fn is_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// Why, once it has ended.
    pub async fn until_ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await.map(|reason| reason.clone());
        reason.ok().flatten().unwrap_or_default()
    }

    /// True: a member serves it. False: it has ended.
    pub async fn until_served(&self) -> bool {
        let mut connected = self.connected.subscribe();
        tokio::select! {
            served = connected.wait_for(|connected| *connected) => served.is_ok(),
            _ = self.until_ended() => false,
        }
    }

    pub fn sizes(&self) -> watch::Receiver<u64> {
        self.size_bytes.subscribe()
    }

    pub fn servers(&self) -> Vec<PeerName> {
        lock(&self.servers).clone()
    }

    /// Who served last is asked first.
    pub(super) fn served_by(&self, peer: &PeerName) {
        let mut servers = lock(&self.servers);
        servers.retain(|server| server != peer);
        servers.insert(0, peer.clone());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// A new stream begins with all that has no answer, in its order; how many those are.
    pub(super) fn connected(&self) -> usize {
        let mut state = self.lock();
        let again: BTreeSet<u64> = state.backlog.sendable().collect();
        let count = again.len();
        *state =
            State { ready: again, sent: BTreeMap::new(), sent_bytes: 0, backlog: std::mem::take(&mut state.backlog) };
        drop(state);
        self.connected.send_replace(true);
        count
    }

    pub(super) fn disconnected(&self) {
        self.connected.send_replace(false);
    }

    /// The next request for the stream, as long as there is room.
    pub(super) fn next(&self) -> Option<Vec<Bytes>> {
        let mut state = self.lock();
        let cookie = *state.ready.first()?;
        let request = state.backlog.sent(cookie)?;
        let bytes = cost(request);
        if state.sent.len() >= REQUESTS_MAX || (state.sent_bytes + bytes > BYTES_MAX) {
            return None;
        }
        let frame = encode_request(cookie, request);
        state.ready.pop_first();
        state.sent.insert(cookie, bytes);
        state.sent_bytes += bytes;
        Some(frame)
    }

    /// False: nothing of the kind was asked on this stream.
    pub(super) fn answered(&self, cookie: u64, answer: Answer) -> bool {
        let mut state = self.lock();
        let asked = match state.backlog.sent(cookie) {
            Some(Request::Read { length, .. }) => *length as usize,
            Some(_) => 0,
            None => return false,
        };
        if answer.as_ref().is_ok_and(|data| data.len() != asked) {
            return false;
        }
        let Some(bytes) = state.sent.remove(&cookie) else { return false };
        state.sent_bytes -= bytes;
        let Some((entry, freed)) = state.backlog.answered(cookie) else { return false };
        state.ready.extend(freed);
        drop(state);
        self.wake.notify_one();
        let _ = entry.reply.send(answer);
        true
    }

    /// So much may be told from `at` on, by our clock.
    pub(super) fn lent(&self, at: Tick, lent_us: u64) {
        let until = at.plus(lent_us - lent_us / DRIFT_DIVISOR);
        self.lease.send_if_modified(|lease| {
            let later = until > *lease;
            *lease = until.max(*lease);
            later
        });
    }

    /// A smaller size is ignored.
    pub(super) fn grew(&self, size_bytes: u64) {
        self.size_bytes.send_if_modified(|known| {
            let grew = size_bytes > *known;
            *known = size_bytes.max(*known);
            grew
        });
    }

    fn submit(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.lock();
        // Under the lock: whoever ends the device gives up what is in the backlog after it has said so.
        if let Some(reason) = &*self.ended.borrow() {
            let _ = reply.send(Err(IoError::Fenced(reason.clone())));
            return answer;
        }
        let (cookie, may_go) = state.backlog.push(request, reply);
        if may_go {
            state.ready.insert(cookie);
            self.wake.notify_one();
        }
        answer
    }

    /// The last thing before an answer is told: whoever waited until our lease was over was told that nothing comes any more.
    async fn until_it_may_be_told(&self) -> Result<(), IoError> {
        let mut lease = self.lease.subscribe();
        loop {
            if let Some(reason) = &*self.ended.borrow() {
                return Err(IoError::Fenced(reason.clone()));
            }
            if clock::now() < *lease.borrow_and_update() {
                return Ok(());
            }
            tokio::select! {
                _ = lease.changed() => {}
                _ = self.until_ended() => {}
            }
        }
    }

    async fn ask(&self, request: Result<Request, IoError>) -> Answer {
        // At the first poll, as the trait wants it.
        let answer = self.submit(request?).await;
        self.until_it_may_be_told().await?;
        answer.unwrap_or_else(|_| Err(IoError::Fenced("the device is closed".into())))
    }
}

fn length(len: u64) -> Result<u32, IoError> {
    u32::try_from(len).map_err(|_| IoError::Io(format!("a request of {len} bytes is longer than a device takes")))
}

impl BlockDevice for ForwardedDevice {
    fn geometry(&self) -> Geometry {
        Geometry { size_bytes: *self.size_bytes.borrow(), ..self.geometry }
    }

    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        let request = self.geometry().check(offset, len.into()).map(|_| Request::Read { offset, length: len });
        Box::pin(self.ask(request))
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let checked = self.geometry().check_change(offset, data.len() as u64);
        let request = checked.map(|_| Request::Write { offset, data, fua });
        Box::pin(async move { self.ask(request).await.map(drop) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.ask(Ok(Request::Flush)).await.map(drop) })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        let checked = self.geometry().check_change(offset, len).and_then(|_| length(len));
        let request = checked.map(|length| Request::Trim { offset, length });
        Box::pin(async move { self.ask(request).await.map(drop) })
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        let checked = self.geometry().check_change(offset, len).and_then(|_| length(len));
        let request = checked.map(|length| Request::Zero { offset, length, unmap, fua });
        Box::pin(async move { self.ask(request).await.map(drop) })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::engine::forward::frame::{Ask, whole};

    const BLOCK: u64 = 4096;

    fn device() -> Arc<ForwardedDevice> {
        let geometry =
            Geometry { size_bytes: 16 << 20, logical_block_bytes: 4096, volatile_cache: false, read_only: false };
        ForwardedDevice::new(VolumeId(1), SessionId(2), geometry, Vec::new())
    }

    fn write(device: &ForwardedDevice, block: u64, value: u8) -> BoxFuture<'_, Result<(), IoError>> {
        let mut call = device.write(block * BLOCK, vec![value; BLOCK as usize].into(), false);
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        call
    }

    fn told(call: &mut BoxFuture<'_, Result<(), IoError>>) -> Option<Result<(), IoError>> {
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn cookies(device: &ForwardedDevice) -> Vec<u64> {
        let sent = std::iter::from_fn(|| device.next());
        let cookie = |frame: Vec<Bytes>| match Ask::decode(whole(&frame)) {
            Ok(Ask::Io { cookie, .. }) => cookie,
            other => panic!("{other:?}"),
        };
        sent.map(cookie).collect()
    }

    #[tokio::test]
    async fn an_answer_is_told_under_a_lease_only() {
        let device = device();
        device.connected();
        let (mut first, mut second) = (write(&device, 0, 1), write(&device, 1, 1));
        assert_eq!(cookies(&device), [1, 2]);
        assert!(device.answered(1, Ok(Bytes::new())));
        assert_eq!(told(&mut first), None, "nobody has lent anything");
        device.lent(clock::now().minus(1_000_000), 900_000);
        assert_eq!(told(&mut first), None, "it was over when it came");
        device.lent(clock::now(), 60_000_000);
        assert_eq!(told(&mut first), Some(Ok(())));
        device.end("detached");
        assert!(matches!(told(&mut second), Some(Err(IoError::Fenced(_)))));
        assert!(matches!(device.flush().await, Err(IoError::Fenced(_))));
    }

    #[tokio::test]
    async fn an_answer_that_came_before_the_end_is_not_told_after_it() {
        let device = device();
        device.connected();
        let mut call = write(&device, 0, 1);
        assert_eq!(cookies(&device), [1]);
        device.lent(clock::now(), 60_000_000);
        assert!(device.answered(1, Ok(Bytes::new())));
        device.end("detached");
        assert!(matches!(told(&mut call), Some(Err(IoError::Fenced(_)))));
    }

    #[tokio::test]
    async fn what_has_no_answer_goes_over_the_next_stream_and_changes_that_overlap_wait() {
        let device = device();
        let calls = [write(&device, 0, 1), write(&device, 0, 2), write(&device, 1, 3)];
        device.connected();
        assert_eq!(cookies(&device), [1, 3], "the second waits for the first");
        assert!(!device.answered(2, Ok(Bytes::new())), "it was not sent");
        assert_eq!(device.connected(), 2, "another stream");
        assert_eq!(cookies(&device), [1, 3]);
        assert!(device.answered(1, Ok(Bytes::new())));
        assert!(!device.answered(1, Ok(Bytes::new())), "an answer comes once");
        assert_eq!(cookies(&device), [2]);
        drop(calls);
    }

    #[tokio::test]
    async fn no_more_is_under_way_than_the_bound() {
        let device = device();
        device.connected();
        let reads: Vec<_> = (0..8)
            .map(|at| {
                let mut call = device.read(at << 20, 1 << 20);
                assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                call
            })
            .collect();
        assert_eq!(cookies(&device), [1, 2, 3, 4]);
        assert!(!device.answered(1, Ok(vec![0; 4096].into())), "a read of another length");
        assert!(device.answered(1, Ok(vec![0; 1 << 20].into())));
        assert_eq!(cookies(&device), [5]);
        drop(reads);
    }
}
