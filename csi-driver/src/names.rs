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

/// Labels that travel with the volume, in every site. The name that the orchestrator gave it:
pub const LABEL_NAME: &str = "csi.farshore.io/name";
/// What it began with: `snapshot:ID` or `volume:ID`.
pub const LABEL_SOURCE: &str = "csi.farshore.io/source";
/// What the provisioner says of the PVC and the PV, kept as labels under the same keys.
pub const KUBERNETES_PREFIX: &str = "csi.storage.k8s.io/";
