//! Going on by force where no quorum is left, and taking in again what was left out.

use farshore_tests::cluster::{Cluster, Ledger};

const BLOCKS: usize = 1024;

#[test]
fn a_forced_site_goes_on_alone_and_those_left_out_are_fenced_until_they_are_discarded() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    cluster.wait_in_sync("east", "pg");
    east.kill();
    north.kill();
    drop(client);

    // What it would do is told first, and nothing is done.
    west.refused(&["promote", "pg", "--force", "--members", "west"]).says(4, &["pg", "--yes"]);
    assert_eq!(west.volume("pg")["role"], "secondary", "a plan changes nothing");
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("pg");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);

    east.start();
    north.start();
    cluster.wait_connected();
    east.wait_volume("pg", "east to learn of the new lineage", |v| v["state"] == "diverged");
    east.refused(&["promote", "pg"]).says(4, &["lineage", "--discard"]);
    // The fence holds across a restart, when nobody tells it again.
    west.pause();
    north.kill();
    east.kill();
    east.start();
    assert_eq!(east.volume("pg")["state"], "diverged", "a restart does not forget the higher lineage");
    west.resume();
    north.start();
    cluster.wait_connected();

    for site in ["east", "north"] {
        west.run(&["resync", "pg", "--member", site, "--discard"]);
    }
    let volume = cluster.wait_in_sync("west", "pg");
    assert_eq!(volume["policy"]["w"], 2, "the rule that was asked for is back once it can be met: {volume}");
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}
