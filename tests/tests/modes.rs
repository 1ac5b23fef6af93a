//! Who is waited for: by the mode, and when nobody else is left. Sites get slow, far and lost, and come back.

use std::time::Duration;

use farshore_tests::cluster::{
    Cluster, IN_ORDER_BLOCKS, Image, InOrder, Ledger, NbdClient, Options, Writers, eventually, member, writes_in,
};
use farshore_wan::Conditions;
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 512;
const NEAR: Duration = Duration::from_millis(4);
const FAR: Duration = Duration::from_millis(1600);
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=2MiB", "--members=east,west", "--witness=north"];

fn in_sync(volume: &Value, site: &str) -> bool {
    member(volume, site)["in_sync_set"] == true
}

#[test]
fn a_remote_that_gets_slow_is_not_waited_for_until_it_is_near_again() {
    let wan = Some(Conditions::of_rtt(NEAR));
    let cluster = Cluster::start_with(&SITES, Options { wan, idle_timeout_ms: 20_000, ..Options::default() });
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    let line = cluster.wan.as_ref().expect("these sites are behind relays").link(0, 1);
    let created = east.run(&[&CREATE[..], &["--mode=adaptive", "--max-commit-latency=800ms"]].concat());
    assert_eq!(
        (&created["policy"]["mode"], &created["policy"]["max_commit_latency_ms"]),
        (&"adaptive".into(), &800.into()),
        "{created:#}"
    );
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    line.set(Conditions::of_rtt(FAR));
    let left = east.wait_volume("pg", "west to be put out", |v| !in_sync(v, "west"));
    let reason = member(&left, "west")["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("left the sync set") && reason.contains("commit latency"), "{left:#}");
    assert!(member(&left, "west")["votes"] == 1, "it keeps its vote: {left:#}");
    assert!(east.metric("farshore_sync_set_departures_total") >= 1.0);
    // Far more than there would be time for, were the line waited for.
    writers.wait_for(300);
    line.set(Conditions::of_rtt(NEAR));
    cluster.wait_in_sync("east", "pg");
    writers.wait_for(50);
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    // What was written meanwhile is there too.
    cluster.wait_in_sync("east", "pg");
    east.run(&["volume", "detach", "pg"]);
    east.run(&["switchover", "pg", "--to", "west"]);
    ledger.check_all(&mut west.attach("pg"));
}

#[test]
fn a_volume_that_lost_its_remote_falls_back_after_the_time_it_was_told() {
    let cluster = Cluster::start(&SITES);
    let [east, west, _] = SITES.map(|s| cluster.site(s));
    east.run(&[&CREATE[..], &["--lease=1s"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    let set = east.run(&["volume", "set", "pg", "--fallback", "after:2s"]);
    assert_eq!(set["policy"]["fallback_after_ms"], 2000, "{set:#}");
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(50);
    west.kill();
    // Nobody does anything.
    writers.wait_for(200);
    let alone = east.volume("pg");
    assert!(!in_sync(&alone, "west") && alone["policy"]["w"] == 1, "{alone:#}");
    west.start();
    let whole = cluster.wait_in_sync("east", "pg");
    assert_eq!(whole["policy"]["w"], 2, "what was asked for is in force again: {whole:#}");
    writers.wait_for(50);
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    // Told never to, it waits.
    east.run(&["volume", "set", "pg", "--fallback", "never"]);
    west.kill();
    east.wait_volume("pg", "the volume to freeze", |v| v["state"] == "frozen");
    std::thread::sleep(Duration::from_secs(4));
    assert!(in_sync(&east.volume("pg"), "west"));
    west.start();
    cluster.wait_in_sync("east", "pg");
    east.kill();
    west.run(&["failover", "--from", "east", "--reduce"]);
    ledger.check_all(&mut west.attach("pg"));
}

fn blocks(client: &mut NbdClient) -> Vec<Image> {
    let read = |block| {
        let bytes = client.read(block * 4096, 4096).expect("it can be read");
        Image::read(block, &bytes).expect("what was written")
    };
    (0..IN_ORDER_BLOCKS).map(read).collect()
}

#[test]
fn a_copy_on_a_schedule_gets_images_and_the_loss_is_never_told_too_small() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    let create = ["volume", "create", "pg", "--size=2MiB", "--members=east,west", "--mode=async", "--rpo=2s"];
    let created = east.run(&[&create[..], &["--lease=1s"]].concat());
    let of_west = member(&created, "west");
    assert_eq!((&of_west["kind"], &of_west["votes"]), (&"observer".into(), &0.into()), "{created:#}");
    drop(east.attach("pg"));
    let load = InOrder::start(vec![(east.nbd_socket(), "pg".into())]);
    let applied = |volume: &Value| member(volume, "west")["applied_seq"].as_u64().unwrap_or(0);
    let mut images = vec![0];
    for _ in 0..3 {
        let last = images[images.len() - 1];
        let volume = east.wait_volume("pg", "the next image in west", |v| applied(v) > last);
        images.push(applied(&volume));
        load.wait_for(100);
    }
    assert_eq!(west.volume("pg")["role"], "observer");
    // It is left alone in between: all that it gets comes at once.
    let resting = east.wait_volume("pg", "west to rest", |v| member(v, "west")["state"] == "resting");
    assert!(member(&resting, "west")["lag_records"].as_u64() > Some(0), "{resting:#}");
    load.wait_for(100);
    let acked = load.acked();
    let told = east.volume("pg");
    east.kill();
    let figures = told["loss"].as_array().into_iter().flatten();
    let promote =
        figures.into_iter().find(|l| l["site"] == "west").expect("a figure of west")["promote_records"].clone();
    drop(load);
    west.run(&["promote", "pg", "--force", "--members", "west", "--yes"]);
    let held = writes_in(&blocks(&mut west.attach("pg")), "the image in west");
    let lost = acked.saturating_sub(held);
    assert!(promote.as_u64() >= Some(lost) && held > 0, "{lost} writes lost of {acked}, {promote} were told: {told:#}");
    println!("{held} writes held, {lost} lost, {promote} told");
}

#[test]
fn what_a_layout_can_not_keep_is_refused_with_what_would_do() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    let pair = ["volume", "create", "pg", "--size=2MiB", "--members=east,west"];
    for distance in [&["--mode=adaptive"][..], &["--fallback=after:30s"]] {
        let words = ["without west", "majority of the votes", "--votes east=2"];
        east.refused(&[&pair[..], distance].concat()).says(2, &words);
    }
    east.refused(&[&CREATE[..], &["--mode=async"]].concat()).says(2, &["without north", "witness in north"]);
    east.refused(&[&pair[..], &["--mode=sync", "--rpo=5s"]].concat()).says(2, &["rpo", "mode async"]);
    let latency = ["--mode=async", "--max-commit-latency=5ms"];
    east.refused(&[&pair[..], &latency].concat()).says(2, &["maxCommitLatency", "mode adaptive"]);
    east.refused(&[&pair[..], &["--mode=async", "--rpo=0s"]].concat()).says(2, &["limit of nothing"]);
    // Changed online: who follows behind loses its vote, and gets it back.
    east.run(&[&pair[..], &["--lease=1s"]].concat());
    drop(east.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    east.refused(&["volume", "set", "pg", "--mode", "adaptive"]).says(2, &["without west"]);
    let behind = east.run(&["volume", "set", "pg", "--mode", "async", "--rpo", "60s"]);
    assert_eq!((&behind["policy"]["mode"], &behind["policy"]["w"]), (&"async".into(), &1.into()), "{behind:#}");
    assert!(!in_sync(&behind, "west") && member(&behind, "west")["votes"] == 0, "{behind:#}");
    Ledger::of_new(BLOCKS).fill(&mut east.connect("pg"));
    eventually("west to be heard", || east.try_run(&["volume", "set", "pg", "--mode", "sync"]));
    let whole = cluster.wait_in_sync("east", "pg");
    assert_eq!((&whole["policy"]["mode"], &whole["policy"]["w"]), (&"sync".into(), &2.into()), "{whole:#}");
}
