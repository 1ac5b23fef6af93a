//! Connections that work: who dials, how many remain, what arrives.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_talk_both_ways_when_only_one_can_dial() {
    for dialler_is_smaller in [false, true] {
        let ground = Ground::new();
        let (a, b) = (name("east/a"), name("west/b"));
        let (waiting, dialling) = if dialler_is_smaller { (&b, &a) } else { (&a, &b) };
        let mut config = ground.config(waiting);
        config.peers = vec![waits_for(dialling)];
        let mut left = Station::start(config).await;
        let mut config = ground.config(dialling);
        config.peers = vec![at(waiting, left.address())];
        let mut right = Station::start(config).await;
        assert_eq!(left.until_up(dialling).await, Versions::SPOKEN.max);
        assert_eq!(right.until_up(waiting).await, Versions::SPOKEN.max);
        left.until_bulk_up(dialling).await;
        right.until_bulk_up(waiting).await;
        for lane in Lane::ALL {
            left.send(dialling, lane, format!("to the dialler {lane:?}"));
            assert_eq!(right.message().await.2, format!("to the dialler {lane:?}"));
            right.send(waiting, lane, format!("from the dialler {lane:?}"));
            let (peer, found, message) = left.message().await;
            assert_eq!((&peer, found), (dialling, lane));
            assert_eq!(message, format!("from the dialler {lane:?}"));
        }
        let status = right.status_of(waiting);
        assert!(status.connected && status.bulk_connected && status.rtt_us.is_some() && status.sent_bytes > 0);
        assert_eq!(status.dialled, Some(Dialled::Ours));
        assert_eq!(left.status_of(dialling).dialled, Some(Dialled::Theirs));
        assert!(left.status_of(dialling).certificate_not_after.is_some());
        left.transport.shutdown().await;
        assert!(right.until_down(waiting).await.contains("shutdown"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dial_at_once_and_one_connection_remains() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    for round in 0..8 {
        let mut left = Station::start(ground.config(&a)).await;
        let mut right = Station::start(ground.config(&b)).await;
        left.transport.set_peers(vec![at(&b, right.address())]).unwrap();
        right.transport.set_peers(vec![at(&a, left.address())]).unwrap();
        left.until_bulk_up(&b).await;
        right.until_bulk_up(&a).await;
        // A second dial would be turned away, or take the first one's place, within this time.
        tokio::time::sleep(Duration::from_millis(300)).await;
        left.send(&b, Lane::Control, "still here");
        assert_eq!(right.message().await.2, "still here");
        assert_eq!(left.status_of(&b).sessions, 1, "round {round}");
        assert_eq!(right.status_of(&a).sessions, 1, "round {round}");
        assert_ne!(left.status_of(&b).dialled, right.status_of(&a).dialled, "one connection, seen from both ends");
        left.transport.shutdown().await;
        right.transport.shutdown().await;
    }
}

/// Bytes that depend on the number, so that a mixed-up message is noticed.
fn pattern(number: u64, bytes: usize) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    out.extend((0..bytes).map(|at| (number as usize * 31 + at * 7 + at / 251) as u8));
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_all_sizes_arrive_whole_and_control_keeps_its_order() {
    let ground = Ground::new();
    let (mut left, right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    let sizes = [0, 1, 3, 1000, 4096 + 144, 65_536, 100_001, 1 << 20, MESSAGE_BYTES_MAX - 8];
    const NUMBERS: u64 = 200;
    let size = move |number: u64| if number == 77 { sizes[8] } else { sizes[number as usize % 8] };
    let sender = right.transport.clone();
    let sending = tokio::spawn(async move {
        for number in 0..NUMBERS {
            // In parts, which must come out as one message.
            let whole = Bytes::from(pattern(number, size(number)));
            let middle = whole.len() / 3;
            let parts = || vec![whole.slice(..middle), Bytes::new(), whole.slice(middle..)];
            for lane in [Lane::Control, Lane::Records, Lane::Bulk] {
                while sender.send(&a, lane, parts()) == Err(SendError::Full) {
                    sender.ready(&a, lane).await.unwrap();
                }
            }
        }
    });
    let (mut control, mut bulk, mut records) = (0, 0, BTreeSet::new());
    while control < NUMBERS || bulk < NUMBERS || (records.len() as u64) < NUMBERS {
        let (peer, lane, message) = left.message().await;
        assert_eq!(peer, b);
        let number = u64::from_le_bytes(message[..8].try_into().unwrap());
        assert!(message == pattern(number, size(number)), "message {number} of {lane:?} is damaged");
        match lane {
            Lane::Control => {
                assert_eq!(number, control, "control keeps its order");
                control += 1;
            }
            Lane::Bulk => {
                assert_eq!(number, bulk, "bulk keeps its order");
                bulk += 1;
            }
            Lane::Records => assert!(records.insert(number), "record {number} came twice"),
        }
    }
    sending.await.unwrap();
    let long = vec![Bytes::from(vec![0; MESSAGE_BYTES_MAX]), Bytes::from_static(b"x")];
    assert!(matches!(left.transport.send(&b, Lane::Bulk, long), Err(SendError::TooLong { .. })));
    assert_eq!(left.status_of(&b).sessions, 1);
    right.transport.shutdown().await;
    left.until_down(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_fills_the_lane_and_its_reading_makes_it_ready() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    let mut slow = Station::start_with_room(config, 4).await;
    let mut config = ground.config(&b);
    config.limits.records_queue_bytes = 1 << 20;
    config.limits.send_window_bytes = 1 << 20;
    config.peers = vec![at(&a, slow.address())];
    let mut fast = Station::start(config).await;
    slow.until_up(&b).await;
    fast.until_up(&a).await;

    let message = Bytes::from(vec![5; 64 << 10]);
    let mut sent = 0;
    // Fill until the lane stays full: the receiver takes nothing, so this ends.
    let fill = async {
        loop {
            match fast.transport.send(&a, Lane::Records, vec![message.clone()]) {
                Ok(()) => sent += 1,
                Err(SendError::Full) => {
                    let ready = fast.transport.ready(&a, Lane::Records);
                    if timeout(Duration::from_millis(500), ready).await.is_err() {
                        return;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(LIMIT, fill).await.unwrap();
    assert!(fast.status_of(&a).queued_bytes[1] <= 1 << 20);
    // Bounded: lane, send window, receive windows of the streams, and what the readers hold.
    assert!(sent < 400, "{sent} messages were taken while nobody read");
    let sender = fast.transport.clone();
    let ready = tokio::spawn({
        let a = a.clone();
        async move { sender.ready(&a, Lane::Records).await }
    });
    for _ in 0..sent {
        assert_eq!(slow.message().await.2, message);
    }
    timeout(LIMIT, ready).await.unwrap().unwrap().unwrap();
    fast.send(&a, Lane::Records, "room again");
    assert_eq!(slow.message().await.2, "room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_full_mesh() {
    let ground = Ground::new();
    let names = ["east/a", "middle/m", "west/b"].map(name);
    let mut stations = Vec::new();
    for name in &names {
        stations.push(Station::start(ground.config(name)).await);
    }
    let addresses: Vec<SocketAddr> = stations.iter().map(Station::address).collect();
    for (i, station) in stations.iter().enumerate() {
        let others = (0..3).filter(|&j| j != i).map(|j| at(&names[j], addresses[j])).collect();
        station.transport.set_peers(others).unwrap();
    }
    for station in &stations {
        let all = || station.transport.status().iter().all(|status| status.connected);
        eventually("a full mesh", all).await;
    }
    for i in 0..3 {
        for j in (0..3).filter(|&j| j != i) {
            stations[i].send(&names[j], Lane::Records, format!("{i} to {j}"));
            let (peer, _, message) = stations[j].message().await;
            assert_eq!((&peer, message), (&names[i], format!("{i} to {j}").into()));
        }
    }
    for (i, station) in stations.iter().enumerate() {
        assert!(station.transport.status().iter().all(|status| status.sessions == 1), "station {i} flapped");
        station.transport.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_removed_and_added_again() {
    let ground = Ground::new();
    let (mut left, mut right) = connected_pair(&ground).await;
    let (a, b) = (name("east/a"), name("west/b"));
    left.transport.set_peers(Vec::new()).unwrap();
    left.until_down(&b).await;
    assert!(right.until_down(&a).await.contains("removed"));
    assert_eq!(left.transport.send(&b, Lane::Control, Vec::new()), Err(SendError::NotConnected));
    right.until_error(&a, RefusalCode::UnknownPeer).await;
    left.transport.set_peers(vec![waits_for(&b)]).unwrap();
    left.until_up(&b).await;
    right.until_up(&a).await;
    assert!(left.transport.set_peers(vec![waits_for(&a)]).is_err(), "a node is not its own peer");
    assert!(left.transport.set_peers(vec![waits_for(&b), waits_for(&b)]).is_err(), "no peer twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_congestion_control_carries_every_lane() {
    for congestion in [Congestion::Delay, Congestion::Cubic, Congestion::Bbr, Congestion::Fixed { bytes: 1 << 20 }] {
        let ground = Ground::new();
        let (a, b) = (name("east/a"), name("west/b"));
        let mut config = ground.config(&a);
        config.congestion = congestion;
        config.peers = vec![waits_for(&b)];
        let mut left = Station::start(config).await;
        let mut config = ground.config(&b);
        config.congestion = congestion;
        config.peers = vec![at(&a, left.address())];
        let mut right = Station::start(config).await;
        left.until_bulk_up(&b).await;
        right.until_bulk_up(&a).await;
        for lane in Lane::ALL {
            right.send(&a, lane, pattern(1, 3_000_000));
            let (_, found, message) = left.message().await;
            assert_eq!(found, lane);
            assert!(message == pattern(1, 3_000_000), "{congestion:?} {lane:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_found_by_host_name_and_across_address_families() {
    let ground = Ground::new();
    let (a, b) = (name("east/a"), name("west/b"));
    let mut config = ground.config(&a);
    config.peers = vec![waits_for(&b)];
    let mut left = Station::start(config).await;
    let mut config = ground.config(&b);
    // Both families where the machine has them; then the name's first address may be one where nobody answers.
    if std::net::UdpSocket::bind("[::]:0").is_ok() {
        config.listen = "[::]:0".parse().unwrap();
    }
    config.limits.handshake_timeout_ms = 1000;
    config.peers = vec![PeerConfig { name: a.clone(), address: Some(format!("localhost:{}", left.address().port())) }];
    let mut right = Station::start(config).await;
    right.until_up(&a).await;
    left.until_up(&b).await;
    right.send(&a, Lane::Control, "by name");
    assert_eq!(left.message().await.2, "by name");
}
