//! A volume's mode, its fallback and who stands in for whom: what they want of the layout, in the words of the API, and changing them.

use farshore_core::api::{Change, Status};
use farshore_core::register::{Configuration, Mode};
use farshore_proto::v1 as api;

use super::driver::VolumeHandle;
use super::node::Node;
use crate::control::OpError;
use crate::control::validate_modes::Asked;

/// The mode that is asked for; none: as it is.
pub(super) fn mode_of(asked: Asked) -> Option<Mode> {
    let us = |ms: u64| ms.saturating_mul(1000);
    match api::Mode::try_from(asked.mode).unwrap_or_default() {
        api::Mode::Unspecified => None,
        api::Mode::Sync => Some(Mode::Sync),
        api::Mode::Async => Some(Mode::Async { rpo_us: us(asked.rpo_ms) }),
        api::Mode::Adaptive => {
            let (max_commit_latency_us, max_lag_bytes) = (us(asked.max_commit_latency_ms), asked.max_lag_bytes);
            Some(Mode::Adaptive { max_commit_latency_us, max_lag_bytes })
        }
    }
}

/// 0: never.
pub(super) fn after_of(after_ms: u64) -> Option<u64> {
    (after_ms > 0).then_some(after_ms.saturating_mul(1000))
}

/// As the policy shows them.
pub(super) fn show_mode(config: &Configuration, policy: &mut api::Policy) {
    match config.volume.mode {
        Mode::Sync => policy.set_mode(api::Mode::Sync),
        Mode::Async { rpo_us } => {
            policy.set_mode(api::Mode::Async);
            policy.rpo_ms = rpo_us / 1000;
        }
        Mode::Adaptive { max_commit_latency_us, max_lag_bytes } => {
            policy.set_mode(api::Mode::Adaptive);
            (policy.max_commit_latency_ms, policy.max_lag_bytes) = (max_commit_latency_us / 1000, max_lag_bytes);
        }
    }
    policy.fallback_after_ms = config.volume.fallback_after_us.map_or(0, |us| us / 1000);
    policy.promote_observer_after_ms = config.volume.promote_observer_after_us.map_or(0, |us| us / 1000);
}

/// Leaving a site out is a change of the register. Where one other site decides whether there can be any, the loss of
/// just that site would freeze the volume. And where nobody is waited for nobody can be stood in for.
pub(super) fn refuse_undecided(config: &Configuration) -> Result<(), OpError> {
    let promotes = config.volume.promote_observer_after_us.is_some();
    if promotes && matches!(config.volume.mode, Mode::Async { .. }) {
        return Err(OpError::invalid(
            format!(
                "volume {} can't promote an observer in mode async: its sync set is in one site",
                config.volume.name
            ),
            "leave --promote-observer at never, or choose mode sync or adaptive",
        ));
    }
    let what = match config.volume.mode {
        Mode::Adaptive { .. } => "mode adaptive",
        Mode::Async { .. } => "mode async",
        Mode::Sync if config.volume.fallback_after_us.is_some() => "a fallback",
        Mode::Sync if promotes => "promoted observers",
        Mode::Sync => return Ok(()),
    };
    let Some(site) = config.site_that_decides() else { return Ok(()) };
    let (name, home) = (&config.volume.name, &config.current.primary_site);
    let remedy = match config.volume.mode {
        Mode::Async { .. } => {
            format!("remove the witness in {site}, or give {home} more votes, as in --votes {home}=2")
        }
        _ => format!("add a witness in a third site, or give {home} more votes, as in --votes {home}=2"),
    };
    Err(OpError::invalid(
        format!("volume {name} can't have {what}: without {site}, {home} would have no majority of the votes to go on"),
        remedy,
    ))
}

impl Node {
    /// Changes mode, fallback and when an observer stands in, each if it is another one.
    pub(super) async fn set_mode(
        &self,
        handle: &VolumeHandle,
        status: &Status,
        asked: &api::SetVolumeRequest,
    ) -> Result<(), OpError> {
        let config = &status.config;
        let mode = mode_of(Asked::from(asked)).unwrap_or(config.volume.mode);
        let fallback = asked.fallback_after_ms.map_or(config.volume.fallback_after_us, after_of);
        let promotes = asked.promote_observer_after_ms.map_or(config.volume.promote_observer_after_us, after_of);
        let mut next = config.in_mode(mode);
        (next.volume.fallback_after_us, next.volume.promote_observer_after_us) = (fallback, promotes);
        if next.volume != config.volume {
            refuse_undecided(&next)?;
        }
        if promotes.is_none() && config.volume.promote_observer_after_us.is_some() {
            self.change(handle, Change::PromoteObserver { after_us: None }).await?;
        }
        if mode != config.volume.mode {
            self.change_mode(handle, mode).await?;
        }
        if asked.mode() != api::Mode::Unspecified {
            self.forget_move(handle).await?;
        }
        if fallback != config.volume.fallback_after_us {
            self.change(handle, Change::Fallback { after_us: fallback }).await?;
        }
        if promotes.is_some() && promotes != config.volume.promote_observer_after_us {
            self.change(handle, Change::PromoteObserver { after_us: promotes }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::durable;
    use farshore_core::register::MemberKind;

    /// East and west with data, north a witness.
    fn config() -> Configuration {
        durable().config
    }

    #[test]
    fn a_mode_wants_a_layout_in_which_no_other_site_decides() {
        let adaptive = Mode::Adaptive { max_commit_latency_us: 1, max_lag_bytes: 0 };
        let mut pair = config();
        pair.members.retain(|m| m.kind == MemberKind::Data);
        pair.current.votes.retain(|v| pair.members.iter().any(|m| m.id == v.member));
        for mode in [adaptive, Mode::Sync] {
            let (mut pair, mut three) = (pair.in_mode(mode), config().in_mode(mode));
            (pair.volume.fallback_after_us, three.volume.fallback_after_us) = (Some(1), Some(1));
            let error = refuse_undecided(&pair).expect_err("west decides");
            assert!(error.message.contains("without west") && error.remedy.contains("--votes east=2"), "{error:?}");
            assert!(refuse_undecided(&three).is_ok());
            pair.current.votes[0].votes = 2;
            assert!(refuse_undecided(&pair).is_ok(), "east has the most votes");
        }
        // Of those that follow behind none has a vote: of the pair east decides alone, and with it the witness.
        let behind = Mode::Async { rpo_us: 0 };
        assert!(refuse_undecided(&pair.in_mode(behind)).is_ok());
        let error = refuse_undecided(&config().in_mode(behind)).expect_err("the witness decides");
        assert!(error.remedy.contains("remove the witness in north"), "{error:?}");
        let mut behind = config().in_mode(behind);
        behind.volume.promote_observer_after_us = Some(1);
        let error = refuse_undecided(&behind).expect_err("nobody is waited for");
        assert!(error.message.contains("in mode async") && error.remedy.contains("never"), "{error:?}");
        pair.volume.promote_observer_after_us = Some(1);
        let error = refuse_undecided(&pair).expect_err("west decides");
        assert!(error.message.contains("promoted observers"), "{error:?}");
        let behind = Mode::Async { rpo_us: 0 };
        // And back.
        assert!(refuse_undecided(&config().in_mode(behind).in_mode(adaptive)).is_ok());
    }
}
