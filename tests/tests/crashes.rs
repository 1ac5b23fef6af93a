//! kill -9, again and again, under load that is verified.

use farshore_tests::cluster::{Cluster, Ledger, Writers, eventually};
use rustix::process::Signal;

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 2048;
const CREATE: [&str; 6] = ["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"];

/// Each site in turn becomes the primary and shows every block.
fn every_replica_holds_it(cluster: &Cluster, ledger: &Ledger) {
    let mut at = "east";
    for next in ["west", "north"] {
        cluster.wait_in_sync(at, "pg");
        cluster.site(at).run(&["volume", "detach", "pg"]);
        cluster.site(at).run(&["switchover", "pg", "--to", next]);
        ledger.check_all(&mut cluster.site(next).attach("pg"));
        at = next;
    }
}

#[test]
fn a_secondary_dies_again_and_again_and_nothing_waits_for_it() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    for round in 0..6 {
        let victim = cluster.site(["west", "north"][round % 2]);
        writers.wait_for(150);
        victim.kill();
        writers.wait_for(150);
        victim.start();
    }
    assert_eq!(writers.failed(), 0, "the device must not notice that a secondary dies");
    writers.stop();
    ledger.check_all(&mut east.connect("pg"));
    every_replica_holds_it(&cluster, &ledger);
}

#[test]
fn the_primarys_daemon_dies_again_and_again_and_takes_its_device_back() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    for _ in 0..6 {
        writers.wait_for(200);
        east.kill();
        east.start();
        // Nobody attaches: the session in the register is still ours.
    }
    writers.wait_for(200);
    writers.stop();
    ledger.check_all(&mut east.connect("pg"));
    every_replica_holds_it(&cluster, &ledger);
}

/// More than a few MiB: that travels behind everything else, and gets there all the same.
#[test]
fn a_secondary_that_missed_much_catches_up_from_the_journal_under_load() {
    const PIECE: usize = 128 << 10;
    let cluster = Cluster::start(&SITES);
    let [east, west] = ["east", "west"].map(|name| cluster.site(name));
    east.run(&["volume", "create", "pg", "--size=24MiB", "--members=east,west,north", "--lease=1s"]);
    let mut client = east.attach("pg");
    // Behind the blocks of the ledger.
    let pieces = (0..96u8).map(|n| ((BLOCKS * 4096 + usize::from(n) * PIECE) as u64, vec![n; PIECE]));
    west.kill();
    for (offset, piece) in pieces.clone() {
        client.write(offset, &piece).expect("a quorum is there");
    }
    drop(client);
    let ledger = Ledger::of_new(BLOCKS);
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(50);
    west.start();
    writers.wait_for(200);
    assert_eq!(writers.failed(), 0, "the device must not notice");
    writers.stop();
    cluster.wait_in_sync("east", "pg");
    assert!(!east.log().contains("resync-begin"), "the journal had all of it");
    every_replica_holds_it(&cluster, &ledger);
    let mut north = cluster.site("north").connect("pg");
    for (offset, piece) in pieces {
        assert!(north.read(offset, PIECE).expect("it can be read") == piece, "at {offset}");
    }
}

/// Until a process takes its signals they end it without a word: told to stop while it starts, it must not look crashed.
#[test]
fn a_daemon_that_is_told_to_stop_while_it_starts_ends_in_order() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&CREATE);
    assert!(east.stop().success());
    for reached in ["journal recovered", "the store is open", "transport listens", "control plane is served"] {
        let before = east.log().len();
        east.launch();
        eventually(reached, || east.log()[before..].contains(reached).then_some(()).ok_or("not there"));
        east.signal(Signal::HUP);
        let ended = east.stop();
        assert!(ended.success(), "{reached}: {ended}");
    }
    east.start();
    drop(east.attach("pg"));
}
