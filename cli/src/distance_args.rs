//! What distance may cost: the mode with its limits, the fallback, and when an observer is promoted.

use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use farshore_proto::v1 as api;

use crate::values;

#[derive(Debug, Args)]
pub struct DistanceArgs {
    /// Who is waited for
    ///
    /// sync      every member, as the quorum says
    /// async     the primary's site alone; copies elsewhere have no vote, and follow behind
    /// adaptive  as sync, but a remote site that stays over a limit, or is gone, is not waited for until it is near again
    #[arg(long, value_enum, verbatim_doc_comment)]
    pub mode: Option<ModeArg>,
    /// With async: how often what changed is shipped; left out: as it is written
    #[arg(long, value_parser = some_time, value_name = "DURATION", requires = "mode")]
    pub rpo: Option<Duration>,
    /// With adaptive: a site whose commits stay slower than this is not waited for
    #[arg(long, value_parser = some_time, value_name = "DURATION", requires = "mode")]
    pub max_commit_latency: Option<Duration>,
    /// With adaptive: a site that stays further behind than this is not waited for
    #[arg(long, value_parser = some_size, value_name = "SIZE", requires = "mode")]
    pub max_lag: Option<u64>,
    /// never, or after:30s: so long without a quorum, those that are left go on with fewer copies
    #[arg(long, value_name = "never|after:DURATION")]
    pub fallback: Option<After>,
    /// never, or after:30s: when a member has been lost for so long, an observer stands in for it until it is back
    #[arg(long, value_name = "never|after:DURATION")]
    pub promote_observer: Option<After>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    Sync,
    Async,
    Adaptive,
}

impl ModeArg {
    fn mode(self) -> api::Mode {
        match self {
            ModeArg::Sync => api::Mode::Sync,
            ModeArg::Async => api::Mode::Async,
            ModeArg::Adaptive => api::Mode::Adaptive,
        }
    }
}

/// 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After(pub Duration);

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "never" => Ok(After(Duration::ZERO)),
            Some(("after", time)) => some_time(time).map(After),
            _ => Err(format!("{text:?} is not known; use never, or after:30s")),
        }
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        Duration::ZERO => Err("a limit of nothing can't be kept; leave it out where there shall be none".into()),
        time => Ok(time),
    }
}

fn some_size(text: &str) -> Result<u64, String> {
    match values::size(text)? {
        0 => Err("a limit of nothing can't be kept; leave it out where there shall be none".into()),
        size => Ok(size),
    }
}

fn ms(duration: Option<Duration>) -> u64 {
    u64::try_from(duration.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

impl DistanceArgs {
    fn mode(&self) -> api::Mode {
        self.mode.map_or(api::Mode::Unspecified, ModeArg::mode)
    }

    /// Of a new volume.
    pub fn policy(&self, policy: api::Policy) -> api::Policy {
        api::Policy {
            mode: self.mode().into(),
            rpo_ms: ms(self.rpo),
            max_commit_latency_ms: ms(self.max_commit_latency),
            max_lag_bytes: self.max_lag.unwrap_or(0),
            fallback_after_ms: ms(self.fallback.map(|after| after.0)),
            promote_observer_after_ms: ms(self.promote_observer.map(|after| after.0)),
            ..policy
        }
    }

    /// Of one that is there.
    pub fn request(&self, request: api::SetVolumeRequest) -> api::SetVolumeRequest {
        api::SetVolumeRequest {
            mode: self.mode().into(),
            rpo_ms: ms(self.rpo),
            max_commit_latency_ms: ms(self.max_commit_latency),
            max_lag_bytes: self.max_lag.unwrap_or(0),
            fallback_after_ms: self.fallback.map(|after| ms(Some(after.0))),
            promote_observer_after_ms: self.promote_observer.map(|after| ms(Some(after.0))),
            ..request
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_never_or_after_some_time() {
        assert_eq!("never".parse(), Ok(After(Duration::ZERO)));
        assert_eq!("after:30s".parse(), Ok(After(Duration::from_secs(30))));
        for bad in ["", "after", "after:", "after:0s", "30s", "never:3s"] {
            assert!(bad.parse::<After>().is_err(), "{bad}");
        }
    }
}
