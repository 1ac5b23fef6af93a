//! Taking a volume over from a lost site, with or without leaving that site's replicas out of the sync set.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::api::{Change, Command, Promotion};
use farshore_core::register::{Configuration, DataRule, SyncMember};

use super::clock::random_u128;
use super::driver::VolumeHandle;
use super::node::Node;
use super::roles::refused;
use crate::control::OpError;

/// Beyond the old lease: what a take-over needs for its rounds and for the tail of the log.
const PATIENCE: Duration = Duration::from_secs(15);
/// Until a promotion that is under way here has ended.
const RUNNING_PAUSE: Duration = Duration::from_millis(50);
/// Between attempts to leave the lost site out, which is possible once the epoch is won.
const REDUCE_PAUSE: Duration = Duration::from_millis(50);

impl Node {
    /// Promotes here although the primary may be alive. With `without`, that site's replicas leave the sync set before
    /// the epoch opens, and the rule is reduced to what the others can meet: so a layout of two sites and a witness
    /// goes on after one is lost. Recorded in the register, shown by status, undone when they are whole again.
    pub(super) async fn take_over(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        without: Option<&str>,
    ) -> Result<(), OpError> {
        let promotion = self.promote_here(handle, Promotion::Takeover);
        let reduced = async {
            if let Some(site) = without {
                self.leave_out(handle, site).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = promotion => result,
            () = reduced => Ok(()),
        }
    }

    pub(super) async fn promote_here(&self, handle: &VolumeHandle, why: Promotion) -> Result<(), OpError> {
        self.patiently(handle, Command::Promote { writer: random_u128(), why }).await
    }

    /// A command that is answered when the volume opens. It goes on when our patience ends; whom it waits for is named.
    pub(super) async fn patiently(&self, handle: &VolumeHandle, command: Command) -> Result<(), OpError> {
        let lease = Duration::from_micros(handle.config.borrow().volume.lease_us);
        let answered = async {
            loop {
                match self.settled(handle, command.clone()).await {
                    // A daemon that came back tries to take its own device back, and gives up when it may not.
                    Err(refusal) if refusal.rule == "promote-running" => tokio::time::sleep(RUNNING_PAUSE).await,
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(lease + PATIENCE, answered).await {
            Ok(result) => result.map_err(refused(handle)),
            Err(_) => Err(waits_for(handle).await),
        }
    }

    /// Is the volume's primary in that site, or was, and our take-over waits for the data quorum?
    pub(super) async fn is_taken_over_from(&self, handle: &VolumeHandle, site: &str) -> bool {
        if handle.config.borrow().current.primary_site == site {
            return true;
        }
        let Some(status) = handle.status().await else { return false };
        status.role == "primary"
            && status.state == crate::control::states::volume::PROMOTING
            && status.config.members.iter().any(|m| m.site == site)
    }

    /// Tries until the promotion is far enough along to accept the change.
    async fn leave_out(&self, handle: &Arc<VolumeHandle>, site: &str) {
        loop {
            let Some(status) = handle.status().await else { return };
            if status.role == "primary" {
                let Some(change) = reduction(&status.config, site, &self.shared.me.site) else { return };
                match handle.command(Command::Change(change)).await {
                    Ok(()) => return,
                    Err(refusal) => tracing::info!(volume = %handle.name(), rule = refusal.rule, "{}", refusal.text),
                }
            }
            tokio::time::sleep(REDUCE_PAUSE).await;
        }
    }
}

/// The change that leaves a site out; `None` where the rule can be met without it anyway.
fn reduction(config: &Configuration, site: &str, home: &str) -> Option<Change> {
    let terms = &config.current;
    let without: Vec<_> = terms.sync.iter().filter(|m| m.site == site).map(|m| m.member).collect();
    let left: Vec<SyncMember> = terms.sync.iter().filter(|m| m.site != site).cloned().collect();
    // A rule that wants a copy here is not given up for the want of one.
    let rule = DataRule { local: terms.rule.local, ..terms.rule.reduced_to(&left, home) };
    (!without.is_empty() && rule != terms.rule).then_some(Change::Reduce { without, rule })
}

async fn waits_for(handle: &VolumeHandle) -> OpError {
    let name = handle.name();
    let Some(status) = handle.status().await else {
        return OpError::unavailable(format!("volume {name} is stopping"), "try again");
    };
    let rule = status.config.current.rule;
    let silent: Vec<String> = status
        .members
        .iter()
        .filter(|m| m.in_sync_set && matches!(m.state, "unreachable" | "unknown"))
        .filter_map(|m| status.config.member(m.id))
        .map(|m| format!("{}/{}", m.site, m.node))
        .collect();
    OpError::unavailable(
        format!("volume {name} is not open yet: too few copies acknowledge (no answer from {})", silent.join(", ")),
        "it goes on by itself when they answer; where their site is lost: `farshore failover --from SITE --reduce`",
    )
    .because(format!("its rule needs {} copies, in {} remote sites", rule.w, rule.min_remote))
}
