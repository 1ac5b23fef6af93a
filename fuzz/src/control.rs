//! Stands in for the replicator's error of a verb, which brings gRPC along: as much of it as crosses between nodes.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpKind {
    FailedPrecondition,
    Unavailable,
    Internal,
}

impl OpKind {
    pub fn as_str(self) -> &'static str {
        match self {
            OpKind::FailedPrecondition => "failed-precondition",
            OpKind::Unavailable => "unavailable",
            OpKind::Internal => "internal",
        }
    }

    pub fn from_name(name: &str) -> Option<OpKind> {
        [OpKind::FailedPrecondition, OpKind::Unavailable, OpKind::Internal]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpError {
    pub kind: OpKind,
    pub message: String,
    pub why: String,
    pub remedy: String,
}

impl OpError {
    pub fn new(kind: OpKind, message: &str, remedy: &str) -> OpError {
        OpError { kind, message: message.into(), why: String::new(), remedy: remedy.into() }
    }

    pub fn because(mut self, why: &str) -> OpError {
        self.why = why.into();
        self
    }
}
