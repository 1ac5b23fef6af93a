//! The log: where tracing's events go. Edges of states are logged, never single I/Os.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.filter = {filter:?}: {reason}; write for example info, or info,farshore_replicator::transport=debug")]
    Filter { filter: String, reason: String },
    #[error("the log can't be set up: {0}")]
    SetUp(String),
}

/// Checks a filter without setting anything up.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    // EnvFilter takes any word for a target's name; a lone word that is no level is a slip of the pen.
    let lone = |part: &&str| !part.contains('=') && !part.contains("::");
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let slip =
        filter.split(',').map(str::trim).filter(lone).find(|p| !levels.contains(&p.to_ascii_lowercase().as_str()));
    if let Some(part) = slip {
        let reason = format!("{part:?} is not a level ({})", levels.join(", "));
        return Err(LogError::Filter { filter: filter.into(), reason });
    }
    EnvFilter::try_new(filter).map_err(|e| LogError::Filter { filter: filter.into(), reason: e.to_string() })
}

/// Sends every event of this process to stderr. Once per process.
pub fn set_up(log: &Log) -> Result<(), LogError> {
    let builder = tracing_subscriber::fmt().with_env_filter(parse_filter(&log.filter)?).with_writer(std::io::stderr);
    let set = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    set.map_err(|e| LogError::SetUp(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for good in ["info", "warn,farshore_replicator::transport=debug", "farshore_replicator=trace", "OFF"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "info,farshore_replicator=loud", "=", ""] {
            let error = parse_filter(bad).expect_err(bad).to_string();
            assert!(error.contains("log.filter") && error.contains("write for example"), "{error}");
        }
    }
}
