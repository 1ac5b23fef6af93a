//! A replicator's volume in the words of CSI.

use farshore_proto::csi;
use farshore_proto::csi::volume_content_source as source;
use farshore_proto::v1 as api;
use tonic::Status;

use crate::capability::Usage;
use crate::names::{LABEL_PLACEMENT, LABEL_SOURCE, PLACEMENT_ANY};
use crate::places::{NodeId, whole_site};

/// States in which something is not as it should be. `unknown` is a volume that nobody has written yet.
const ABNORMAL: [&str; 6] = ["degraded", "frozen", "fenced", "resyncing", "diverged", "failed"];

/// The volume as the orchestrator of `site` sees it.
pub fn described(volume: &api::VolumeStatus, site: &str) -> csi::Volume {
    csi::Volume {
        capacity_bytes: volume.size_bytes as i64,
        volume_id: volume.id.clone(),
        volume_context: Default::default(),
        content_source: content_source(volume),
        accessible_topology: accessible(volume, site),
    }
}

/// Where its pods may run: on the nodes that hold a copy, or, by its class, on every node of the site.
pub fn accessible(volume: &api::VolumeStatus, site: &str) -> Vec<csi::Topology> {
    let nodes = data_nodes(volume, site);
    match runs_anywhere(volume) && !nodes.is_empty() {
        true => vec![whole_site(site)],
        false => nodes.iter().map(NodeId::topology).collect(),
    }
}

pub fn runs_anywhere(volume: &api::VolumeStatus) -> bool {
    volume.labels.get(LABEL_PLACEMENT).is_some_and(|placement| placement == PLACEMENT_ANY)
}

/// The nodes of a site that hold a copy.
fn data_nodes(volume: &api::VolumeStatus, site: &str) -> Vec<NodeId> {
    let here = volume.members.iter().filter(|m| m.site == site && m.kind() == api::MemberKind::Data);
    here.map(|m| NodeId::new(&m.site, &m.node)).collect()
}

/// Where it is published now, as far as this site's orchestrator knows the node.
pub fn published(volume: &api::VolumeStatus, site: &str) -> Vec<String> {
    let attached = volume.attached.iter().chain(&volume.readers).filter(|attached| attached.site == site);
    attached.map(|attached| NodeId::new(&attached.site, &attached.node).to_string()).collect()
}

/// Written on one node at a time, or read on many: which of both was settled when the volume was made.
pub fn check_usage(volume: &api::VolumeStatus, usage: &Usage, read_only: bool) -> Result<(), Status> {
    let name = &volume.name;
    if volume.read_only && !read_only && !usage.reads_only() {
        return Err(Status::invalid_argument(format!(
            "volume {name} was made to be read on many nodes, and is never written: use ReadOnlyMany, or make a claim with \
             ReadWriteOnce of it"
        )));
    }
    if !volume.read_only && usage.many_read() {
        return Err(Status::invalid_argument(format!(
            "volume {name} can be written, so one node at a time may use it: for ReadOnlyMany make a claim with that access \
             mode and a VolumeSnapshot, or this claim, as its dataSource"
        )));
    }
    Ok(())
}

pub fn condition(volume: &api::VolumeStatus) -> csi::VolumeCondition {
    let mut said: Vec<&str> = volume.conditions.iter().map(|condition| condition.text.as_str()).collect();
    let abnormal = !said.is_empty() || ABNORMAL.contains(&volume.state.as_str());
    if !volume.reason.is_empty() {
        said.insert(0, &volume.reason);
    }
    let message = match said.is_empty() {
        true => format!("{}: {}", volume.name, volume.state),
        false => format!("{}: {}: {}", volume.name, volume.state, said.join("; ")),
    };
    csi::VolumeCondition { abnormal, message }
}

/// The label under which the source is kept.
pub fn source_label(source: &csi::VolumeContentSource) -> Option<String> {
    match source.r#type.as_ref()? {
        source::Type::Snapshot(of) => Some(format!("snapshot:{}", of.snapshot_id)),
        source::Type::Volume(of) => Some(format!("volume:{}", of.volume_id)),
    }
}

fn content_source(volume: &api::VolumeStatus) -> Option<csi::VolumeContentSource> {
    let (kind, id) = volume.labels.get(LABEL_SOURCE)?.split_once(':')?;
    let kind = match kind {
        "snapshot" => source::Type::Snapshot(source::SnapshotSource { snapshot_id: id.into() }),
        "volume" => source::Type::Volume(source::VolumeSource { volume_id: id.into() }),
        _ => return None,
    };
    Some(csi::VolumeContentSource { r#type: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_survive_as_labels() {
        for kind in [
            source::Type::Snapshot(source::SnapshotSource { snapshot_id: "ab".into() }),
            source::Type::Volume(source::VolumeSource { volume_id: "cd".into() }),
        ] {
            let asked = csi::VolumeContentSource { r#type: Some(kind) };
            let mut volume = api::VolumeStatus::default();
            volume.labels.insert(LABEL_SOURCE.into(), source_label(&asked).unwrap());
            assert_eq!(content_source(&volume), Some(asked));
        }
        assert_eq!(content_source(&api::VolumeStatus::default()), None);
    }

    #[test]
    fn pods_run_where_a_copy_is_unless_the_class_says_otherwise() {
        let member = |site: &str, node: &str| api::MemberStatus {
            site: site.into(),
            node: node.into(),
            kind: api::MemberKind::Data.into(),
            ..Default::default()
        };
        let members = vec![member("east", "n2"), member("west", "w1")];
        let mut volume = api::VolumeStatus { members, ..Default::default() };
        assert_eq!(accessible(&volume, "east"), [NodeId::new("east", "n2").topology()]);
        volume.labels.insert(LABEL_PLACEMENT.into(), PLACEMENT_ANY.into());
        assert_eq!(accessible(&volume, "east"), [whole_site("east")]);
        assert!(accessible(&volume, "north").is_empty(), "no node there could serve it");
    }

    #[test]
    fn a_volume_that_nobody_has_written_is_well() {
        let mut volume = api::VolumeStatus { state: "unknown".into(), name: "v".into(), ..Default::default() };
        assert!(!condition(&volume).abnormal);
        volume.state = "frozen".into();
        volume.reason = "no quorum".into();
        assert_eq!(condition(&volume).message, "v: frozen: no quorum");
        assert!(condition(&volume).abnormal);
    }
}
