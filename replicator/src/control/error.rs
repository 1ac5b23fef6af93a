//! The error of every verb, and the one place where it becomes a gRPC status and comes back from one.

use farshore_proto::v1::ErrorDetail;
use farshore_proto::{encode_error_detail, error_detail};
use tonic::{Code, Status};

/// What kind of failure it is; clients decide by this, people read the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    NotFound,
    AlreadyExists,
    /// The request itself can't be right, whatever the state.
    Invalid,
    /// The request is fine, the state forbids it: attached elsewhere, not in the sync set, no quorum to prove it.
    FailedPrecondition,
    /// There is no room, or no more of them are allowed.
    Exhausted,
    /// Nothing was decided; trying again later may work.
    Unavailable,
    /// Somebody else changed the same thing first.
    Conflict,
    /// Known, but this version can't do it.
    Unsupported,
    /// Our bug, or the machine's failure.
    Internal,
}

/// Every kind once, with its gRPC code and its name on the wire.
const KINDS: [(OpKind, Code, &str); 9] = [
    (OpKind::NotFound, Code::NotFound, "not-found"),
    (OpKind::AlreadyExists, Code::AlreadyExists, "already-exists"),
    (OpKind::Invalid, Code::InvalidArgument, "invalid"),
    (OpKind::FailedPrecondition, Code::FailedPrecondition, "failed-precondition"),
    (OpKind::Exhausted, Code::ResourceExhausted, "exhausted"),
    (OpKind::Unavailable, Code::Unavailable, "unavailable"),
    (OpKind::Conflict, Code::Aborted, "conflict"),
    (OpKind::Unsupported, Code::Unimplemented, "unsupported"),
    (OpKind::Internal, Code::Internal, "internal"),
];

impl OpKind {
    fn row(self) -> (OpKind, Code, &'static str) {
        KINDS.into_iter().find(|row| row.0 == self).expect("KINDS lists every kind")
    }

    pub fn code(self) -> Code {
        self.row().1
    }

    pub fn as_str(self) -> &'static str {
        self.row().2
    }

    /// Kinds are sent by name, so that a code which several kinds might share one day does not blur them.
    pub fn from_name(name: &str) -> Option<OpKind> {
        KINDS.into_iter().find(|row| row.2 == name).map(|row| row.0)
    }

    fn from_code(code: Code) -> OpKind {
        match KINDS.into_iter().find(|row| row.1 == code) {
            Some(row) => row.0,
            // Not ours: tonic's own (deadline, cancelled, a connection that broke). Nothing is known of the call.
            None if matches!(code, Code::DeadlineExceeded | Code::Cancelled | Code::Unknown) => OpKind::Unavailable,
            None => OpKind::Internal,
        }
    }
}

/// What happened to what, why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}{why}", if .why.is_empty() { "" } else { ": " })]
pub struct OpError {
    pub kind: OpKind,
    pub message: String,
    /// May be empty.
    pub why: String,
    /// One thing the reader can do. May be empty only for internal errors.
    pub remedy: String,
}

impl OpError {
    pub fn new(kind: OpKind, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { kind, message: message.into(), why: String::new(), remedy: remedy.into() }
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, why: impl ToString) -> Self {
        self.why = why.to_string();
        self
    }

    pub fn not_found(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::NotFound, message, remedy)
    }

    /// The commonest one, worded once.
    pub fn no_volume(volume: &str) -> Self {
        Self::not_found(
            format!("volume {volume:?} is not known in this site"),
            "list the volumes with: farshore volume list",
        )
    }

    pub fn no_snapshot(snapshot: &str) -> Self {
        Self::not_found(
            format!("snapshot {snapshot:?} is not known in this site"),
            "list the snapshots with: farshore snapshot list",
        )
    }

    pub fn no_schedule(volume: &str, name: &str) -> Self {
        Self::not_found(
            format!("volume {volume} has no schedule {name:?}"),
            format!("list its schedules with: farshore snapshot schedule list {volume}"),
        )
    }

    pub fn already_exists(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::AlreadyExists, message, remedy)
    }

    pub fn invalid(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::Invalid, message, remedy)
    }

    pub fn failed_precondition(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::FailedPrecondition, message, remedy)
    }

    pub fn unavailable(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::Unavailable, message, remedy)
    }

    pub fn conflict(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::Conflict, message, remedy)
    }

    pub fn unsupported(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(OpKind::Unsupported, message, remedy)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(OpKind::Internal, message, "")
    }

    pub fn detail(&self) -> ErrorDetail {
        ErrorDetail {
            kind: self.kind.as_str().into(),
            message: self.message.clone(),
            why: self.why.clone(),
            remedy: self.remedy.clone(),
        }
    }

    pub fn from_detail(detail: ErrorDetail) -> Self {
        Self {
            kind: OpKind::from_name(&detail.kind).unwrap_or(OpKind::Internal),
            message: detail.message,
            why: detail.why,
            remedy: detail.remedy,
        }
    }

    /// Reads a failed call back. Statuses that no replicator wrote (a broken connection, an older server) become
    /// the nearest kind.
    pub fn from_status(status: &Status) -> Self {
        match error_detail(status) {
            Some(detail) => Self::from_detail(detail),
            None => Self::new(OpKind::from_code(status.code()), status.message(), ""),
        }
    }
}

impl From<OpError> for Status {
    fn from(error: OpError) -> Status {
        let code = error.kind.code();
        // Clients that ignore details (Kubernetes events, grpcurl) still show reason and remedy.
        let mut text = error.to_string();
        if !error.remedy.is_empty() {
            text = format!("{text}; {}", error.remedy);
        }
        let details = encode_error_detail(code, &error.detail());
        Status::with_details(code, text, details.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        for (kind, code, name) in KINDS {
            let error = OpError::new(kind, "volume \"pg\" is busy", "wait").because("somebody is writing");
            let status = Status::from(error.clone());
            assert_eq!(status.code(), code, "{name}");
            assert_eq!(status.message(), "volume \"pg\" is busy: somebody is writing; wait");
            assert_eq!(OpError::from_status(&status), error);
        }
    }

    #[test]
    fn names_and_codes_are_distinct() {
        for (i, a) in KINDS.iter().enumerate() {
            for b in &KINDS[i + 1..] {
                assert!(a.0 != b.0 && a.1 != b.1 && a.2 != b.2, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn foreign_statuses_and_garbage_details_become_the_nearest_kind() {
        let plain = OpError::from_status(&Status::new(Code::DeadlineExceeded, "too slow"));
        assert_eq!((plain.kind, plain.message.as_str()), (OpKind::Unavailable, "too slow"));
        let garbage = Status::with_details(Code::NotFound, "gone", vec![0xff; 40].into());
        assert_eq!(OpError::from_status(&garbage).kind, OpKind::NotFound);
        assert_eq!(OpError::from_status(&Status::new(Code::DataLoss, "?")).kind, OpKind::Internal);
    }
}
