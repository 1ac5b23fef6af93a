//! Making volumes, once for each name, and deleting them.

use std::collections::{BTreeMap, BTreeSet};

use farshore_proto::csi;
use farshore_proto::csi::volume_content_source as source;
use farshore_proto::v1 as api;
use tonic::Status;

use super::cluster::Cluster;
use super::placement;
use super::volume::{described, runs_anywhere, source_label};
use crate::capability::{self, Usage};
use crate::claims;
use crate::names::{KUBERNETES_PREFIX, LABEL_NAME, LABEL_PLACEMENT, LABEL_SOURCE, LABELS_OF_REPLICATOR, PLACEMENT_ANY};
use crate::parameters::{self, Parameters};
use crate::places::NodeId;
use crate::refusal::given;
use crate::replicator::is_id;
use crate::sizes::{self, Range, SIZE_BYTES_DEFAULT};

/// Of a volume's name in Farshore, and of a snapshot's.
const NAME_LEN_MAX: usize = 63;

/// A name that Farshore takes: the orchestrator's own where it can be, else one made from it, always the same.
pub(super) fn farshore_name(asked: &str) -> String {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let good = asked.len() <= NAME_LEN_MAX && ends(asked.chars().next()) && ends(asked.chars().last());
    // A name that looks like an id would be taken for one.
    if good && asked.chars().all(inside) && !is_id(asked) {
        return asked.into();
    }
    format!("csi-{}", &blake3::hash(asked.as_bytes()).to_hex()[..40])
}

/// What a request comes to.
struct Plan {
    asked_name: String,
    name: String,
    range: Range,
    usages: Vec<Usage>,
    /// For many nodes to read, and none to write.
    read_only: bool,
    parameters: Parameters,
    source: Option<csi::VolumeContentSource>,
    topology: Option<csi::TopologyRequirement>,
}

impl Cluster {
    pub(super) async fn create_volume(
        &self,
        request: csi::CreateVolumeRequest,
    ) -> Result<csi::CreateVolumeResponse, Status> {
        let plan = plan(request)?;
        let (cluster, key) = (self.clone(), plan.name.clone());
        let volume = self.busy.alone(&key, async move { cluster.make(plan).await }).await?;
        Ok(csi::CreateVolumeResponse { volume: Some(volume) })
    }

    async fn make(&self, plan: Plan) -> Result<csi::Volume, Status> {
        let nodes = self.replicator.nodes().await?;
        let place = |holders: Option<&[NodeId]>| {
            placement::members(&plan.parameters, plan.topology.as_ref(), &nodes, holders, &plan.name)
        };
        let here = nodes[0].0.site.clone();
        if let Some(existing) = self.replicator.find(&plan.name).await? {
            // What it began with may be gone by now.
            same(&existing, &plan, &place(None)?)?;
            return self.finished(existing, plan.source.as_ref(), &here).await;
        }
        let (source_bytes, holders, mut request) = self.sourced(plan.source.as_ref()).await?;
        let members = place(holders.as_deref())?;
        let otherwise = if source_bytes > 0 { source_bytes } else { SIZE_BYTES_DEFAULT };
        if source_bytes > plan.range.limit {
            return Err(Status::out_of_range(format!(
                "the source has {source_bytes} bytes, more than the limit of {}: raise the limit",
                plan.range.limit
            )));
        }
        if plan.range.required > 0 && plan.range.required < source_bytes {
            return Err(Status::out_of_range(format!(
                "the source has {source_bytes} bytes, more than the {} that were asked for: ask for at least as many",
                plan.range.required
            )));
        }
        request.size_bytes = plan.range.choose(otherwise)?;
        for usage in &plan.usages {
            usage.check_size(request.size_bytes)?;
        }
        let size_bytes = request.size_bytes;
        request.name = plan.name.clone();
        request.read_only = plan.read_only;
        request.members = members.clone();
        request.policy = Some(plan.parameters.policy);
        request.labels = plan.parameters.labels;
        request.labels.extend(self.origin(&request.labels, &plan.usages).await?);
        request.labels.insert(LABEL_NAME.into(), plan.asked_name);
        if plan.parameters.any_node {
            request.labels.insert(LABEL_PLACEMENT.into(), PLACEMENT_ANY.into());
        }
        if let Some(label) = plan.source.as_ref().and_then(source_label) {
            request.labels.insert(LABEL_SOURCE.into(), label);
        }
        let labels = request.labels.clone();
        let made = self.replicator.create(request).await?;
        // Where this node holds no copy, the answer has a name and an id only; a volume without topology could run anywhere.
        let volume = self.replicator.find(&made.id).await?.unwrap_or(api::VolumeStatus {
            size_bytes,
            members: members.into_iter().map(member_status).collect(),
            labels: labels.into_iter().collect(),
            ..made
        });
        tracing::info!(volume = %volume.name, id = %volume.id, "volume made");
        Ok(described(&volume, &here))
    }

    /// What another cluster needs to know of the claim, beside its name.
    async fn origin(
        &self,
        labels: &BTreeMap<String, String>,
        usages: &[Usage],
    ) -> Result<BTreeMap<String, String>, Status> {
        let said = |key: &str| labels.get(&format!("{KUBERNETES_PREFIX}{key}"));
        match (&self.kubernetes, said("pvc/namespace"), said("pvc/name")) {
            (Some(kubernetes), Some(namespace), Some(claim)) => {
                let (cluster, class) = kubernetes.origin(namespace, claim).await?;
                Ok(claims::labels(usages, &cluster, &class))
            }
            _ => Ok(BTreeMap::new()),
        }
    }

    /// A creation that was cut short may not have reached every member yet: asked again, with all that was asked for, the
    /// replicators finish it. A copy of something they make anew, under another id.
    async fn finished(
        &self,
        existing: api::VolumeStatus,
        source: Option<&csi::VolumeContentSource>,
        here: &str,
    ) -> Result<csi::Volume, Status> {
        // Of a register that nobody has written since the creation.
        if !existing.config_version.starts_with("0.") {
            return Ok(described(&existing, here));
        }
        // As they were asked for: by the mode some of them only observe.
        let kind = |m: &api::MemberStatus| match m.kind() {
            api::MemberKind::Witness => api::MemberKind::Witness,
            _ => api::MemberKind::Data,
        };
        let members = existing.members.iter().map(|m| api::MemberSpec {
            site: m.site.clone(),
            node: m.node.clone(),
            kind: kind(m).into(),
            votes: 1,
        });
        let given = |(key, _): &(&String, &String)| !key.starts_with(LABELS_OF_REPLICATOR);
        let labels = existing.labels.iter().filter(given).map(|(key, value)| (key.clone(), value.clone()));
        let request = api::CreateVolumeRequest {
            name: existing.name.clone(),
            size_bytes: existing.size_bytes,
            block_size_bytes: existing.block_size_bytes,
            members: members.collect(),
            policy: existing.policy.clone(),
            labels: labels.collect(),
            read_only: existing.read_only,
            ..named(source)
        };
        let made = self.replicator.create(request).await?;
        let volume = self.replicator.find(&made.id).await?.unwrap_or(api::VolumeStatus { id: made.id, ..existing });
        Ok(described(&volume, here))
    }

    /// The source's size, who has it, and a request that names it.
    async fn sourced(
        &self,
        source: Option<&csi::VolumeContentSource>,
    ) -> Result<(u64, Option<Vec<NodeId>>, api::CreateVolumeRequest), Status> {
        let request = named(source);
        let (bytes, holders) = match source.and_then(|source| source.r#type.as_ref()) {
            None => (0, None),
            Some(source::Type::Snapshot(of)) => {
                let found = self.replicator.find_snapshot(&of.snapshot_id).await?;
                let found = found.ok_or_else(|| {
                    Status::not_found(format!("snapshot {:?} is not known in this site", of.snapshot_id))
                })?;
                let holders: Vec<NodeId> = found.holders.iter().filter_map(|holder| holder.parse().ok()).collect();
                // A replicator of an earlier version does not say.
                (found.size_bytes, Some(holders).filter(|holders| !holders.is_empty()))
            }
            Some(source::Type::Volume(of)) => {
                let found = self.replicator.volume(&of.volume_id).await?;
                let holds =
                    |m: &&api::MemberStatus| matches!(m.kind(), api::MemberKind::Data | api::MemberKind::Observer);
                let holders = found.members.iter().filter(holds).map(|m| NodeId::new(&m.site, &m.node)).collect();
                (found.size_bytes, Some(holders))
            }
        };
        Ok((bytes, holders, request))
    }

    pub(super) async fn delete_volume(
        &self,
        request: csi::DeleteVolumeRequest,
    ) -> Result<csi::DeleteVolumeResponse, Status> {
        let id = given("volume_id", &request.volume_id)?.to_string();
        if !is_id(&id) {
            return Ok(csi::DeleteVolumeResponse {});
        }
        let (cluster, key) = (self.clone(), id.clone());
        self.busy.alone(&key, async move { cluster.unmake(&id).await }).await?;
        Ok(csi::DeleteVolumeResponse {})
    }

    async fn unmake(&self, id: &str) -> Result<(), Status> {
        let Some(volume) = self.replicator.find(id).await? else { return Ok(()) };
        let here = self.replicator.place().await?.site;
        // After a failover the claim that is left in the lost cluster must not take the data along.
        if !volume.primary_site.is_empty() && volume.primary_site != here {
            return Err(Status::failed_precondition(format!(
                "volume {} lives in site {} now: delete its claim there, and keep (Retain) or remove the one here",
                volume.name, volume.primary_site
            )));
        }
        if let Some(attached) = volume.attached.as_ref().or(volume.readers.first()) {
            return Err(Status::failed_precondition(format!(
                "volume {} is published on {}/{}: unpublish it first",
                volume.name, attached.site, attached.node
            )));
        }
        self.replicator.delete(id).await
    }
}

/// A request that names what the volume begins with, and nothing else.
fn named(source: Option<&csi::VolumeContentSource>) -> api::CreateVolumeRequest {
    let (source_snapshot, source_volume) = match source.and_then(|source| source.r#type.as_ref()) {
        None => Default::default(),
        Some(source::Type::Snapshot(of)) => (of.snapshot_id.clone(), String::new()),
        Some(source::Type::Volume(of)) => (String::new(), of.volume_id.clone()),
    };
    api::CreateVolumeRequest { source_snapshot, source_volume, ..Default::default() }
}

fn plan(request: csi::CreateVolumeRequest) -> Result<Plan, Status> {
    let asked_name = given("name", &request.name)?.to_string();
    let usages = capability::all(&request.volume_capabilities)?;
    let range = sizes::range(request.capacity_range.as_ref())?;
    let mut parameters = parameters::read(&request.parameters)?;
    if !request.mutable_parameters.is_empty() {
        let changed = parameters::read_mutable(&request.mutable_parameters)?;
        parameters.policy = overlaid(parameters.policy, changed.policy, &request.mutable_parameters);
    }
    if let Some(source) = &request.volume_content_source
        && source.r#type.is_none()
    {
        return Err(crate::refusal::missing("volume_content_source.type"));
    }
    let read_only = usages.iter().any(Usage::many_read);
    if read_only && !usages.iter().all(Usage::reads_only) {
        return Err(Status::invalid_argument(
            "a volume is written on one node or read on many, not both: leave ReadOnlyMany out, or make a claim of its own \
             for it",
        ));
    }
    if read_only && request.volume_content_source.is_none() {
        return Err(Status::invalid_argument(
            "a volume that many nodes read is never written, so it would stay empty: give the claim a VolumeSnapshot or \
             another claim as its dataSource, or use ReadWriteOnce",
        ));
    }
    Ok(Plan {
        read_only,
        name: farshore_name(&asked_name),
        asked_name,
        range,
        usages,
        parameters,
        source: request.volume_content_source,
        topology: request.accessibility_requirements,
    })
}

/// A policy with what a VolumeAttributesClass names in place of what the StorageClass said.
fn overlaid(
    mut policy: api::Policy,
    by: api::Policy,
    named: &std::collections::BTreeMap<String, String>,
) -> api::Policy {
    if named.contains_key("quorum") {
        policy.quorum = by.quorum.clone();
        (policy.w, policy.min_remote, policy.local_required) = (by.w, by.min_remote, by.local_required);
    }
    if named.contains_key("durability") {
        policy.set_durability(by.durability());
    }
    if named.contains_key("onQuorumLoss") {
        policy.set_on_quorum_loss(by.on_quorum_loss());
        policy.fence_after_ms = by.fence_after_ms;
    }
    if named.contains_key("iops") {
        policy.iops = by.iops;
    }
    if named.contains_key("bandwidth") {
        policy.bytes_per_second = by.bytes_per_second;
    }
    if named.contains_key("mode") {
        (policy.mode, policy.rpo_ms) = (by.mode, by.rpo_ms);
        (policy.max_commit_latency_ms, policy.max_lag_bytes) = (by.max_commit_latency_ms, by.max_lag_bytes);
    }
    if named.contains_key("fallback") {
        policy.fallback_after_ms = by.fallback_after_ms;
    }
    if named.contains_key("promoteObserver") {
        policy.promote_observer_after_ms = by.promote_observer_after_ms;
    }
    policy
}

fn member_status(spec: api::MemberSpec) -> api::MemberStatus {
    let (site, node, kind, votes) = (spec.site, spec.node, spec.kind, spec.votes);
    api::MemberStatus { site, node, kind, votes, ..Default::default() }
}

/// Whether the volume that has the name is the one that is asked for.
fn same(existing: &api::VolumeStatus, plan: &Plan, members: &[api::MemberSpec]) -> Result<(), Status> {
    let differs = |what: &str| {
        Status::already_exists(format!(
            "volume {} exists with another {what}: choose another name, or ask for what is there",
            existing.name
        ))
    };
    if existing.labels.get(LABEL_NAME) != Some(&plan.asked_name) {
        return Err(differs("maker (it was not made through CSI under this name)"));
    }
    if !plan.range.fits(existing.size_bytes) {
        return Err(differs(&format!("size ({} bytes)", existing.size_bytes)));
    }
    if existing.labels.get(LABEL_SOURCE).cloned() != plan.source.as_ref().and_then(source_label) {
        return Err(differs("source"));
    }
    if existing.read_only != plan.read_only {
        return Err(differs("access mode"));
    }
    if runs_anywhere(existing) != plan.parameters.any_node {
        return Err(differs("placement"));
    }
    let places = |of: &mut dyn Iterator<Item = (&String, i32)>| -> BTreeSet<(String, bool)> {
        of.map(|(site, kind)| (site.clone(), kind == i32::from(api::MemberKind::Witness))).collect()
    };
    let held = places(&mut existing.members.iter().map(|m| (&m.site, m.kind)));
    let asked = places(&mut members.iter().map(|m| (&m.site, m.kind)));
    if held != asked {
        return Err(differs("set of sites"));
    }
    let differing = parameters::differing(&existing.policy.clone().unwrap_or_default(), &plan.parameters.policy);
    match differing.is_empty() {
        true => Ok(()),
        false => Err(differs(&format!("policy ({})", differing.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_where_they_can_be() {
        let uuid = "pvc-11c3a5d0-5f7e-4b4e-9c1e-0123456789ab";
        assert_eq!(farshore_name(uuid), uuid);
        for odd in ["A", &"x".repeat(128), "", "a/b", "-a", &"0".repeat(32)] {
            let made = farshore_name(odd);
            assert!(made.starts_with("csi-") && made.len() <= NAME_LEN_MAX, "{odd}: {made}");
            assert_eq!(made, farshore_name(odd));
        }
        assert_ne!(farshore_name("A"), farshore_name("B"));
    }
}
