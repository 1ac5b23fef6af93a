//! The block device in front of an attached volume: none, one of this process, or one that the device process holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::SessionId;

use super::exports::{session_export, session_text};
use crate::control::OpError;
use crate::device::process::{DeviceProcess, HeldDevice, ProcessError, Wanted};
use crate::device::{BlockDevice, DeviceError, FuseDevice};

/// A device that must end is asked to so often, in case its process is busy.
const END_ATTEMPTS: u32 = 5;
const END_PAUSE: Duration = Duration::from_secs(1);

/// What makes devices here.
pub struct DeviceMaker {
    pub runtime_dir: PathBuf,
    /// Where this node's NBD server listens.
    pub socket: PathBuf,
    pub process: Option<DeviceProcess>,
}

#[derive(Clone)]
pub enum Frontend {
    /// Clients come over NBD.
    None,
    /// Ends with this process.
    Fuse(Arc<FuseDevice>),
    /// Outlives it.
    Held(Arc<Held>),
}

pub struct Held {
    process: DeviceProcess,
    name: String,
    session: SessionId,
    path: PathBuf,
    device: Arc<dyn BlockDevice>,
}

impl DeviceMaker {
    /// The session's export must be there: a device is read as soon as it is made.
    pub async fn make(
        &self,
        name: &str,
        session: SessionId,
        device: Arc<dyn BlockDevice>,
    ) -> Result<Frontend, OpError> {
        let Some(process) = &self.process else {
            let fuse = FuseDevice::attach(name, device, &self.runtime_dir).await;
            return fuse.map(|fuse| Frontend::Fuse(Arc::new(fuse))).map_err(|error| device_error(name, error));
        };
        let geometry = device.geometry();
        let wanted = Wanted {
            name: name.to_owned(),
            session: session_text(session),
            socket: self.socket.clone(),
            export: session_export(name, session),
            size_bytes: geometry.size_bytes,
            logical_block_bytes: geometry.logical_block_bytes,
            volatile_cache: geometry.volatile_cache,
            read_only: geometry.read_only,
        };
        let path = process.open(wanted).await.map_err(|error| process_error(name, error))?;
        Ok(Frontend::Held(Arc::new(Held { process: process.clone(), name: name.to_owned(), session, path, device })))
    }

    /// What the device process holds; nothing where there is none.
    pub async fn held(&self) -> Result<Vec<HeldDevice>, ProcessError> {
        match &self.process {
            Some(process) => process.list().await,
            None => Ok(Vec::new()),
        }
    }

    /// Ends a device whose session is over, or that nobody will serve again.
    pub async fn end(&self, name: &str, session: &str) {
        let Some(process) = &self.process else { return };
        for attempt in 1..=END_ATTEMPTS {
            match process.close(name, session, true).await {
                Ok(true) => {
                    return tracing::warn!(volume = name, session, "the device of a session that is over was ended");
                }
                Ok(false) => return,
                // Its devices died with it.
                Err(ProcessError::Away { .. }) => return,
                Err(error) if attempt == END_ATTEMPTS => {
                    tracing::error!(volume = name, session, %error, "its device process does not end the device");
                }
                Err(_) => tokio::time::sleep(END_PAUSE).await,
            }
        }
    }
}

impl Frontend {
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Frontend::None => None,
            Frontend::Fuse(fuse) => Some(fuse.loop_path()),
            Frontend::Held(held) => Some(held.path.clone()),
        }
    }

    /// False when its process died, and the device with it.
    pub async fn is_there(&self) -> bool {
        let Frontend::Held(held) = self else { return true };
        match held.process.list().await {
            Ok(devices) => devices.iter().any(|d| d.name == held.name && d.session == session_text(held.session)),
            Err(ProcessError::Away { .. }) => false,
            // It listens: it may merely be busy.
            Err(_) => true,
        }
    }

    pub async fn grow(&self) -> Result<(), String> {
        match self {
            Frontend::None => Ok(()),
            Frontend::Fuse(fuse) => fuse.grow().await.map_err(|error| error.to_string()),
            Frontend::Held(held) => {
                let size_bytes = held.device.geometry().size_bytes;
                let grown = held.process.grow(&held.name, &session_text(held.session), size_bytes).await;
                grown.map_err(|error| error.to_string())
            }
        }
    }

    /// Refused while somebody uses it.
    pub async fn detach(&self, name: &str) -> Result<(), OpError> {
        match self {
            Frontend::None => Ok(()),
            Frontend::Fuse(fuse) => fuse.detach().await.map_err(|error| device_error(name, error)),
            Frontend::Held(held) => match held.process.close(&held.name, &session_text(held.session), false).await {
                Ok(_) => Ok(()),
                // Dead, and its devices with it; their remains go when the next one starts.
                Err(error @ ProcessError::Away { .. }) => {
                    tracing::warn!(volume = name, %error, "detached without its device process");
                    Ok(())
                }
                Err(error) => Err(process_error(name, error)),
            },
        }
    }

    /// Whoever uses it.
    pub async fn detach_by_force(&self, maker: &DeviceMaker) {
        match self {
            Frontend::None => {}
            Frontend::Fuse(fuse) => fuse.detach_by_force().await,
            Frontend::Held(held) => maker.end(&held.name, &session_text(held.session)).await,
        }
    }

    /// This process stops: what can't outlive it ends.
    pub async fn suspend(&self) {
        if let Frontend::Fuse(fuse) = self {
            fuse.detach_by_force().await;
        }
    }
}

pub fn clear_remains(runtime_dir: &Path) -> Result<(), DeviceError> {
    for stale in FuseDevice::cleanup_stale(runtime_dir)? {
        tracing::info!(?stale, "removed what an earlier life of the daemon left");
    }
    Ok(())
}

fn device_error(name: &str, error: DeviceError) -> OpError {
    OpError::failed_precondition(
        format!("the device of {name} could not be changed"),
        "stop what uses the device (umount it), or see `farshore doctor`",
    )
    .because(error)
}

fn process_error(name: &str, error: ProcessError) -> OpError {
    match error {
        ProcessError::Refused { .. } => OpError::failed_precondition(
            format!("the device of {name} could not be changed"),
            "stop what uses the device (umount it), or see `farshore doctor`",
        ),
        ProcessError::Away { .. } | ProcessError::Talk { .. } => OpError::unavailable(
            format!("the device of {name} could not be changed: its device process does not answer"),
            "see whether farshore-device runs on this node, then try again",
        ),
    }
    .because(error)
}
