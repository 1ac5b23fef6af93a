//! The rule and the class of a volume, changed while it is written to; then a site dies.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, Writers, eventually};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 1024;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=4MiB", "--members=east,west,north", "--lease=1s"];

fn policy(volume: &Value) -> (&str, &str, &str) {
    let policy = &volume["policy"];
    let text = |key: &str| policy[key].as_str().unwrap_or_default();
    (text("quorum"), text("durability"), text("next_durability"))
}

#[test]
fn nothing_acknowledged_is_lost_when_rule_and_class_change_and_sites_die() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.run(&[&CREATE[..], &["--quorum=all-remotes"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 3);
    writers.wait_for(100);
    // From another site than the primary's, and once more: the same.
    for _ in 0..2 {
        let set = west.run(&["volume", "set", "pg", "--quorum", "majority"]);
        assert_eq!(policy(&set), ("majority", "write", ""), "{set:#}");
    }
    // Under the rule of before, every write would wait for west.
    west.kill();
    writers.wait_for(200);
    west.start();
    cluster.wait_in_sync("east", "pg");
    // The device has no cache: what completes in this session is safe, whatever is to come.
    for _ in 0..2 {
        let set = east.run(&["volume", "set", "pg", "--durability", "flush"]);
        assert_eq!(policy(&set), ("majority", "write", "flush"), "{set:#}");
    }
    writers.wait_for(100);
    east.kill();
    eventually("north to take over", || north.try_run(&["failover", "--from", "east"]));
    ledger.check_all(&mut north.attach("pg"));
    assert_eq!(policy(&north.volume("pg")), ("majority", "flush", ""), "the next attach has the class");
    east.start();
    writers.follow(north.nbd_socket());
    writers.wait_for(200);
    cluster.wait_in_sync("north", "pg");
    // Back at once: when the verb has answered, what completed before is as safe as what follows.
    writers.wait_for(100);
    let set = north.run(&["volume", "set", "pg", "--durability", "write"]);
    assert_eq!(policy(&set), ("majority", "write", ""), "{set:#}");
    writers.wait_for(100);
    north.kill();
    eventually("west to take over", || west.try_run(&["failover", "--from", "north"]));
    let mut client = west.attach("pg");
    writers.stop();
    ledger.check_all(&mut client);
    assert_eq!(policy(&west.volume("pg")), ("majority", "write", ""));
}

#[test]
fn what_can_not_be_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(&SITES);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let set = |more: &[&str]| east.refused(&[&["volume", "set", "pg"][..], more].concat());
    set(&["--quorum", "w=4"]).says(2, &["pg", "4 copies", "member add"]);
    set(&["--quorum", "w=2,minRemote=3"]).says(2, &["3 remote sites", "member add"]);
    set(&["--quorum", "most"]).says(2, &["majority"]);
    set(&[]).says(2, &["--quorum"]);
    set(&["--iops", "9"]).says(2, &["9 requests", "at least 10"]);
    set(&["--bandwidth", "1KiB"]).says(2, &["1024 bytes", "64KiB"]);
    east.refused(&["volume", "set", "qq", "--durability", "flush"]).says(3, &["qq"]);
    // Nobody is attached: both take effect at once, and somebody wins the epoch for it.
    let set = east.run(&["volume", "set", "pg", "--durability", "flush", "--on-quorum-loss", "fence:30s"]);
    assert_eq!(policy(&set), ("majority", "flush", ""), "{set:#}");
    assert_eq!(set["policy"]["fence_after_ms"], 30_000);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    // A rule that would stop all writes now is not taken, and none that is on its way is left behind.
    west.pause();
    east.wait_volume("pg", "west to be missed", |v| v["state"] == "degraded");
    east.refused(&["volume", "set", "pg", "--quorum", "all-remotes"]).says(5, &["west", "stand still"]);
    ledger.fill(&mut client);
    west.resume();
    cluster.wait_in_sync("east", "pg");
    let set = east.run(&["volume", "set", "pg", "--quorum", "all-remotes", "--durability", "write"]);
    assert_eq!(policy(&set), ("all-remotes", "write", ""), "{set:#}");
    ledger.fill(&mut client);
    ledger.check_all(&mut client);
}

/// That it is slower than this is nothing that a busy machine could bring about.
#[test]
fn a_limit_holds_for_the_device_and_goes_with_the_volume() {
    let cluster = Cluster::start(&SITES);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&[&CREATE[..], &["--bandwidth=1GiB"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    let set = west.run(&["volume", "set", "pg", "--iops", "10"]);
    assert_eq!((&set["policy"]["iops"], &set["policy"]["bytes_per_second"]), (&10.into(), &(1u64 << 30).into()));
    let slow = |client: &mut farshore_tests::cluster::NbdClient| {
        let begun = Instant::now();
        (0..30).for_each(|_| drop(client.read(0, 4096).expect("it is slow, and works")));
        assert!(begun.elapsed() >= Duration::from_secs(2), "30 requests took {:?}", begun.elapsed());
    };
    slow(&mut client);
    drop(client);
    // After a restart, and elsewhere.
    east.kill();
    eventually("west to take over", || west.try_run(&["failover", "--from", "east"]));
    let mut client = west.attach("pg");
    slow(&mut client);
    let set = west.run(&["volume", "set", "pg", "--iops", "0", "--bandwidth", "0"]);
    assert_eq!((&set["policy"]["iops"], &set["policy"]["bytes_per_second"]), (&0.into(), &0.into()));
    ledger.check_all(&mut client);
}
