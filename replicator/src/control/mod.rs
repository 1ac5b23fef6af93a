//! The control plane: `farshore.v1` over a unix socket.
//!
//! Here: the trait that the engine implements ([`Operations`]), the one error of every verb ([`OpError`]) with its
//! one mapping to gRPC, what is checked before the engine sees a request, the server, and a fake for tests.
//! Not here: what the verbs do (engine), how people see the answers (the CLI), `/metrics` (telemetry).

pub mod error;
pub mod fake;
mod fake_schedules;
mod fake_snapshots;
pub mod moment_name;
pub mod operations;
pub mod server;
pub mod services;
mod snapshot_service;
pub mod states;
pub mod validate;
pub mod validate_modes;
pub mod validate_schedules;
pub mod validate_snapshots;

pub use error::{OpError, OpKind};
pub use farshore_proto::v1 as api;
pub use operations::{OpFuture, OpStream, Operations, SnapshotOperations};
pub use server::{ControlServer, ServerError};
