//! Lines that are long and narrow, lose and reorder, and are cut: relays between the sites, so no privileges are needed.

use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, Options, Writers, eventually, member};
use farshore_wan::{Conditions, Wan};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=4MiB", "--members=east,west,north", "--lease=1s"];
const RTT: Duration = Duration::from_millis(20);
/// The least that QUIC asks of a path: 1200 bytes, and the headers of IP and UDP.
const LEAST_MTU_BYTES: u64 = 1228;

fn rough() -> Conditions {
    let line = Conditions { jitter: RTT / 10, loss: 0.01, reorder: 0.02, ..Conditions::of_rtt(RTT) };
    line.behind_bottleneck(20_000_000, RTT)
}

fn wan(cluster: &Cluster) -> &Wan {
    cluster.wan.as_ref().expect("these sites are behind relays")
}

#[test]
fn writes_over_long_lines_that_lose_reorder_and_break_are_in_every_copy() {
    let cluster = Cluster::start_with(&SITES, Options { wan: Some(rough()), ..Options::default() });
    let east = cluster.site("east");
    east.run(&CREATE);
    drop(east.attach("pg"));
    let ledger = Ledger::of_new(BLOCKS);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(200);
    wan(&cluster).set(Conditions { loss: 0.05, ..rough() });
    writers.wait_for(100);
    for (index, site) in [(1, "west"), (2, "north")] {
        wan(&cluster).set(rough());
        wan(&cluster).isolate(index, true);
        east.wait_volume("pg", "the site to be shown as gone", |v| member(v, site)["connected"] == false);
        writers.wait_for(50);
        wan(&cluster).isolate(index, false);
        east.wait_volume("pg", "the site to be back", |v| member(v, site)["connected"] == true);
        writers.wait_for(50);
    }
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    let all_lost: u64 =
        [(0, 1), (0, 2), (1, 0), (2, 0)].map(|(from, to)| wan(&cluster).counts(from, to).lost).iter().sum();
    assert!(all_lost > 0, "the lines were as rough as they should be");
    let mut at = "east";
    for next in ["west", "north"] {
        cluster.wait_in_sync(at, "pg");
        cluster.site(at).run(&["volume", "detach", "pg"]);
        cluster.site(at).run(&["switchover", "pg", "--to", next]);
        ledger.check_all(&mut cluster.site(next).attach("pg"));
        at = next;
    }
}

/// What a site's connections to the others take for the largest datagram that passes, until all are as wanted.
#[track_caller]
fn wait_for_datagrams(cluster: &Cluster, of: &str, what: &str, wanted: impl Fn(f64) -> bool) {
    for peer in SITES.into_iter().filter(|peer| *peer != of) {
        eventually(&format!("{of}'s datagrams to {peer} {what}"), || {
            let found = cluster.site(of).metric(&format!("farshore_peer_mtu_bytes{{site=\"{peer}\""));
            if wanted(found) { Ok(()) } else { Err(format!("{found} bytes")) }
        });
    }
}

/// A tunnel on the way, say: packets as large as have passed so far vanish from now on, and nobody says so.
#[test]
fn a_path_that_becomes_narrower_under_a_living_connection_is_gone_on_with() {
    let of_mtu = |mtu| Conditions { mtu_bytes: Some(mtu), ..Conditions::of_rtt(RTT) };
    // So patient that a connection which carried nothing more would be noticed.
    let options = Options { wan: Some(of_mtu(9000)), idle_timeout_ms: 20_000, ..Options::default() };
    let cluster = Cluster::start_with(&SITES, options);
    let east = cluster.site("east");
    east.run(&CREATE);
    drop(east.attach("pg"));
    let ledger = Ledger::of_new(BLOCKS);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(100);
    for site in SITES {
        wait_for_datagrams(&cluster, site, "to be larger than an Ethernet frame", |bytes| bytes > 1500.0);
    }
    wan(&cluster).set(of_mtu(1500));
    writers.wait_for(200);
    let swallowed = [(0, 1), (0, 2)].map(|(from, to)| wan(&cluster).counts(from, to).too_long);
    assert!(swallowed.iter().all(|n| *n > 0), "{swallowed:?}");
    let held_by_a_frame = |bytes: f64| bytes > 1400.0 && bytes <= 1472.0;
    wait_for_datagrams(&cluster, "east", "to be what a frame holds, or little less", held_by_a_frame);
    wan(&cluster).set(of_mtu(LEAST_MTU_BYTES));
    writers.wait_for(200);
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    for site in &cluster.sites {
        assert!(!site.log().contains("peer is down"), "{} made a connection anew", site.name);
    }
    cluster.wait_in_sync("east", "pg");
    cluster.site("east").run(&["volume", "detach", "pg"]);
    cluster.site("east").run(&["switchover", "pg", "--to", "north"]);
    // North has sent nothing large since the path was wide: it finds out only now.
    let north = cluster.site("north");
    ledger.check_all(&mut north.attach("pg"));
    let writers = Writers::start(&ledger, north.nbd_socket(), "pg", 4);
    writers.wait_for(200);
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    ledger.check_all(&mut north.attach("pg"));
}
