//! Who holds a copy: add, remove, replace, resize. All of it at the epoch's holder, as changes of the register.

use std::sync::Arc;

use farshore_core::api::{Change, Command, Refusal};
use farshore_core::durable::Durable;
use farshore_core::ids::{Incarnation, MemberId};
use farshore_core::register::{Configuration, DataRule, Member, MemberKind};
use farshore_proto::v1 as api;

use super::clock::random_u128;
use super::create::{member_kind, name_error, rule_for};
use super::driver::VolumeHandle;
use super::node::Node;
use super::roles::refused;
use crate::control::OpError;
use crate::transport::PeerName;

/// Between two looks at whether a new copy is whole.
const SYNC_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// A change waits this long for the one before it.
const PENDING_RETRIES: usize = 50;
const PENDING_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

impl Node {
    /// One change of the register, after those that are on their way.
    pub(super) async fn change(&self, handle: &VolumeHandle, change: Change) -> Result<(), OpError> {
        self.settled(handle, Command::Change(change)).await.map_err(refused(handle))
    }

    /// A command that can't be given while the register is being written: it waits for that.
    pub(super) async fn settled(&self, handle: &VolumeHandle, command: Command) -> Result<(), Refusal> {
        let mut retries = PENDING_RETRIES;
        loop {
            match handle.command(command.clone()).await {
                Err(refusal) if refusal.rule == "change-pending" && retries > 0 => {
                    retries -= 1;
                    tokio::time::sleep(PENDING_PAUSE).await;
                }
                other => return other,
            }
        }
    }

    /// Is the epoch held here? Else the name of the node to ask.
    pub(super) async fn elsewhere(&self, handle: &VolumeHandle) -> Result<Option<PeerName>, OpError> {
        match self.holder(handle).await {
            Some(holder) if holder == handle.me => Ok(None),
            Some(holder) => self.peer_of(handle, holder).map(Some),
            None => Err(OpError::unavailable("no primary is known", "promote a site first")),
        }
    }

    pub(super) async fn add_member(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        spec: &api::MemberSpec,
    ) -> Result<(), OpError> {
        let node = self.choose_node(&spec.site, &spec.node)?;
        let config = self.once_left(handle, &spec.site, &node).await?;
        let id = MemberId(config.members.iter().map(|m| m.id.0).max().unwrap_or(0) + 1);
        let member = Member { id, site: spec.site.clone(), node, kind: member_kind(spec) };
        if config.members.iter().any(|m| m.site == member.site && m.node == member.node) {
            return Err(OpError::already_exists(
                format!("{}/{} is a member already", member.site, member.node),
                "`farshore member replace` renews a member whose disk is gone",
            ));
        }
        let votes = if member.kind == MemberKind::Observer { 0 } else { spec.votes.clamp(1, 255) as u8 };
        let incarnation = Incarnation(random_u128());
        let peer = self.join_as(handle, &member, incarnation).await?;
        if let Err(error) = self.change(handle, Change::Add { member: member.clone(), incarnation, votes }).await {
            let _ = self.ask_forget(&peer, handle.id).await;
            return Err(error);
        }
        self.refit_rule(handle, |_| true).await
    }

    /// The register, when whoever was there has left for good: a removal is answered when it is certain, and that is a
    /// little earlier.
    async fn once_left(&self, handle: &VolumeHandle, site: &str, node: &str) -> Result<Configuration, OpError> {
        let leaves = |m: &Member| m.site == site && m.node == node && m.kind == MemberKind::Leaving;
        for _ in 0..PENDING_RETRIES {
            let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
            if !status.config.members.iter().any(leaves) {
                return Ok(status.config);
            }
            tokio::time::sleep(PENDING_PAUSE).await;
        }
        Err(OpError::unavailable(
            format!("{site}/{node} is still being taken out of volume {}", handle.name()),
            "see `farshore status` for what that waits for, then try again",
        ))
    }

    pub(super) async fn join_as(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        member: &Member,
        incarnation: Incarnation,
    ) -> Result<PeerName, OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let mut config = status.config.clone();
        if config.member(member.id).is_none() {
            config.members.push(member.clone());
        }
        let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
        // Its log will hold records from before the last fork, too.
        let durable =
            Durable { parents: status.parents, ..Durable::first(member.id, incarnation, status.lineage, config) };
        self.join(&peer, handle.id, &durable).await?;
        Ok(peer)
    }

    /// A named policy's numbers follow the members that were asked for.
    async fn refit_rule(&self, handle: &VolumeHandle, keep: impl Fn(&Member) -> bool) -> Result<(), OpError> {
        let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
        let Some(rule) = refitted(&status.config, keep)? else { return Ok(()) };
        let policy = status.config.volume.policy.clone();
        self.change(handle, Change::Rule { policy, rule }).await
    }

    pub(super) async fn remove_member(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        site: &str,
        node: &str,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let member = find_member(&config, site, node)?;
        // An observer that stands in for it stays for good, where the rule wants one more.
        let stood_in = config.stood_in_for(member.id).is_some();
        if !stood_in {
            self.refit_rule(handle, |m| m.id != member.id).await?;
        }
        self.change(handle, Change::Remove { member: member.id }).await?;
        if stood_in {
            self.refit_rule(handle, |_| true).await?;
        }
        let peer = PeerName::new(&member.site, &member.node).map_err(name_error)?;
        if let Err(error) = self.ask_forget(&peer, handle.id).await {
            tracing::warn!(%peer, %error, "the removed member could not be told; its copy stays until it is deleted there");
        }
        Ok(())
    }

    pub(super) async fn replace_member(
        self: &Arc<Self>,
        handle: &Arc<VolumeHandle>,
        request: &api::ReplaceMemberRequest,
    ) -> Result<(), OpError> {
        let config = handle.config.borrow().clone();
        let member = find_member(&config, &request.site, &request.node)?;
        let elsewhere = |w: &&api::MemberSpec| {
            !w.site.is_empty() && (w.site != member.site || (!w.node.is_empty() && w.node != member.node))
        };
        if let Some(with) = request.with.as_ref().filter(elsewhere) {
            // Another place: the new copy is whole before the old one goes.
            self.add_member(handle, with).await?;
            if member.kind == MemberKind::Data && !config.follows_behind(&member) {
                self.until_in_sync(handle, with).await?;
            }
            // Who is there in its place is no observer.
            self.refit_rule(handle, |m| m.id != member.id).await?;
            return self.remove_member(handle, &member.site, &member.node).await;
        }
        if self.readmit_as_it_is(handle, &member).await? {
            return Ok(());
        }
        self.readmit(handle, &member).await
    }

    /// Gives a member a new copy under a new incarnation, or leaves things as they were.
    pub(super) async fn readmit(self: &Arc<Self>, handle: &Arc<VolumeHandle>, member: &Member) -> Result<(), OpError> {
        let incarnation = Incarnation(random_u128());
        let peer = self.join_as(handle, member, incarnation).await?;
        let result = self.change(handle, Change::Readmit { member: member.id, incarnation }).await;
        if result.is_err() {
            // So that it can be tried again.
            let _ = self.ask_forget(&peer, handle.id).await;
        }
        result
    }
}

impl Node {
    /// Waits until the member has entered the sync set, however long its copy takes.
    async fn until_in_sync(&self, handle: &VolumeHandle, spec: &api::MemberSpec) -> Result<(), OpError> {
        loop {
            let status = handle.status().await.ok_or_else(|| OpError::internal("the volume stopped"))?;
            let member = find_member(&status.config, &spec.site, &spec.node)?;
            if status.config.current.sync.iter().any(|s| s.member == member.id) {
                return Ok(());
            }
            if status.role != "primary" {
                return Err(OpError::conflict(
                    format!("the epoch moved while {} was being copied; the old member stays", spec.site),
                    "run the replacement again at the primary",
                ));
            }
            tokio::time::sleep(SYNC_PAUSE).await;
        }
    }
}

pub(super) fn find_member(config: &Configuration, site: &str, node: &str) -> Result<Member, OpError> {
    let meant = config.members.iter().filter(|m| m.site == site && (node.is_empty() || m.node == node));
    meant.min_by_key(|m| (m.kind == MemberKind::Diskless, m.id)).cloned().ok_or_else(|| {
        OpError::not_found(
            format!("volume {} has no member in {site}", config.volume.name),
            "see `farshore volume show` for its members",
        )
    })
}

fn refitted(config: &Configuration, keep: impl Fn(&Member) -> bool) -> Result<Option<DataRule>, OpError> {
    let sites: Vec<&str> = config.asked_for(config.volume.mode).filter(|m| keep(m)).map(|m| m.site.as_str()).collect();
    let next = rule_for(config, &sites)?;
    Ok((next != config.volume.rule).then_some(next))
}
