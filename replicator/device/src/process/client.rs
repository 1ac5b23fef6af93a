//! The replicator's side: one question, one connection, one answer.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::message::{Answer, HeldDevice, Question, Wanted};
use crate::limits::{PROCESS_LINE_BYTES_MAX, PROCESS_PATIENCE};

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("no device process listens on {}: {source}; start farshore-device there, or take device.process out of the configuration", .socket.display())]
    Away { socket: PathBuf, source: io::Error },
    #[error("the device process on {}: {source}", .socket.display())]
    Talk { socket: PathBuf, source: io::Error },
    #[error("the device process: {reason}")]
    Refused { reason: String },
}

/// A device process, by its socket.
#[derive(Debug, Clone)]
pub struct DeviceProcess {
    socket: PathBuf,
}

impl DeviceProcess {
    pub fn at(socket: &Path) -> DeviceProcess {
        DeviceProcess { socket: socket.to_owned() }
    }

    pub async fn list(&self) -> Result<Vec<HeldDevice>, ProcessError> {
        match self.ask(&Question::List).await? {
            Answer::Devices { devices } => Ok(devices),
            other => Err(self.unexpected(other)),
        }
    }

    /// The path of the block device.
    pub async fn open(&self, wanted: Wanted) -> Result<PathBuf, ProcessError> {
        match self.ask(&Question::Open(wanted)).await? {
            Answer::Opened { path } => Ok(path),
            other => Err(self.unexpected(other)),
        }
    }

    pub async fn grow(&self, name: &str, session: &str, size_bytes: u64) -> Result<(), ProcessError> {
        let question = Question::Grow { name: name.into(), session: session.into(), size_bytes };
        match self.ask(&question).await? {
            Answer::Done => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Ends the device of that session; whether it was there. Without `force` refused while somebody uses it.
    pub async fn close(&self, name: &str, session: &str, force: bool) -> Result<bool, ProcessError> {
        match self.ask(&Question::Close { name: name.into(), session: session.into(), force }).await? {
            Answer::Done => Ok(true),
            Answer::NotHeld => Ok(false),
            other => Err(self.unexpected(other)),
        }
    }

    fn unexpected(&self, answer: Answer) -> ProcessError {
        match answer {
            Answer::Refused { reason } => ProcessError::Refused { reason },
            other => ProcessError::Refused { reason: format!("an answer to another question: {other:?}") },
        }
    }

    async fn ask(&self, question: &Question) -> Result<Answer, ProcessError> {
        let talk = |source| ProcessError::Talk { socket: self.socket.clone(), source };
        let mut stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ProcessError::Away { socket: self.socket.clone(), source })?;
        let asked = async {
            let mut line = serde_json::to_vec(question)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = Vec::new();
            // It closes the connection behind its answer.
            stream.take(PROCESS_LINE_BYTES_MAX).read_to_end(&mut answer).await?;
            if answer.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            Ok(serde_json::from_slice(&answer)?)
        };
        timeout(PROCESS_PATIENCE, asked).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())).map_err(talk)
    }
}
