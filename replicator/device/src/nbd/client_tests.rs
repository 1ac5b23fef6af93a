//! The server against the clients that people use: libnbd's tools, qemu's, fio.

use std::path::PathBuf;
use std::sync::Arc;

use super::{NbdListen, NbdServer, SingleExport};
use crate::tools::{need, run};
use crate::{BlockDevice, Geometry, IoError, MemoryDevice, SectorDevice};

const SIZE: u64 = 64 << 20;

struct Served {
    device: Arc<dyn BlockDevice>,
    memory: Arc<MemoryDevice>,
    server: NbdServer,
    dir: tempfile::TempDir,
}

impl Served {
    /// A device of 64 MiB under the name `vol`, on a unix socket.
    async fn start(logical_block_bytes: u32, read_only: bool) -> Served {
        let memory = Arc::new(MemoryDevice::new(Geometry {
            size_bytes: SIZE,
            logical_block_bytes: 4096,
            volatile_cache: false,
            read_only,
        }));
        let device: Arc<dyn BlockDevice> =
            if logical_block_bytes == 512 { Arc::new(SectorDevice::new(memory.clone())) } else { memory.clone() };
        let dir = tempfile::tempdir().unwrap();
        let exports = Arc::new(SingleExport::new("vol", device.clone()));
        let server = NbdServer::start(NbdListen::Unix(dir.path().join("nbd.sock")), exports).await.unwrap();
        Served { device, memory, server, dir }
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///vol?socket={}", self.dir.path().join("nbd.sock").display())
    }

    /// A file with bytes that differ from block to block.
    fn file(&self, name: &str, len: usize) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, pattern(len)).unwrap();
        path
    }
}

fn pattern(len: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(len);
    out
}

fn lines(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_sees_what_is_offered() {
    let [nbdinfo] = need!("nbdinfo_sees_what_is_offered", "nbdinfo");
    let served = Served::start(4096, false).await;
    let said = lines(&run(&nbdinfo, &[&served.uri()]).await.unwrap());
    for expected in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export-size: 67108864",
        "base:allocation",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_fast_zero: true",
        "can_df: true",
        "can_cache: true",
        "can_multi_conn: true",
        "block_size_minimum: 4096",
        "block_size_preferred: 65536",
        "block_size_maximum: 33554432",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    let list = run(&nbdinfo, &["--list", &served.uri().replace("/vol?", "/?")]).await.unwrap();
    assert!(list.contains("export=\"vol\""), "{list}");
    let unknown = run(&nbdinfo, &[&served.uri().replace("/vol?", "/nothing?")]).await.unwrap_err();
    assert!(unknown.contains("No such file or directory"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdinfo_maps_what_is_allocated() {
    let [nbdinfo] = need!("nbdinfo_maps_what_is_allocated", "nbdinfo");
    let served = Served::start(4096, false).await;
    served.device.write(1 << 20, vec![7; 1 << 20].into(), false).await.unwrap();
    let said = lines(&run(&nbdinfo, &["--map", &served.uri()]).await.unwrap());
    assert_eq!(said, "0 1048576 3 hole,zero 1048576 1048576 0 data 2097152 65011712 3 hole,zero");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_brings_back_what_it_took() {
    let [nbdcopy] = need!("nbdcopy_brings_back_what_it_took", "nbdcopy");
    for block in [4096, 512] {
        let served = Served::start(block, false).await;
        let source = served.file("source", SIZE as usize);
        let back = served.dir.path().join("back");
        run(&nbdcopy, &["--flush", "--connections=4", "--requests=64", source.to_str().unwrap(), &served.uri()])
            .await
            .unwrap();
        run(&nbdcopy, &[&served.uri(), back.to_str().unwrap()]).await.unwrap();
        assert!(std::fs::read(source).unwrap() == std::fs::read(back).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nbdcopy_of_a_sparse_file_stays_thin() {
    let [nbdcopy] = need!("nbdcopy_of_a_sparse_file_stays_thin", "nbdcopy");
    let served = Served::start(4096, false).await;
    let source = served.dir.path().join("source");
    std::fs::File::create(&source).unwrap().set_len(SIZE).unwrap();
    served.device.write(0, vec![1; 1 << 20].into(), false).await.unwrap();
    run(&nbdcopy, &[source.to_str().unwrap(), &served.uri()]).await.unwrap();
    assert_eq!(served.memory.allocated_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_img_converts_and_compares() {
    let [qemu_img] = need!("qemu_img_converts_and_compares", "qemu-img");
    let served = Served::start(4096, false).await;
    let source = served.file("source", SIZE as usize);
    let source = source.to_str().unwrap();
    run(&qemu_img, &["convert", "-n", "-f", "raw", "-O", "raw", "-W", source, &served.uri()]).await.unwrap();
    let said = run(&qemu_img, &["compare", "-f", "raw", "-F", "raw", source, &served.uri()]).await.unwrap();
    assert!(said.contains("Images are identical"), "{said}");
    let map = run(&qemu_img, &["map", "--output=json", "-f", "raw", &served.uri()]).await.unwrap();
    assert!(map.contains("\"data\": true"), "{map}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn qemu_io_writes_zeroes_trims_and_reads() {
    let [qemu_io] = need!("qemu_io_writes_zeroes_trims_and_reads", "qemu-io");
    for block in [4096, 512] {
        let served = Served::start(block, false).await;
        let mut arguments = vec!["-f", "raw"];
        for command in [
            "write -P 0x11 0 8M",
            "write -f -P 0x22 1M 4k",
            "flush",
            "write -z 2M 1M",
            "write -z -u 3M 64k",
            "discard 4M 1M",
            "write -P 0x33 5000k 512",
            "read -P 0x11 0 1M",
            "read -P 0x22 1M 4k",
            "read -P 0 2M 1M",
            "read -P 0 3M 64k",
            "read -P 0 4M 512k",
            "read -P 0x33 5000k 512",
            "aio_write -P 0x44 6M 1M",
            "aio_write -P 0x55 7M 1M",
            "aio_flush",
            "read -P 0x44 6M 1M",
            "read -P 0x55 7M 1M",
        ] {
            arguments.extend(["-c", command]);
        }
        let uri = served.uri();
        arguments.push(&uri);
        let said = run(&qemu_io, &arguments).await.unwrap();
        assert!(!said.contains("failed") && !said.contains("error"), "{said}");
        let sector = served.device.read(5000 << 10, 4096).await.unwrap();
        assert!(sector[..512].iter().all(|byte| *byte == 0x33));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_export_is_read_only_for_clients() {
    let [nbdinfo, qemu_io] = need!("a_read_only_export_is_read_only_for_clients", "nbdinfo", "qemu-io");
    let served = Served::start(4096, true).await;
    assert!(lines(&run(&nbdinfo, &[&served.uri()]).await.unwrap()).contains("is_read_only: true"));
    let refused = run(&qemu_io, &["-f", "raw", "-c", "write 0 4k", &served.uri()]).await;
    assert!(refused.is_err() || refused.is_ok_and(|said| said.contains("read-only")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fio_verifies_what_it_wrote() {
    let [fio] = need!("fio_verifies_what_it_wrote", "fio");
    let engines = run(&fio, &["--enghelp"]).await.unwrap();
    if !engines.split_whitespace().any(|engine| engine == "nbd") {
        crate::tools::skip("fio_verifies_what_it_wrote", "fio's nbd engine");
        return;
    }
    for (block, size) in [(4096, "--bsrange=4k-256k"), (512, "--bsrange=512-64k")] {
        let served = Served::start(block, false).await;
        let uri = format!("--uri={}", served.uri());
        let align = format!("--blockalign={block}");
        run(
            &fio,
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                size,
                &align,
                "--size=32m",
                "--iodepth=64",
                "--fsync=64",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--randseed=42",
            ],
        )
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_device_fails_its_clients_but_not_their_connection() {
    let [nbdinfo, qemu_io] = need!("a_fenced_device_fails_its_clients", "nbdinfo", "qemu-io");
    let served = Served::start(4096, false).await;
    served.memory.fence("the epoch ended");
    assert!(matches!(served.device.flush().await, Err(IoError::Fenced(_))));
    let said = run(&qemu_io, &["-f", "raw", "-c", "read 0 4k", &served.uri()]).await;
    assert!(matches!(&said, Err(text) if text.contains("shutdown")), "{said:?}");
    run(&nbdinfo, &["--size", &served.uri()]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_answers_closes_and_removes_the_socket() {
    let [nbdinfo] = need!("stop_answers_closes_and_removes_the_socket", "nbdinfo");
    let served = Served::start(4096, false).await;
    let uri = served.uri();
    run(&nbdinfo, &["--size", &uri]).await.unwrap();
    served.server.stop().await;
    assert!(!served.dir.path().join("nbd.sock").exists());
    assert!(run(&nbdinfo, &["--size", &uri]).await.is_err());
}
