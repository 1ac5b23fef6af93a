//! Schedules of snapshots on real daemons: they run where the volume is led, give up what they made and nothing else, and
//! go on in the site that takes over.

use farshore_tests::cluster::{Cluster, Options, Site, eventually};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];

fn start() -> Cluster {
    let more = "[store]\nscrub_interval_s = 0\n";
    let cluster = Cluster::start_with(&SITES, Options { more, ..Options::default() });
    let east = cluster.site("east");
    east.run(&["volume", "create", "pg", "--size=1MiB", "--members=east,west,north", "--lease=1s"]);
    drop(east.attach("pg"));
    cluster
}

fn schedule(site: &Site, name: &str, arguments: &[&str]) -> Value {
    site.run(&[&["snapshot", "schedule", "create", "pg", name], arguments].concat())
}

fn snapshots(site: &Site) -> Vec<Value> {
    site.run(&["snapshot", "list", "pg"])["snapshots"].as_array().expect("a list").clone()
}

/// The names of what a schedule made, oldest first.
fn made(site: &Site, schedule: &str) -> Vec<String> {
    let listed = snapshots(site);
    let own = listed.iter().filter(|s| s["labels"]["farshore.schedule"] == schedule);
    own.map(|s| s["name"].as_str().expect("a name").to_string()).collect()
}

fn shown(site: &Site, schedule: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || match site.try_run(&["snapshot", "schedule", "show", "pg", schedule]) {
        Ok(shown) if good(&shown) => Ok(shown),
        Ok(shown) => Err(format!("{shown:#}")),
        Err(refusal) => Err(format!("{refusal:?}")),
    })
}

#[test]
fn a_schedule_makes_snapshots_and_gives_up_its_own_but_none_that_is_held() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    east.run(&["snapshot", "create", "pg", "--name", "mine"]);
    // From another site than the primary's.
    let created = schedule(west, "often", &["--every=1s", "--keep=3", "--label=app=db"]);
    let again = schedule(east, "often", &["--every=1s", "--keep=3", "--label=app=db"]);
    assert_eq!(again["id"], created["id"], "the same again is a no-op");
    let first = eventually("the first one", || made(east, "often").first().cloned().ok_or("none"));
    let first_of_all = snapshots(east).into_iter().find(|s| s["name"] == first.as_str()).expect("it is listed");
    assert_eq!(first_of_all["labels"]["app"], "db");
    east.run(&["snapshot", "update", &format!("pg@{first}"), "--hold", "backup"]);
    // So many that others than the held one were given up, also from between.
    let second = eventually("a second one", || made(east, "often").get(1).cloned().ok_or("none"));
    eventually("the second one to be given up", || {
        let there = made(east, "often");
        if there.contains(&second) { Err(there) } else { Ok(()) }
    });
    let there = made(east, "often");
    assert!(there[0] == first && there.len() <= 5, "{there:?}");
    let kept = format!("{first} (held by backup)");
    let seen = shown(west, "often", "the held one to be named in every site", |s| s["kept"][0] == kept.as_str());
    assert_eq!((&seen["state"], &seen["reason"]), (&"waiting".into(), &"".into()), "{seen:#}");
    assert!(snapshots(east).iter().any(|s| s["name"] == "mine"), "what a user made is not its business");

    east.run(&["snapshot", "update", &format!("pg@{first}"), "--release", "backup"]);
    eventually("the released one to go", || {
        if made(east, "often").contains(&first) { Err(first.clone()) } else { Ok(()) }
    });
    assert_eq!(east.run(&["snapshot", "schedule", "list"])["schedules"][0]["name"], "often");
    east.run(&["snapshot", "schedule", "delete", "pg", "often", "--yes"]);
    let left = made(east, "often");
    // One of the same name takes nothing for its own that it has not made.
    schedule(east, "often", &["--every=1s", "--keep=1"]);
    shown(east, "often", "the new one to run", |s| s["snapshots"].as_u64() == Some(1) && s["last"] != "");
    let last = shown(east, "often", "a run", |s| s["last"] != "")["last"].clone();
    shown(east, "often", "another run", |s| s["last"] != "" && s["last"] != last);
    assert!(left.iter().all(|name| made(east, "often").contains(name)), "those of the old one stay: {left:?}");
    east.refused(&["snapshot", "schedule", "create", "pg", "often", "--every=2s", "--keep=1"])
        .says(6, &["another one"]);
    println!("a schedule kept what was held, what users made, and what another schedule of its name had made");
}

#[test]
fn a_takeover_goes_on_with_the_schedule_and_doubles_nothing() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    schedule(east, "hourly", &["--every=1h", "--keep=5"]);
    schedule(east, "often", &["--every=1s", "--keep=1000"]);
    let waits = |s: &Value| s["snapshots"] == 1 && s["state"] == "waiting" && s["due_in_ms"].as_u64() > Some(0);
    shown(east, "hourly", "its only run", waits);
    eventually("some runs", || if made(east, "often").len() >= 2 { Ok(()) } else { Err("too few") });
    east.kill();
    west.run(&["failover", "--from", "east"]);
    let before = made(west, "often").len();
    eventually("the schedule to go on in west", || {
        let now = made(west, "often").len();
        if now >= before + 2 { Ok(()) } else { Err(now) }
    });
    // West has looked at the hourly one as well: it is not due there either.
    shown(west, "hourly", "west to wait for the next run", waits);
    assert_eq!(made(west, "hourly").len(), 1);

    // The one that is back follows, and makes none of its own.
    east.start();
    cluster.wait_in_sync("west", "pg");
    shown(east, "hourly", "east to tell what west says", waits);
    // All are stopped at once, for longer than some intervals: one run makes up for them.
    for site in SITES {
        cluster.site(site).end();
    }
    SITES.iter().for_each(|site| cluster.site(site).launch());
    SITES.iter().for_each(|site| cluster.site(site).wait_ready());
    cluster.wait_connected();
    let idle = shown(west, "hourly", "nobody to lead", |s| s["state"] == "idle" || s["state"] == "waiting");
    assert_eq!(idle["snapshots"], 1, "{idle:#}");
    eventually("west to lead again", || west.try_run(&["promote", "pg"]));
    shown(west, "hourly", "west to look again", waits);
    let before = made(west, "often").len();
    eventually("the schedule to go on", || if made(west, "often").len() > before { Ok(()) } else { Err(before) });
    let names = made(west, "often");
    let mut distinct = names.clone();
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.len(), names.len(), "each run made one");
    println!("{} runs of one schedule over two sites and a restart of all, and one of an hourly one", names.len());
}

#[test]
fn a_schedule_that_can_make_nothing_says_so_and_goes_on_when_it_can() {
    let cluster = start();
    let east = cluster.site("east");
    schedule(east, "often", &["--every=1s", "--keep=2"]);
    eventually("a first run", || if made(east, "often").is_empty() { Err("none") } else { Ok(()) });
    // No quorum for a mark.
    cluster.site("west").end();
    cluster.site("north").end();
    let failing = shown(east, "often", "the schedule to fail", |s| s["state"] == "failing");
    assert!(failing["reason"].as_str().is_some_and(|reason| reason.contains("pg")), "{failing:#}");
    assert_eq!(east.metric("farshore_schedule_failing{volume=\"pg\",schedule=\"often\"}"), 1.0);
    cluster.site("west").start();
    let last = failing["last"].clone();
    shown(east, "often", "the schedule to go on", |s| s["state"] == "waiting" && s["last"] != last);
    assert_eq!(east.metric("farshore_schedule_failing{volume=\"pg\",schedule=\"often\"}"), 0.0);
}
