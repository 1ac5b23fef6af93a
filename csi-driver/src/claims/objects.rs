//! The objects that are made, and how they are known again.

use farshore_proto::v1 as api;
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::identity::Identity;
use crate::controller::accessible;
use crate::names::{DRIVER, TOPOLOGY_NODE, TOPOLOGY_SITE};

/// What we have made carries it, and nothing else does: the site that the volume was led in then.
pub const FOLLOWED: &str = "csi.farshore.io/followed-to";
const LABEL_MANAGED: &str = "app.kubernetes.io/managed-by";
const US: &str = "farshore-csi";

/// The class of a claim that has none, said outright: else an admission controller would fill in the default.
fn metadata(name: &str, namespace: Option<&str>, site: &str) -> Value {
    let (labels, annotations) = (json!({LABEL_MANAGED: US}), json!({FOLLOWED: site}));
    json!({"name": name, "namespace": namespace, "labels": labels, "annotations": annotations})
}

/// Reserved for its claim, and kept (Retain) when that is deleted: the volume is not this cluster's to delete.
pub fn volume(identity: &Identity, seen: &api::VolumeStatus, site: &str) -> serde_json::Result<PersistentVolume> {
    let term = |key: &str, value: &str| json!({"key": key, "operator": "In", "values": [value]});
    let terms: Vec<Value> = accessible(seen, site)
        .iter()
        .map(|place| [TOPOLOGY_SITE, TOPOLOGY_NODE].map(|key| Some(term(key, place.segments.get(key)?))))
        .map(|terms| json!({"matchExpressions": terms.into_iter().flatten().collect::<Vec<_>>()}))
        .collect();
    let mut source = json!({"driver": DRIVER, "volumeHandle": seen.id});
    if !identity.filesystem.is_empty() {
        source["fsType"] = json!(identity.filesystem);
    }
    serde_json::from_value(json!({
        "metadata": metadata(&identity.volume, None, site),
        "spec": {
            "capacity": {"storage": quantity(seen.size_bytes)},
            "accessModes": identity.access,
            "volumeMode": mode(identity),
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": identity.class,
            "mountOptions": identity.mount_options,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": identity.namespace, "name": identity.claim
            },
            "csi": source,
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        },
    }))
}

pub fn claim(identity: &Identity, seen: &api::VolumeStatus, site: &str) -> serde_json::Result<PersistentVolumeClaim> {
    serde_json::from_value(json!({
        "metadata": metadata(&identity.claim, Some(&identity.namespace), site),
        "spec": {
            "accessModes": identity.access,
            "volumeMode": mode(identity),
            "storageClassName": identity.class,
            "volumeName": identity.volume,
            "resources": {"requests": {"storage": quantity(seen.size_bytes)}},
        },
    }))
}

/// As people write it.
fn quantity(bytes: u64) -> String {
    let units = [(30, "Gi"), (20, "Mi"), (10, "Ki"), (0, "")];
    let unit = units.into_iter().find(|(shift, _)| bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

fn mode(identity: &Identity) -> &'static str {
    if identity.raw_block { "Block" } else { "Filesystem" }
}

/// Said of a claim, under a name that is the same for the same news: said twice, it is there once.
pub fn warning(
    about: &PersistentVolumeClaim,
    reason: &str,
    news: &str,
    message: &str,
    now: Timestamp,
) -> serde_json::Result<Event> {
    let of = &about.metadata;
    let (name, namespace) = (of.name.clone().unwrap_or_default(), of.namespace.clone().unwrap_or_default());
    let key = &blake3::hash(format!("{:?} {reason} {news}", of.uid).as_bytes()).to_hex()[..16];
    serde_json::from_value(json!({
        "metadata": {"name": format!("{name}.{key}"), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": name, "namespace": namespace, "uid": of.uid
        },
        "type": "Warning",
        "reason": reason,
        "message": message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "reportingComponent": DRIVER,
        "source": {"component": DRIVER},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "uid".into(),
            class: "farshore-metro".into(),
            namespace: "shop".into(),
            claim: "orders".into(),
            volume: "pvc-1".into(),
            filesystem: "ext4".into(),
            access: vec!["ReadWriteOnce".into()],
            mount_options: vec!["noatime".into()],
            ..Identity::default()
        }
    }

    fn seen() -> api::VolumeStatus {
        let member = |site: &str, node: &str, kind: api::MemberKind| api::MemberStatus {
            site: site.into(),
            node: node.into(),
            kind: kind.into(),
            ..Default::default()
        };
        let members = vec![
            member("east", "e1", api::MemberKind::Data),
            member("west", "w1", api::MemberKind::Data),
            member("west", "w2", api::MemberKind::Witness),
        ];
        api::VolumeStatus { id: "ab".into(), size_bytes: 1 << 30, members, ..Default::default() }
    }

    #[test]
    fn a_volume_is_shown_as_the_first_cluster_did() {
        let made = serde_json::to_value(volume(&identity(), &seen(), "west").unwrap()).unwrap();
        let spec = &made["spec"];
        assert_eq!(made["metadata"]["name"], "pvc-1");
        assert_eq!(made["metadata"]["annotations"][FOLLOWED], "west");
        assert_eq!(spec["capacity"]["storage"], "1Gi");
        assert_eq!([4097, 4096, 3 << 20].map(quantity), ["4097", "4Ki", "3Mi"]);
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!(spec["csi"], json!({"driver": DRIVER, "volumeHandle": "ab", "fsType": "ext4"}));
        assert_eq!((&spec["claimRef"]["namespace"], &spec["claimRef"]["name"]), (&json!("shop"), &json!("orders")));
        assert_eq!(spec["mountOptions"], json!(["noatime"]));
        let terms = &spec["nodeAffinity"]["required"]["nodeSelectorTerms"];
        assert_eq!(terms.as_array().unwrap().len(), 1, "neither another site's nodes nor a witness");
        assert_eq!(terms[0]["matchExpressions"][1]["values"], json!(["w1"]));
    }

    #[test]
    fn a_claim_asks_for_its_own_volume() {
        let raw = Identity { raw_block: true, filesystem: String::new(), ..identity() };
        let made = serde_json::to_value(claim(&raw, &seen(), "west").unwrap()).unwrap();
        assert_eq!(made["metadata"]["namespace"], "shop");
        assert_eq!(made["spec"]["volumeName"], "pvc-1");
        assert_eq!(made["spec"]["volumeMode"], "Block");
        assert_eq!(made["spec"]["storageClassName"], "farshore-metro");
    }

    #[test]
    fn the_same_news_has_the_same_name() {
        let about = claim(&identity(), &seen(), "west").unwrap();
        let event = |news: &str| warning(&about, "LedElsewhere", news, "text", Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(event("1").metadata.name, event("1").metadata.name);
        assert_ne!(event("1").metadata.name, event("2").metadata.name);
        assert_eq!(event("1").involved_object.name.as_deref(), Some("orders"));
    }
}
