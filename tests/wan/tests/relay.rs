//! Relays with real sockets. What the conditions do to each datagram is tested without a clock, in `pipe`.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use farshore_wan::{Conditions, Counts, Direction, Link, Wan};

/// For what must come, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what must not come.
const SILENCE: Duration = Duration::from_millis(200);

fn site() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn between(a: &UdpSocket, b: &UdpSocket, conditions: Conditions) -> Link {
    Link::start([a.local_addr().unwrap(), b.local_addr().unwrap()], conditions, 1).unwrap()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, std::net::SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, source) = socket.recv_from(&mut buffer).expect("a datagram comes");
    buffer.truncate(length);
    (buffer, source)
}

fn hears_nothing(socket: &UdpSocket) {
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let heard = socket.recv_from(&mut [0; 2000]).map_err(|e| e.kind());
    assert!(matches!(heard, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)), "{heard:?}");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
}

#[test]
fn either_side_dials_and_is_answered() {
    let (a, b) = (site(), site());
    let link = between(&a, &b, Conditions::default());
    for (dialler, other, door) in [(&a, &b, link.door(0)), (&b, &a, link.door(1))] {
        dialler.send_to(b"hello", door).unwrap();
        let (heard, source) = receive(other);
        assert_eq!(heard, b"hello");
        other.send_to(b"yes", source).unwrap();
        assert_eq!(receive(dialler), (b"yes".to_vec(), door), "the answer comes from where it was asked");
    }
    let passed = Counts { datagrams: 2, bytes: 8, passed_datagrams: 2, passed_bytes: 8, ..Counts::default() };
    assert_eq!((link.counts(Direction::There), link.counts(Direction::Back)), (passed, passed));
}

#[test]
fn a_delay_is_never_shorter_than_asked_for_and_keeps_order_and_sizes() {
    let (a, b) = (site(), site());
    let delay = Duration::from_millis(30);
    let link = between(&a, &b, Conditions { delay, ..Conditions::default() });
    let began = Instant::now();
    let sizes = [1200, 1200, 1200, 700, 1452, 3, 1452, 1452, 1];
    for (n, size) in sizes.into_iter().enumerate() {
        a.send_to(&vec![n as u8; size], link.door(0)).unwrap();
    }
    for (n, size) in sizes.into_iter().enumerate() {
        assert_eq!(receive(&b).0, vec![n as u8; size]);
    }
    assert!(began.elapsed() >= delay);
}

#[test]
fn a_bottleneck_takes_its_time() {
    let (a, b) = (site(), site());
    // 1 Mbit/s and datagrams of 1000 bytes on the wire: 8 ms each.
    let narrow = Conditions { bandwidth: Some(1_000_000), queue_bytes: 1 << 20, ..Conditions::default() };
    let link = between(&a, &b, narrow);
    let began = Instant::now();
    for n in 0..20u8 {
        a.send_to(&[n; 972], link.door(0)).unwrap();
    }
    for n in 0..20u8 {
        assert_eq!(receive(&b).0[0], n);
    }
    assert!(began.elapsed() >= Duration::from_millis(150), "{:?}", began.elapsed());
}

#[test]
fn a_queue_that_is_full_drops_and_says_so() {
    let (a, b) = (site(), site());
    let narrow = Conditions { bandwidth: Some(10_000), queue_bytes: 3000, ..Conditions::default() };
    let link = between(&a, &b, narrow);
    for n in 0..50u8 {
        a.send_to(&[n; 972], link.door(0)).unwrap();
    }
    let began = Instant::now();
    while link.counts(Direction::There).dropped < 40 {
        assert!(began.elapsed() < PATIENCE, "{:?}", link.counts(Direction::There));
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(b);
}

#[test]
fn a_path_that_becomes_narrower_swallows_what_is_larger() {
    let (a, b) = (site(), site());
    let link = between(&a, &b, Conditions { mtu_bytes: Some(9000), ..Conditions::default() });
    a.send_to(&[1; 8000], link.door(0)).unwrap();
    assert_eq!(receive(&b).0.len(), 8000);
    link.set_mtu(Some(1500));
    a.send_to(&[2; 1473], link.door(0)).unwrap();
    a.send_to(&[3; 1472], link.door(0)).unwrap();
    assert_eq!(receive(&b).0, [3; 1472]);
    assert_eq!(link.counts(Direction::There).too_long, 1);
    // Many at once, which travel as one train where the kernel lets them.
    for n in 0..50 {
        a.send_to(&[n; 1472], link.door(0)).unwrap();
    }
    for n in 0..50 {
        assert_eq!(receive(&b).0[0], n);
    }
}

#[test]
fn one_direction_or_both_can_be_cut_and_healed() {
    let (a, b) = (site(), site());
    let link = between(&a, &b, Conditions::default());
    let ask = || a.send_to(b"ask", link.door(0)).unwrap();
    ask();
    let back_door = receive(&b).1;
    link.set_one(Direction::There, Conditions { cut: true, ..Conditions::default() });
    ask();
    hears_nothing(&b);
    b.send_to(b"deaf", back_door).unwrap();
    assert_eq!(receive(&a).0, b"deaf", "the other direction works");
    link.cut(true);
    b.send_to(b"deaf", back_door).unwrap();
    hears_nothing(&a);
    assert_eq!(link.counts(Direction::Back).lost, 1);
    link.cut(false);
    ask();
    assert_eq!(receive(&b).0, b"ask");
}

#[test]
fn all_that_is_sent_is_passed_lost_or_dropped() {
    let (a, b) = (site(), site());
    let lossy = Conditions { loss: 0.3, reorder: 0.2, jitter: Duration::from_millis(2), ..Conditions::default() };
    let link = between(&a, &b, lossy);
    for n in 0..200u8 {
        a.send_to(&[n; 100], link.door(0)).unwrap();
    }
    let began = Instant::now();
    let counts = loop {
        let counts = link.counts(Direction::There);
        if counts.passed_datagrams + counts.lost + counts.dropped == 200 {
            break counts;
        }
        assert!(began.elapsed() < PATIENCE, "{counts:?}");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(counts.lost > 20 && counts.lost < 120 && counts.dropped == 0, "{counts:?}");
    let mut seen: Vec<u8> = (0..counts.passed_datagrams).map(|_| receive(&b).0[0]).collect();
    seen.sort_unstable();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "nothing comes twice");
}

#[test]
fn three_sites_have_three_links_and_one_of_them_can_be_cut_off() {
    let sites = [site(), site(), site()];
    let addresses: Vec<_> = sites.iter().map(|s| s.local_addr().unwrap()).collect();
    let wan = Wan::start(&addresses, Conditions::default(), 1).unwrap();
    wan.isolate(2, true);
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            sites[from].send_to(&[from as u8], wan.address(from, to)).unwrap();
            if from == 2 || to == 2 {
                hears_nothing(&sites[to]);
            } else {
                assert_eq!(receive(&sites[to]).0, [from as u8]);
            }
        }
    }
    assert_eq!((wan.counts(0, 1).passed_datagrams, wan.counts(1, 2).lost), (1, 1));
    wan.isolate(2, false);
    sites[2].send_to(&[9], wan.address(2, 0)).unwrap();
    assert_eq!(receive(&sites[0]).0, [9]);
}
