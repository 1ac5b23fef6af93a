//! The protocol byte by byte, with a client that may lie: errors, garbage, limits and order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::wire;
use super::{NbdListen, NbdServer, NbdTls, SingleExport};
use crate::limits::{NBD_CONNECTIONS_MAX, NBD_IN_FLIGHT_BYTES_MAX, NBD_IN_FLIGHT_MAX};
use crate::tools::{need, run};
use crate::{BlockDevice, DeviceError, Geometry, IoError, MemoryDevice};

const PATIENCE: Duration = Duration::from_secs(60);
const GEOMETRY: Geometry =
    Geometry { size_bytes: 256 << 20, logical_block_bytes: 4096, volatile_cache: true, read_only: false };

struct Served {
    memory: Arc<MemoryDevice>,
    path: PathBuf,
    _server: NbdServer,
    _dir: tempfile::TempDir,
}

async fn serve() -> Served {
    let memory = Arc::new(MemoryDevice::new(GEOMETRY));
    let (path, server, dir) = serve_device(memory.clone(), Duration::from_secs(60)).await;
    Served { memory, path, _server: server, _dir: dir }
}

async fn serve_device(device: Arc<dyn BlockDevice>, handshake: Duration) -> (PathBuf, NbdServer, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nbd.sock");
    let exports = Arc::new(SingleExport::new("vol", device));
    let server = NbdServer::start_with(NbdListen::Unix(path.clone()), exports, handshake).await.unwrap();
    (path, server, dir)
}

/// Speaks NBD as told, right or wrong.
struct Client {
    stream: UnixStream,
}

impl Client {
    async fn connect(path: &PathBuf) -> Client {
        let mut client = Client { stream: UnixStream::connect(path).await.unwrap() };
        let greeting = client.take(18).await;
        assert_eq!(greeting[..8], *b"NBDMAGIC");
        assert_eq!(greeting[8..16], *b"IHAVEOPT");
        assert_eq!(greeting[16..], [0, 3]);
        client
    }

    /// Through the handshake into transmission.
    async fn go(path: &PathBuf, structured: bool) -> Client {
        let mut client = Client::connect(path).await;
        client.send(&3u32.to_be_bytes()).await;
        if structured {
            client.option(wire::OPT_STRUCTURED_REPLY, b"").await;
            assert_eq!(client.option_reply().await.0, wire::REP_ACK);
        }
        client.option(wire::OPT_GO, &info_request("vol")).await;
        while client.option_reply().await.0 != wire::REP_ACK {}
        client
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        timeout(PATIENCE, self.stream.read_exact(&mut bytes)).await.expect("a reply in time").unwrap();
        bytes
    }

    async fn option(&mut self, option: u32, data: &[u8]) {
        let mut bytes = wire::OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        self.send(&bytes).await;
    }

    async fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let head = self.take(20).await;
        assert_eq!(head[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
        let len = u32::from_be_bytes(head[16..20].try_into().unwrap());
        (u32::from_be_bytes(head[12..16].try_into().unwrap()), self.take(len as usize).await)
    }

    async fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        let mut bytes = wire::REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        self.send(&bytes).await;
    }

    /// The error and cookie of a simple reply.
    async fn simple(&mut self) -> (u32, u64) {
        let head = self.take(16).await;
        assert_eq!(head[..4], wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
        (u32::from_be_bytes(head[4..8].try_into().unwrap()), u64::from_be_bytes(head[8..].try_into().unwrap()))
    }

    /// Type, cookie and payload of a structured reply of one chunk.
    async fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        let head = self.take(20).await;
        assert_eq!(head[..4], wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
        assert_eq!(head[4..6], [0, 1], "the only chunk is the last");
        let len = u32::from_be_bytes(head[16..].try_into().unwrap());
        let kind = u16::from_be_bytes(head[6..8].try_into().unwrap());
        (kind, u64::from_be_bytes(head[8..16].try_into().unwrap()), self.take(len as usize).await)
    }

    async fn assert_closed(mut self) {
        let mut rest = Vec::new();
        // A reset is as good an end as any.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("the server closes");
    }

    async fn assert_alive(&mut self) {
        self.request(wire::CMD_FLUSH, 0, 0xa11e, 0, 0).await;
        assert_eq!(self.simple().await, (0, 0xa11e));
    }
}

fn info_request(name: &str) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(0u16.to_be_bytes());
    data
}

#[tokio::test]
async fn options_get_the_answers_of_the_document() {
    let served = serve().await;
    let mut client = Client::connect(&served.path).await;
    client.send(&3u32.to_be_bytes()).await;
    let long = vec![0; 100_000];
    let mut lying = 1000u32.to_be_bytes().to_vec();
    lying.extend(b"vol");
    let cases: [(&str, u32, &[u8], u32); 9] = [
        ("unknown option", 77, b"anything", wire::REP_ERR_UNSUP),
        ("extended headers", 11, b"", wire::REP_ERR_UNSUP),
        ("tls that is not there", wire::OPT_STARTTLS, b"", wire::REP_ERR_UNSUP),
        ("list with data", wire::OPT_LIST, b"x", wire::REP_ERR_INVALID),
        ("info cut short", wire::OPT_INFO, b"\0\0\0", wire::REP_ERR_INVALID),
        ("a name longer than the option", wire::OPT_GO, &lying, wire::REP_ERR_INVALID),
        ("an unknown export", wire::OPT_GO, &info_request("nothing"), wire::REP_ERR_UNKNOWN),
        ("contexts without structured replies", wire::OPT_SET_META_CONTEXT, b"", wire::REP_ERR_INVALID),
        ("an option of 100 kB", wire::OPT_INFO, &long, wire::REP_ERR_TOO_BIG),
    ];
    for (name, option, data, expected) in cases {
        client.option(option, data).await;
        assert_eq!(client.option_reply().await.0, expected, "{name}");
    }
    client.option(wire::OPT_LIST, b"").await;
    assert_eq!(client.option_reply().await, (wire::REP_SERVER, b"\0\0\0\x03vol".to_vec()));
    assert_eq!(client.option_reply().await.0, wire::REP_ACK);
    client.option(wire::OPT_ABORT, b"").await;
    assert_eq!(client.option_reply().await.0, wire::REP_ACK);
    client.assert_closed().await;
}

#[tokio::test]
async fn garbage_in_the_handshake_closes() {
    let served = serve().await;
    let mut absurd = 3u32.to_be_bytes().to_vec();
    absurd.extend(wire::OPTION_MAGIC.to_be_bytes());
    absurd.extend(wire::OPT_GO.to_be_bytes());
    absurd.extend(u32::MAX.to_be_bytes());
    let mut old_client = 0u32.to_be_bytes().to_vec();
    old_client.extend(wire::OPTION_MAGIC.to_be_bytes());
    old_client.extend(wire::OPT_LIST.to_be_bytes());
    old_client.extend(0u32.to_be_bytes());
    for (name, bytes) in [
        ("unknown client flags", 0xffff_ffffu32.to_be_bytes().to_vec()),
        ("no option magic", [&3u32.to_be_bytes()[..], &[0x55; 16]].concat()),
        ("an absurd length", absurd),
        ("an option by a client that is not fixed newstyle", old_client),
        ("text", b"GET / HTTP/1.1\r\n\r\n\r\n\r\n\r\n".to_vec()),
    ] {
        println!("{name}");
        let mut client = Client::connect(&served.path).await;
        client.send(&bytes).await;
        client.assert_closed().await;
    }
    Client::go(&served.path, false).await.assert_alive().await;
}

#[tokio::test]
async fn the_old_way_in_works_with_and_without_zeroes() {
    let served = serve().await;
    for (flags, zeroes) in [(3u32, 0), (1, 124), (0, 124)] {
        let mut client = Client::connect(&served.path).await;
        client.send(&flags.to_be_bytes()).await;
        client.option(wire::OPT_EXPORT_NAME, b"vol").await;
        let answer = client.take(10 + zeroes).await;
        assert_eq!(answer[..8], GEOMETRY.size_bytes.to_be_bytes());
        client.assert_alive().await;
    }
    let mut client = Client::connect(&served.path).await;
    client.send(&3u32.to_be_bytes()).await;
    client.option(wire::OPT_EXPORT_NAME, b"nothing").await;
    client.assert_closed().await;
}

#[tokio::test]
async fn refused_requests_leave_the_connection_in_step() {
    let served = serve().await;
    let mut client = Client::go(&served.path, false).await;
    // The payload of a refused write must be skipped, else its bytes are taken for requests.
    client.request(wire::CMD_WRITE, 0, 1, GEOMETRY.size_bytes, 8192).await;
    client.send(&[0xee; 8192]).await;
    assert_eq!(client.simple().await, (wire::ENOSPC, 1));
    client.request(wire::CMD_WRITE, 0, 2, 512, 4096).await;
    client.send(&[0xee; 4096]).await;
    assert_eq!(client.simple().await, (wire::EINVAL, 2));
    client.request(wire::CMD_WRITE, 0, 3, 0, 33 << 20).await;
    for _ in 0..33 {
        client.send(&[0xee; 1 << 20]).await;
    }
    assert_eq!(client.simple().await, (wire::EOVERFLOW, 3));
    client.request(wire::CMD_READ, 0, 4, 0, 1 << 30).await;
    assert_eq!(client.simple().await, (wire::EOVERFLOW, 4));
    client.request(99, 0, 5, 0, 4096).await;
    assert_eq!(client.simple().await, (wire::EINVAL, 5));
    client.request(wire::CMD_READ, wire::CMD_FLAG_DF, 6, 0, 4096).await;
    assert_eq!(client.simple().await, (wire::EINVAL, 6));
    client.assert_alive().await;
    assert_eq!(served.memory.allocated_bytes(), 0);
}

#[tokio::test]
async fn structured_reads_carry_data_errors_and_reasons() {
    let served = serve().await;
    served.memory.write(8192, vec![5; 4096].into(), false).await.unwrap();
    let mut client = Client::go(&served.path, true).await;
    client.request(wire::CMD_READ, wire::CMD_FLAG_DF, 1, 8192, 4096).await;
    let (kind, cookie, payload) = client.chunk().await;
    assert_eq!((kind, cookie), (wire::CHUNK_OFFSET_DATA, 1));
    assert_eq!(payload[..8], 8192u64.to_be_bytes());
    assert!(payload[8..].iter().all(|byte| *byte == 5) && payload.len() == 8 + 4096);

    client.request(wire::CMD_READ, 0, 2, GEOMETRY.size_bytes, 4096).await;
    let (kind, cookie, payload) = client.chunk().await;
    assert_eq!((kind, cookie), (wire::CHUNK_ERROR, 2));
    assert_eq!(payload[..4], wire::EINVAL.to_be_bytes());

    served.memory.fence("the epoch went to another site");
    client.request(wire::CMD_READ, 0, 3, 0, 4096).await;
    let (_, _, payload) = client.chunk().await;
    assert_eq!(payload[..4], wire::ESHUTDOWN.to_be_bytes());
    assert!(String::from_utf8_lossy(&payload[6..]).contains("another site"));
    client.request(wire::CMD_WRITE, 0, 4, 0, 4096).await;
    client.send(&[1; 4096]).await;
    assert_eq!(client.simple().await, (wire::ESHUTDOWN, 4));
}

#[tokio::test]
async fn garbage_in_transmission_closes_that_connection_only() {
    let served = serve().await;
    let mut other = Client::go(&served.path, false).await;
    let mut client = Client::go(&served.path, false).await;
    client.send(&[0x42; 28]).await;
    client.assert_closed().await;
    let mut client = Client::go(&served.path, false).await;
    client.request(wire::CMD_WRITE, 0, 1, 0, u32::MAX).await;
    client.assert_closed().await;
    // A header cut short, and a payload that never comes.
    let mut client = Client::go(&served.path, false).await;
    client.send(&[0x25, 0x60]).await;
    drop(client);
    let mut client = Client::go(&served.path, false).await;
    client.request(wire::CMD_WRITE, 0, 1, 0, 1 << 20).await;
    drop(client);
    other.assert_alive().await;
    assert_eq!(served.memory.allocated_bytes(), 0);
}

#[tokio::test]
async fn a_silent_client_is_not_waited_for() {
    let device = Arc::new(MemoryDevice::new(GEOMETRY));
    let (path, _server, _dir) = serve_device(device, Duration::from_millis(200)).await;
    Client::connect(&path).await.assert_closed().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away_and_slots_come_back() {
    let served = serve().await;
    let mut clients = Vec::new();
    for _ in 0..NBD_CONNECTIONS_MAX {
        clients.push(Client::connect(&served.path).await);
    }
    let mut refused = UnixStream::connect(&served.path).await.unwrap();
    let mut bytes = Vec::new();
    timeout(PATIENCE, refused.read_to_end(&mut bytes)).await.expect("closed at once").unwrap();
    assert!(bytes.is_empty());
    clients.clear();
    let again = async {
        loop {
            let mut stream = UnixStream::connect(&served.path).await.unwrap();
            if stream.read_u8().await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("a slot becomes free");
}

/// Counts what arrives and answers nothing until permits are given.
struct Gate {
    memory: MemoryDevice,
    arrived: AtomicUsize,
    order: std::sync::Mutex<Vec<u64>>,
    durable: AtomicUsize,
    gate: Semaphore,
}

impl Gate {
    fn new() -> Arc<Gate> {
        Arc::new(Gate {
            memory: MemoryDevice::new(GEOMETRY),
            arrived: AtomicUsize::new(0),
            order: std::sync::Mutex::default(),
            durable: AtomicUsize::new(0),
            gate: Semaphore::new(0),
        })
    }

    async fn pass(&self) {
        self.gate.acquire().await.unwrap().forget();
    }

    async fn until_arrived(&self, count: usize) {
        let all = async {
            while self.arrived.load(Ordering::SeqCst) < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, all).await.unwrap_or_else(|_| panic!("{count} requests arrive"));
    }
}

impl BlockDevice for Gate {
    fn geometry(&self) -> Geometry {
        GEOMETRY
    }
    fn read(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, IoError>> {
        Box::pin(async move {
            self.arrived.fetch_add(1, Ordering::SeqCst);
            self.pass().await;
            self.memory.read(offset, len).await
        })
    }
    fn write(&self, offset: u64, data: Bytes, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.arrived.fetch_add(1, Ordering::SeqCst);
            self.order.lock().unwrap().push(offset);
            self.durable.fetch_add(usize::from(fua), Ordering::SeqCst);
            self.pass().await;
            self.memory.write(offset, data, fua).await
        })
    }
    fn flush(&self) -> BoxFuture<'_, Result<(), IoError>> {
        self.durable.fetch_add(1, Ordering::SeqCst);
        self.memory.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<(), IoError>> {
        self.memory.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool, fua: bool) -> BoxFuture<'_, Result<(), IoError>> {
        self.durable.fetch_add(usize::from(fua), Ordering::SeqCst);
        self.memory.write_zeroes(offset, len, unmap, fua)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_flight_are_bounded_and_none_is_lost() {
    let device = Gate::new();
    let (path, _server, _dir) = serve_device(device.clone(), PATIENCE).await;
    let mut client = Client::go(&path, false).await;
    let total = NBD_IN_FLIGHT_MAX + 100;
    for cookie in 0..total as u64 {
        client.request(wire::CMD_READ, 0, cookie, 0, 4096).await;
    }
    device.until_arrived(NBD_IN_FLIGHT_MAX).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(device.arrived.load(Ordering::SeqCst), NBD_IN_FLIGHT_MAX);
    device.gate.add_permits(total);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..total {
        let (error, cookie) = client.simple().await;
        assert_eq!(error, 0);
        client.take(4096).await;
        seen.insert(cookie);
    }
    assert_eq!(seen.len(), total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_in_flight_are_bounded() {
    let device = Gate::new();
    let (path, _server, _dir) = serve_device(device.clone(), PATIENCE).await;
    let mut client = Client::go(&path, false).await;
    let len = 1u32 << 20;
    let fits = (NBD_IN_FLIGHT_BYTES_MAX / len) as usize;
    for cookie in 0..fits as u64 + 8 {
        client.request(wire::CMD_READ, 0, cookie, 0, len).await;
    }
    device.until_arrived(fits).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(device.arrived.load(Ordering::SeqCst), fits);
    // Answered but not read by the client: the budget is not returned, so nothing more is taken than the socket swallows.
    device.gate.add_permits(1024);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(device.arrived.load(Ordering::SeqCst) <= fits + 4);
    for _ in 0..fits + 8 {
        assert_eq!(client.simple().await.0, 0);
        client.take(len as usize).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_submitted_in_the_order_sent_and_finish_though_the_client_leaves() {
    let device = Gate::new();
    let (path, server, _dir) = serve_device(device.clone(), PATIENCE).await;
    let mut client = Client::go(&path, false).await;
    let count = 100;
    for index in 0..count {
        client.request(wire::CMD_WRITE, 0, index, index * 4096, 4096).await;
        client.send(&[index as u8; 4096]).await;
    }
    device.until_arrived(count as usize).await;
    assert!(device.order.lock().unwrap().is_sorted());
    drop(client);
    drop(server);
    device.gate.add_permits(count as usize);
    let landed = async {
        while device.memory.allocated_bytes() < count * 4096 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, landed).await.expect("a submitted write always finishes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_overtake_each_other() {
    let device = Gate::new();
    let (path, _server, _dir) = serve_device(device.clone(), PATIENCE).await;
    let mut client = Client::go(&path, false).await;
    client.request(wire::CMD_READ, 0, 1, 0, 4096).await;
    client.request(wire::CMD_FLUSH, 0, 2, 0, 0).await;
    assert_eq!(client.simple().await, (0, 2));
    device.gate.add_permits(1);
    assert_eq!(client.simple().await, (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fua_reaches_the_device_as_such_or_as_a_flush() {
    let device = Gate::new();
    device.gate.add_permits(16);
    let (path, _server, _dir) = serve_device(device.clone(), PATIENCE).await;
    let mut client = Client::go(&path, false).await;
    let durable = || device.durable.load(Ordering::SeqCst);
    for (index, command) in [wire::CMD_WRITE, wire::CMD_WRITE_ZEROES, wire::CMD_TRIM].into_iter().enumerate() {
        for flags in [0, wire::CMD_FLAG_FUA] {
            let before = durable();
            client.request(command, flags, index as u64, 4096, 4096).await;
            if command == wire::CMD_WRITE {
                client.send(&[1; 4096]).await;
            }
            assert_eq!(client.simple().await, (0, index as u64));
            assert_eq!(durable() - before, usize::from(flags != 0), "command {command}");
        }
    }
    // On a read it means nothing and is no error.
    client.request(wire::CMD_READ, wire::CMD_FLAG_FUA, 9, 0, 4096).await;
    assert_eq!(client.simple().await, (0, 9));
    client.take(4096).await;
    client.assert_alive().await;
}

#[tokio::test]
async fn a_living_servers_socket_is_not_taken_and_a_dead_ones_is() {
    let served = serve().await;
    let exports = || Arc::new(SingleExport::new("vol", Arc::new(MemoryDevice::new(GEOMETRY))));
    let second = NbdServer::start(NbdListen::Unix(served.path.clone()), exports()).await;
    assert!(matches!(second, Err(DeviceError::SocketInUse { .. })));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let server = NbdServer::start(NbdListen::Unix(path.clone()), exports()).await.unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    Client::go(&path, true).await.assert_alive().await;
    server.stop().await;
}

#[tokio::test]
async fn tcp_beyond_loopback_is_refused_without_tls() {
    let exports = Arc::new(SingleExport::new("vol", Arc::new(MemoryDevice::new(GEOMETRY))));
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let address: SocketAddr = address.parse().unwrap();
        let refused = NbdServer::start(NbdListen::Tcp { address, tls: None }, exports.clone()).await;
        assert!(matches!(refused, Err(DeviceError::TlsRequired { .. })), "{address}");
    }
}

/// An authority, and what it signs: certificate and key in PEM.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_certified_clients_only() {
    let [nbdinfo, nbdcopy] = need!("tls_is_spoken_with_certified_clients_only", "nbdinfo", "nbdcopy");
    let authority = Authority::new();
    let (certificate, key) = authority.sign("localhost");
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let ca = file("ca.pem", authority.pem.clone());
    let cert = file("server.pem", certificate.pem());
    let key = file("server.key", key.serialize_pem());
    let tls = NbdTls::load(&ca, &cert, &key).unwrap();
    let refused = NbdTls::load(&ca, &key, &key).err().unwrap().to_string();
    assert!(refused.contains("server.key"), "{refused}");
    let memory = Arc::new(MemoryDevice::new(GEOMETRY));
    let address = "127.0.0.1:0".parse().unwrap();
    let exports = Arc::new(SingleExport::new("vol", memory.clone()));
    let server = NbdServer::start(NbdListen::Tcp { address, tls: Some(tls) }, exports).await.unwrap();
    let port = server.address().unwrap().port();

    let certificates = |name: &str, signer: Option<&Authority>| {
        let dir = dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("ca-cert.pem"), &authority.pem).unwrap();
        if let Some(signer) = signer {
            let (certificate, key) = signer.sign("client");
            std::fs::write(dir.join("client-cert.pem"), certificate.pem()).unwrap();
            std::fs::write(dir.join("client-key.pem"), key.serialize_pem()).unwrap();
        }
        format!("nbds://localhost:{port}/vol?tls-certificates={}", dir.display())
    };
    let good = certificates("good", Some(&authority));
    let said = run(&nbdinfo, &[&good]).await.unwrap();
    assert!(said.contains("newstyle-fixed with TLS"), "{said}");
    let file = dir.path().join("file");
    std::fs::write(&file, vec![3; 20 << 20]).unwrap();
    run(&nbdcopy, &[file.to_str().unwrap(), &good]).await.unwrap();
    assert!(memory.read(19 << 20, 4096).await.unwrap().iter().all(|byte| *byte == 3));

    run(&nbdinfo, &[&certificates("none", None)]).await.unwrap_err();
    run(&nbdinfo, &[&certificates("foreign", Some(&Authority::new()))]).await.unwrap_err();
    let plain = run(&nbdinfo, &[&format!("nbd://localhost:{port}/vol")]).await.unwrap_err();
    assert!(plain.to_lowercase().contains("tls"), "{plain}");
    run(&nbdinfo, &["--size", &good]).await.unwrap();
    server.stop().await;
}
