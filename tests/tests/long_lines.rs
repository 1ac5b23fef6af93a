//! Lines that are long and narrow, lose and reorder, and are cut: relays between the sites, so no privileges are needed.

use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, Options, Writers, member};
use farshore_wan::{Conditions, Wan};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=4MiB", "--members=east,west,north", "--lease=1s"];
const RTT: Duration = Duration::from_millis(20);

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
