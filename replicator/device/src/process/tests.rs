//! The process and its client over real loop devices; in place of the replicator an NBD server that comes and goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::message::{Answer, Question};
use super::{DeviceProcess, FrontKind, ProcessError, ProcessServer, Wanted};
use crate::tools::{find, need, run};
use crate::{FuseDevice, Geometry, MemoryDevice, NbdListen, NbdServer, SingleExport};

const GEOMETRY: Geometry =
    Geometry { size_bytes: 64 << 20, logical_block_bytes: 4096, volatile_cache: false, read_only: false };

#[test]
fn what_is_not_known_is_ignored_or_refused() {
    let later = r#"{"verb":"grow","name":"pg","session":"7","size_bytes":8192,"since":"a later version"}"#;
    let grow = Question::Grow { name: "pg".into(), session: "7".into(), size_bytes: 8192 };
    assert_eq!(serde_json::from_str::<Question>(later).unwrap(), grow);
    for bad in ["", "{}", "[]", r#"{"verb":"melt"}"#, r#"{"verb":"grow"}"#, "\u{0}"] {
        assert!(serde_json::from_str::<Question>(bad).is_err(), "{bad:?}");
    }
    assert_eq!(serde_json::to_string(&Answer::NotHeld).unwrap(), r#"{"answer":"not-held"}"#);
}

struct Bench {
    dir: tempfile::TempDir,
    memory: Arc<MemoryDevice>,
    process: DeviceProcess,
    server: ProcessServer,
}

impl Bench {
    async fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("device.sock");
        let server = ProcessServer::start(&socket, dir.path(), FrontKind::Fuse).await.unwrap();
        Bench { memory: Arc::new(MemoryDevice::new(GEOMETRY)), process: DeviceProcess::at(&socket), server, dir }
    }

    fn nbd_socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    async fn replicator(&self, session: &str) -> NbdServer {
        let exports = Arc::new(SingleExport::new(format!("pg@{session}"), self.memory.clone()));
        NbdServer::start(NbdListen::Unix(self.nbd_socket()), exports).await.unwrap()
    }

    fn wanted(&self, session: &str) -> Wanted {
        Wanted {
            name: "pg".into(),
            session: session.into(),
            socket: self.nbd_socket(),
            export: format!("pg@{session}"),
            size_bytes: GEOMETRY.size_bytes,
            logical_block_bytes: GEOMETRY.logical_block_bytes,
            volatile_cache: false,
            read_only: false,
        }
    }
}

/// Writes a block past the cache, in a process of its own: it may have to wait.
fn write(path: &Path, block: u64, file: PathBuf, value: u8) -> tokio::task::JoinHandle<Result<String, String>> {
    std::fs::write(&file, vec![value; 4096]).unwrap();
    let (to, seek) = (format!("of={}", path.display()), format!("seek={block}"));
    tokio::spawn(async move {
        let from = format!("if={}", file.display());
        let dd = find("dd").expect("dd is part of every system");
        run(&dd, &[&from, &to, &seek, "bs=4096", "count=1", "oflag=direct", "conv=notrunc"]).await
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_waits_for_its_replicator_and_ends_when_it_is_told() {
    need!("a_device_waits_for_its_replicator_and_ends_when_it_is_told", "/dev/fuse", "/dev/loop-control");
    let bench = Bench::new().await;
    let replicator = bench.replicator("7").await;
    let path = bench.process.open(bench.wanted("7")).await.unwrap();
    let file = |name: &str| bench.dir.path().join(name);
    write(&path, 0, file("a"), 1).await.unwrap().unwrap();
    drop(replicator);
    let waits = write(&path, 1, file("b"), 2);
    while bench.process.list().await.unwrap()[0].waiting == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!bench.process.list().await.unwrap()[0].connected);
    let replicator = bench.replicator("7").await;
    assert_eq!(bench.process.open(bench.wanted("7")).await.unwrap(), path, "it is there already");
    waits.await.unwrap().unwrap();
    assert_eq!(bench.memory.allocated_bytes(), 8192);

    // Whoever tidies up beside it finds nothing that is dead.
    let dir = bench.dir.path().to_owned();
    assert_eq!(spawn_blocking(move || FuseDevice::cleanup_stale(&dir)).await.unwrap().unwrap(), []);
    write(&path, 2, file("c"), 3).await.unwrap().unwrap();

    let user = std::fs::File::open(&path).unwrap();
    let refused = bench.process.close("pg", "7", false).await.unwrap_err();
    assert!(matches!(&refused, ProcessError::Refused { reason } if reason.contains("in use")), "{refused}");
    assert!(!bench.process.close("pg", "6", true).await.unwrap(), "another session's device is not here");
    // The next session's device: the old one fails, and what waits for its replicator fails as well.
    drop(replicator);
    let stuck = write(&path, 3, file("d"), 4);
    while bench.process.list().await.unwrap()[0].waiting == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let _replicator = bench.replicator("8").await;
    let next = bench.process.open(bench.wanted("8")).await.unwrap();
    assert_ne!(next, path, "the old one is still open");
    stuck.await.unwrap().unwrap_err();
    write(&path, 4, file("e"), 5).await.unwrap().unwrap_err();
    drop(user);
    write(&next, 5, file("f"), 6).await.unwrap().unwrap();
    assert_eq!(bench.memory.allocated_bytes(), 4 * 4096, "nothing of the session that was over came through");

    // Nobody uses it: told to end, it does.
    bench.server.drain().await;
    assert_eq!(bench.process.list().await.unwrap(), []);
}
