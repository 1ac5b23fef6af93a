//! How a command ends when it does not succeed: exit code, and three lines on stderr.

use std::fmt;
use std::process::ExitCode;

use farshore_replicator::control::{OpError, OpKind};

/// Documented in `farshore --help`; scripts depend on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unavailable = 5,
    AlreadyExists = 6,
    Conflict = 7,
    Unsupported = 8,
}

impl Exit {
    /// What the replicator calls it.
    pub fn kind(self) -> OpKind {
        match self {
            Exit::Failed => OpKind::Internal,
            Exit::Usage => OpKind::Invalid,
            Exit::NotFound => OpKind::NotFound,
            Exit::Refused => OpKind::FailedPrecondition,
            Exit::Unavailable => OpKind::Unavailable,
            Exit::AlreadyExists => OpKind::AlreadyExists,
            Exit::Conflict => OpKind::Conflict,
            Exit::Unsupported => OpKind::Unsupported,
        }
    }
}

pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: an internal error, a failed check, or one of several volumes failed
  2  usage: the arguments can't be right
  3  not found: no such volume, member or site
  4  refused: the volume's state forbids it, there is no room, or --yes is missing
  5  unavailable: no replicator answers, or nothing was decided; try again
  6  exists already
  7  conflict: somebody else changed the same thing first; look again
  8  not supported by this version";

#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub why: String,
    pub remedy: String,
    /// The reader went away (`farshore … | head`); nothing is said.
    silent: bool,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit, message: message.into(), why: String::new(), remedy: remedy.into(), silent: false }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message, "")
    }

    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, remedy)
    }

    pub fn because(mut self, why: impl ToString) -> Self {
        self.why = why.to_string();
        self
    }

    pub fn remedied(mut self, remedy: &str) -> Self {
        self.remedy = remedy.into();
        self
    }

    pub fn closed_pipe() -> Self {
        Self { silent: true, ..Self::failed("") }
    }

    /// Prints it and returns the exit code.
    pub fn report(&self) -> ExitCode {
        if !self.silent {
            eprintln!("{self}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if !self.why.is_empty() {
            write!(f, "\n  why: {}", self.why)?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n  do:  {}", self.remedy)?;
        }
        Ok(())
    }
}

impl From<OpError> for Failure {
    fn from(error: OpError) -> Self {
        let exit = match error.kind {
            OpKind::NotFound => Exit::NotFound,
            OpKind::AlreadyExists => Exit::AlreadyExists,
            OpKind::Invalid => Exit::Usage,
            OpKind::FailedPrecondition | OpKind::Exhausted => Exit::Refused,
            OpKind::Unavailable => Exit::Unavailable,
            OpKind::Conflict => Exit::Conflict,
            OpKind::Unsupported => Exit::Unsupported,
            OpKind::Internal => Exit::Failed,
        };
        Self { why: error.why, ..Self::new(exit, error.message, error.remedy) }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        let error = OpError::from_status(&status);
        // Without a remedy no replicator wrote it: the call broke on the way.
        if error.kind == OpKind::Unavailable && error.remedy.is_empty() {
            let remedy = "it may still be carried out: look with farshore status; to wait longer, --timeout";
            return Failure::new(Exit::Unavailable, "the replicator's answer did not come", remedy).because(error);
        }
        error.into()
    }
}
