//! What can go wrong in the demo, told so that the reader knows where to look.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("{what}; {remedy}")]
    Missing { what: String, remedy: String },
    #[error("{operation} {}: {source}", .path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{command}: {why}")]
    Command { command: String, why: String },
    #[error("{what} did not happen within {} s; last seen: {last}", .limit.as_secs_f64())]
    TimedOut { what: String, limit: Duration, last: String },
    #[error("database: {operation}: {source}")]
    Database { operation: &'static str, source: tokio_postgres::Error },
    #[error("{command} answered what can't be read: {source}")]
    Answer { command: String, source: serde_json::Error },
    /// The product broke its promise: this is what the demo is there to find.
    #[error("broken promise: {0}")]
    Broken(String),
    #[error("interrupted")]
    Interrupted,
}

pub type Result<T> = std::result::Result<T, DemoError>;

/// For `map_err`: an I/O error with its object.
pub fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> DemoError {
    let path = path.into();
    move |source| DemoError::Io { operation, path, source }
}
