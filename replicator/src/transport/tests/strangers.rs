//! The other side is not one of ours, or one of ours gone mad: whatever it says, only its own connection suffers.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError};

use super::*;
use crate::transport::hello::{Generation, Hello, Purpose, Welcome};
use crate::transport::hello_stream::{read_message, write_message};
use crate::transport::tls::{ALPN, Credentials, SERVER_NAME, Verdict};

/// A bare QUIC client with the certificate of a node.
struct Impostor {
    endpoint: quinn::Endpoint,
    credentials: Arc<Credentials>,
}

impl Impostor {
    fn new(ground: &Ground, name: &PeerName) -> Impostor {
        let config = ground.config(name);
        let credentials = Credentials::load(name, &config.ca, &config.cert, &config.key).unwrap();
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Impostor { endpoint, credentials: Arc::new(credentials) }
    }

    async fn connect(&self, to: &Station, name: &PeerName) -> Result<Connection, ConnectionError> {
        let tls = self.credentials.client_config(name, Verdict::default()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        self.endpoint.connect_with(config, to.address(), SERVER_NAME).unwrap().await
    }

    fn hello(&self, claims: &PeerName, purpose: Purpose) -> Hello {
        let known = Generation::default();
        Hello { versions: Versions::SPOKEN, name: claims.clone(), boot: 42, purpose, known }
    }
}

async fn closed_with(connection: &Connection) -> RefusalCode {
    match timeout(LIMIT, connection.closed()).await.expect("a close in time") {
        ConnectionError::ApplicationClosed(close) => RefusalCode::from_code(close.error_code.into_inner()).unwrap(),
        other => panic!("{other}"),
    }
}

/// `east/a`, which waits for `west/b`; and someone with the certificate of `west/b`.
async fn victim_and_impostor(ground: &Ground) -> (Station, Impostor) {
    let mut config = ground.config(&name("east/a"));
    config.peers = vec![waits_for(&name("west/b"))];
    config.limits.handshake_timeout_ms = 1000;
    (Station::start(config).await, Impostor::new(ground, &name("west/b")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_refused() {
    let ground = Ground::new();
    let (victim, impostor) = victim_and_impostor(&ground).await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = {
        let mut roots = rustls::RootCertStore::empty();
        let bundle = crate::transport::cert::read_certificates(&ground.ca().join("ca.pem")).unwrap();
        roots.add(bundle[0].clone()).unwrap();
        roots
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    // It has no name that such a client could check, so the client is the one to give up; without ALPN the node is.
    let mut config = tls.clone();
    config.alpn_protocols = vec![b"h3".to_vec()];
    for tls in [tls, config] {
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let connecting = impostor.endpoint.connect_with(config, victim.address(), SERVER_NAME).unwrap();
        if let Ok(connection) = connecting.await {
            connection.closed().await;
        }
    }
    let noted = || victim.transport.refusals().iter().any(|entry| entry.refusal.code == RefusalCode::Version);
    eventually("the stranger in the log", noted).await;
    assert_eq!(victim.status_of(&name("west/b")).sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_hello_ends_the_connection_that_it_came_on() {
    let ground = Ground::new();
    let (victim, impostor) = victim_and_impostor(&ground).await;
    let (a, c) = (name("east/a"), name("north/c"));
    let cases: Vec<(Vec<u8>, RefusalCode)> = vec![
        (b"\x04\0\0\0what".to_vec(), RefusalCode::Protocol),
        (u32::MAX.to_le_bytes().to_vec(), RefusalCode::Protocol),
        (Vec::new(), RefusalCode::Timeout),
    ];
    for (bytes, code) in cases {
        let connection = impostor.connect(&victim, &a).await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        assert_eq!(closed_with(&connection).await, code, "{bytes:?}");
    }
    let connection = impostor.connect(&victim, &a).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    write_message(&mut send, impostor.hello(&c, Purpose::Main).encode()).await.unwrap();
    assert_eq!(closed_with(&connection).await, RefusalCode::WrongName);
    // Bulk without a main connection it could belong to.
    let connection = impostor.connect(&victim, &a).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    write_message(&mut send, impostor.hello(&name("west/b"), Purpose::Bulk).encode()).await.unwrap();
    assert_eq!(closed_with(&connection).await, RefusalCode::Replaced);
    assert_eq!(victim.status_of(&name("west/b")).sessions, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_the_framing_is_down_with_the_reason() {
    let ground = Ground::new();
    let (mut victim, impostor) = victim_and_impostor(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let too_long = [&[2u8][..], &(MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes()].concat();
    // A lane that does not exist; one of another connection; a length above the limit; an end inside a message.
    for (bytes, finish) in [(vec![9], false), (vec![3], false), (too_long, false), (vec![1, 5, 0, 0, 0, 1], true)] {
        let connection = impostor.connect(&victim, &a).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        write_message(&mut send, impostor.hello(&b, Purpose::Main).encode()).await.unwrap();
        let welcome = Welcome::decode(read_message(&mut receive).await.unwrap()).unwrap();
        assert!(welcome.generation.is_some(), "the smaller name chooses");
        victim.until_up(&b).await;
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        if finish {
            stream.finish().unwrap();
        }
        let reason = victim.until_down(&b).await;
        assert!(reason.starts_with("protocol"), "{reason}");
        assert_eq!(closed_with(&connection).await, RefusalCode::Protocol, "{bytes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_hold_every_place_lose_them_in_time() {
    let ground = Ground::new();
    let (mut victim, impostor) = victim_and_impostor(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    // More than one address may hold; they say nothing.
    let mut held = Vec::new();
    for _ in 0..40 {
        let tls = impostor.credentials.client_config(&a, Verdict::default()).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        held.push(impostor.endpoint.connect_with(config, victim.address(), SERVER_NAME).unwrap());
    }
    let results: Vec<_> = futures_util::future::join_all(held).await;
    assert!(results.iter().any(Result::is_err), "some are turned away");
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, victim.address())];
    let mut right = Station::start(config).await;
    right.until_up(&a).await;
    victim.until_up(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_bulk_lane_leaves_the_main_connection_alone() {
    let ground = Ground::new();
    let (mut victim, impostor) = victim_and_impostor(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let main = impostor.connect(&victim, &a).await.unwrap();
    let (mut send, mut receive) = main.open_bi().await.unwrap();
    write_message(&mut send, impostor.hello(&b, Purpose::Main).encode()).await.unwrap();
    let welcome = Welcome::decode(read_message(&mut receive).await.unwrap()).unwrap();
    victim.until_up(&b).await;
    // The second stripe claims to be the fifth.
    let bulk = impostor.connect(&victim, &a).await.unwrap();
    let (mut send, _receive) = bulk.open_bi().await.unwrap();
    let hello = Hello { known: welcome.generation.unwrap(), ..impostor.hello(&b, Purpose::Bulk) };
    write_message(&mut send, hello.encode()).await.unwrap();
    victim.until_bulk_up(&b).await;
    let mut stripes = Vec::new();
    for index in [0, 5] {
        let mut stream = bulk.open_uni().await.unwrap();
        stream.write_all(&[Lane::Bulk.tag(), index]).await.unwrap();
        stripes.push(stream);
    }
    let reason = victim
        .until(|event| match event {
            TransportEvent::BulkDown { reason, .. } => Some(reason.clone()),
            TransportEvent::PeerDown { .. } => panic!("the peer went down with its bulk lane"),
            _ => None,
        })
        .await;
    assert!(reason.starts_with("protocol"), "{reason}");
    let mut stream = main.open_uni().await.unwrap();
    stream.write_all(&[Lane::Control.tag(), 2, 0, 0, 0, b'o', b'k']).await.unwrap();
    assert_eq!(victim.message().await.2, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_with_one_certificate_are_told_so() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    let mut victim = Station::start(config).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, victim.address())];
    let mut first = Station::start(config.clone()).await;
    victim.until_up(&b).await;
    first.until_up(&a).await;
    let mut second = Station::start(config).await;
    second.until_up(&a).await;
    first.until_down(&a).await;
    let text = first.until_error(&a, RefusalCode::WrongName).await;
    assert!(text.contains("share one certificate"), "{text}");
    victim.until_down(&b).await;
    victim.until_up(&b).await;
    assert_eq!(victim.status_of(&b).sessions, 2, "they do not push each other out in turns");
    // The operator stops one of the two; the other is welcome again.
    second.transport.shutdown().await;
    first.until_up(&a).await;
}
