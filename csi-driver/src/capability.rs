//! How a volume may be used, and what a filesystem asks of its size.

use farshore_proto::csi::VolumeCapability;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::csi::volume_capability::{AccessType, MountVolume};
use tonic::Status;

use crate::refusal::missing;

/// Filesystems that can be made; the first is taken where none is named. Each with the least that it can be made in and
/// grown from.
const FILESYSTEMS: [(&str, u64); 3] = [("ext4", 1 << 20), ("xfs", 300 << 20), ("btrfs", 256 << 20)];

/// One way to use a volume, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    pub access: Access,
    pub mode: Mode,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Access {
    Block,
    /// `named`: it was asked for; else it is the default, and what is there already is as good.
    Mount {
        filesystem: &'static str,
        named: bool,
        flags: Vec<String>,
    },
}

impl Usage {
    /// One pod and no other.
    pub fn exclusive(&self) -> bool {
        self.mode == Mode::SingleNodeSingleWriter
    }

    pub fn reads_only(&self) -> bool {
        matches!(self.mode, Mode::SingleNodeReaderOnly | Mode::MultiNodeReaderOnly)
    }

    /// On many nodes, and written on none.
    pub fn many_read(&self) -> bool {
        self.mode == Mode::MultiNodeReaderOnly
    }

    /// The least size that can carry it.
    fn least_bytes(&self) -> u64 {
        let of = |name: &str| FILESYSTEMS.iter().find(|(known, _)| *known == name).map_or(0, |(_, least)| *least);
        match &self.access {
            Access::Block => 0,
            Access::Mount { filesystem, .. } => of(filesystem),
        }
    }

    /// Refuses a size that the filesystem can't live in, with the figure.
    pub fn check_size(&self, size_bytes: u64) -> Result<(), Status> {
        match &self.access {
            Access::Mount { filesystem, .. } if size_bytes < self.least_bytes() => Err(Status::out_of_range(format!(
                "{filesystem} needs at least {} bytes and would get {size_bytes}: ask for a larger volume",
                self.least_bytes()
            ))),
            _ => Ok(()),
        }
    }
}

/// Of a request that must name exactly one.
pub fn one(capability: Option<&VolumeCapability>) -> Result<Usage, Status> {
    usage(capability.ok_or_else(|| missing("volume_capability"))?)
}

/// Of a request that must name at least one.
pub fn all(capabilities: &[VolumeCapability]) -> Result<Vec<Usage>, Status> {
    if capabilities.is_empty() {
        return Err(missing("volume_capabilities"));
    }
    capabilities.iter().map(usage).collect()
}

fn usage(capability: &VolumeCapability) -> Result<Usage, Status> {
    let access = match capability.access_type.as_ref().ok_or_else(|| missing("volume_capability.access_type"))? {
        AccessType::Block(_) => Access::Block,
        AccessType::Mount(mount) => mounted(mount)?,
    };
    let mode = capability.access_mode.as_ref().ok_or_else(|| missing("volume_capability.access_mode"))?.mode;
    let mode = Mode::try_from(mode)
        .map_err(|_| Status::invalid_argument(format!("access mode {mode} is not known to this version")))?;
    match mode {
        Mode::SingleNodeWriter
        | Mode::SingleNodeReaderOnly
        | Mode::SingleNodeSingleWriter
        | Mode::SingleNodeMultiWriter
        | Mode::MultiNodeReaderOnly => Ok(Usage { access, mode }),
        Mode::Unknown => Err(missing("volume_capability.access_mode.mode")),
        Mode::MultiNodeSingleWriter | Mode::MultiNodeMultiWriter => Err(Status::invalid_argument(
            "a volume is written on one node at a time, and that is its promise: use ReadWriteOnce or ReadWriteOncePod, \
             not ReadWriteMany",
        )),
    }
}

fn mounted(mount: &MountVolume) -> Result<Access, Status> {
    let wanted = if mount.fs_type.is_empty() { FILESYSTEMS[0].0 } else { mount.fs_type.as_str() };
    let Some((filesystem, _)) = FILESYSTEMS.iter().find(|(name, _)| *name == wanted) else {
        let known: Vec<&str> = FILESYSTEMS.iter().map(|(name, _)| *name).collect();
        return Err(Status::invalid_argument(format!(
            "filesystem {wanted:?} can't be made; set csi.storage.k8s.io/fstype to one of: {}",
            known.join(", ")
        )));
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(Status::invalid_argument(
            "volume_mount_group is not for this driver: its filesystems know owners; leave it to fsGroup",
        ));
    }
    if let Some(bad) = mount.mount_flags.iter().find(|flag| flag.is_empty() || flag.starts_with('-')) {
        // What it is may be secret; that it is an option of mount's own is not.
        let what = if bad.is_empty() { "is empty" } else { "begins with '-'" };
        return Err(Status::invalid_argument(format!("a mount option {what}: write options as in /etc/fstab")));
    }
    Ok(Access::Mount { filesystem, named: !mount.fs_type.is_empty(), flags: mount.mount_flags.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_proto::csi::volume_capability::{AccessMode, BlockVolume};
    use tonic::Code;

    fn mount(fs_type: &str, flags: &[&str], mode: Mode) -> VolumeCapability {
        let mount_flags = flags.iter().map(|flag| flag.to_string()).collect();
        let mount = MountVolume { fs_type: fs_type.into(), mount_flags, volume_mount_group: String::new() };
        VolumeCapability {
            access_type: Some(AccessType::Mount(mount)),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    #[test]
    fn one_writer_is_the_promise() {
        let modes = [
            (Mode::SingleNodeWriter, true),
            (Mode::SingleNodeReaderOnly, true),
            (Mode::SingleNodeSingleWriter, true),
            (Mode::SingleNodeMultiWriter, true),
            (Mode::MultiNodeReaderOnly, true),
            (Mode::MultiNodeSingleWriter, false),
            (Mode::MultiNodeMultiWriter, false),
            (Mode::Unknown, false),
        ];
        for (mode, good) in modes {
            let used = one(Some(&mount("", &[], mode)));
            assert_eq!(used.is_ok(), good, "{mode:?}");
            if let Err(status) = used {
                assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn filesystems_are_known_ones_with_their_least_size() {
        let xfs = one(Some(&mount("xfs", &["noatime"], Mode::SingleNodeWriter))).unwrap();
        assert!(xfs.check_size(300 << 20).is_ok());
        let small = xfs.check_size(16 << 20).unwrap_err();
        assert_eq!(small.code(), Code::OutOfRange);
        assert!(small.message().contains("314572800"), "{small}");
        let bad = one(Some(&mount("ntfs", &[], Mode::SingleNodeWriter))).unwrap_err();
        assert!(bad.message().contains("ext4, xfs, btrfs"), "{bad}");
        assert!(one(Some(&mount("ext4", &["--bind"], Mode::SingleNodeWriter))).is_err());
    }

    #[test]
    fn what_is_left_out_is_named() {
        for (name, capability) in [
            ("volume_capability", None),
            ("access_type", Some(VolumeCapability { access_type: None, access_mode: None })),
            (
                "access_mode",
                Some(VolumeCapability { access_type: Some(AccessType::Block(BlockVolume {})), access_mode: None }),
            ),
        ] {
            let status = one(capability.as_ref()).unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument);
            assert!(status.message().contains(name), "{status}");
        }
        assert!(all(&[]).is_err());
    }
}
