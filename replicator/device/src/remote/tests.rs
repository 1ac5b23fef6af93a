//! A server that goes away and comes back, under requests.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use super::RemoteDevice;
use super::fake_server::FakeServer;
use crate::nbd::wire;
use crate::{BlockDevice, Geometry, IoError, MemoryDevice, NbdListen, NbdServer, SingleExport};

const BLOCK: u64 = 4096;
const GEOMETRY: Geometry =
    Geometry { size_bytes: 64 * BLOCK, logical_block_bytes: 4096, volatile_cache: false, read_only: false };

struct Bench {
    dir: tempfile::TempDir,
    device: Arc<RemoteDevice>,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let device = Arc::new(RemoteDevice::new(&dir.path().join("nbd.sock"), "pg@7", GEOMETRY));
        Bench { dir, device }
    }

    fn server(&self) -> FakeServer {
        FakeServer::at(&self.dir.path().join("nbd.sock"))
    }

    /// Called now, awaited in a task of its own.
    fn write(&self, block: u64, value: u8) -> JoinHandle<Result<(), IoError>> {
        let data = Bytes::from(vec![value; BLOCK as usize]);
        self.begin(move |device| Box::pin(async move { device.write(block * BLOCK, data, false).await }))
    }

    fn read(&self, block: u64) -> JoinHandle<Result<Bytes, IoError>> {
        self.begin(move |device| Box::pin(async move { device.read(block * BLOCK, BLOCK as u32).await }))
    }

    fn begin<T: Send + 'static>(&self, call: impl FnOnce(Arc<RemoteDevice>) -> BoxFuture<'static, T>) -> JoinHandle<T> {
        let mut called = call(self.device.clone());
        // As frontends do: polled once before the next call.
        let first = called.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        tokio::spawn(async move {
            match first {
                Poll::Ready(done) => done,
                Poll::Pending => called.await,
            }
        })
    }
}

#[tokio::test]
async fn what_has_no_answer_is_issued_again_in_its_order_before_anything_new() {
    let bench = Bench::new();
    let server = bench.server();
    let (mut talk, name) = server.accept(GEOMETRY.size_bytes).await;
    assert_eq!(name, "pg@7");
    let [first, second] = [bench.write(0, 1), bench.write(1, 2)];
    let read = bench.read(2);
    let over = bench.write(0, 3);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(talk.request().await.0);
    }
    assert_eq!(seen.iter().map(|h| (h.command, h.offset)).collect::<Vec<_>>(), [(1, 0), (1, BLOCK), (0, 2 * BLOCK)]);
    talk.answer(seen[1].cookie, 0, b"").await;
    second.await.unwrap().unwrap();
    drop(talk);
    drop(server);
    // Nobody listens; this one waits, too.
    let late = bench.write(3, 4);
    let server = bench.server();
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    let mut again = Vec::new();
    for _ in 0..3 {
        let (header, payload) = talk.request().await;
        again.push((header.offset / BLOCK, payload.first().copied()));
        talk.answer(header.cookie, 0, &vec![9; if header.command == wire::CMD_READ { BLOCK as usize } else { 0 }])
            .await;
    }
    assert_eq!(again, [(0, Some(1)), (2, None), (3, Some(4))]);
    first.await.unwrap().unwrap();
    late.await.unwrap().unwrap();
    assert_eq!(read.await.unwrap().unwrap(), vec![9; BLOCK as usize]);
    // Only now may the second write of block 0 be on its way.
    let (header, payload) = talk.request().await;
    assert_eq!((header.offset, payload[0]), (0, 3));
    talk.answer(header.cookie, 0, b"").await;
    over.await.unwrap().unwrap();
    assert_eq!(bench.device.waiting(), 0);
}

#[tokio::test]
async fn a_server_that_stops_or_does_not_know_the_session_yet_fails_nothing() {
    let bench = Bench::new();
    let server = bench.server();
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    let write = bench.write(5, 7);
    let (header, _) = talk.request().await;
    talk.answer(header.cookie, wire::ESHUTDOWN, b"").await;
    for _ in 0..3 {
        server.refuse().await;
    }
    // One that has the volume smaller than it was is not the one.
    drop(server.accept(BLOCK).await);
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    let (header, payload) = talk.request().await;
    assert_eq!((header.offset, payload[0]), (5 * BLOCK, 7));
    talk.answer(header.cookie, wire::EIO, b"").await;
    assert!(matches!(write.await.unwrap(), Err(IoError::Io(_))), "what the server refuses is refused");
}

#[tokio::test]
async fn a_server_that_answers_nonsense_is_left_and_asked_again() {
    let bench = Bench::new();
    let server = bench.server();
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    let write = bench.write(5, 7);
    let over = bench.write(5, 8);
    let (header, _) = talk.request().await;
    // The second one was never sent.
    talk.answer(header.cookie + 1, 0, b"").await;
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    for value in [7, 8] {
        let (header, payload) = talk.request().await;
        assert_eq!(payload[0], value);
        talk.answer(header.cookie, 0, b"").await;
    }
    write.await.unwrap().unwrap();
    over.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_fails_what_waits_and_what_comes() {
    let bench = Bench::new();
    let server = bench.server();
    let (mut talk, _) = server.accept(GEOMETRY.size_bytes).await;
    let [sent, held_back] = [bench.write(0, 1), bench.write(0, 2)];
    talk.request().await;
    bench.device.end("its session has ended");
    for write in [sent, held_back, bench.write(9, 9)] {
        assert!(matches!(write.await.unwrap(), Err(IoError::Fenced(_))));
    }
    assert_eq!(bench.device.waiting(), 0);
    bench.device.server_at(&server.path);
    let again = tokio::time::timeout(std::time::Duration::from_millis(300), server.accept(GEOMETRY.size_bytes)).await;
    assert!(again.is_err(), "an ended device must not connect again");
}

/// Writers of blocks of their own, each reading back what was answered, while the server is replaced all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_servers_come_and_go() {
    let bench = Bench::new();
    let memory = Arc::new(MemoryDevice::new(GEOMETRY));
    let socket = bench.dir.path().join("nbd.sock");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8u64 {
        let device = bench.device.clone();
        writers.spawn(async move {
            for round in 0..200u64 {
                let block = (round % 8) * 8 + writer;
                let bytes = Bytes::from(vec![(round * 31 + writer) as u8; BLOCK as usize]);
                device.write(block * BLOCK, bytes.clone(), round % 3 == 0).await.unwrap();
                assert_eq!(device.read(block * BLOCK, BLOCK as u32).await.unwrap(), bytes, "block {block}");
                if round % 16 == 0 {
                    device.flush().await.unwrap();
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            }
        });
    }
    let mut servers = 0;
    while !writers.is_empty() {
        let exports = Arc::new(SingleExport::new("pg@7", memory.clone()));
        let server = NbdServer::start(NbdListen::Unix(socket.clone()), exports).await.unwrap();
        servers += 1;
        tokio::select! {
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            Some(done) = writers.join_next() => done.unwrap(),
        }
        // Dropped, not stopped: connections are cut in the middle of whatever they carry.
        drop(server);
    }
    println!("{servers} servers came and went");
    assert!(servers > 3);
}
