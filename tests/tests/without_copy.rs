//! A node that holds a volume's epoch and no copy of it, for the device that is there: what it makes and leaves behind, who
//! helps it, and how it comes and goes.

use std::time::Duration;

use farshore_tests::cluster::{
    Cluster, Ledger, NbdClient, Network, Options, Site, Writers, all_in_sync, eventually, until,
};
use serde_json::Value;

const SITES: [&str; 4] = ["east", "east/n2", "west", "north"];
const BLOCKS: usize = 512;

/// Its copies are on n2 of east and in the other sites.
fn create(site: &Site, volume: &str) {
    let members = "--members=east/n2,west,north";
    site.run(&["volume", "create", volume, "--size=8MiB", members, "--lease=1s"]);
}

fn start(options: Options) -> Cluster {
    let cluster = Cluster::start_with(&SITES, options);
    create(cluster.site("east/n2"), "pg");
    cluster
}

fn names(listed: &Value) -> Vec<String> {
    let rows = listed["snapshots"].as_array().expect("a list");
    let mut names: Vec<String> = rows.iter().map(|s| s["name"].as_str().expect("a name").to_string()).collect();
    names.sort_unstable();
    names
}

fn snapshots(site: &Site, volume: &str) -> Vec<String> {
    names(&site.run(&["snapshot", "list", volume]))
}

fn kinds(volume: &Value) -> Vec<&str> {
    let members = volume["members"].as_array().expect("a volume has members");
    members.iter().map(|m| m["kind"].as_str().expect("a kind")).collect()
}

/// The nodes of east that are members, and what they are.
fn is_member(site: &Site) -> bool {
    kinds(&site.volume("pg")).contains(&"diskless")
}

fn until_it_has_left(site: &Site) {
    until("the node without a copy to be no member any more", Duration::from_secs(60), || match is_member(site) {
        true => Err(site.volume("pg")["members"].to_string()),
        false => Ok(()),
    });
}

#[test]
fn it_is_a_member_as_long_as_its_device_is_there() {
    let cluster = start(Options::default());
    let [first, second, west] = ["east", "east/n2", "west"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    for _ in 0..2 {
        let mut client = first.attach("pg");
        ledger.fill(&mut client);
        ledger.check_all(&mut client);
        for site in [first, second, west] {
            let shown = site.volume("pg");
            assert_eq!(kinds(&shown), ["data", "data", "data", "diskless"], "as {} sees it", site.name);
            assert_eq!(shown["primary"]["node"], "n1", "it leads the volume itself");
        }
        let own = first.volume("pg");
        assert_eq!((&own["allocated_bytes"], &own["role"]), (&0.into(), &"primary".into()), "nothing is in its store");
        assert!(all_in_sync(&own), "{own:#}");
        first.refused(&["volume", "delete", "pg", "--yes"]).says(4, &["pg", "attached"]);
        drop(client);
        first.run(&["volume", "detach", "pg"]);
        // Whoever is next does not wait for it to leave.
        ledger.check_all(&mut second.attach("pg"));
        until_it_has_left(second);
        second.run(&["volume", "detach", "pg"]);
    }
    first.refused(&["member", "remove", "pg", "east/n1"]).says(3, &["pg", "east"]);
    first.run(&["volume", "delete", "pg", "--yes"]);
    for site in [first, second, west] {
        site.refused(&["volume", "show", "pg"]).says(3, &["pg"]);
    }
}

#[test]
fn snapshots_of_every_sort_are_made_from_there() {
    let cluster = start(Options::default());
    let [first, second, west] = ["east", "east/n2", "west"].map(|s| cluster.site(s));
    create(second, "wal");
    let (ledger, wal) = (Ledger::of_new(BLOCKS), Ledger::of_new(BLOCKS));
    let (mut client, mut other) = (first.attach("pg"), first.attach("wal"));
    ledger.fill(&mut client);
    wal.fill(&mut other);
    let then = ledger.fork();
    // Asked for at each node: by who leads the volume, by a copy beside it, and in another site.
    for (at, name) in [(first, "s1"), (second, "s2"), (west, "s3")] {
        let made = at.run(&["snapshot", "create", "pg", "--name", name]);
        assert_eq!(made["snapshots"][0]["size_bytes"], 8 << 20, "{made:#}");
        let again = at.run(&["snapshot", "create", "pg", "--name", name]);
        assert_eq!(made["snapshots"][0]["id"], again["snapshots"][0]["id"], "one name, one snapshot");
    }
    ledger.fill(&mut client);
    for site in [first, second, west] {
        assert_eq!(snapshots(site, "pg"), ["s1", "s2", "s3"], "as {} lists them", site.name);
    }
    first.refused(&["snapshot", "create", "pg", "--name=s1", "--label=a=b"]).says(6, &["pg@s1"]);
    first.run(&["snapshot", "update", "pg@s2", "--hold=backup"]);
    first.refused(&["snapshot", "delete", "pg@s2", "--yes"]).says(4, &["pg@s2", "backup"]);
    first.run(&["snapshot", "update", "pg@s2", "--release=backup"]);
    first.run(&["snapshot", "delete", "pg@s2", "--yes"]);
    west.run(&["snapshot", "delete", "pg@s3", "--yes"]);
    first.refused(&["snapshot", "delete", "pg@s2", "--yes"]).says(3, &["pg@s2"]);

    // One moment of two volumes.
    let cut = first.until_done(&["snapshot", "create", "pg", "wal", "--name=both"]);
    assert_eq!(cut["snapshots"][0]["group_id"], cut["snapshots"][1]["group_id"], "{cut:#}");
    assert_eq!(snapshots(second, "wal"), ["both"]);

    // By a schedule, which gives up its own.
    first.run(&["snapshot", "schedule", "create", "pg", "often", "--every=1s", "--keep=1"]);
    let scheduled = || snapshots(second, "pg").into_iter().filter(|name| name.contains("often")).collect::<Vec<_>>();
    let one = eventually("a scheduled snapshot", || scheduled().first().cloned().ok_or("none"));
    eventually("the next one in its place", || match scheduled() {
        there if there.len() == 1 && !there.contains(&one) => Ok(()),
        there => Err(there),
    });
    first.run(&["snapshot", "schedule", "delete", "pg", "often", "--yes"]);

    // What is of a snapshot, or of the volume as it is now, is made where a copy is.
    first.run(&["snapshot", "clone", "pg@s1", "then"]);
    first.run(&["snapshot", "clone", "pg", "now"]);
    then.check_all(&mut second.attach("then"));
    ledger.check_all(&mut second.attach("now"));
    first.refused(&["snapshot", "restore", "pg@s1", "--yes"]).says(4, &["pg", "attached"]);
    drop((client, other));
    first.run(&["volume", "detach", "pg"]);
    first.run(&["snapshot", "restore", "pg@s1", "--yes"]);
    then.check_all(&mut first.attach("pg"));
}

/// The holder has forgotten what it lacks, and the others' journals too.
#[test]
fn a_member_that_was_away_is_shipped_by_another_one() {
    let more = "[store]\ncapacity_bytes = \"1GiB\"\n";
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", more, ..Options::default() };
    let cluster = Cluster::start_with(&SITES, options);
    let [first, second, north] = ["east", "east/n2", "north"].map(|s| cluster.site(s));
    second.run(&["volume", "create", "pg", "--size=16MiB", "--members=east/n2,west,north", "--lease=1s"]);
    let ledger = Ledger::of_new(4096);
    let mut client = first.attach("pg");
    cluster.wait_in_sync("east", "pg");
    north.kill();
    ledger.fill(&mut client);
    ledger.fill(&mut client);
    north.start();
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", 4);
    cluster.wait_in_sync("east", "pg");
    writers.wait_for(200);
    assert_eq!(writers.failed(), 0);
    writers.stop();
    assert!(north.metric("farshore_resync_received_bytes_total") > 0.0, "it was shipped an image");
    cluster.wait_in_sync("east", "pg");
    drop(client);
    first.run(&["volume", "detach", "pg"]);
    // It is at a copy when the detach is answered.
    second.run(&["switchover", "pg", "--to=north"]);
    ledger.check_all(&mut north.attach("pg"));
}

/// It dies and stays dead; it comes back when all is over.
#[test]
fn one_that_died_is_taken_out_and_has_nothing_when_it_comes_back() {
    let cluster = start(Options::default());
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    first.kill();
    second.run(&["volume", "detach", "pg", "--force", "--node=n1"]);
    let mut client = second.attach("pg");
    ledger.check_all(&mut client);
    until_it_has_left(second);
    ledger.fill(&mut client);
    first.start();
    eventually("it to forget the volume", || match first.volume("pg")["reporter"]["node"].as_str() {
        Some("n2") => Ok(()),
        node => Err(format!("{node:?}")),
    });
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "no device of the session that is over");
    drop(client);
    second.run(&["volume", "detach", "pg"]);
    let mut client = first.attach("pg");
    ledger.check_all(&mut client);
}

fn apart(test: &str) -> Option<Cluster> {
    let network = match Network::lay(SITES.len()) {
        Ok(network) => network,
        Err(why) => {
            println!("SKIP {test}: no network namespaces here: {why}");
            return None;
        }
    };
    let cluster = Cluster::lay_out_in(&SITES, Options::default(), Some(network));
    cluster.launch();
    cluster.wait_connected();
    create(cluster.site("east/n2"), "pg");
    Some(cluster)
}

/// It is cut off and lives on, until nobody knows it any more.
#[test]
fn one_that_was_cut_off_until_it_was_taken_out_ends_its_device() {
    let Some(cluster) = apart("one_that_was_cut_off_until_it_was_taken_out_ends_its_device") else { return };
    let network = cluster.network.as_ref().expect("these sites are apart");
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", 4);
    writers.wait_for(100);
    network.isolate(0);
    second.run(&["volume", "detach", "pg", "--force", "--node=n1"]);
    let acked = writers.acked();
    let mut client = second.attach("pg");
    until_it_has_left(second);
    assert_eq!(writers.failed(), 0, "it can't know");
    network.heal();
    until("its writers to fail", Duration::from_secs(60), || {
        if writers.failed() > 0 { Ok(()) } else { Err(writers.acked()) }
    });
    assert_eq!(writers.acked(), acked, "nothing was acknowledged after the answer");
    writers.stop();
    ledger.check_all(&mut client);
    drop(client);
    second.run(&["volume", "detach", "pg"]);
    eventually("it to have the volume anew", || first.try_run(&["volume", "attach", "pg", "--device=nbd"]));
    ledger.check_all(&mut first.connect("pg"));
}

/// Whether a node that can't be asked is just being named, nobody can say: after the answer it is not.
#[test]
fn an_unpublish_in_doubt_ends_what_may_be_on_its_way() {
    let Some(cluster) = apart("an_unpublish_in_doubt_ends_what_may_be_on_its_way") else { return };
    let network = cluster.network.as_ref().expect("these sites are apart");
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let ended = || second.volume("pg")["labels"]["farshore.unpublished"].as_str().unwrap_or_default().to_string();
    drop(second.attach("pg"));
    second.run(&["volume", "detach", "pg", "--force", "--node=n1"]);
    second.run(&["volume", "detach", "pg"]);
    second.run(&["volume", "detach", "pg", "--force", "--node=n1"]);
    assert_eq!(ended(), "", "all could be asked");
    network.isolate(0);
    second.run(&["volume", "detach", "pg", "--force", "--node=n1"]);
    let before = ended();
    assert!(before.contains("node=east/n1"), "{before}");
    network.heal();
    cluster.wait_connected();
    drop(first.attach("pg"));
    assert_eq!((first.volume("pg")["attached"]["node"].as_str(), ended()), (Some("n1"), before));
}

/// The site is lost with all its nodes, goes on elsewhere, and comes back.
#[test]
fn a_site_that_was_taken_over_from_comes_back_without_it() {
    let Some(cluster) = apart("a_site_that_was_taken_over_from_comes_back_without_it") else { return };
    let [first, west] = ["east", "west"].map(|s| cluster.site(s));
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", 4);
    writers.wait_for(100);
    let network = cluster.network.as_ref().expect("these sites are apart");
    network.isolate(0);
    network.isolate(1);
    west.run(&["failover", "--from=east"]);
    let acked = writers.acked();
    let mut client = west.attach("pg");
    network.heal();
    eventually(
        "the old session's writers to fail",
        || {
            if writers.failed() > 0 { Ok(()) } else { Err(writers.acked()) }
        },
    );
    assert_eq!(writers.acked(), acked, "nothing was acknowledged after the failover");
    writers.stop();
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    until_it_has_left(west);
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "its device is gone");
    cluster.wait_in_sync("west", "pg");
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to=east/n2"]);
    cluster.wait_connected();
    ledger.check_all(&mut first.attach("pg"));
}

/// In class `flush` a write completes on a copy beside the device, so a member that has one serves it.
#[test]
fn class_flush_is_served_by_a_member() {
    let cluster = start(Options::default());
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    second.run(&["volume", "set", "pg", "--durability=flush"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = first.attach("pg");
    ledger.fill(&mut client);
    let shown = first.volume("pg");
    assert_eq!(shown["attached"]["served_by_node"], "n2", "{shown:#}");
    assert_eq!(kinds(&shown), ["data", "data", "data"]);
    drop(client);
    first.run(&["volume", "detach", "pg"]);
    second.run(&["volume", "set", "pg", "--durability=write"]);
    ledger.check_all(&mut first.attach("pg"));
    assert_ne!(first.volume("pg")["attached"]["served_by_node"], "n2");
}
