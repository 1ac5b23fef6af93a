//! Names that outlive a release: they stand in StorageClasses, volumes and pods' nodes.

/// The driver, as StorageClasses name it.
pub const DRIVER: &str = "csi.farshore.io";

/// Topology: the failure domain, and the machine in it.
pub const TOPOLOGY_SITE: &str = "topology.farshore.io/site";
pub const TOPOLOGY_NODE: &str = "topology.farshore.io/node";

/// What ControllerPublishVolume hands to the node: the session that alone may write.
pub const SESSION: &str = "session";
/// `true`: the node mounts it without writing.
pub const READ_ONLY: &str = "readonly";

/// Labels that begin so are the replicators' own, and nobody else's to give.
pub const LABELS_OF_REPLICATOR: &str = "farshore.";
/// Labels that travel with the volume, in every site. The name that the orchestrator gave it:
pub const LABEL_NAME: &str = "csi.farshore.io/name";
/// What it began with: `snapshot:ID` or `volume:ID`.
pub const LABEL_SOURCE: &str = "csi.farshore.io/source";
/// Present, and `any`: its pods may run on every node of the site, whether or not that one holds a copy.
pub const LABEL_PLACEMENT: &str = "csi.farshore.io/placement";
pub const PLACEMENT_ANY: &str = "any";
/// While the first filesystem is being made: its kind. Until it is taken away nobody but mkfs has had the device.
pub const LABEL_FORMATTING: &str = "csi.farshore.io/formatting";
/// What the provisioner says of the PVC and the PV, kept as labels under the same keys.
pub const KUBERNETES_PREFIX: &str = "csi.storage.k8s.io/";
/// What a claim in another cluster needs to be the same: the cluster that made the volume (the uid of its kube-system), the
/// claim's class and access modes, the filesystem (or `block`), the mount options, one a line.
pub const LABEL_CLUSTER: &str = "csi.farshore.io/cluster";
pub const LABEL_CLASS: &str = "csi.farshore.io/storage-class";
pub const LABEL_ACCESS: &str = "csi.farshore.io/access-modes";
pub const LABEL_FILESYSTEM: &str = "csi.farshore.io/filesystem";
pub const LABEL_MOUNT_OPTIONS: &str = "csi.farshore.io/mount-options";
/// In place of a filesystem's name.
pub const RAW_BLOCK: &str = "block";
