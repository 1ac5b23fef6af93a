//! A planned move of the right to write. The volume's mode may leave the copy that it goes to behind: then the mode is
//! sync for as long as the move takes. What it was is noted in the register first, so that whoever leads the volume after
//! the move, or after one that was cut short and is asked for again, puts it back.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Status};
use farshore_core::register::{Configuration, Member, MemberKind, Mode};
use farshore_proto::v1 as api;

use super::create::{name_error, rule_for};
use super::driver::VolumeHandle;
use super::fenced::refuse_fenced_site;
use super::node::Node;
use super::roles::refused;
use crate::control::{OpError, OpKind};
use crate::transport::PeerName;

/// Between attempts to give a vote to a copy that is connected and has not said where it stands.
const UNHEARD_PAUSE: Duration = Duration::from_millis(200);

/// The mode that comes back with the move.
pub(super) const MODE_AFTER_LABEL: &str = "farshore.mode-after-move";

fn mode_text(mode: Mode) -> String {
    match mode {
        Mode::Sync => "sync".into(),
        Mode::Async { rpo_us } => format!("async {rpo_us}"),
        Mode::Adaptive { max_commit_latency_us, max_lag_bytes } => {
            format!("adaptive {max_commit_latency_us} {max_lag_bytes}")
        }
    }
}

/// The inverse of [`mode_text`]; `None` is what a later version may have written.
fn parse_mode(text: &str) -> Option<Mode> {
    let words: Vec<&str> = text.split(' ').collect();
    Some(match words[..] {
        ["sync"] => Mode::Sync,
        ["async", rpo] => Mode::Async { rpo_us: rpo.parse().ok()? },
        ["adaptive", latency, lag] => {
            Mode::Adaptive { max_commit_latency_us: latency.parse().ok()?, max_lag_bytes: lag.parse().ok()? }
        }
        _ => return None,
    })
}

/// The mode that a move under way has put aside.
fn put_aside(config: &Configuration) -> Option<Mode> {
    parse_mode(config.volume.labels.get(MODE_AFTER_LABEL)?)
}

/// Said of a volume that is being moved, or whose move nobody has finished.
pub(super) fn move_condition(config: &Configuration) -> Option<api::Condition> {
    let mode = mode_text(put_aside(config).filter(|mode| *mode != config.volume.mode)?);
    let (mode, name) = (mode.split(' ').next().unwrap_or_default(), &config.volume.name);
    Some(api::Condition {
        name: "mode-while-moving".into(),
        text: format!("mode sync until a switchover is done; its own is {mode}"),
        remedy: format!(
            "run the switchover again to finish it; to stay: `farshore volume set {name} --mode {mode} ..`"
        ),
    })
}

impl Node {
    pub(super) async fn switch_over(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::SwitchoverRequest,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let target = config
            .members
            .iter()
            .filter(|m| m.site == request.to_site && (request.to_node.is_empty() || m.node == request.to_node))
            .min_by_key(|m| (!m.kind.holds_copy(), m.id))
            .ok_or_else(|| {
                OpError::invalid(
                    format!("volume {} has no member in {}", config.volume.name, request.to_site),
                    "choose one of its members, see `farshore volume show`",
                )
            })?
            .clone();
        let holder = self.holder(handle).await;
        if holder == Some(handle.me) && holder == Some(target.id) {
            return self.settle_after_move(handle).await;
        }
        if holder != Some(handle.me) {
            let holder = holder.ok_or_else(|| OpError::unavailable("no primary is known", "use `farshore promote`"))?;
            let peer = self.peer_of(handle, holder)?;
            let _: api::SwitchoverResponse = self.forward(&peer, "switchover", request).await?;
            return Ok(());
        }
        if request.prepare && config.attached.is_none() {
            // It may have been demoted for the move; somebody must feed the copy there.
            self.hold_epoch(handle).await?;
        }
        let status = handle.status().await.filter(|status| status.role == "primary").ok_or_else(|| {
            OpError::failed_precondition(
                format!("volume {} has no primary that could hand it over", config.volume.name),
                format!("run `farshore promote {}` in {}", config.volume.name, target.site),
            )
        })?;
        if request.prepare {
            return self.prepare_move(handle, &status, &target).await;
        }
        self.check_target(handle, &status, &target)?;
        self.end_served(handle, false).await?;
        // The device goes first: whoever still uses it would see it fail.
        let device = self.attachments.describe(handle.id).await;
        self.attachments.close(handle.id, false).await?;
        if let Err(refusal) = self.settled(handle, Command::Handover { to: target.id }).await {
            // I/O goes on here.
            if let Some((session, status)) = device
                && let Err(error) =
                    self.attachments.open(self, handle, session, (status.kind(), status.read_only)).await
            {
                tracing::error!(volume = %handle.name(), %error, "the device could not be brought back");
            }
            return Err(refused(handle)(refusal));
        }
        let peer = PeerName::new(&target.site, &target.node).map_err(name_error)?;
        let promote = api::PromoteRequest { volume: handle.id.to_string(), ..api::PromoteRequest::default() };
        let _: api::PromoteResponse = self.forward(&peer, "take-over", &promote).await.map_err(|error| {
            OpError::new(
                error.kind,
                format!("{} released the volume, but {peer} could not take it over: {}", self.shared.me, error.message),
                "run `farshore promote` in any site of the sync set",
            )
            .because(error.why)
        })?;
        Ok(())
    }

    /// Before the device is closed: can the target take over at all?
    fn check_target(&self, handle: &VolumeHandle, status: &Status, target: &Member) -> Result<(), OpError> {
        let (name, place) = (handle.name(), format!("{}/{}", target.site, target.node));
        refuse_fenced_site(&status.config, &target.site)?;
        if !status.members.iter().any(|m| m.id == target.id && m.in_sync_set) {
            return Err(OpError::failed_precondition(
                format!("volume {name}: {place} is not in the sync set, so it may lack acknowledged writes"),
                "choose a site of the sync set, or have it wait until the copy there is in it: --wait",
            ));
        }
        self.refuse_unconnected(handle, target)
    }

    fn refuse_unconnected(&self, handle: &VolumeHandle, target: &Member) -> Result<(), OpError> {
        let peer = PeerName::new(&target.site, &target.node).map_err(name_error)?;
        if !self.is_connected(&peer) {
            return Err(OpError::unavailable(
                format!("volume {}: {peer} is not connected, so it can't take over", handle.name()),
                "see `farshore site list` for the state of the link",
            ));
        }
        Ok(())
    }

    /// Has the target's copy come into the sync set, if it is the mode that keeps it out. Answers once that is on its way.
    async fn prepare_move(&self, handle: &VolumeHandle, status: &Status, target: &Member) -> Result<(), OpError> {
        let config = &status.config;
        refuse_fenced_site(config, &target.site)?;
        if target.kind != MemberKind::Data {
            return Err(OpError::failed_precondition(
                format!("volume {}: {}/{} is not one that may take over", config.volume.name, target.site, target.node),
                "choose a member with data that has a vote or may have one, see `farshore volume show`",
            ));
        }
        let left_out = !config.current.sync.iter().any(|m| m.member == target.id);
        if !left_out || config.volume.mode == Mode::Sync {
            return Ok(());
        }
        // With the mode it gets a vote: from then on the register waits for it.
        self.refuse_unconnected(handle, target)?;
        let value = Some(mode_text(config.volume.mode));
        self.change(handle, Change::Label { key: MODE_AFTER_LABEL.into(), value }).await?;
        if let Err(error) = self.soon_or_withdrawn(handle, self.sync_once_heard(handle)).await {
            self.forget_move(handle).await?;
            return Err(error);
        }
        tracing::info!(volume = %handle.name(), to = target.site, "mode sync until the volume has moved");
        Ok(())
    }

    /// Of a copy that has just been taken in again the first word may still be on its way.
    async fn sync_once_heard(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        loop {
            match self.change_mode(handle, Mode::Sync).await {
                Err(error) if error.kind == OpKind::Unavailable => tokio::time::sleep(UNHEARD_PAUSE).await,
                other => return other,
            }
        }
    }

    /// The one rule for every mode: that of the policy, for the copies which the mode wants.
    pub(super) async fn change_mode(&self, handle: &VolumeHandle, mode: Mode) -> Result<(), OpError> {
        let config = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?.config;
        let sites: Vec<&str> = config.asked_for(mode).map(|m| m.site.as_str()).collect();
        let rule = rule_for(&config, &sites)?;
        self.change(handle, Change::Mode { mode, rule, votes: Vec::new() }).await
    }

    /// By whoever leads the volume after a move. May be done again.
    pub(super) async fn settle_after_move(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let Some(status) = handle.status().await.filter(|status| status.role == "primary") else { return Ok(()) };
        let Some(mode) = put_aside(&status.config) else { return Ok(()) };
        if mode != status.config.volume.mode {
            self.change_mode(handle, mode).await?;
        }
        self.forget_move(handle).await
    }

    /// Whatever mode is set by a user is the volume's own.
    pub(super) async fn forget_move(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let config = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?.config;
        match config.volume.labels.contains_key(MODE_AFTER_LABEL) {
            true => self.change(handle, Change::Label { key: MODE_AFTER_LABEL.into(), value: None }).await,
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_that_is_put_aside_comes_back_as_it_was() {
        let adaptive = Mode::Adaptive { max_commit_latency_us: 5_000, max_lag_bytes: 1 << 30 };
        for mode in [Mode::Sync, Mode::Async { rpo_us: 60_000_000 }, adaptive] {
            assert_eq!(parse_mode(&mode_text(mode)), Some(mode));
        }
        for other in ["", "async", "async x", "adaptive 1", "nearby 3"] {
            assert_eq!(parse_mode(other), None, "{other:?}");
        }
    }
}
