//! The whole way: file systems on a loop device on FUSE on a device in memory, with the real tools.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

use super::FuseDevice;
use super::attachment::Place;
use super::loop_device::{LoopDevice, LoopSetup};
use crate::tools::{need, run};
use crate::{BlockDevice, DeviceError, Geometry, IoError, MemoryDevice, SectorDevice};

const SIZE: u64 = 512 << 20;
/// Set for the process that is to be killed: where it attaches its device.
const VICTIM_DIR: &str = "FARSHORE_TEST_VICTIM_DIR";
/// Set besides, if its volume is to be frozen.
const VICTIM_FROZEN: &str = "FARSHORE_TEST_VICTIM_FROZEN";

fn geometry() -> Geometry {
    Geometry { size_bytes: SIZE, logical_block_bytes: 4096, volatile_cache: false, read_only: false }
}

/// A mount of a test's own, gone with the test however it ends.
struct Mounted(PathBuf);

impl Mounted {
    async fn new(device: &Path, dir: &Path) -> Mounted {
        std::fs::create_dir_all(dir).unwrap();
        run(&tool("mount"), &[device.to_str().unwrap(), dir.to_str().unwrap()]).await.unwrap();
        Mounted(dir.to_owned())
    }

    async fn unmount(self) {
        let dir = self.0.clone();
        run(&tool("umount"), &[dir.to_str().unwrap()]).await.unwrap();
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn tool(name: &str) -> PathBuf {
    crate::tools::find(name).unwrap_or_else(|| panic!("{name} is part of every system"))
}

fn attribute(loop_path: &Path, attribute: &str) -> String {
    let name = loop_path.file_name().unwrap();
    std::fs::read_to_string(Path::new("/sys/block").join(name).join(attribute)).unwrap().trim().to_owned()
}

/// Whether nothing of the device is left.
fn is_gone(dir: &Path, loop_path: &Path, name: &str) -> bool {
    // A detached mount shows the file as `/<name>`.
    let backing = Path::new("/sys/block").join(loop_path.file_name().unwrap()).join("loop/backing_file");
    let taken = std::fs::read_to_string(backing).is_ok_and(|file| file.trim().ends_with(&format!("/{name}")));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let place = Place::new(name, dir).unwrap();
    !taken && !mounts.contains(&*place.mount_point().to_string_lossy()) && !dir.join(name).exists()
}

/// Whoever made a mount namespace of his own while our file system was mounted holds a copy of the mount, rightly named
/// as a user; this is not about him.
async fn detach_once_unused(fuse: &FuseDevice) {
    let detached = async {
        while let Err(refused) = fuse.detach().await {
            assert!(matches!(refused, DeviceError::InUse { .. }), "{refused}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(120), detached).await.expect("the last user lets go");
}

/// Files written, synced, remounted, compared, and the file system checked by its own tool.
async fn a_file_system_survives(name: &str, logical: u32, mkfs: &[&str], check: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let memory: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(geometry()));
    let device = if logical == 512 { Arc::new(SectorDevice::new(memory)) } else { memory };
    let fuse = FuseDevice::attach(name, device, dir.path()).await.unwrap();
    let path = fuse.loop_path();
    let path_text = path.to_str().unwrap().to_owned();
    assert_eq!(attribute(&path, "queue/logical_block_size"), logical.to_string());

    let with_path = |arguments: &[&str]| arguments.iter().map(|a| a.to_string()).chain([path_text.clone()]).collect();
    let mkfs: Vec<String> = with_path(mkfs);
    run(&tool(&mkfs[0]), &mkfs[1..].iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();

    let point = dir.path().join("point");
    let mounted = Mounted::new(&path, &point).await;
    let script = format!(
        "set -e; cd {0}; mkdir -p a/b; for i in $(seq 200); do echo file $i > a/b/$i; done; \
         dd if=/dev/urandom of=big bs=1M count=64 conv=fsync status=none; rm a/b/1??; sync; sha256sum big > sum; \
         dd if=/dev/zero of=big bs=4k seek=3 count=100 conv=notrunc,fsync oflag=direct status=none; sha256sum big a/b/* > sum",
        point.display()
    );
    run(&tool("sh"), &["-c", &script]).await.unwrap();
    run(&tool("fstrim"), &[point.to_str().unwrap()]).await.unwrap();
    assert!(matches!(fuse.detach().await, Err(DeviceError::InUse { users, .. }) if users.contains("point")));
    mounted.unmount().await;

    let check: Vec<String> = with_path(check);
    run(&tool(&check[0]), &check[1..].iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
    let mounted = Mounted::new(&path, &point).await;
    let script = format!("cd {} && sha256sum --quiet -c sum", point.display());
    run(&tool("sh"), &["-c", &script]).await.unwrap();
    mounted.unmount().await;

    detach_once_unused(&fuse).await;
    fuse.detach().await.unwrap();
    std::fs::remove_dir(&point).unwrap();
    assert!(is_gone(dir.path(), &path, name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ext4_is_clean_after_use() {
    need!("ext4_is_clean_after_use", "/dev/fuse", "/dev/loop-control", "mkfs.ext4", "e2fsck", "fstrim");
    a_file_system_survives("ext4-vol", 4096, &["mkfs.ext4", "-q", "-F"], &["e2fsck", "-f", "-n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xfs_is_clean_after_use() {
    need!("xfs_is_clean_after_use", "/dev/fuse", "/dev/loop-control", "mkfs.xfs", "xfs_repair", "fstrim");
    a_file_system_survives("xfs-vol", 4096, &["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ext4_with_small_blocks_is_clean_on_512_byte_sectors() {
    need!("ext4_with_small_blocks", "/dev/fuse", "/dev/loop-control", "mkfs.ext4", "e2fsck", "fstrim");
    let mkfs = ["mkfs.ext4", "-q", "-F", "-b", "1024"];
    a_file_system_survives("sector-vol", 512, &mkfs, &["e2fsck", "-f", "-n"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_verifies_on_the_block_device() {
    let [fio, ..] = need!("fio_verifies_on_the_block_device", "fio", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let fuse = FuseDevice::attach("fio-vol", Arc::new(MemoryDevice::new(geometry())), dir.path()).await.unwrap();
    let file = format!("--filename={}", fuse.loop_path().display());
    let base = ["--name=verify", "--ioengine=libaio", "--direct=1", "--size=64m", "--iodepth=64", "--randseed=7"];
    let mut arguments: Vec<&str> = base.to_vec();
    arguments.extend([&file, "--rw=randwrite", "--bsrange=4k-1m", "--verify=crc32c", "--verify_fatal=1"]);
    arguments.extend(["--do_verify=1", "--fsync=100"]);
    run(&fio, &arguments).await.unwrap();
    fuse.detach().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_cache_follows_the_durability_class() {
    need!("the_write_cache_follows_the_durability_class", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    for (volatile_cache, expected) in [(false, "write through"), (true, "write back")] {
        let device = Arc::new(MemoryDevice::new(Geometry { volatile_cache, ..geometry() }));
        let fuse = FuseDevice::attach("cache-vol", device, dir.path()).await.unwrap();
        assert_eq!(attribute(&fuse.loop_path(), "queue/write_cache"), expected);
        assert_eq!(attribute(&fuse.loop_path(), "loop/dio"), "1");
        assert_ne!(attribute(&fuse.loop_path(), "queue/discard_max_bytes"), "0");
        fuse.detach().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zeroes_and_discards_free_what_they_cover() {
    let [blkdiscard, ..] = need!("zeroes_and_discards", "blkdiscard", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryDevice::new(geometry()));
    let fuse = FuseDevice::attach("thin-vol", memory.clone(), dir.path()).await.unwrap();
    let path = fuse.loop_path();
    let write = format!("dd if=/dev/urandom of={} bs=1M count=8 oflag=direct status=none", path.display());
    run(&tool("sh"), &["-c", &write]).await.unwrap();
    assert_eq!(memory.allocated_bytes(), 8 << 20);
    run(&blkdiscard, &["-o", "0", "-l", "4194304", path.to_str().unwrap()]).await.unwrap();
    assert_eq!(memory.allocated_bytes(), 4 << 20);
    run(&blkdiscard, &["-z", "-o", "4194304", "-l", "2097152", path.to_str().unwrap()]).await.unwrap();
    assert!(memory.read(4 << 20, 1 << 20).await.unwrap().iter().all(|byte| *byte == 0));
    assert_eq!(memory.allocated_bytes(), 2 << 20);
    fuse.detach().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_device_cannot_be_written() {
    need!("a_read_only_device_cannot_be_written", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let device = Arc::new(MemoryDevice::new(Geometry { read_only: true, ..geometry() }));
    let fuse = FuseDevice::attach("ro-vol", device, dir.path()).await.unwrap();
    assert_eq!(attribute(&fuse.loop_path(), "ro"), "1");
    let path = fuse.loop_path();
    assert!(run(&tool("dd"), &["if=/dev/zero", &format!("of={}", path.display()), "count=8"]).await.is_err());
    run(&tool("dd"), &[&format!("if={}", path.display()), "of=/dev/null", "count=8"]).await.unwrap();
    fuse.detach().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_grows_while_attached() {
    need!("a_device_grows_while_attached", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryDevice::new(geometry()));
    let fuse = FuseDevice::attach("grow-vol", memory.clone(), dir.path()).await.unwrap();
    assert_eq!(attribute(&fuse.loop_path(), "size"), (SIZE / 512).to_string());
    memory.grow(2 * SIZE);
    fuse.grow().await.unwrap();
    assert_eq!(attribute(&fuse.loop_path(), "size"), (2 * SIZE / 512).to_string());
    let last = format!("of={}", fuse.loop_path().display());
    let seek = format!("seek={}", 2 * SIZE / 4096 - 1);
    run(&tool("dd"), &["if=/dev/urandom", &last, "bs=4096", "count=1", "oflag=direct", &seek]).await.unwrap();
    assert_eq!(memory.allocated_bytes(), 4096);
    fuse.detach().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_device_is_not_detached_and_its_user_is_named() {
    need!("an_open_device_is_not_detached", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let fuse = FuseDevice::attach("open-vol", Arc::new(MemoryDevice::new(geometry())), dir.path()).await.unwrap();
    let held = std::fs::File::open(fuse.loop_path()).unwrap();
    let refused = fuse.detach().await.unwrap_err();
    let me = format!("process {} ", std::process::id());
    assert!(matches!(&refused, DeviceError::InUse { users, .. } if users.contains(&me)), "{refused}");
    drop(held);
    fuse.detach().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_attached_once_and_remains_usable() {
    need!("a_volume_is_attached_once", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryDevice::new(geometry()));
    let fuse = FuseDevice::attach("once", memory.clone(), dir.path()).await.unwrap();
    let second = FuseDevice::attach("once", memory.clone(), dir.path()).await;
    assert!(matches!(second, Err(DeviceError::AlreadyAttached { .. })));
    assert_eq!(FuseDevice::cleanup_stale(dir.path()).unwrap(), []);
    let path = format!("of={}", fuse.loop_path().display());
    run(&tool("dd"), &["if=/dev/urandom", &path, "bs=1M", "count=1", "oflag=direct"]).await.unwrap();
    assert_eq!(memory.allocated_bytes(), 1 << 20);
    fuse.detach().await.unwrap();
}

/// Counts flushes.
struct Counted {
    memory: MemoryDevice,
    flushes: AtomicUsize,
}

impl BlockDevice for Counted {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }
    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        self.memory.read(offset, len)
    }
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.write(offset, data, fua)
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.memory.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.write_zeroes(offset, len, unmap, fua)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_fsync_reaches_the_device_exactly_where_it_has_a_cache() {
    need!("an_fsync_reaches_the_device", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    for volatile_cache in [false, true] {
        let memory = MemoryDevice::new(Geometry { volatile_cache, ..geometry() });
        let device = Arc::new(Counted { memory, flushes: AtomicUsize::new(0) });
        let fuse = FuseDevice::attach("flush-vol", device.clone(), dir.path()).await.unwrap();
        let output = format!("of={}", fuse.loop_path().display());
        let flushes = || device.flushes.load(Ordering::SeqCst);
        run(&tool("dd"), &["if=/dev/zero", &output, "bs=4k", "count=1", "oflag=direct"]).await.unwrap();
        let before = flushes();
        run(&tool("dd"), &["if=/dev/zero", &output, "bs=4k", "count=1", "oflag=direct", "conv=fsync"]).await.unwrap();
        assert_eq!(flushes() > before, volatile_cache);
        let before = flushes();
        // Each block written with O_DSYNC: FUA, which a loop device makes a flush after the write.
        run(&tool("dd"), &["if=/dev/zero", &output, "bs=4k", "count=3", "oflag=direct,dsync"]).await.unwrap();
        assert_eq!(flushes() - before >= 3, volatile_cache);
        let before = flushes();
        fuse.detach().await.unwrap();
        assert!(flushes() > before, "a detach flushes");
    }
}

/// Holds every request until it is told to let go, as a volume without its quorum does.
struct Frozen {
    memory: MemoryDevice,
    thawed: watch::Receiver<bool>,
    /// Writes that have come so far. What the kernel counts as under way may still be before us.
    taken: AtomicUsize,
}

impl Frozen {
    fn new(memory: MemoryDevice, thawed: watch::Receiver<bool>) -> Frozen {
        Frozen { memory, thawed, taken: AtomicUsize::new(0) }
    }

    async fn wait(&self) {
        let _ = self.thawed.clone().wait_for(|thawed| *thawed).await;
    }
}

impl BlockDevice for Frozen {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }
    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        self.memory.read(offset, len)
    }
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.taken.fetch_add(1, Ordering::SeqCst);
            self.wait().await;
            self.memory.write(offset, data, fua).await
        })
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.wait().await;
            Ok(())
        })
    }
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.write_zeroes(offset, len, unmap, fua)
    }
}

/// A writer whose write has been taken and is not answered, so that it hangs, as it should.
async fn hanging_writer(path: &Path) -> tokio::process::Child {
    let output = format!("of={}", path.display());
    let mut writer = tokio::process::Command::new(tool("dd"))
        .args(["if=/dev/zero", &output, "bs=1M", "count=4", "oflag=direct", "conv=fsync"])
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let busy = async {
        while attribute(path, "inflight").split_whitespace().all(|count| count == "0") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), busy).await.unwrap();
    assert!(writer.try_wait().unwrap().is_none());
    writer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_with_a_frozen_volume_can_be_killed() {
    need!("a_daemon_with_a_frozen_volume_can_be_killed", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let (mut child, path) = start_victim(dir.path(), true).await;
    let mut writer = hanging_writer(&path).await;
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, child.kill()).await.expect("it dies though its volume is frozen").unwrap();
    let status = tokio::time::timeout(patience, writer.wait()).await.expect("the writer is freed").unwrap();
    assert!(!status.success());
    assert_eq!(FuseDevice::cleanup_stale(dir.path()).unwrap().len(), 1);
    assert!(is_gone(dir.path(), &path, "victim"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn force_ends_a_frozen_device_and_frees_its_users() {
    need!("force_ends_a_frozen_device", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let (thaw, thawed) = watch::channel(false);
    let device = Arc::new(Frozen::new(MemoryDevice::new(geometry()), thawed));
    let fuse = FuseDevice::attach("frozen", device.clone(), dir.path()).await.unwrap();
    let path = fuse.loop_path();
    let mut writer = hanging_writer(&path).await;
    let taken = async {
        while device.taken.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), taken).await.unwrap();
    fuse.detach_by_force().await;
    let status = tokio::time::timeout(std::time::Duration::from_secs(60), writer.wait()).await.unwrap().unwrap();
    assert!(!status.success());
    assert!(is_gone(dir.path(), &path, "frozen"));
    // What had been submitted still finishes.
    thaw.send(true).unwrap();
    let landed = async {
        while device.memory.allocated_bytes() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), landed).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_are_in_flight_at_once() {
    let [fio, ..] = need!("many_requests_are_in_flight_at_once", "fio", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let (thaw, thawed) = watch::channel(false);
    let device = Arc::new(Frozen::new(MemoryDevice::new(geometry()), thawed));
    let fuse = FuseDevice::attach("deep", device, dir.path()).await.unwrap();
    let file = format!("--filename={}", fuse.loop_path().display());
    let arguments =
        ["--name=deep", "--ioengine=libaio", "--direct=1", "--rw=randwrite", "--bs=4k", "--size=1m", "--iodepth=64"];
    let mut all = arguments.to_vec();
    all.push(&file);
    let path = fuse.loop_path();
    let queue = async {
        // All writes are held, so their number tells how many the way down lets through at once.
        let inflight = || {
            let counts = attribute(&path, "inflight");
            counts.split_whitespace().filter_map(|count| count.parse::<u32>().ok()).sum::<u32>()
        };
        while inflight() < 64 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        thaw.send(true).unwrap();
    };
    let (ran, queued) = tokio::join!(run(&fio, &all), tokio::time::timeout(std::time::Duration::from_secs(120), queue));
    queued.unwrap();
    ran.unwrap();
    fuse.detach().await.unwrap();
}

/// Not a test of its own: the process that the tests of a killed daemon kill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM_DIR) else { return };
    let memory = MemoryDevice::new(geometry());
    let (_thaw, thawed) = watch::channel(std::env::var_os(VICTIM_FROZEN).is_none());
    let device = Arc::new(Frozen::new(memory, thawed));
    let fuse = FuseDevice::attach("victim", device, Path::new(&dir)).await.unwrap();
    println!("\nattached {}", fuse.loop_path().display());
    std::future::pending::<()>().await;
}

async fn start_victim(dir: &Path, frozen: bool) -> (tokio::process::Child, PathBuf) {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    if frozen {
        command.env(VICTIM_FROZEN, "1");
    }
    let mut child = command
        .args(["--exact", "fuse::tests::victim", "--nocapture"])
        .env(VICTIM_DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(path) = line.strip_prefix("attached ") {
            return (child, PathBuf::from(path));
        }
    }
    panic!("the victim ended before it had a device");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn remains_of_a_killed_daemon_are_removed() {
    need!("remains_of_a_killed_daemon_are_removed", "/dev/fuse", "/dev/loop-control", "mkfs.ext4");
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    // Unused: everything goes at once.
    let (mut child, path) = start_victim(&run_dir, false).await;
    assert_eq!(FuseDevice::cleanup_stale(&run_dir).unwrap(), [], "it is alive");
    child.kill().await.unwrap();
    let stale = FuseDevice::cleanup_stale(&run_dir).unwrap();
    assert_eq!(stale.len(), 1);
    assert_eq!(stale[0].loop_path.as_deref(), Some(&*path));
    assert!(!stale[0].still_used);
    assert!(is_gone(&run_dir, &path, "victim"));

    // With a file system on it: the loop device goes with the last user. Attaching anew clears the way by itself.
    let (mut child, path) = start_victim(&run_dir, false).await;
    run(&tool("mkfs.ext4"), &["-q", "-F", path.to_str().unwrap()]).await.unwrap();
    let mounted = Mounted::new(&path, &dir.path().join("point")).await;
    child.kill().await.unwrap();
    let stale = FuseDevice::cleanup_stale(&run_dir).unwrap();
    assert!(stale[0].still_used && stale[0].loop_path.as_deref() == Some(&*path));
    let fuse = FuseDevice::attach("victim", Arc::new(MemoryDevice::new(geometry())), &run_dir).await.unwrap();
    assert_ne!(fuse.loop_path(), path);
    drop(mounted);
    fuse.detach().await.unwrap();
    let gone = async {
        while !is_gone(&run_dir, &path, "victim") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.unwrap();
}

/// Nodes can be containers on one kernel, with the same paths in different mount namespaces.
#[test]
fn a_living_device_whose_path_reads_like_ours_is_left_alone() {
    need!("a_living_device_whose_path_reads_like_ours", "/dev/loop-control");
    struct Cleared(LoopDevice);
    impl Drop for Cleared {
        fn drop(&mut self) {
            let _ = self.0.clear_anyhow();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new("vol", dir.path()).unwrap();
    std::fs::create_dir_all(place.mount_point()).unwrap();
    let backing = std::fs::File::create_new(place.file()).unwrap();
    backing.set_len(1 << 20).unwrap();
    let theirs =
        Cleared(LoopDevice::create(&LoopSetup { backing: &backing, block_bytes: 4096, read_only: false }).unwrap());
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    // Our record of the same number, from a time when it was ours.
    let record = format!("{} {} {}", boot_id.trim(), theirs.0.number, theirs.0.diskseq - 1);
    std::fs::write(place.lock_path(), record).unwrap();
    let stale = FuseDevice::cleanup_stale(dir.path()).unwrap();
    assert_eq!((stale.len(), &stale[0].loop_path), (1, &None));
    assert!(theirs.0.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_device_gives_errors_and_can_be_detached() {
    need!("a_fenced_device_gives_errors", "/dev/fuse", "/dev/loop-control");
    let dir = tempfile::tempdir().unwrap();
    let memory = Arc::new(MemoryDevice::new(geometry()));
    let fuse = FuseDevice::attach("fenced", memory.clone(), dir.path()).await.unwrap();
    memory.fence("lost the quorum for 30 s");
    let path = fuse.loop_path();
    let input = format!("if={}", path.display());
    let said = run(&tool("dd"), &[&input, "of=/dev/null", "bs=4k", "count=1", "iflag=direct"]).await.unwrap_err();
    assert!(said.contains("error") || said.contains("Cannot"), "{said}");
    fuse.detach_by_force().await;
    assert!(is_gone(dir.path(), &path, "fenced"));
}
