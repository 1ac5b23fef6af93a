//! The node, with real devices, filesystems and mounts. Needs root and loop devices.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _};
use std::path::Path;
use std::process::Command;

use farshore_proto::csi;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::v1 as api;
use tonic::{Code, Status};

use crate::driver::{Driver, MIB, mounted, parameters, raw};
use crate::fake::Fake;

const FORMATTING: &str = "csi.farshore.io/formatting";

/// A driver whose replicator makes loop devices; whatever it left mounted goes with it.
struct Bench {
    driver: Driver,
}

impl Bench {
    async fn set_up(test: &str) -> Option<Bench> {
        let why = match (rustix::process::geteuid().is_root(), Path::new("/dev/loop-control").exists()) {
            (true, true) => None,
            (false, _) => Some("mounts need root"),
            (_, false) => Some("no /dev/loop-control here (modprobe loop)"),
        };
        if let Some(why) = why {
            println!("SKIP {test}: {why}");
            return None;
        }
        let driver = Driver::before(Fake::default(), &[]).await;
        fs::create_dir(driver.path("devices")).unwrap();
        driver.fake.world().devices = Some(driver.path("devices").into());
        driver.serve_replicator().await;
        Some(Bench { driver })
    }

    async fn volume(&self, name: &str, size: i64) -> String {
        let request = csi::CreateVolumeRequest {
            name: name.into(),
            capacity_range: Some(csi::CapacityRange { required_bytes: size, limit_bytes: size }),
            volume_capabilities: vec![raw(Mode::SingleNodeWriter)],
            parameters: parameters(&[("sites", "east/n1")]),
            ..Default::default()
        };
        self.driver.create(request).await.unwrap().volume_id
    }

    async fn publish(&self, id: &str, readonly: bool) -> BTreeMap<String, String> {
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: id.into(),
            node_id: "east/n1".into(),
            volume_capability: Some(raw(Mode::SingleNodeWriter)),
            readonly,
            ..Default::default()
        };
        self.driver.controller().controller_publish_volume(request).await.unwrap().into_inner().publish_context
    }

    async fn unpublish(&self, id: &str) -> Result<(), Status> {
        let request = csi::ControllerUnpublishVolumeRequest { volume_id: id.into(), ..Default::default() };
        self.driver.controller().controller_unpublish_volume(request).await.map(drop)
    }

    async fn stage(
        &self,
        id: &str,
        context: &BTreeMap<String, String>,
        capability: &csi::VolumeCapability,
    ) -> Result<(), Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.into(),
            publish_context: context.clone(),
            staging_target_path: self.driver.path("stage"),
            volume_capability: Some(capability.clone()),
            ..Default::default()
        };
        self.driver.node().node_stage_volume(request).await.map(drop)
    }

    async fn unstage(&self, id: &str) -> Result<(), Status> {
        let (volume_id, staging_target_path) = (id.into(), self.driver.path("stage"));
        let request = csi::NodeUnstageVolumeRequest { volume_id, staging_target_path };
        self.driver.node().node_unstage_volume(request).await.map(drop)
    }

    async fn show(
        &self,
        id: &str,
        target: &str,
        capability: &csi::VolumeCapability,
        readonly: bool,
    ) -> Result<(), Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: id.into(),
            staging_target_path: self.driver.path("stage"),
            target_path: self.driver.path(target),
            volume_capability: Some(capability.clone()),
            readonly,
            ..Default::default()
        };
        self.driver.node().node_publish_volume(request).await.map(drop)
    }

    async fn hide(&self, id: &str, target: &str) -> Result<(), Status> {
        let (volume_id, target_path) = (id.into(), self.driver.path(target));
        let request = csi::NodeUnpublishVolumeRequest { volume_id, target_path };
        self.driver.node().node_unpublish_volume(request).await.map(drop)
    }

    async fn stats(&self, id: &str, path: &str) -> Result<csi::NodeGetVolumeStatsResponse, Status> {
        let (volume_id, volume_path) = (id.into(), self.driver.path(path));
        let request = csi::NodeGetVolumeStatsRequest { volume_id, volume_path, ..Default::default() };
        Ok(self.driver.node().node_get_volume_stats(request).await?.into_inner())
    }

    async fn grow(&self, id: &str, path: &str, size: i64) -> Result<i64, Status> {
        let capacity_range = Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 });
        let volume_id = id.to_string();
        let request = csi::ControllerExpandVolumeRequest { volume_id, capacity_range, ..Default::default() };
        self.driver.controller().controller_expand_volume(request).await?;
        let (volume_id, volume_path) = (id.into(), self.driver.path(path));
        let request = csi::NodeExpandVolumeRequest { volume_id, volume_path, capacity_range, ..Default::default() };
        Ok(self.driver.node().node_expand_volume(request).await?.into_inner().capacity_bytes)
    }

    fn file(&self, of: &str) -> std::path::PathBuf {
        self.driver.dir.path().join(of)
    }

    /// The file behind the volume's device.
    fn backing(&self, id: &str) -> std::path::PathBuf {
        self.file("devices").join(id)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let dir = fs::canonicalize(self.driver.dir.path()).unwrap_or_default();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let targets = table.lines().filter_map(|line| line.split(' ').nth(4));
        for target in targets.filter(|target| Path::new(target).starts_with(&dir)) {
            let _ = Command::new("umount").args(["--lazy", target]).output();
        }
    }
}

fn installed(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

#[tokio::test]
async fn a_filesystem_lives_through_a_pods_life() {
    for (kind, size) in [("ext4", 16 * MIB), ("xfs", 320 * MIB), ("btrfs", 256 * MIB)] {
        let Some(bench) = Bench::set_up("a_filesystem_lives_through_a_pods_life").await else { return };
        if !installed(&format!("mkfs.{kind}")) {
            println!("SKIP a_filesystem_lives_through_a_pods_life ({kind}): mkfs.{kind} is not installed");
            continue;
        }
        let (id, pod) = (bench.volume("v", size).await, mounted(kind, Mode::SingleNodeWriter));
        let context = bench.publish(&id, false).await;
        bench.stage(&id, &context, &pod).await.unwrap();
        bench.stage(&id, &context, &pod).await.unwrap();
        bench.show(&id, "pod", &pod, false).await.unwrap();
        bench.show(&id, "pod", &pod, false).await.unwrap();
        fs::write(bench.file("pod/data"), b"kept").unwrap();
        let before = bench.stats(&id, "pod").await.unwrap();
        let bytes = |stats: &csi::NodeGetVolumeStatsResponse| stats.usage[0].total;
        assert!(bytes(&before) > size / 2 && before.usage[1].unit() == csi::volume_usage::Unit::Inodes, "{before:?}");
        match bench.grow(&id, "pod", 2 * size).await {
            Err(status) if status.message().contains("SYS_RESOURCE") => {
                assert_eq!(status.code(), Code::PermissionDenied, "the kubelet writes an event");
                println!(
                    "SKIP a_filesystem_lives_through_a_pods_life (growing {kind} while mounted): {}",
                    status.message()
                );
            }
            grown => {
                assert_eq!(grown.unwrap(), 2 * size);
                let after = bench.stats(&id, "pod").await.unwrap();
                assert!(bytes(&after) > bytes(&before) + size / 2, "{kind}: {before:?} {after:?}");
            }
        }
        bench.hide(&id, "pod").await.unwrap();
        bench.hide(&id, "pod").await.unwrap();
        assert!(!bench.file("pod").exists());
        bench.unstage(&id).await.unwrap();
        bench.unstage(&id).await.unwrap();
        assert_eq!(bench.driver.fake.world().find(&id).unwrap().attached.unwrap().device, None);
        bench.unpublish(&id).await.unwrap();
        // Another pod, another session: the same data.
        let context = bench.publish(&id, false).await;
        bench.stage(&id, &context, &mounted("", Mode::SingleNodeWriter)).await.unwrap();
        bench.show(&id, "pod", &pod, true).await.unwrap();
        assert_eq!(fs::read(bench.file("pod/data")).unwrap(), b"kept");
        assert!(fs::write(bench.file("pod/data"), b"lost").is_err());
        // At the latest now it has all of the volume.
        let after = bench.stats(&id, "pod").await.unwrap();
        assert!(bytes(&after) > bytes(&before) + size / 2, "{kind}: {before:?} {after:?}");
        let other = mounted(if kind == "ext4" { "xfs" } else { "ext4" }, Mode::SingleNodeWriter);
        bench.hide(&id, "pod").await.unwrap();
        bench.unstage(&id).await.unwrap();
        let refused = bench.stage(&id, &context, &other).await.unwrap_err();
        assert!(refused.message().contains(&format!("filesystem of type {kind}")), "{refused}");
        bench.unpublish(&id).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_formatted_that_holds_anything() {
    let Some(bench) = Bench::set_up("nothing_is_formatted_that_holds_anything").await else { return };
    let id = bench.volume("v", 16 * MIB).await;
    let pod = mounted("ext4", Mode::SingleNodeWriter);
    let write = |at: u64, bytes: &[u8]| {
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(bench.backing(&id)).unwrap();
        file.set_len(16 << 20).unwrap();
        file.write_all_at(bytes, at).unwrap();
    };
    // A partition table, a database of sorts, and what only the replicator knows of.
    let mut table = vec![0u8; 512];
    table[450] = 0x83;
    table[454..462].copy_from_slice(&[1, 0, 0, 0, 0, 16, 0, 0]);
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    for (at, bytes) in [(0, table.as_slice()), (3 << 20, b"rows".as_slice()), ((16 << 20) - 4, b"tail".as_slice())] {
        write(at, bytes);
        let context = bench.publish(&id, false).await;
        let status = bench.stage(&id, &context, &pod).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("no filesystem is made on it"), "{status}");
        bench.unpublish(&id).await.unwrap();
        let mut held = vec![0; bytes.len()];
        fs::File::open(bench.backing(&id)).unwrap().read_exact_at(&mut held, at).unwrap();
        assert_eq!(held, bytes);
        write(at, &vec![0; bytes.len()]);
    }
    let context = bench.publish(&id, false).await;
    bench.driver.fake.world().change(&id, |v| v.allocated_bytes = 4096);
    assert_eq!(bench.stage(&id, &context, &pod).await.unwrap_err().code(), Code::FailedPrecondition);
    bench.driver.fake.world().change(&id, |v| v.allocated_bytes = 0);
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
}

/// Its node died while the first filesystem was being made: the next one makes it anew, and nothing that is whole.
#[tokio::test]
async fn a_filesystem_that_was_begun_is_made_wherever_the_volume_is_staged_next() {
    let test = "a_filesystem_that_was_begun_is_made_wherever_the_volume_is_staged_next";
    let Some(bench) = Bench::set_up(test).await else { return };
    let id = bench.volume("v", 16 * MIB).await;
    let (pod, device) = (mounted("ext4", Mode::SingleNodeWriter), raw(Mode::SingleNodeWriter));
    let begun = |is: bool| {
        bench.driver.fake.world().change(&id, |v| {
            v.allocated_bytes = 4096;
            if is {
                v.labels.insert(FORMATTING.into(), "ext4".into());
            }
        });
    };
    let marked = || bench.driver.fake.world().find(&id).unwrap().labels.contains_key(FORMATTING);
    let litter = |at: u64| {
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(bench.backing(&id)).unwrap();
        file.set_len(16 << 20).unwrap();
        file.write_all_at(b"half an inode table", at).unwrap();
    };
    litter(1 << 20);
    begun(true);
    let context = bench.publish(&id, false).await;
    bench.stage(&id, &context, &pod).await.unwrap();
    assert!(!marked(), "a pod may write to it from here on");
    bench.show(&id, "pod", &pod, false).await.unwrap();
    fs::write(bench.file("pod/data"), b"kept").unwrap();
    bench.hide(&id, "pod").await.unwrap();
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
    // Its word that the mark is gone was lost: what is whole stays.
    begun(true);
    let context = bench.publish(&id, false).await;
    bench.stage(&id, &context, &pod).await.unwrap();
    assert!(!marked());
    bench.show(&id, "pod", &pod, false).await.unwrap();
    assert_eq!(fs::read(bench.file("pod/data")).unwrap(), b"kept");
    bench.hide(&id, "pod").await.unwrap();
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
    // Whoever has the device itself may put anything there.
    fs::remove_file(bench.backing(&id)).unwrap();
    litter(1 << 20);
    begun(true);
    let context = bench.publish(&id, false).await;
    bench.stage(&id, &context, &device).await.unwrap();
    assert!(!marked());
    bench.unstage(&id).await.unwrap();
    let status = bench.stage(&id, &context, &pod).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("farshore volume attach v, blkdiscard"), "{status}");
    bench.unpublish(&id).await.unwrap();
}

#[tokio::test]
async fn a_restarted_driver_finds_everything() {
    let Some(mut bench) = Bench::set_up("a_restarted_driver_finds_everything").await else { return };
    let (id, pod) = (bench.volume("v", 16 * MIB).await, mounted("ext4", Mode::SingleNodeSingleWriter));
    let context = bench.publish(&id, false).await;
    bench.driver.restart().await;
    assert_eq!(bench.publish(&id, false).await, context);
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.driver.restart().await;
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.show(&id, "pod", &pod, false).await.unwrap();
    fs::write(bench.file("pod/data"), b"kept").unwrap();
    bench.driver.restart().await;
    bench.show(&id, "pod", &pod, false).await.unwrap();
    assert_eq!(fs::read(bench.file("pod/data")).unwrap(), b"kept");
    // It knows who has the volume, too.
    let second = bench.show(&id, "second", &pod, false).await.unwrap_err();
    assert_eq!(second.code(), Code::FailedPrecondition);
    let shared = mounted("ext4", Mode::SingleNodeMultiWriter);
    bench.show(&id, "second", &shared, false).await.unwrap();
    assert_eq!(bench.show(&id, "second", &shared, true).await.unwrap_err().code(), Code::AlreadyExists);
    bench.driver.restart().await;
    for target in ["pod", "second"] {
        bench.hide(&id, target).await.unwrap();
    }
    bench.driver.restart().await;
    bench.unstage(&id).await.unwrap();
    bench.driver.restart().await;
    bench.unpublish(&id).await.unwrap();
    assert!(bench.driver.fake.world().find(&id).unwrap().attached.is_none());
}

#[tokio::test]
async fn a_node_that_never_unstaged_is_cut_off() {
    let Some(bench) = Bench::set_up("a_node_that_never_unstaged_is_cut_off").await else { return };
    let (id, pod) = (bench.volume("v", 16 * MIB).await, mounted("ext4", Mode::SingleNodeWriter));
    let context = bench.publish(&id, false).await;
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.show(&id, "pod", &pod, false).await.unwrap();
    bench.unpublish(&id).await.unwrap();
    assert!(bench.driver.fake.world().find(&id).unwrap().attached.is_none());
    // Its late calls are refused, and tidying up is not.
    assert_eq!(bench.stage(&id, &parameters(&[]), &pod).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(bench.show(&id, "second", &pod, false).await.unwrap_err().code(), Code::FailedPrecondition);
    bench.hide(&id, "pod").await.unwrap();
    bench.unstage(&id).await.unwrap();
}

#[tokio::test]
async fn a_raw_device_is_shown_as_it_is() {
    let Some(bench) = Bench::set_up("a_raw_device_is_shown_as_it_is").await else { return };
    let (id, pod) = (bench.volume("v", 16 * MIB).await, raw(Mode::SingleNodeSingleWriter));
    let context = bench.publish(&id, false).await;
    assert_eq!(bench.show(&id, "pod", &pod, false).await.unwrap_err().code(), Code::FailedPrecondition);
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.show(&id, "pod", &pod, false).await.unwrap();
    bench.show(&id, "pod", &pod, false).await.unwrap();
    assert!(fs::metadata(bench.file("pod")).unwrap().file_type().is_block_device());
    let device = fs::OpenOptions::new().write(true).open(bench.file("pod")).unwrap();
    device.write_all_at(&[7; 4096], 8192).unwrap();
    device.sync_all().unwrap();
    drop(device);
    assert_eq!(bench.stats(&id, "pod").await.unwrap().usage[0].total, 16 * MIB);
    assert_eq!(bench.show(&id, "second", &pod, false).await.unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(bench.grow(&id, "pod", 32 * MIB).await.unwrap(), 32 * MIB);
    assert_eq!(bench.stats(&id, "pod").await.unwrap().usage[0].total, 32 * MIB);
    bench.hide(&id, "pod").await.unwrap();
    assert!(!bench.file("pod").exists());
    // Read-only means the device, not the name it has.
    bench.show(&id, "pod", &pod, true).await.unwrap();
    let refused =
        fs::OpenOptions::new().write(true).open(bench.file("pod")).and_then(|f| f.write_all_at(&[7; 4096], 0));
    assert!(refused.is_err());
    bench.hide(&id, "pod").await.unwrap();
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
    let mut held = [0; 1];
    fs::File::open(bench.backing(&id)).unwrap().read_exact_at(&mut held, 8192).unwrap();
    assert_eq!(held, [7]);
}

#[tokio::test]
async fn a_device_that_was_left_behind_is_replaced() {
    let Some(bench) = Bench::set_up("a_device_that_was_left_behind_is_replaced").await else { return };
    let (id, pod) = (bench.volume("v", 16 * MIB).await, mounted("ext4", Mode::SingleNodeWriter));
    let old = bench.volume("old", 16 * MIB).await;
    let context = bench.publish(&old, false).await;
    bench.stage(&old, &context, &pod).await.unwrap();
    // The same place, another volume: what is mounted there belongs to nobody any more.
    let context = bench.publish(&id, false).await;
    bench.stage(&id, &context, &pod).await.unwrap();
    bench.show(&id, "pod", &pod, false).await.unwrap();
    bench.hide(&id, "pod").await.unwrap();
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
    bench.unpublish(&old).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_or_unknown_is_told_apart() {
    let Some(bench) = Bench::set_up("what_is_missing_or_unknown_is_told_apart").await else { return };
    let (id, pod) = (bench.volume("v", 16 * MIB).await, mounted("", Mode::SingleNodeWriter));
    let context = bench.publish(&id, false).await;
    let code = |result: Result<(), Status>| result.unwrap_err().code();
    assert_eq!(code(bench.stage("", &context, &pod).await), Code::InvalidArgument);
    assert_eq!(code(bench.stage(&id, &BTreeMap::new(), &pod).await), Code::InvalidArgument);
    assert_eq!(code(bench.stage("fake-vol-id", &context, &pod).await), Code::NotFound);
    assert_eq!(code(bench.stage(&id, &context, &mounted("zfs", Mode::SingleNodeWriter)).await), Code::InvalidArgument);
    let late = parameters(&[("session", &"ab".repeat(16))]);
    assert_eq!(code(bench.stage(&id, &late, &pod).await), Code::FailedPrecondition);
    assert_eq!(code(bench.show(&id, "pod", &pod, false).await), Code::FailedPrecondition);
    assert_eq!(bench.stats(&id, "nowhere").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bench.stats("none", "nowhere").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(bench.grow(&id, "nowhere", 32 * MIB).await.unwrap_err().code(), Code::NotFound);
    // Never more than what stands for a volume is removed.
    fs::create_dir(bench.file("full")).unwrap();
    fs::write(bench.file("full/somebodys"), b"data").unwrap();
    assert_eq!(code(bench.hide(&id, "full").await), Code::Internal);
    assert!(bench.file("full/somebodys").exists());
    // With the replicator's word missing, how full it is can still be told.
    bench.stage(&id, &context, &pod).await.unwrap();
    let stats = bench.stats(&id, "stage").await.unwrap();
    assert!(!stats.volume_condition.unwrap().abnormal);
    bench.driver.fake.world().change(&id, |v| {
        v.conditions.push(api::Condition { text: "the quorum is lost".into(), ..Default::default() });
    });
    let condition = bench.stats(&id, "stage").await.unwrap().volume_condition.unwrap();
    assert!(condition.abnormal && condition.message.contains("the quorum is lost"));
    bench.unstage(&id).await.unwrap();
    bench.unpublish(&id).await.unwrap();
}

/// An image of that filesystem with a file in it: unmounted, or cut while it was mounted.
fn image(bench: &Bench, kind: &str, size: i64, clean: bool) -> std::path::PathBuf {
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    };
    let (path, cut, at) = (bench.file("image"), bench.file("cut"), bench.file("image-at"));
    let text = |path: &Path| path.to_str().unwrap().to_string();
    fs::File::create(&path).unwrap().set_len(size as u64).unwrap();
    run(&format!("mkfs.{kind}"), &["-q", &text(&path)]);
    fs::create_dir_all(&at).unwrap();
    let device = run("losetup", &["--find", "--show", &text(&path)]);
    // Whoever had the number before may have left a mark.
    run("blockdev", &["--setrw", &device]);
    run("mount", &[&device, &text(&at)]);
    fs::write(at.join("data"), b"kept").unwrap();
    run("sync", &["--file-system", &text(&at)]);
    // In the journal alone.
    fs::File::create(at.join("late")).unwrap().sync_all().unwrap();
    let copy = || fs::copy(&path, &cut).unwrap();
    if !clean {
        copy();
    }
    run("umount", &[&text(&at)]);
    run("losetup", &["--detach", &device]);
    if clean {
        copy();
    }
    cut
}

#[tokio::test]
async fn what_many_read_is_never_written_not_even_by_its_journal() {
    let test = "what_many_read_is_never_written_not_even_by_its_journal";
    for (kind, size, option) in
        [("ext4", 16 * MIB, "noload"), ("xfs", 320 * MIB, "norecovery"), ("btrfs", 256 * MIB, "rescue=nologreplay")]
    {
        let Some(bench) = Bench::set_up(test).await else { return };
        if !installed(&format!("mkfs.{kind}")) {
            println!("SKIP {test} ({kind}): mkfs.{kind} is not installed");
            continue;
        }
        let source = bench.volume("a", size).await;
        let wish = crate::readers::reading("r", &source);
        let capacity_range = Some(csi::CapacityRange { required_bytes: size, limit_bytes: 0 });
        let parameters = parameters(&[("sites", "east/n1")]);
        let wish = csi::CreateVolumeRequest { capacity_range, parameters, ..wish };
        let id = bench.driver.create(wish).await.unwrap().volume_id;
        let context = bench.publish(&id, true).await;
        let mut pod = mounted(kind, Mode::MultiNodeReaderOnly);
        // Nothing is made where nothing is.
        let blank = bench.stage(&id, &context, &pod).await.unwrap_err();
        assert!(blank.message().contains("holds no filesystem"), "{blank}");
        for clean in [true, false] {
            bench.unstage(&id).await.unwrap();
            let image = fs::read(image(&bench, kind, size, clean)).unwrap();
            fs::write(bench.backing(&id), &image).unwrap();
            if !clean {
                let refused = bench.stage(&id, &context, &pod).await.unwrap_err();
                assert_eq!(refused.code(), Code::FailedPrecondition);
                assert!(refused.message().contains("fsfreeze") && refused.message().contains(option), "{refused}");
                if let Some(csi::volume_capability::AccessType::Mount(mount)) = &mut pod.access_type {
                    mount.mount_flags = vec![option.into()];
                }
            }
            bench.stage(&id, &context, &pod).await.unwrap();
            bench.stage(&id, &context, &pod).await.unwrap();
            let reader = bench.driver.fake.world().find(&id).unwrap().readers[0].clone();
            let held = Command::new("blockdev").args(["--getro", &reader.device.unwrap().path]).output().unwrap();
            assert_eq!(held.stdout, b"1\n");
            bench.show(&id, "pod", &pod, false).await.unwrap();
            if clean {
                assert_eq!(fs::read(bench.file("pod/data")).unwrap(), b"kept");
            }
            assert!(fs::write(bench.file("pod/data"), b"lost").is_err());
            bench.stats(&id, "pod").await.unwrap();
            bench.hide(&id, "pod").await.unwrap();
            bench.unstage(&id).await.unwrap();
            assert!(bench.driver.fake.world().find(&id).unwrap().readers[0].device.is_none(), "published still");
            assert!(fs::read(bench.backing(&id)).unwrap() == image, "{kind}: the image has changed");
        }
        bench.unpublish(&id).await.unwrap();
        assert!(bench.driver.fake.world().find(&id).unwrap().readers.is_empty());
    }
}
