//! Modes, the fallback and the promotion of observers, as a request asks for them. What the layout must be like for them is the engine's to say.

use farshore_proto::v1 as api;

use super::error::OpError;

/// Copies are shipped no more often than this; what shall be nearer is fed as it is written.
pub const RPO_MS_MIN: u64 = 1_000;
/// That the quorum, or a member, is gone is known only after a while.
pub const FALLBACK_MS_MIN: u64 = 1_000;
pub const PROMOTE_OBSERVER_MS_MIN: u64 = 1_000;

/// A mode with its limits, each of which belongs to one mode alone.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub mode: i32,
    pub rpo_ms: u64,
    pub max_commit_latency_ms: u64,
    pub max_lag_bytes: u64,
    pub fallback_after_ms: u64,
    pub promote_observer_after_ms: u64,
}

impl Asked {
    pub fn check(self) -> Result<api::Mode, OpError> {
        let mode = api::Mode::try_from(self.mode).map_err(|_| {
            OpError::invalid(
                format!("{} is not a known mode", self.mode),
                "use a client of the same version as the replicator",
            )
        })?;
        if self.rpo_ms > 0 && mode != api::Mode::Async {
            return Err(OpError::invalid(
                format!("an rpo of {} ms was given for {}", self.rpo_ms, of(mode)),
                "an rpo belongs to mode async: name that, or leave the rpo out",
            ));
        }
        if (self.max_commit_latency_ms > 0 || self.max_lag_bytes > 0) && mode != api::Mode::Adaptive {
            let limit = if self.max_commit_latency_ms > 0 { "maxCommitLatency" } else { "maxLag" };
            return Err(OpError::invalid(
                format!("{limit} was given for {}", of(mode)),
                format!("{limit} belongs to mode adaptive: name that, or leave it out"),
            ));
        }
        if (1..RPO_MS_MIN).contains(&self.rpo_ms) {
            return Err(OpError::invalid(
                format!("copies can't be shipped every {} ms", self.rpo_ms),
                format!("give {RPO_MS_MIN} ms or more, or no rpo: then they are fed as the volume is written"),
            ));
        }
        if (1..FALLBACK_MS_MIN).contains(&self.fallback_after_ms) {
            return Err(OpError::invalid(
                format!("a fallback can't come after {} ms", self.fallback_after_ms),
                format!("give {FALLBACK_MS_MIN} ms or more, or never"),
            ));
        }
        if (1..PROMOTE_OBSERVER_MS_MIN).contains(&self.promote_observer_after_ms) {
            return Err(OpError::invalid(
                format!("an observer can't be promoted after {} ms", self.promote_observer_after_ms),
                format!("give {PROMOTE_OBSERVER_MS_MIN} ms or more, or never"),
            ));
        }
        if self.promote_observer_after_ms > 0 && mode == api::Mode::Async {
            return Err(OpError::invalid(
                "no observer is promoted in mode async: nobody is waited for",
                "leave it at never, or choose mode sync or adaptive",
            ));
        }
        Ok(mode)
    }
}

fn of(mode: api::Mode) -> &'static str {
    match mode {
        api::Mode::Unspecified => "no mode",
        api::Mode::Sync => "mode sync",
        api::Mode::Async => "mode async",
        api::Mode::Adaptive => "mode adaptive",
    }
}

impl From<&api::Policy> for Asked {
    fn from(policy: &api::Policy) -> Asked {
        // A new volume for which no mode is named has one all the same.
        let mode = if policy.mode == 0 { api::Mode::Sync.into() } else { policy.mode };
        Asked {
            mode,
            rpo_ms: policy.rpo_ms,
            max_commit_latency_ms: policy.max_commit_latency_ms,
            max_lag_bytes: policy.max_lag_bytes,
            fallback_after_ms: policy.fallback_after_ms,
            promote_observer_after_ms: policy.promote_observer_after_ms,
        }
    }
}

impl From<&api::SetVolumeRequest> for Asked {
    fn from(request: &api::SetVolumeRequest) -> Asked {
        Asked {
            mode: request.mode,
            rpo_ms: request.rpo_ms,
            max_commit_latency_ms: request.max_commit_latency_ms,
            max_lag_bytes: request.max_lag_bytes,
            fallback_after_ms: request.fallback_after_ms.unwrap_or(0),
            promote_observer_after_ms: request.promote_observer_after_ms.unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_itself_is_refused_by_name() {
        let plain = Asked::from(&api::SetVolumeRequest::default());
        let [sync, behind, adaptive] =
            [api::Mode::Sync, api::Mode::Async, api::Mode::Adaptive].map(|m| Asked { mode: m.into(), ..plain });
        let good = [
            plain,
            behind,
            Asked { rpo_ms: 60_000, ..behind },
            Asked { max_commit_latency_ms: 50, max_lag_bytes: 1, ..adaptive },
            Asked { fallback_after_ms: 30_000, ..sync },
            Asked { promote_observer_after_ms: 30_000, ..adaptive },
        ];
        for asked in good {
            assert!(asked.check().is_ok(), "{asked:?}");
        }
        let bad = [
            ("7 is not a known mode", Asked { mode: 7, ..plain }),
            ("for mode sync", Asked { rpo_ms: 60_000, ..sync }),
            ("for no mode", Asked { rpo_ms: 60_000, ..plain }),
            ("maxCommitLatency was given for mode async", Asked { max_commit_latency_ms: 5, ..behind }),
            ("maxLag was given for mode sync", Asked { max_lag_bytes: 5, ..sync }),
            ("every 5 ms", Asked { rpo_ms: 5, ..behind }),
            ("after 5 ms", Asked { fallback_after_ms: 5, ..sync }),
            ("promoted after 5 ms", Asked { promote_observer_after_ms: 5, ..sync }),
            ("promoted in mode async", Asked { promote_observer_after_ms: 30_000, ..behind }),
        ];
        for (part, asked) in bad {
            let error = asked.check().expect_err(part);
            assert!(error.message.contains(part) && !error.remedy.is_empty(), "{part:?} is not in {error:?}");
        }
    }
}
