//! Peers that must not connect: both sides say why, and say what to do.

use time::OffsetDateTime;

use super::*;
use crate::transport::cert::issue_between;

/// `b` dials `a`; neither comes up. Returns what each shows of the other.
async fn refused(left: TransportConfig, right: TransportConfig, code: RefusalCode) -> (String, String) {
    let (a, b) = (left.name.clone(), right.name.clone());
    let mut left = left;
    left.peers = vec![waits_for(&b)];
    let left = Station::start(left).await;
    let mut right = right;
    right.peers = vec![at(&a, left.address())];
    let right = Station::start(right).await;
    let texts = (left.until_error(&b, code).await, right.until_error(&a, code).await);
    assert!(!left.status_of(&b).connected && !right.status_of(&a).connected);
    assert_eq!(left.status_of(&b).sessions + right.status_of(&a).sessions, 0);
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_ca_is_refused_on_both_sides() {
    let (home, foreign) = (Ground::new(), Ground::new());
    let (a, b) = (name("east/a"), name("west/b"));
    let mut left = home.config(&a);
    left.peers = vec![waits_for(&b)];
    let left = Station::start(left).await;
    let mut right = foreign.config(&b);
    right.peers = vec![at(&a, left.address())];
    let right = Station::start(right).await;
    let text = right.until_error(&a, RefusalCode::WrongCa).await;
    assert!(text.contains("is signed by CA") && text.contains("farshore cert issue"), "{text}");
    // The dialler refuses first, before it shows a certificate: the other side knows it by its address alone.
    let found = || left.transport.refusals().into_iter().find(|entry| entry.refusal.code == RefusalCode::WrongCa);
    eventually("the reason at the other side", || found().is_some()).await;
    let entry = found().unwrap();
    assert_eq!(entry.who, "127.0.0.1");
    assert!(entry.refusal.text.contains("is signed by CA"), "{:?}", entry.refusal);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_only_one_side_distrusts_is_refused_on_both() {
    // b trusts both CAs, a trusts its own only: the acceptor refuses, and the dialler learns why.
    let (home, foreign) = (Ground::new(), Ground::new());
    let (a, b) = (name("east/a"), name("west/b"));
    let left = home.config(&a);
    let right = foreign.config(&b);
    let bundle = [home.ca(), foreign.ca()].map(|ca| std::fs::read_to_string(ca.join("ca.pem")).unwrap()).concat();
    std::fs::write(&right.ca, bundle).unwrap();
    let (at_left, at_right) = refused(left, right, RefusalCode::WrongCa).await;
    assert!(at_left.contains("west/node/b") && at_left.contains("east/a trusts"), "{at_left}");
    assert!(at_right.contains("refused by") && at_right.contains("is signed by CA"), "{at_right}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_and_future_certificates_are_refused_with_the_reason() {
    let now = OffsetDateTime::now_utc();
    let day = time::Duration::days(1);
    for (from, to, code, word) in [
        (now - day * 9, now - day, RefusalCode::Expired, "expired at"),
        (now + day, now + day * 9, RefusalCode::NotYetValid, "clock"),
    ] {
        let ground = Ground::new();
        let (a, b) = (name("east/a"), name("west/b"));
        issue_between(&ground.ca(), &b, &ground.node_dir(&b), from, to, Overwrite::Refuse).unwrap();
        let (at_left, at_right) = refused(ground.config(&a), ground.config(&b), code).await;
        assert!(at_left.contains(word), "{at_left}");
        assert!(at_right.contains(word), "{at_right}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_at_the_dialled_address_is_refused() {
    let ground = Ground::new();
    let (a, b, c) = (name("east/a"), name("west/b"), name("north/c"));
    let mut config = ground.config(&c);
    config.peers = vec![waits_for(&b)];
    let wrong = Station::start(config).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, wrong.address())];
    let right = Station::start(config).await;
    let text = right.until_error(&a, RefusalCode::WrongName).await;
    assert!(text.contains("north/c answered"), "{text}");
    let found = || wrong.transport.refusals().into_iter().any(|entry| entry.refusal.code == RefusalCode::WrongName);
    eventually("the reason at the other side", found).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_not_configured_is_refused() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let left = Station::start(ground.config(&a)).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, left.address())];
    let right = Station::start(config).await;
    let text = right.until_error(&a, RefusalCode::UnknownPeer).await;
    assert!(text.contains("east/a has no peer west/b configured"), "{text}");
    let entry = left.transport.refusals().into_iter().find(|entry| entry.who == "west/b").expect("noted by its name");
    assert_eq!(entry.refusal.code, RefusalCode::UnknownPeer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_without_overlap_are_refused_and_overlapping_ones_agree() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let with = |name: &PeerName, min, max| {
        let mut config = ground.config(name);
        config.versions = Versions { min, max };
        config
    };
    let (at_left, at_right) = refused(with(&a, 1, 2), with(&b, 3, 4), RefusalCode::Version).await;
    assert!(at_left.contains("upgrade east/a first"), "{at_left}");
    assert!(at_right.contains("upgrade east/a first"), "{at_right}");

    let mut config = with(&a, 1, 2);
    config.peers = vec![waits_for(&b)];
    let mut left = Station::start(config).await;
    let mut config = with(&b, 2, 3);
    config.peers = vec![at(&a, left.address())];
    let mut right = Station::start(config).await;
    assert_eq!(left.until_up(&b).await, 2);
    assert_eq!(right.until_up(&a).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_trust_domain_is_refused() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    // Another domain, whose CA a trusts by mistake.
    let other = tempfile::tempdir().unwrap();
    create_ca("other.domain", &other.path().join("ca"), 10, Overwrite::Refuse).unwrap();
    let dir = other.path().join("b");
    issue(&other.path().join("ca"), &b, &dir, 10, Overwrite::Refuse).unwrap();
    let (left, right) = (ground.config(&a), config_in(&dir, &b));
    let bundle = [&left.ca, &right.ca].map(|ca| std::fs::read_to_string(ca).unwrap()).concat();
    std::fs::write(&left.ca, &bundle).unwrap();
    std::fs::write(&right.ca, &bundle).unwrap();
    let mut config = left;
    config.peers = vec![waits_for(&b)];
    let left = Station::start(config).await;
    let mut config = right;
    config.peers = vec![at(&a, left.address())];
    let right = Station::start(config).await;
    let text = right.until_error(&a, RefusalCode::WrongDomain).await;
    assert!(text.contains("trust domain"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_where_nobody_listens_or_that_does_not_resolve_is_named() {
    let ground = Ground::new();
    let (a, b, c) = (name("east/a"), name("west/b"), name("west/c"));
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = ground.config(&b);
    config.limits.handshake_timeout_ms = 300;
    let unresolved = PeerConfig { name: c.clone(), address: Some("no-port-here".to_owned()) };
    config.peers = vec![at(&a, silent.local_addr().unwrap()), unresolved];
    let station = Station::start(config).await;
    let text = station.until_error(&a, RefusalCode::Timeout).await;
    assert!(text.contains("does UDP reach that port"), "{text}");
    let text = station.until_error(&c, RefusalCode::Unreachable).await;
    assert!(text.contains("no-port-here"), "{text}");
    assert_eq!(station.transport.send(&a, Lane::Control, Vec::new()), Err(SendError::NotConnected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_with_anothers_certificate_does_not_start() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    ground.config(&a);
    let config = config_in(&ground.node_dir(&a), &b);
    let (events, _kept) = mpsc::channel(1);
    let error = Transport::start(config, events).await.err().expect("refused");
    assert!(error.to_string().contains("this node is west/b"), "{error}");
}
