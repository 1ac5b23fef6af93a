//! Peers that restart or die, networks that lose, strangers that send rubbish, certificates that are renewed.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::relay::Relay;
use super::*;
use crate::transport::cert::{CaStep, rotate, rotate_ca};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_arrive_over_a_network_that_loses_and_delays() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    let mut left = Station::start(config).await;
    let relay = Relay::start(left.address(), 0.03, Duration::from_millis(15)).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, relay.address)];
    config.limits.handshake_timeout_ms = 20_000;
    let mut right = Station::start(config).await;
    left.until_up(&b).await;
    right.until_bulk_up(&a).await;
    const NUMBERS: u32 = 400;
    const BULKS: u32 = 5;
    for number in 0..BULKS {
        right.send(&a, Lane::Bulk, vec![number as u8; 150_000]);
    }
    for number in 0..NUMBERS {
        let mut message = number.to_le_bytes().to_vec();
        message.resize(4096 + 144, number as u8);
        right.send(&a, Lane::Records, &message);
        right.send(&a, Lane::Control, number.to_le_bytes());
    }
    let (mut control, mut bulk, mut records) = (0u32, 0u32, BTreeSet::new());
    while control < NUMBERS || bulk < BULKS || records.len() < NUMBERS as usize {
        let (_, lane, message) = left.message().await;
        let number = u32::from_le_bytes(message[..4].try_into().unwrap());
        match lane {
            Lane::Control => {
                assert_eq!(number, control);
                control += 1;
            }
            Lane::Bulk => {
                assert!(message == vec![bulk as u8; 150_000]);
                bulk += 1;
            }
            Lane::Records => {
                assert!(message[4..].iter().all(|&byte| byte == number as u8));
                assert!(records.insert(number));
            }
        }
    }
    assert!(relay.dropped.load(Ordering::Relaxed) > 0, "the relay lost nothing: this test shows nothing");
    assert!(left.status_of(&b).rtt_us.unwrap() >= 30_000, "the delay is seen");
    assert_eq!(left.status_of(&b).sessions, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_falls_silent_is_down_after_the_idle_timeout_and_comes_back() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    config.limits.idle_timeout_ms = 3000;
    let mut left = Station::start(config).await;
    let relay = Relay::start(left.address(), 0.0, Duration::ZERO).await;
    let mut config = ground.config(&b);
    config.peers = vec![at(&a, relay.address)];
    config.limits.idle_timeout_ms = 3000;
    let mut right = Station::start(config).await;
    left.until_bulk_up(&b).await;
    right.until_bulk_up(&a).await;
    relay.cut(true);
    let cut = Instant::now();
    let reason = left.until_down(&b).await;
    assert!(reason.starts_with("timeout"), "{reason}");
    assert!(cut.elapsed() >= Duration::from_secs(1), "an idle peer is not given up early: {:?}", cut.elapsed());
    assert!(cut.elapsed() < Duration::from_secs(20), "{:?}", cut.elapsed());
    right.until_down(&a).await;
    right.until_error(&a, RefusalCode::Timeout).await;
    relay.cut(false);
    left.until_bulk_up(&b).await;
    right.until_bulk_up(&a).await;
    left.send(&b, Lane::Control, "again");
    assert_eq!(right.message().await.2, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_peer_is_taken_back_whoever_dials() {
    for dialler_restarts in [false, true] {
        let ground = Ground::new();
        let (a, b) = (name("east/a"), name("west/b"));
        // Down is noticed by the new process or not at all in this test.
        let config = |name: &PeerName, listen: SocketAddr, peer: PeerConfig| {
            let mut config = ground.config(name);
            config.listen = listen;
            config.peers = vec![peer];
            config.limits.idle_timeout_ms = 3_600_000;
            config
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        // The one that restarts lives on a runtime of its own, and dies with it without a farewell.
        let (staying, dying) = if dialler_restarts { (&a, &b) } else { (&b, &a) };
        let live = |listen: SocketAddr, peer: PeerConfig| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let config = config(dying, listen, peer);
            let station = runtime.spawn(Station::start(config));
            (runtime, station)
        };
        let (mut stays, runtime, mut dies, listen, peer);
        if dialler_restarts {
            stays = Station::start(config(staying, any, waits_for(dying))).await;
            peer = at(staying, stays.address());
            let (life, station) = live(any, peer.clone());
            (runtime, dies) = (life, station.await.unwrap());
            listen = dies.address();
        } else {
            peer = waits_for(staying);
            let (life, station) = live(any, peer.clone());
            (runtime, dies) = (life, station.await.unwrap());
            listen = dies.address();
            stays = Station::start(config(staying, any, at(dying, listen))).await;
        }
        stays.until_bulk_up(dying).await;
        dies.until_bulk_up(staying).await;
        // The tasks first, so that none is left to send the farewell that dropping the handle asks for.
        tokio::task::block_in_place(|| runtime.shutdown_timeout(LIMIT));
        drop(dies);

        // The port is free once the old runtime has dropped the socket.
        eventually("the port to be free", || std::net::UdpSocket::bind(listen).is_ok()).await;
        let (runtime, station) = live(listen, peer);
        let mut again = station.await.unwrap();
        let reason = stays.until_down(dying).await;
        assert!(reason.starts_with("reset") || reason.starts_with("replaced"), "{reason}");
        stays.until_bulk_up(dying).await;
        again.until_bulk_up(staying).await;
        stays.send(dying, Lane::Records, "to the new process");
        assert_eq!(again.message().await.2, "to the new process");
        again.send(staying, Lane::Records, "from the new process");
        assert_eq!(stays.message().await.2, "from the new process");
        drop(again);
        runtime.shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_on_the_port_changes_nothing() {
    let ground = Ground::new();
    let (mut left, right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let mut dice = StdRng::seed_from_u64(1);
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    for number in 0..400u32 {
        let length = dice.random_range(0..1500);
        let mut rubbish: Vec<u8> = (0..length).map(|_| dice.random()).collect();
        // Some look like first packets of QUIC version 1.
        if number % 3 == 0 && rubbish.len() > 1200 {
            rubbish[0] = 0xc0 | rubbish[0] & 0x0f;
            rubbish[1..5].copy_from_slice(&[0, 0, 0, 1]);
            rubbish[5] = 8;
            rubbish[14] = 8;
        }
        stranger.send_to(&rubbish, left.address()).unwrap();
        right.send(&a, Lane::Records, number.to_le_bytes());
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 400 {
        seen.insert(left.message().await.2);
    }
    assert_eq!(left.status_of(&b).sessions, 1);
    assert_eq!(right.status_of(&a).sessions, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_without_dropping_a_connection() {
    let ground = Ground::new();
    let (mut left, mut right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let before = right.transport.endpoint_status();
    rotate(&ground.ca(), &ground.node_dir(&b), 77).unwrap();
    right.transport.reload_certificates().await.unwrap();
    let after = right.transport.endpoint_status();
    assert_ne!(before.certificate_fingerprint, after.certificate_fingerprint);
    left.send(&b, Lane::Control, "still the same connection");
    assert_eq!(right.message().await.2, "still the same connection");
    assert_eq!(left.status_of(&b).sessions, 1);
    // A connection made from now on shows the new certificate.
    assert!(left.transport.reconnect(&b));
    assert!(!left.transport.reconnect(&a));
    left.until_down(&b).await;
    left.until_up(&b).await;
    assert_eq!(left.status_of(&b).certificate_not_after, Some(after.certificate_not_after));
    right.until_down(&a).await;
    right.until_up(&a).await;

    std::fs::write(ground.node_dir(&b).join("node.pem"), "not a certificate").unwrap();
    assert!(right.transport.reload_certificates().await.is_err());
    assert_eq!(right.transport.endpoint_status().certificate_fingerprint, after.certificate_fingerprint);
    right.send(&a, Lane::Control, "a failed reload changes nothing");
    assert_eq!(left.message().await.2, "a failed reload changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ca_is_replaced_while_the_nodes_stay_connected() {
    let ground = Ground::new();
    let (mut left, mut right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let renew = async |step| {
        rotate_ca(&ground.ca(), step, 100).unwrap();
        for (station, name) in [(&left, &a), (&right, &b)] {
            rotate(&ground.ca(), &ground.node_dir(name), 30).unwrap();
            station.transport.reload_certificates().await.unwrap();
        }
    };
    for step in [CaStep::Begin, CaStep::Switch, CaStep::Finish] {
        renew(step).await;
        assert_eq!(left.status_of(&b).sessions, 1, "{step:?}");
    }
    // Nothing of the old CA is left, and the nodes still prove themselves.
    assert!(left.transport.reconnect(&b));
    right.until_down(&a).await;
    right.until_up(&a).await;
    left.until_down(&b).await;
    left.until_up(&b).await;
    left.send(&b, Lane::Control, "under the new CA");
    assert_eq!(right.message().await.2, "under the new CA");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_stops_a_transport() {
    let ground = Ground::new();
    let (left, mut right) = connected_pair(&ground).await;
    let address = left.address();
    let Station { transport, events, .. } = left;
    let clone = transport.clone();
    drop((transport, events));
    assert!(std::net::UdpSocket::bind(address).is_err(), "a handle is left");
    drop(clone);
    right.until_down(&name("east/a")).await;
    eventually("the port to be free", || std::net::UdpSocket::bind(address).is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_transport_frees_its_port_and_its_owner() {
    let ground = Ground::new();
    let (left, right) = connected_pair(&ground).await;
    let address = left.address();
    // Nobody reads the events of either: stopping must not wait for that.
    timeout(LIMIT, left.transport.shutdown()).await.unwrap();
    timeout(LIMIT, right.transport.shutdown()).await.unwrap();
    timeout(LIMIT, right.transport.shutdown()).await.unwrap();
    drop((left, right));
    eventually("the port to be free", || std::net::UdpSocket::bind(address).is_ok()).await;
}
