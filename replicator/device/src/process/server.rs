//! The process' side: the devices that it holds, and its socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::front::{Front, FrontKind};
use super::message::{Answer, HeldDevice, Question, Wanted};
use crate::limits::PROCESS_LINE_BYTES_MAX;
use crate::nbd::bind_unix;
use crate::{DeviceError, FuseDevice};

/// How long a process that shall end waits before it looks again whether a device is still in use.
const DRAIN_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

struct Held {
    name: String,
    session: String,
    front: Front,
}

/// A running device process. Its devices end with the value.
pub struct ProcessServer {
    devices: Arc<Devices>,
    socket: PathBuf,
    accepting: tokio::task::JoinHandle<()>,
}

struct Devices {
    kind: FrontKind,
    runtime_dir: PathBuf,
    held: Mutex<BTreeMap<String, Arc<Held>>>,
    /// One device is made at a time.
    opening: tokio::sync::Mutex<()>,
    closed: Notify,
}

impl ProcessServer {
    /// Removes what an earlier process left, then listens.
    pub async fn start(socket: &Path, runtime_dir: &Path, kind: FrontKind) -> Result<ProcessServer, DeviceError> {
        let listener = bind_unix(socket).await?;
        for stale in FuseDevice::cleanup_stale(runtime_dir)? {
            tracing::info!(?stale, "removed what an earlier device process left");
        }
        let devices = Arc::new(Devices {
            kind,
            runtime_dir: runtime_dir.to_owned(),
            held: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            closed: Notify::new(),
        });
        let accepting = tokio::spawn(accept(listener, devices.clone()));
        Ok(ProcessServer { devices, socket: socket.to_owned(), accepting })
    }

    /// Ends when the last device is closed. Those that nobody uses are closed here; the others go on to be served.
    pub async fn drain(&self) {
        loop {
            let held: Vec<_> = self.devices.lock().values().cloned().collect();
            for device in held {
                match self.devices.close(&device, false).await {
                    Ok(()) => {}
                    Err(error) => tracing::warn!(volume = device.name, %error, "not ended yet: its device is in use"),
                }
            }
            if self.devices.lock().is_empty() {
                return;
            }
            tokio::select! {
                () = self.devices.closed.notified() => {}
                () = tokio::time::sleep(DRAIN_PAUSE) => {}
            }
        }
    }
}

impl Drop for ProcessServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
        self.accepting.abort();
    }
}

async fn accept(listener: UnixListener, devices: Arc<Devices>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let devices = devices.clone();
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &devices).await {
                        tracing::debug!(%error, "a question was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, devices: &Arc<Devices>) -> std::io::Result<()> {
    let mut line = Vec::new();
    BufReader::new((&mut stream).take(PROCESS_LINE_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    let answer = match serde_json::from_slice(&line) {
        // A task of its own: what was begun is done, however patient the asker is.
        Ok(question) => {
            let devices = devices.clone();
            let answering = tokio::spawn(async move { devices.answer(question).await });
            answering.await.unwrap_or_else(|error| Answer::Refused { reason: format!("it failed: {error}") })
        }
        Err(error) => Answer::Refused {
            reason: format!("it does not understand the question ({error}); replace it when no volume is in use here"),
        },
    };
    let mut out = serde_json::to_vec(&answer)?;
    out.push(b'\n');
    stream.write_all(&out).await
}

impl Devices {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Held>>> {
        self.held.lock().expect("no code panics while it holds this lock")
    }

    fn find(&self, name: &str, session: &str) -> Option<Arc<Held>> {
        self.lock().get(name).filter(|held| held.session == session).cloned()
    }

    async fn answer(&self, question: Question) -> Answer {
        let refused = |error: DeviceError| Answer::Refused { reason: error.to_string() };
        match question {
            Question::List => Answer::Devices { devices: self.lock().values().map(|held| held.describe()).collect() },
            Question::Open(wanted) => {
                self.open(wanted).await.map_or_else(refused, |held| Answer::Opened { path: held.front.path() })
            }
            Question::Grow { name, session, size_bytes } => match self.find(&name, &session) {
                None => Answer::NotHeld,
                Some(held) => held.front.grow(size_bytes).await.map_or_else(refused, |()| Answer::Done),
            },
            Question::Close { name, session, force } => match self.find(&name, &session) {
                None => Answer::NotHeld,
                Some(held) => self.close(&held, force).await.map_or_else(refused, |()| Answer::Done),
            },
        }
    }

    async fn open(&self, wanted: Wanted) -> Result<Arc<Held>, DeviceError> {
        let _one_at_a_time = self.opening.lock().await;
        let there = self.lock().get(&wanted.name).cloned();
        match there {
            Some(held) if held.session == wanted.session => {
                held.front.server_at(&wanted.socket);
                if wanted.size_bytes > held.front.size_bytes() {
                    held.front.grow(wanted.size_bytes).await?;
                }
                return Ok(held);
            }
            Some(held) => {
                tracing::warn!(
                    volume = held.name,
                    session = held.session,
                    "another session has the volume: this one ends"
                );
                self.close(&held, true).await?;
            }
            None => {}
        }
        let front = Front::make(self.kind, &wanted, &self.runtime_dir).await?;
        let held = Arc::new(Held { name: wanted.name, session: wanted.session, front });
        self.lock().insert(held.name.clone(), held.clone());
        Ok(held)
    }

    /// With `force` everything fails from now on, whoever uses the device.
    async fn close(&self, held: &Arc<Held>, force: bool) -> Result<(), DeviceError> {
        match force {
            true => held.front.detach_by_force().await?,
            false => held.front.detach().await?,
        }
        let mut table = self.lock();
        if table.get(&held.name).is_some_and(|there| Arc::ptr_eq(there, held)) {
            table.remove(&held.name);
        }
        drop(table);
        self.closed.notify_one();
        Ok(())
    }
}

impl Held {
    fn describe(&self) -> HeldDevice {
        HeldDevice {
            name: self.name.clone(),
            session: self.session.clone(),
            path: self.front.path(),
            size_bytes: self.front.size_bytes(),
            connected: self.front.is_connected(),
            waiting: self.front.waiting(),
        }
    }
}
