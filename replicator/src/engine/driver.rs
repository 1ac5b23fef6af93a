//! The owner task of one volume: takes inputs off the inbox, drives the core, hands its effects on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farshore_core::api::{Answer, Command, CommandId, Effects, Event, Outcome, Refusal, Request, RequestId, Status};
use farshore_core::ids::{MemberId, Seq, SessionId, VolumeId};
use farshore_core::limits::SHARE_BYTES_MIN;
use farshore_core::record::Origin;
use farshore_core::register::Configuration;
use farshore_core::volume::Volume;
use tokio::sync::{Semaphore, oneshot, watch};

use super::applier::Applier;
use super::clock;
use super::inbox::{Inbox, Input, Shows};
use super::node::Shared;
use super::volume_device::VolumeDevice;
use crate::journal::QUEUE_BYTES_MAX;

/// With more than this in the journal's queue the volumes stop to add to it: what each of them may add before it looks
/// again is bounded by the core.
const JOURNAL_QUEUE_BYTES: u64 = QUEUE_BYTES_MAX / 4;
const JOURNAL_PAUSE: Duration = Duration::from_millis(5);
/// Half a MiB each. What the core has under way to one member, twice.
const CATCH_UP_WAITING_MAX: usize = 16;

/// What happened to the volume's device, as the core decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceState {
    Closed { reason: String },
    Open { session: SessionId },
}

/// The rest of the engine's hold on a volume.
pub struct VolumeHandle {
    pub id: VolumeId,
    pub me: MemberId,
    pub inbox: Arc<Inbox>,
    pub config: watch::Receiver<Arc<Configuration>>,
    pub device: watch::Receiver<DeviceState>,
    pub block: Arc<VolumeDevice>,
    pub applier: Arc<Applier>,
}

impl VolumeHandle {
    pub async fn command(&self, command: Command) -> Result<(), Refusal> {
        self.ask(command).await.map(|_| ())
    }

    /// A command whose answer says more than that it was carried out.
    pub async fn ask(&self, command: Command) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Command { command, reply });
        answer.await.unwrap_or_else(|_| {
            Err(Refusal::new("stopped", "the volume's owner stopped before it answered", "see the daemon's log"))
        })
    }

    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Status { reply });
        answer.await.ok()
    }

    /// Bytes, and age in microseconds, of the records after `after` and up to `upto`, where they are here.
    pub async fn span(&self, after: Seq, upto: Seq) -> Option<(u64, u64)> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Span { after, upto, reply });
        answer.await.ok()?
    }

    pub async fn shows(&self) -> Option<Shows> {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Shows { reply });
        answer.await.ok()
    }

    /// Ends the owner task, then whatever it has under way in the store.
    pub async fn stop(&self) {
        let (reply, answer) = oneshot::channel();
        self.inbox.push(Input::Stop { reply });
        let _ = answer.await;
        self.applier.halt().await;
    }

    pub fn name(&self) -> String {
        self.config.borrow().volume.name.clone()
    }

    /// A member without a copy, which is there for the sake of its device.
    pub fn is_diskless(&self) -> bool {
        self.config.borrow().is_diskless(self.me)
    }
}

/// What the owner task keeps beside the core.
pub struct Driver {
    pub(super) volume: Volume,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) applier: Arc<Applier>,
    pub(super) block: Arc<VolumeDevice>,
    pub(super) config: watch::Sender<Arc<Configuration>>,
    pub(super) device: watch::Sender<DeviceState>,
    pub(super) requests: BTreeMap<RequestId, oneshot::Sender<Outcome>>,
    pub(super) commands: BTreeMap<CommandId, oneshot::Sender<Result<Answer, Refusal>>>,
    /// The size that the store was last given.
    pub(super) stored_bytes: u64,
    /// Members whose lane was full: somebody waits for room.
    pub(super) blocked: Arc<Mutex<BTreeSet<MemberId>>>,
    /// Catch-up messages that wait for room; more are dropped, and sent again in time.
    pub(super) behind: Arc<Semaphore>,
    next_id: u64,
    /// What the core knows of the journal's room for this volume.
    share_bytes: u64,
}

impl Driver {
    /// Starts the owner task; `fx` are the effects of recovery.
    pub fn spawn(volume: Volume, fx: Effects, shared: &Arc<Shared>, inbox: Arc<Inbox>) -> Arc<VolumeHandle> {
        let id = volume.id();
        let durable = &volume.replica().d;
        let (config, config_seen) = watch::channel(Arc::new(durable.config.clone()));
        let (device, device_seen) = watch::channel(DeviceState::Closed { reason: "not attached".into() });
        let (applied, end) = (volume.replica().applied, volume.replica().end());
        let applier = Arc::new(Applier::new(id, shared.clone(), inbox.clone(), applied, end));
        let block = Arc::new(VolumeDevice::new(inbox.clone(), &durable.config.volume));
        let handle = Arc::new(VolumeHandle {
            id,
            me: durable.me,
            inbox: inbox.clone(),
            config: config_seen,
            device: device_seen,
            block: block.clone(),
            applier: applier.clone(),
        });
        let driver = Driver {
            volume,
            shared: shared.clone(),
            inbox,
            applier,
            block,
            config,
            device,
            requests: BTreeMap::new(),
            commands: BTreeMap::new(),
            stored_bytes: 0,
            blocked: Arc::default(),
            behind: Arc::new(Semaphore::new(CATCH_UP_WAITING_MAX)),
            next_id: 0,
            share_bytes: u64::MAX,
        };
        tokio::spawn(driver.run(fx));
        handle
    }

    async fn run(mut self, recovered: Effects) {
        self.carry_out(recovered);
        self.flush();
        loop {
            self.journal_has_room().await;
            let now = clock::now();
            let inputs = match self.volume.wakeup(now) {
                Some(at) => {
                    let wait = Duration::from_micros(at.since(now).max(1000));
                    tokio::time::timeout(wait, self.inbox.take()).await.unwrap_or_default()
                }
                None => self.inbox.take().await,
            };
            let mut fx = Effects::new();
            self.tell_share(&mut fx);
            for input in inputs {
                if let Input::Stop { reply } = input {
                    self.inbox.close();
                    let _ = reply.send(());
                    return;
                }
                self.take(input, &mut fx);
            }
            let now = clock::now();
            if self.volume.wakeup(now).is_some_and(|at| at <= now) {
                self.volume.handle(now, Event::Timer, &mut fx);
            }
            self.volume.flush(now, &mut fx);
            self.carry_out(fx);
        }
    }

    /// Many volumes on a disk that stands still would fill the journal's queue. What waits then waits in the inboxes,
    /// which hold the peers and the devices back.
    async fn journal_has_room(&self) {
        while self.shared.journal.queued_bytes() > JOURNAL_QUEUE_BYTES && !self.shared.journal.is_poisoned() {
            tokio::time::sleep(JOURNAL_PAUSE).await;
        }
    }

    /// Volumes come and go, and share the journal.
    fn tell_share(&mut self, fx: &mut Effects) {
        // A holder without a copy does not know the members' journals: each has room for so much at least.
        let bytes = match self.volume.replica().is_diskless() {
            true => SHARE_BYTES_MIN,
            false => self.shared.journal.share_bytes(),
        };
        if bytes != self.share_bytes {
            self.share_bytes = bytes;
            self.volume.handle(clock::now(), Event::JournalShare { bytes }, fx);
        }
    }

    fn flush(&mut self) {
        let mut fx = Effects::new();
        self.volume.flush(clock::now(), &mut fx);
        self.carry_out(fx);
    }

    fn take(&mut self, input: Input, fx: &mut Effects) {
        let now = clock::now();
        match input {
            Input::Event(event) => self.volume.handle(now, event, fx),
            Input::Io { io, reply } => {
                self.next_id += 1;
                let id = RequestId(self.next_id);
                self.requests.insert(id, reply);
                let request = Request { id, io, origin: Origin::default() };
                self.volume.handle(now, Event::Io(request), fx);
            }
            Input::Command { command, reply } => {
                self.next_id += 1;
                let id = CommandId(self.next_id);
                self.commands.insert(id, reply);
                self.volume.handle(now, Event::Command { id, command }, fx);
            }
            Input::Status { reply } => {
                let _ = reply.send(self.volume.status(now));
            }
            Input::Span { after, upto, reply } => {
                let _ = reply.send(self.volume.span(after, upto, now));
            }
            Input::Shows { reply } => {
                let replica = self.volume.replica();
                let whole = replica.whole() && replica.failed.is_none();
                let _ = reply.send(Shows { lineage: replica.d.lineage, whole, applied: replica.applied });
            }
            Input::ReadFrom { reply } => {
                let _ = reply.send(self.volume.read_from(now).map(|from| (from, self.copies())));
            }
            Input::Stop { .. } => {}
        }
    }
}

/// However the owner ends, nobody waits for it for ever.
impl Drop for Driver {
    fn drop(&mut self) {
        self.inbox.close();
    }
}

/// Locks a mutex whose holders never panic half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
