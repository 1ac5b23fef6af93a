//! A primary that was away without knowing it; sites that can be dialled from one side only.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, NbdError, Options, Writers, eventually};

const BLOCKS: usize = 1024;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"];

#[test]
fn a_primary_that_slept_past_its_lease_acknowledges_nothing_more() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    let mut old = east.attach("pg");
    ledger.fill(&mut old);
    east.pause();
    // Asked while it sleeps; to be answered when it wakes.
    let asleep = std::thread::spawn(move || (old.read(0, 4096), old));
    let asked = Instant::now();
    west.run(&["failover", "--from", "east"]);
    let mut new = west.attach("pg");
    println!("failover from a stopped primary took {} ms", asked.elapsed().as_millis());
    ledger.fill(&mut new);
    east.resume();
    let (read, mut reader) = asleep.join().expect("the reader ends");
    match read {
        Err(NbdError::Failed(_) | NbdError::Broken(_)) => {}
        other => panic!("a fenced primary served a read: {other:?}"),
    }
    // Whatever it is asked now fails; a write that it acknowledged would be lost.
    assert!(reader.write(0, &[0xee; 4096]).is_err(), "a fenced primary acknowledged a write");
    east.wait_volume("pg", "east to follow west", |v| v["role"] == "secondary" && v["primary"]["site"] == "west");
    assert!(
        farshore_tests::cluster::NbdClient::connect(&east.nbd_socket(), "pg").is_err(),
        "the device of a fenced primary is gone"
    );
    ledger.check_all(&mut new);
    cluster.wait_in_sync("west", "pg");
    drop(new);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn a_quorum_that_is_lost_freezes_the_device_and_it_goes_on_by_itself() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    writers.wait_for(100);
    cluster.site("west").pause();
    cluster.site("north").pause();
    let frozen = eventually("writes to stand still", || {
        let before = writers.acked();
        std::thread::sleep(Duration::from_millis(300));
        if writers.acked() == before { Ok(before) } else { Err("they go on") }
    });
    east.wait_volume("pg", "the lost quorum to be shown", |v| {
        v["conditions"].as_array().is_some_and(|c| !c.is_empty()) && v["lease"]["valid"] == false
    });
    assert_eq!(writers.acked(), frozen, "nothing is acknowledged without a quorum");
    cluster.site("north").resume();
    writers.wait_for(100);
    assert_eq!(writers.failed(), 0, "requests wait, they do not fail");
    cluster.site("west").resume();
    writers.stop();
    ledger.check_all(&mut east.connect("pg"));
    cluster.wait_in_sync("east", "pg");
}

#[test]
fn a_quorum_that_stays_lost_fences_the_whole_device_where_that_was_asked_for() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    east.run(&[&CREATE[..], &["--on-quorum-loss", "fence:1s"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);
    cluster.site("west").pause();
    cluster.site("north").pause();
    let refused = ledger.write(&mut client, 0);
    assert!(refused.is_err(), "a write was acknowledged without a quorum");
    assert!(client.read(4096, 4096).is_err(), "a fenced device serves nothing");
    cluster.site("west").resume();
    cluster.site("north").resume();
    // It may be attached anew, by name; the write that failed may be there or not.
    cluster.wait_connected();
    let mut client = eventually("the volume to be attached anew", || {
        east.try_run(&["volume", "attach", "pg", "--device", "nbd"]).map(|_| east.connect("pg"))
    });
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
}

#[test]
fn a_client_that_stays_connected_does_not_write_into_a_later_session() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    let mut old = east.attach("pg");
    ledger.fill(&mut old);
    east.run(&["volume", "detach", "pg"]);
    let mut new = east.attach("pg");
    assert!(old.write(0, &[0xff; 4096]).is_err(), "its session is over");
    assert!(old.read(0, 4096).is_err(), "its session is over");
    ledger.check_all(&mut new);
    ledger.fill(&mut new);
}

#[test]
fn it_is_enough_that_one_side_can_dial() {
    // North knows no address and is dialled by nobody's name but its own peers'; east is dialled only.
    let options = Options { one_way: true, ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west", "north"], options);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 2);
    for site in [north, west, east] {
        writers.wait_for(50);
        site.kill();
        site.start();
        cluster.wait_connected();
    }
    writers.wait_for(50);
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    east.run(&["switchover", "pg", "--to", "north"]);
    ledger.check_all(&mut north.attach("pg"));
}
