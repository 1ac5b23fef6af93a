//! Whose claim a volume was made for, as the volume's labels say it in every site.

use std::collections::BTreeMap;

use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::v1 as api;

use crate::capability::{Access, Usage};
use crate::names::{
    KUBERNETES_PREFIX, LABEL_ACCESS, LABEL_CLASS, LABEL_CLUSTER, LABEL_FILESYSTEM, LABEL_MOUNT_OPTIONS, RAW_BLOCK,
};

/// Of a label's value, as replicators hold it.
const VALUE_LEN_MAX: usize = 512;

/// What another cluster needs to know to show the volume as the first one did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The cluster whose provisioner made it.
    pub cluster: String,
    /// Of the claim. Empty: none.
    pub class: String,
    pub namespace: String,
    pub claim: String,
    /// The PersistentVolume's name.
    pub volume: String,
    pub raw_block: bool,
    /// Empty: none was named.
    pub filesystem: String,
    pub access: Vec<String>,
    pub mount_options: Vec<String>,
}

/// What the labels of a new volume say beside what the provisioner gives.
pub fn labels(usages: &[Usage], cluster: &str, class: &str) -> BTreeMap<String, String> {
    let mut access: Vec<&str> = usages.iter().map(|usage| access_mode(usage.mode)).collect();
    access.dedup();
    let mut labels = BTreeMap::from([(LABEL_CLUSTER, cluster.to_string()), (LABEL_ACCESS, access.join(","))]);
    if !class.is_empty() {
        labels.insert(LABEL_CLASS, class.into());
    }
    match usages.first().map(|usage| &usage.access) {
        Some(Access::Block) => drop(labels.insert(LABEL_FILESYSTEM, RAW_BLOCK.into())),
        Some(Access::Mount { filesystem, named, flags }) => {
            if *named {
                labels.insert(LABEL_FILESYSTEM, filesystem.to_string());
            }
            // An option may have commas of its own.
            let options = flags.join("\n");
            if !options.is_empty() && options.len() <= VALUE_LEN_MAX {
                labels.insert(LABEL_MOUNT_OPTIONS, options);
            }
        }
        None => {}
    }
    labels.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

fn access_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::SingleNodeSingleWriter => "ReadWriteOncePod",
        Mode::MultiNodeReaderOnly => "ReadOnlyMany",
        _ => "ReadWriteOnce",
    }
}

/// `None`: it was not made for a claim, or before volumes said by which cluster.
pub fn of(volume: &api::VolumeStatus) -> Option<Identity> {
    let said = |key: &str| volume.labels.get(key).cloned().unwrap_or_default();
    let from_kubernetes = |key: &str| said(&format!("{KUBERNETES_PREFIX}{key}"));
    let list = |key: &str, separator: char| {
        let value = said(key);
        value.split(separator).filter(|part| !part.is_empty()).map(str::to_string).collect::<Vec<_>>()
    };
    let filesystem = said(LABEL_FILESYSTEM);
    let raw_block = filesystem == RAW_BLOCK;
    let identity = Identity {
        cluster: said(LABEL_CLUSTER),
        class: said(LABEL_CLASS),
        namespace: from_kubernetes("pvc/namespace"),
        claim: from_kubernetes("pvc/name"),
        volume: from_kubernetes("pv/name"),
        raw_block,
        filesystem: if raw_block { String::new() } else { filesystem },
        access: list(LABEL_ACCESS, ','),
        mount_options: list(LABEL_MOUNT_OPTIONS, '\n'),
    };
    let named = [&identity.cluster, &identity.namespace, &identity.claim, &identity.volume];
    named.iter().all(|name| !name.is_empty()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(access: Access, mode: Mode) -> Usage {
        Usage { access, mode }
    }

    fn mounted(named: bool) -> Access {
        let flags = vec!["noatime".into(), "context=\"a,b\"".into()];
        Access::Mount { filesystem: "xfs", named, flags }
    }

    fn kept(usages: &[Usage], class: &str) -> Option<Identity> {
        let mut volume = api::VolumeStatus { labels: labels(usages, "uid", class), ..Default::default() };
        for (key, value) in [("pvc/name", "orders"), ("pvc/namespace", "shop"), ("pv/name", "pvc-1")] {
            volume.labels.insert(format!("{KUBERNETES_PREFIX}{key}"), value.into());
        }
        of(&volume)
    }

    #[test]
    fn what_a_class_and_a_claim_say_survives_as_labels() {
        let found = kept(&[usage(mounted(true), Mode::SingleNodeMultiWriter)], "farshore-metro").unwrap();
        let expected = Identity {
            cluster: "uid".into(),
            class: "farshore-metro".into(),
            namespace: "shop".into(),
            claim: "orders".into(),
            volume: "pvc-1".into(),
            raw_block: false,
            filesystem: "xfs".into(),
            access: vec!["ReadWriteOnce".into()],
            mount_options: vec!["noatime".into(), "context=\"a,b\"".into()],
        };
        assert_eq!(found, expected);
        let plain = kept(&[usage(mounted(false), Mode::SingleNodeWriter)], "").unwrap();
        assert_eq!((plain.filesystem.as_str(), plain.class.as_str()), ("", ""));
        let raw = kept(&[usage(Access::Block, Mode::SingleNodeSingleWriter)], "c").unwrap();
        assert!(raw.raw_block && raw.filesystem.is_empty());
        assert_eq!(raw.access, ["ReadWriteOncePod"]);
    }

    #[test]
    fn what_nobody_claimed_has_no_identity() {
        assert_eq!(of(&api::VolumeStatus::default()), None);
        let mut volume = api::VolumeStatus { labels: labels(&[], "uid", "c"), ..Default::default() };
        volume.labels.insert(format!("{KUBERNETES_PREFIX}pvc/name"), "orders".into());
        assert_eq!(of(&volume), None);
    }
}
