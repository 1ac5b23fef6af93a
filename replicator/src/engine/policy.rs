//! A volume's policy, changed while it is in use: the rule, the class, and what becomes of the device without a quorum.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Promotion, Status};
use farshore_core::ids::Incarnation;
use farshore_core::register::{Configuration, Durability, Member, OnQuorumLoss, SyncMember, Terms};
use farshore_proto::v1 as api;

use super::create::rule_of;
use super::driver::VolumeHandle;
use super::io_limits::{IO_LIMITS_LABEL, IoLimits};
use super::marks::Marker;
use super::node::Node;
use super::roles::refused;
use crate::control::OpError;

/// The class that is in force from the next attach on; in the register, so that every site knows.
/// The driver's: a filesystem is being made on a volume that was blank, and nothing else has been put there.
pub(super) const FORMATTING_LABEL: &str = "csi.farshore.io/formatting";
pub(super) const NEXT_CLASS_LABEL: &str = "farshore.durability-next";
const NEXT_FLUSH: &str = "flush";

/// For a change to take effect.
const PATIENCE: Duration = Duration::from_secs(20);
/// In these states a member acknowledges nothing.
const SILENT: [&str; 3] = ["unreachable", "unknown", "not-readmitted"];

/// The class that waits for the next attach.
pub(super) fn next_class(config: &Configuration) -> Option<Durability> {
    let next = config.volume.labels.get(NEXT_CLASS_LABEL)?;
    (next == NEXT_FLUSH && config.volume.durability == Durability::Write).then_some(Durability::Flush)
}

/// The change of the rule that is asked for, if it is one, and can be met.
fn rule_change(status: &Status, asked: &api::SetVolumeRequest) -> Result<Option<Change>, OpError> {
    let (config, name) = (&status.config, &status.config.volume.name);
    let data: Vec<&Member> = config.asked_for(config.volume.mode).collect();
    let sites: Vec<&str> = data.iter().map(|m| m.site.as_str()).collect();
    let (quorum, w) = (asked.quorum.clone(), asked.w.min(u8::MAX.into()));
    let (min_remote, local_required) = (asked.min_remote.min(u8::MAX.into()), asked.local_required);
    let policy = api::Policy { quorum, w, min_remote, local_required, ..api::Policy::default() };
    let rule = rule_of(&policy, &sites, &config.current.primary_site)?;
    if config.volume.policy == asked.quorum && config.volume.rule == rule {
        return Ok(None);
    }
    let whole = |m: &&Member| SyncMember { member: m.id, incarnation: Incarnation(0), site: m.site.clone() };
    let all = Terms { sync: data.iter().map(whole).collect(), rule, ..config.current.clone() };
    if !all.data_quorum(|_| true) {
        let local = if rule.local { ", one of them in the primary's site" } else { "" };
        return Err(OpError::invalid(
            format!(
                "quorum {} needs {} copies of volume {name}, in {} remote sites{local}; there are {} copies, in {}",
                asked.quorum,
                rule.w,
                rule.min_remote,
                data.len(),
                sites.join(", ")
            ),
            format!("add a member first (farshore member add {name} SITE), or choose a quorum that these can meet"),
        ));
    }
    let silent = |m: &SyncMember| status.members.iter().any(|s| s.id == m.member && SILENT.contains(&s.state));
    let now = Terms { rule, ..config.current.clone() };
    if !now.data_quorum(|m| !silent(m)) {
        let missing: Vec<&str> = data
            .iter()
            .filter(|m| !now.sync.iter().any(|s| s.member == m.id && !silent(s)))
            .map(|m| m.site.as_str())
            .collect();
        return Err(OpError::unavailable(
            format!(
                "writes of volume {name} would stand still under quorum {}: {} away or not in sync",
                asked.quorum,
                missing.join(", ")
            ),
            "try again when all that it needs are in the sync set; see `farshore status`",
        ));
    }
    Ok(Some(Change::Rule { policy: asked.quorum.clone(), rule }))
}

impl Node {
    pub(super) async fn set_volume(
        self: &Arc<Self>,
        request: api::SetVolumeRequest,
    ) -> Result<api::VolumeStatus, OpError> {
        let unfilled = || OpError::internal("a node answered without a volume");
        if let Some(answer) =
            self.by_neighbour::<api::SetVolumeResponse>(&request.volume, "set-volume", &request).await?
        {
            return answer.volume.ok_or_else(unfilled);
        }
        let handle = self.find(&request.volume)?;
        if let Marker::There(peer) = self.marker(&handle).await? {
            let request = api::SetVolumeRequest { volume: handle.id.to_string(), ..request };
            let answer: api::SetVolumeResponse = self.forward(&peer, "set-volume", &request).await?;
            return answer.volume.ok_or_else(unfilled);
        }
        self.hold_epoch(&handle).await?;
        self.soon_or_withdrawn(&handle, self.set_policy(&handle, &request)).await?;
        self.view(&handle).await
    }

    /// A change that has not taken effect in time is taken back: until it has, the old rule and the new one hold.
    pub(super) async fn soon_or_withdrawn(
        &self,
        handle: &VolumeHandle,
        change: impl Future<Output = Result<(), OpError>>,
    ) -> Result<(), OpError> {
        if let Ok(result) = tokio::time::timeout(PATIENCE, change).await {
            return result;
        }
        let _ = handle.command(Command::Change(Change::Withdraw)).await;
        Err(OpError::unavailable(
            format!("the change of volume {}'s policy did not take effect in time", handle.name()),
            "what had not taken effect is taken back; see `farshore status`, then try again",
        ))
    }

    /// Only the holder of the epoch writes the register. Where nobody has it, it is taken, if the volume is at home here
    /// and nobody is attached.
    pub(super) async fn hold_epoch(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        if handle.status().await.is_some_and(|status| status.role == "primary") {
            return Ok(());
        }
        if handle.config.borrow().attached.is_some() {
            return Err(OpError::unavailable(
                format!("volume {} is attached, and its device has no epoch now", handle.name()),
                "try again when its device works, or detach it first",
            ));
        }
        self.promote_here(handle, Promotion::Fence { member: handle.me }).await
    }

    /// One thing after the other; each is done at once, or was done before.
    async fn set_policy(&self, handle: &VolumeHandle, asked: &api::SetVolumeRequest) -> Result<(), OpError> {
        let stopped = || OpError::internal("the volume stopped");
        self.set_mode(handle, &handle.status().await.ok_or_else(stopped)?, asked).await?;
        let status = handle.status().await.ok_or_else(stopped)?;
        if !asked.quorum.is_empty()
            && let Some(change) = rule_change(&status, asked)?
        {
            self.change(handle, change).await?;
        }
        match asked.durability() {
            api::Durability::Unspecified => {}
            api::Durability::Write => self.set_class_write(handle, &status.config).await?,
            api::Durability::Flush => self.set_class_flush(handle, &status.config).await?,
        }
        self.set_io_limits(handle, &status.config, asked).await?;
        for (key, value) in &asked.labels {
            let value = (!value.is_empty()).then(|| value.clone());
            if status.config.volume.labels.get(key) != value.as_ref() {
                self.change(handle, Change::Label { key: key.clone(), value }).await?;
            }
        }
        let on_quorum_loss = match asked.on_quorum_loss() {
            api::QuorumLoss::Unspecified => return Ok(()),
            api::QuorumLoss::Freeze => OnQuorumLoss::Freeze,
            api::QuorumLoss::Fence => OnQuorumLoss::Fence { after_us: asked.fence_after_ms.saturating_mul(1000) },
        };
        if on_quorum_loss != status.config.volume.on_quorum_loss {
            self.change(handle, Change::QuorumLoss { on_quorum_loss }).await?;
        }
        Ok(())
    }

    /// Whoever opens the volume by hand, or fills it, may put anything there: what the driver was making is not made anew over
    /// it.
    pub(super) async fn end_formatting(&self, handle: &VolumeHandle) -> Result<(), OpError> {
        let made = handle.config.borrow().volume.labels.contains_key(FORMATTING_LABEL);
        match made {
            true => self.change(handle, Change::Label { key: FORMATTING_LABEL.into(), value: None }).await,
            false => Ok(()),
        }
    }

    /// Every member sees them, so they hold wherever the volume is attached next, and at once where it is.
    async fn set_io_limits(
        &self,
        handle: &VolumeHandle,
        config: &Configuration,
        asked: &api::SetVolumeRequest,
    ) -> Result<(), OpError> {
        let now = IoLimits::of(config);
        let next = IoLimits {
            iops: asked.iops.unwrap_or(now.iops),
            bytes_per_second: asked.bytes_per_second.unwrap_or(now.bytes_per_second),
        };
        match next == now {
            true => Ok(()),
            false => self.change(handle, Change::Label { key: IO_LIMITS_LABEL.into(), value: next.label() }).await,
        }
    }

    async fn set_class_write(&self, handle: &VolumeHandle, config: &Configuration) -> Result<(), OpError> {
        if config.volume.durability == Durability::Flush {
            self.change(handle, Change::Durability { durability: Durability::Write }).await?;
        }
        self.note_next_class(handle, config, None).await
    }

    /// A device without a cache has promised that what it completed is safe: it is the next one that has a cache.
    async fn set_class_flush(&self, handle: &VolumeHandle, config: &Configuration) -> Result<(), OpError> {
        if config.volume.durability == Durability::Flush {
            return Ok(());
        }
        let flush = Command::Change(Change::Durability { durability: Durability::Flush });
        match self.settled(handle, flush).await {
            Err(refusal) if refusal.rule == "durability-attached" => {
                self.note_next_class(handle, config, Some(NEXT_FLUSH)).await
            }
            Err(refusal) => Err(refused(handle)(refusal)),
            Ok(()) => self.note_next_class(handle, config, None).await,
        }
    }

    async fn note_next_class(
        &self,
        handle: &VolumeHandle,
        config: &Configuration,
        next: Option<&str>,
    ) -> Result<(), OpError> {
        if config.volume.labels.get(NEXT_CLASS_LABEL).map(String::as_str) == next {
            return Ok(());
        }
        let change = Change::Label { key: NEXT_CLASS_LABEL.into(), value: next.map(String::from) };
        self.change(handle, change).await
    }

    /// Before a session is named. What does not work out is tried again at the next attach: this one has the old class,
    /// which promises more.
    pub(super) async fn take_next_class(&self, handle: &VolumeHandle) {
        let config = handle.config.borrow().clone();
        if next_class(&config).is_none() || config.attached.is_some() {
            return;
        }
        let taken = async {
            self.hold_epoch(handle).await?;
            self.set_class_flush(handle, &config).await
        };
        if let Err(error) = taken.await {
            tracing::warn!(volume = %handle.name(), %error, "attached in class write still");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::durable;

    #[test]
    fn the_class_that_waits_is_told_from_the_one_in_force() {
        let mut config = durable().config;
        config.volume.durability = Durability::Write;
        assert_eq!(next_class(&config), None);
        config.volume.labels.insert(NEXT_CLASS_LABEL.into(), NEXT_FLUSH.into());
        assert_eq!(next_class(&config), Some(Durability::Flush));
        config.volume.durability = Durability::Flush;
        assert_eq!(next_class(&config), None, "it has come");
    }
}
