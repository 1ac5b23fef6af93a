//! Who may do what: several nodes in a site, members outside the quorum, members that are none any more, and what each
//! policy goes on without.

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Site, all_in_sync, eventually, member};

const BLOCKS: usize = 256;

fn create(site: &Site, name: &str, more: &[&str]) {
    let mut arguments = vec!["volume", "create", name, "--size=4MiB", "--lease=1s"];
    arguments.extend(more);
    site.run(&arguments);
}

#[test]
fn any_node_of_a_site_shows_and_commands_what_another_holds() {
    let cluster = Cluster::start(&["east", "east/n2", "west", "north"]);
    let [first, second, west] = ["east", "east/n2", "west"].map(|s| cluster.site(s));
    create(second, "pg", &["--members=east/n2,west,north", "--label=pvc=prod/pg"]);
    create(first, "kv", &["--members=east/n1,west,north"]);
    for node in [first, second] {
        for verb in [&["volume", "list"][..], &["status"]] {
            let listed = node.run(verb);
            let names: Vec<&str> =
                listed["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect();
            assert_eq!(names, ["kv", "pg"], "{} {verb:?}: {listed:#}", node.name);
        }
        assert_eq!(node.volume("pg")["labels"]["pvc"], "prod/pg");
    }
    first.refused(&["volume", "create", "pg", "--size=4MiB", "--members=east/n1,west"]).says(6, &["pg", "east/n2"]);
    first.run(&["volume", "attach", "pg", "--node", "n2", "--device", "nbd"]);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut second.connect("pg"));
    first.refused(&["volume", "delete", "pg", "--yes"]).says(4, &["pg", "attached", "detach"]);
    first.run(&["volume", "resize", "pg", "8MiB"]);
    assert_eq!(first.volume("pg")["size_bytes"], 8 << 20);
    first.run(&["volume", "detach", "pg"]);
    first.run(&["switchover", "pg", "--to", "west"]);
    first.run(&["switchover", "pg", "--to", "east/n2"]);
    first.run(&["demote", "pg"]);
    first.run(&["promote", "pg"]);
    assert_eq!(second.volume("pg")["role"], "primary");
    ledger.check_all(&mut second.attach("pg"));

    // A site's failover takes over what all its nodes hold.
    first.run(&["volume", "detach", "pg"]);
    first.refused(&["switchover", "kv", "--to", "west"]).says(4, &["kv", "no primary", "promote kv"]);
    first.run(&["promote", "kv"]);
    for volume in ["pg", "kv"] {
        first.run(&["switchover", volume, "--to", "west"]);
    }
    west.kill();
    let taken = first.run(&["failover", "--from", "west"]);
    for (node, volume) in [(second, "pg"), (first, "kv")] {
        assert_eq!(node.volume(volume)["role"], "primary", "{volume}: {taken:#}");
    }
    ledger.check_all(&mut second.attach("pg"));
    first.run(&["volume", "detach", "pg"]);
    west.start();
    cluster.wait_connected();
    first.run(&["volume", "delete", "pg", "--yes"]);
    second.refused(&["volume", "show", "pg"]).says(3, &["pg"]);
}

#[test]
fn an_observer_is_fed_and_counts_for_nothing() {
    let cluster = Cluster::start(&["east", "west", "north", "far"]);
    let [east, west, north, far] = ["east", "west", "north", "far"].map(|s| cluster.site(s));
    create(east, "pg", &["--members=east,west,north", "--observer=far"]);
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    let settled = |volume: &serde_json::Value| all_in_sync(volume) && member(volume, "far")["lag_records"] == 0;
    let volume = east.wait_volume("pg", "the observer to have everything", settled);
    let observer = member(&volume, "far");
    assert_eq!((&observer["kind"], &observer["in_sync_set"]), (&"observer".into(), &false.into()), "{observer:#}");
    assert_eq!(far.volume("pg")["role"], "observer");

    // Writes don't wait for it.
    far.kill();
    ledger.fill(&mut client);
    let volume = east.volume("pg");
    assert!(member(&volume, "far")["lag_records"].as_u64() > Some(0), "its lag is told: {volume:#}");
    assert!(all_in_sync(&volume) || volume["state"] != "frozen", "{volume:#}");
    far.start();
    east.wait_volume("pg", "the observer to have caught up", settled);

    // It is no quorum, and no candidate.
    west.kill();
    north.kill();
    east.wait_volume("pg", "the volume to freeze", |v| v["state"] == "frozen");
    far.refused(&["failover", "--from", "east"]).says(1, &["pg"]);
    west.start();
    north.start();
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    cluster.wait_connected();
    east.wait_volume("pg", "the observer to have everything", settled);
    drop(client);
    east.kill();
    far.refused(&["promote", "pg"]).says(4, &["pg"]);
    west.run(&["failover", "--from", "east"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn a_member_that_was_removed_while_it_was_away_is_told_so() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, north] = ["east", "north"].map(|s| cluster.site(s));
    create(east, "pg", &["--members=east,west,north"]);
    north.kill();
    east.run(&["promote", "pg"]);
    east.run(&["member", "remove", "pg", "north"]);
    north.start();
    cluster.wait_connected();
    // It does not know, and tries.
    north.refused(&["failover", "--from", "east"]);
    let volume = north.wait_volume("pg", "the refusal to be shown", |v| {
        v["conditions"].as_array().is_some_and(|c| c.iter().any(|c| c["name"] == "not-a-member"))
    });
    println!("{:#}", volume["conditions"]);
    assert!(east.log().contains("refused to talk about a volume"), "and the others have logged it");
    assert_eq!(east.volume("pg")["role"], "primary", "nothing came of it");
}

/// Is a write acknowledged now?
fn goes_on(site: &Site, ledger: &Ledger, client: &mut NbdClient) -> bool {
    let shown = eventually("the loss to be noticed", || {
        let volume = site.volume("pg");
        match volume["state"].as_str() {
            Some("degraded" | "frozen") => Ok(volume),
            _ => Err(format!("{volume:#}")),
        }
    });
    if shown["state"] == "frozen" {
        return false;
    }
    ledger.fill(client);
    true
}

#[test]
fn each_policy_goes_on_without_whom_it_says_and_no_further() {
    // Policy; does it go on without one remote? None does without both.
    let cases = [("nearest-remote", true), ("all-remotes", false), ("all", false)];
    for (policy, without_one) in cases {
        let cluster = Cluster::start(&["east", "west", "north"]);
        let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
        create(east, "pg", &["--members=east,west,north", "--quorum", policy]);
        let ledger = Ledger::of_new(BLOCKS);
        let mut client = east.attach("pg");
        ledger.fill(&mut client);
        cluster.wait_in_sync("east", "pg");
        north.kill();
        assert_eq!(goes_on(east, &ledger, &mut client), without_one, "{policy} without one remote");
        if without_one {
            west.kill();
            east.wait_volume("pg", "the volume to freeze", |v| v["state"] == "frozen");
            west.start();
        }
        north.start();
        cluster.wait_connected();
        ledger.fill(&mut client);
        // The primary's site is lost: the others together take over, and nothing is missing.
        drop(client);
        east.kill();
        let taken = west.try_run(&["failover", "--from", "east"]);
        match policy {
            // East is asked for too: the data is there, and the volume opens when east is back or was left out.
            "all" | "all-remotes" => {
                assert!(taken.is_err(), "{policy}: {taken:?}");
                west.run(&["failover", "--from", "east", "--reduce"]);
            }
            _ => drop(taken.unwrap_or_else(|refusal| panic!("{policy}: {refusal:?}"))),
        }
        ledger.check_all(&mut west.attach("pg"));
    }
}

#[test]
fn what_is_told_of_other_nodes_is_what_they_say_and_how_long_they_are_away() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let of_west = || east.run(&["site", "list"])["peers"][0].clone();
    let found = of_west();
    assert_eq!((found["connected"].as_bool(), found["silent_ms"].as_u64()), (Some(true), Some(0)), "{found:#}");
    assert!(found["version"].as_str().is_some_and(|version| !version.is_empty()), "{found:#}");
    // One machine, one clock: what is told beside zero is what asking takes.
    assert!(found["clock_skew_ms"].as_i64().is_some_and(|ms| ms.abs() < 5_000), "{found:#}");
    west.kill();
    let away = eventually("west to be missed", || {
        let found = of_west();
        if found["connected"] == false && found["silent_ms"].as_u64() > Some(0) { Ok(found) } else { Err(found) }
    });
    assert_eq!((&away["version"], &away["clock_skew_ms"]), (&"".into(), &0.into()), "nobody was asked: {away:#}");
    let longer = eventually("the time to go on", || {
        let found = of_west();
        if found["silent_ms"].as_u64() > away["silent_ms"].as_u64() { Ok(found) } else { Err(found) }
    });
    assert!(east.metric("farshore_peer_silent_seconds") * 1e3 >= longer["silent_ms"].as_u64().unwrap_or(0) as f64);
}
