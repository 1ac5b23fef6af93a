//! Forcing a volume where no control quorum can be had, and taking in again what a fork left out.

use std::sync::Arc;

use farshore_core::api::Command;
use farshore_core::ids::{LineageId, MemberId};
use farshore_core::register::Configuration;
use farshore_proto::v1 as api;

use super::clock::random_u128;
use super::diverged_note::name_of;
use super::driver::VolumeHandle;
use super::members::find_member;
use super::node::Node;
use super::roles::refused;
use crate::control::OpError;
use crate::transport::PeerName;

impl Node {
    /// Tells what a forced promotion would give up; carries it out when it is confirmed.
    pub(super) async fn force(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::PromoteRequest,
    ) -> Result<api::ForcePlan, OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let members = named(&status.config, &request.members, handle.me)?;
        let left_out: Vec<String> = status
            .config
            .members
            .iter()
            .filter(|m| !members.contains(&m.id))
            .map(|m| format!("{}/{}", m.site, m.node))
            .collect();
        // With what the members in reach know beside this one.
        let (view, words) = self.view_and_words(handle).await?;
        let mut cost = words.cost_of_force(&view);
        if !cost.sized
            && let Some((bytes, ms)) = self.span_among(handle, &words, cost.last, cost.records).await
        {
            (cost.bytes, cost.ms, cost.sized) = (bytes, ms, true);
        }
        let mut warnings = vec![
            "if the old primary is alive and out of sight it goes on acknowledging until it meets the new lineage"
                .to_string(),
        ];
        let unproven = status.conditions.iter().filter(|c| c.name == "journal-hole");
        warnings.extend(unproven.map(|c| format!("{}: they are given up, acknowledged or not", c.text)));
        if !left_out.is_empty() {
            warnings.push(format!(
                "{} will be fenced; `farshore resync --discard` takes them in again and keeps what they had as diverged-…",
                left_out.join(", ")
            ));
        }
        let plan = api::ForcePlan {
            donor_site: self.shared.me.site.clone(),
            donor_node: self.shared.me.node.clone(),
            new_generation: status.lineage.generation + 1,
            fork_seq: status.durable.0,
            lost_records: cost.records,
            lost_bytes: cost.bytes,
            lost_ms: cost.ms,
            lost_sized: cost.sized,
            exact: cost.exact,
            unknown_ms: cost.unknown_ms,
            warnings,
        };
        if request.confirm {
            let command = Command::Force { writer: random_u128(), uuid: random_u128(), members };
            handle.command(command).await.map_err(refused(handle))?;
        }
        Ok(plan)
    }

    /// Gives up what a member holds past a fork, and makes its copy anew from ours. A copy of our own history is left alone:
    /// there would be none of it until the new one is whole. `None`: nothing is held there, as after a discard that was cut
    /// short.
    pub(super) async fn discard_and_resync(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::ResyncRequest,
    ) -> Result<Option<api::Discarded>, OpError> {
        if request.site.is_empty() {
            return Err(OpError::invalid(
                "--discard needs the member that is to be discarded",
                "name it with --member SITE",
            ));
        }
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let member = find_member(&status.config, &request.site, &request.node)?;
        if status.config.current.sync.iter().any(|s| s.member == member.id) {
            return Err(OpError::failed_precondition(
                format!("the copy in {} is in the sync set: there is nothing to discard", request.site),
                "`farshore member replace` renews a member whose disk is gone",
            ));
        }
        let peer = self.peer_of(handle, member.id)?;
        let held = self.holding_at(&peer, handle.id).await?.map(|held| held.lineage);
        if held == Some(status.lineage) {
            return Err(nothing_to_discard(&peer, status.lineage));
        }
        self.ask_set_aside(&peer, handle.id, status.lineage).await?;
        let discarded = held.map(|lineage| api::Discarded {
            lineage: lineage.to_string(),
            kept_as: match member.kind.holds_copy() {
                true => name_of(&handle.name(), lineage),
                false => String::new(),
            },
        });
        if let Some(gone) = &discarded {
            tracing::info!(volume = %handle.name(), %peer, lineage = gone.lineage, "history discarded");
        }
        self.readmit(handle, &member).await?;
        Ok(discarded)
    }
}

/// What is there is of the history that goes on.
pub(super) fn nothing_to_discard(place: &PeerName, lineage: LineageId) -> OpError {
    OpError::failed_precondition(
        format!("the copy on {place} has not diverged: it is of the volume's own lineage {lineage}, and is kept"),
        "it gets what it lacks by itself, `farshore volume show` says how far it is; `farshore member replace` renews a copy \
         whose disk is gone, or that began a new life",
    )
}

/// The members of the new lineage; only this node's when none are named.
fn named(config: &Configuration, texts: &[String], me: MemberId) -> Result<Vec<MemberId>, OpError> {
    if texts.is_empty() {
        return Ok(vec![me]);
    }
    let mut members = Vec::new();
    for text in texts {
        let (site, node) = text.split_once('/').unwrap_or((text, ""));
        members.push(find_member(config, site, node)?.id);
    }
    // Ours first: it is in the new lineage before the others answer in it.
    members.sort_by_key(|id| *id != me);
    members.dedup();
    Ok(members)
}
