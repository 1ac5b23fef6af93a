//! Promote, demote, resync and what can be said of them.
//!
//! The controller that calls this answers FAILED_PRECONDITION from a promotion by forcing it at once. So that code is
//! given only where forcing loses nothing that was acknowledged: the primary's site does not answer, and taking over
//! from it needs a quorum that has everything; or where the class says that what a copy on a schedule lacks may be lost, and
//! the old primary is fenced. Whatever else stands in the way is ABORTED: come again.

use std::collections::BTreeMap;
use std::time::SystemTime;

use farshore_proto::csiaddons::replication as rpc;
use farshore_proto::csiaddons::replication::controller_server::Controller;
use farshore_proto::csiaddons::replication::replication_destination as destination;
use farshore_proto::csiaddons::replication::replication_source::Type;
use farshore_proto::v1 as api;
use tonic::{Code, Request, Response, Status};

use super::info;
use crate::busy::Busy;
use crate::places::NodeId;
use crate::refusal::{missing, no_volume};
use crate::replicator::{Replicator, is_id};

type Reply<T> = Result<Response<T>, Status>;

/// The replicator's condition of a volume that is being moved.
const MOVES: &str = "mode-while-moving";
/// Of a VolumeReplicationClass: a copy that is shipped on a schedule may be forced to be primary when the primary's site
/// does not answer, and what it lacks is lost.
const LOSSY_FAILOVER: &str = "lossyFailover";
const ALLOWED: &str = "allowed";
/// What a VolumeReplicationClass may say. How often copies follow is the volume's `rpo`: the interval is for who polls.
const KNOWN_PARAMETERS: [&str; 2] = ["schedulingInterval", LOSSY_FAILOVER];

#[derive(Clone)]
pub struct Addons {
    replicator: Replicator,
    busy: Busy,
}

/// The volume that a request means, also where an old caller fills in the field of old.
fn named(source: Option<&rpc::ReplicationSource>, old: &str) -> Result<String, Status> {
    let id = match source.and_then(|source| source.r#type.as_ref()) {
        Some(Type::Volume(of)) => of.volume_id.as_str(),
        Some(Type::Volumegroup(_)) => {
            return Err(Status::unimplemented("groups of volumes are not replicated as one in this version"));
        }
        None => old,
    };
    match id {
        "" => Err(missing("replication_source.volume.volume_id")),
        id if !is_id(id) => Err(no_volume(id)),
        id => Ok(id.into()),
    }
}

fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<(), Status> {
    match parameters.keys().find(|key| !KNOWN_PARAMETERS.contains(&key.as_str())) {
        Some(key) => Err(Status::invalid_argument(format!(
            "parameter {key:?} is not known; the known ones are: {}",
            KNOWN_PARAMETERS.join(", ")
        ))),
        None => match parameters.get(LOSSY_FAILOVER).map(String::as_str) {
            None | Some("" | ALLOWED | "never") => Ok(()),
            Some(other) => Err(Status::invalid_argument(format!(
                "{LOSSY_FAILOVER} {other:?} is not known; use {ALLOWED} (a copy on a schedule is forced when the primary's \
                 site is silent, and what it lacks is lost) or never"
            ))),
        },
    }
}

/// Where the primary was, nothing writes any more: the register that was heard last says that the site may not, and names
/// nobody. Its holder has them both in its own copy of it, and names nobody only once the device is gone.
fn is_fenced(volume: &api::VolumeStatus) -> bool {
    volume.attached.is_none() && volume.fenced_sites.contains(&volume.primary_site)
}

/// Without a copy in another site nothing is replicated.
fn refuse_alone(volume: &api::VolumeStatus, here: &str) -> Result<(), Status> {
    if !info::remotes(volume, here).is_empty() {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "volume {} has no copy in another site: its StorageClass names none, or add one with farshore member add",
        volume.name
    )))
}

/// Never FAILED_PRECONDITION, which would be answered with force.
fn come_again(status: Status) -> Status {
    match status.code() {
        Code::FailedPrecondition => Status::aborted(status.message()),
        _ => status,
    }
}

impl Addons {
    pub fn new(replicator: Replicator) -> Addons {
        Addons { replicator, busy: Busy::default() }
    }

    async fn promote(&self, id: &str, force: bool, lossy: bool) -> Result<(), Status> {
        let volume = self.replicator.volume(id).await?;
        let here = self.replicator.place().await?;
        if volume.primary_site == here.site {
            return Ok(());
        }
        let whole = info::copies(&volume, &here.site).iter().any(|copy| copy.in_sync_set);
        let answers = volume.members.iter().any(|m| m.site == volume.primary_site && m.connected);
        let Some(attached) = &volume.attached else {
            // Nobody writes, so nothing is taken from anybody. It needs the quorum, and says so where it has none.
            let moves = volume.conditions.iter().any(|c| c.name == MOVES);
            return match (whole, answers) {
                // The other site holds the right to write, for the sake of the move alone.
                (true, true) if moves => self.replicator.switch_over(id, &here).await.map_err(come_again),
                (true, _) => self.replicator.promote(id).await.map_err(come_again),
                (false, true) => self.have_it_whole(&volume, &here).await,
                (false, false) => self.force(&volume, force, lossy).await,
            };
        };
        let of_site = |m: &&api::MemberStatus| m.site == attached.site;
        if volume.members.iter().filter(of_site).any(|m| m.connected) {
            return Err(Status::aborted(format!(
                "volume {} is attached in {} ({}), which answers: stop its pods there, then demote it",
                volume.name, attached.site, attached.node
            )));
        }
        if !whole {
            return self.force(&volume, force, lossy).await;
        }
        if !force {
            return Err(Status::failed_precondition(format!(
                "volume {} is attached in {}, which does not answer: with force it is taken over, and nothing that was \
                 acknowledged is lost",
                volume.name, attached.site
            )));
        }
        tracing::warn!(volume = %volume.name, from = %attached.site, "taken over by force");
        self.replicator.fail_over(id, &attached.site).await.map_err(come_again)
    }

    /// A planned move to a copy that the volume's mode leaves behind: nothing is lost, it takes until that has all.
    async fn have_it_whole(&self, volume: &api::VolumeStatus, here: &NodeId) -> Result<(), Status> {
        self.replicator.prepare_move(&volume.id, here).await.map_err(come_again)?;
        Err(Status::aborted(format!(
            "the copy of volume {} in {} receives what it lacks, then it is promoted",
            volume.name, here.site
        )))
    }

    /// A copy that lacks what was acknowledged, and nobody to get it from. That its home is silent, as this node hears it, does
    /// not mean that it is dead: with its votes it goes on alone, and what is begun here is a second history.
    async fn force(&self, volume: &api::VolumeStatus, force: bool, lossy: bool) -> Result<(), Status> {
        let (name, home) = (&volume.name, &volume.primary_site);
        if !lossy {
            return Err(Status::aborted(format!(
                "volume {name} follows {home} from behind, which does not answer: a promotion here loses what this copy \
                 lacks, and its VolumeReplicationClass does not say {LOSSY_FAILOVER}: {ALLOWED}. Look at the figures in \
                 farshore status; by hand: farshore promote {name} --force"
            )));
        }
        if !is_fenced(volume) {
            return Err(Status::aborted(format!(
                "volume {name} follows {home} from behind, which does not answer, and is not known to be fenced: it may be \
                 written there still, in a history of its own. Bring {home} back; or make sure that nothing writes there any \
                 more (its nodes are off), then by hand: farshore promote {name} --force. Before a site is taken down: \
                 farshore fence {home} {name}, while it answers"
            )));
        }
        if !force {
            return Err(Status::failed_precondition(format!(
                "volume {name} follows {home} from behind, which is fenced and does not answer: with force this copy goes on, and what \
                 it lacks is lost, as its VolumeReplicationClass allows"
            )));
        }
        tracing::warn!(volume = %name, from = %home, "taken over by force, with loss: its class allows it");
        self.replicator.force(&volume.id).await.map_err(come_again)
    }

    async fn demote(&self, id: &str) -> Result<(), Status> {
        let volume = self.replicator.volume(id).await?;
        let here = self.replicator.place().await?.site;
        if volume.primary_site != here {
            return Ok(());
        }
        if let Some(attached) = &volume.attached {
            return Err(Status::failed_precondition(format!(
                "volume {} is in use on {}/{}: stop its pods first",
                volume.name, attached.site, attached.node
            )));
        }
        match self.replicator.demote(id).await {
            // Nobody held the right to write: it is given up already.
            Err(status) if status.code() == Code::FailedPrecondition => {
                let now = self.replicator.volume(id).await?;
                if now.role() == api::Role::Primary { Err(status) } else { Ok(()) }
            }
            other => other,
        }
    }

    /// Whether this site's copy is as good as the primary's; gives a diverged one up where force says so. False only while what
    /// it lacks is on its way: else whoever polls would wait for ever.
    async fn resync(&self, id: &str, force: bool) -> Result<bool, Status> {
        let volume = self.replicator.volume(id).await?;
        let here = self.replicator.place().await?;
        if volume.role() == api::Role::Primary {
            return Err(Status::failed_precondition(format!(
                "volume {} is primary here: demote it before it is resynced",
                volume.name
            )));
        }
        let own = info::copies(&volume, &here.site);
        if let Some(diverged) = own.iter().find(|m| m.state == "diverged") {
            if !force {
                return Err(Status::aborted(format!(
                    "the copy of volume {} on {}/{} has a history of its own: with autoResync it is given up for the \
                     primary's, else look at it first",
                    volume.name, diverged.site, diverged.node
                )));
            }
            self.replicator.discard(id, &here).await.map_err(come_again)?;
            return Ok(false);
        }
        if own.is_empty() {
            return Err(Status::failed_precondition(format!(
                "volume {} has no copy in {}: farshore member add {} {}",
                volume.name, here.site, volume.name, here.site
            )));
        }
        let lacking: Vec<&api::MemberStatus> = own.into_iter().filter(|m| !info::follows(&volume, m)).collect();
        if lacking.is_empty() {
            return Ok(true);
        }
        let of_primary = |m: &&api::MemberStatus| m.site == volume.primary_site;
        if volume.primary_site != here.site && !volume.members.iter().filter(of_primary).any(|m| m.connected) {
            return Err(Status::aborted(format!(
                "the copy of volume {} here lacks something, and {}, where its primary is, does not answer",
                volume.name, volume.primary_site
            )));
        }
        if let Some((stuck, why)) = lacking.iter().find_map(|m| Some((m, info::stands_still(&volume, m)?))) {
            return Err(Status::aborted(format!(
                "the copy of volume {} on {}/{} lacks something, and does not receive it: {why}; see farshore status",
                volume.name, stuck.site, stuck.node
            )));
        }
        Ok(false)
    }
}

#[tonic::async_trait]
impl Controller for Addons {
    async fn enable_volume_replication(
        &self,
        request: Request<rpc::EnableVolumeReplicationRequest>,
    ) -> Reply<rpc::EnableVolumeReplicationResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        check_parameters(&request.parameters)?;
        let volume = self.replicator.volume(&id).await?;
        let here = self.replicator.place().await?.site;
        refuse_alone(&volume, &here)?;
        Ok(Response::new(rpc::EnableVolumeReplicationResponse {}))
    }

    /// Replication is what the volume is made of: that a resource no longer speaks of it changes nothing.
    async fn disable_volume_replication(
        &self,
        request: Request<rpc::DisableVolumeReplicationRequest>,
    ) -> Reply<rpc::DisableVolumeReplicationResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        self.replicator.volume(&id).await?;
        Ok(Response::new(rpc::DisableVolumeReplicationResponse {}))
    }

    async fn promote_volume(&self, request: Request<rpc::PromoteVolumeRequest>) -> Reply<rpc::PromoteVolumeResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        check_parameters(&request.parameters)?;
        let lossy = request.parameters.get(LOSSY_FAILOVER).is_some_and(|value| value == ALLOWED);
        let (addons, key) = (self.clone(), id.clone());
        self.busy.alone(&key, async move { addons.promote(&id, request.force, lossy).await }).await?;
        Ok(Response::new(rpc::PromoteVolumeResponse {}))
    }

    async fn demote_volume(&self, request: Request<rpc::DemoteVolumeRequest>) -> Reply<rpc::DemoteVolumeResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        check_parameters(&request.parameters)?;
        let (addons, key) = (self.clone(), id.clone());
        self.busy.alone(&key, async move { addons.demote(&id).await }).await?;
        Ok(Response::new(rpc::DemoteVolumeResponse {}))
    }

    async fn resync_volume(&self, request: Request<rpc::ResyncVolumeRequest>) -> Reply<rpc::ResyncVolumeResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        check_parameters(&request.parameters)?;
        let (addons, key) = (self.clone(), id.clone());
        let ready = self.busy.alone(&key, async move { addons.resync(&id, request.force).await }).await?;
        Ok(Response::new(rpc::ResyncVolumeResponse { ready }))
    }

    async fn get_volume_replication_info(
        &self,
        request: Request<rpc::GetVolumeReplicationInfoRequest>,
    ) -> Reply<rpc::GetVolumeReplicationInfoResponse> {
        let request = request.into_inner();
        let id = named(request.replication_source.as_ref(), &request.volume_id)?;
        let volume = self.replicator.volume(&id).await?;
        let here = self.replicator.place().await?.site;
        if volume.primary_site != here {
            return Err(Status::failed_precondition(format!(
                "volume {} is primary in {}: ask there",
                volume.name, volume.primary_site
            )));
        }
        refuse_alone(&volume, &here)?;
        Ok(Response::new(info::described(&volume, &here, SystemTime::now())))
    }

    /// A volume has one id in every site.
    async fn get_replication_destination_info(
        &self,
        request: Request<rpc::GetReplicationDestinationInfoRequest>,
    ) -> Reply<rpc::GetReplicationDestinationInfoResponse> {
        let id = named(request.into_inner().replication_source.as_ref(), "")?;
        let volume_id = self.replicator.volume(&id).await?.id;
        let there = rpc::ReplicationDestination {
            r#type: Some(destination::Type::Volume(destination::VolumeDestination { volume_id })),
        };
        Ok(Response::new(rpc::GetReplicationDestinationInfoResponse { replication_destination: Some(there) }))
    }
}
