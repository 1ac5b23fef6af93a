//! Sessions as an orchestrator uses them: a node is given a volume before it makes the device, and is fenced when the
//! volume is taken from it, whatever state it is in.

use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Writers, eventually};

const BLOCKS: usize = 1024;
const WRITERS: usize = 4;
const CREATE: [&str; 6] =
    ["volume", "create", "pg", "--size=8MiB", "--members=east/n1,east/n2,west,north", "--lease=1s"];
const SITES: [&str; 4] = ["east", "east/n2", "west", "north"];

/// Its node was stopped with writes on their way. It wakes when another one of the site writes already.
#[test]
fn a_node_that_was_stopped_is_fenced_before_the_detach_answers() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    let writers = Writers::start(&ledger, first.nbd_socket(), "pg", WRITERS);
    writers.wait_for(200);
    first.pause();
    second.run(&["volume", "detach", "pg", "--force"]);
    let (acked, view) = (writers.acked(), second.volume("pg"));
    assert!(view["attached"].is_null(), "{view:#}");
    assert_eq!(view["primary"]["site"], "east", "the volume stays in its site");
    let mut client = second.attach("pg");
    first.resume();
    eventually(
        "the old session's writers to fail",
        || if writers.failed() > 0 { Ok(()) } else { Err(writers.acked()) },
    );
    std::thread::sleep(Duration::from_millis(500));
    // It looked at its lease before it told of a write, but may have been stopped between the look and the word.
    let late = writers.acked() - acked;
    assert!(late <= WRITERS as u64, "a fenced node acknowledged {late} writes");
    writers.stop();
    println!("fenced after {acked} acknowledged writes, {late} more of which it told late");
    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    // The same again is nothing new, and a late call names a session that is over.
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "the fenced device is gone");
}

/// As an orchestrator's controller does, which may run beside either.
#[test]
fn a_volume_that_is_not_to_be_on_this_node_is_made_by_the_one_it_is_on() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    let create = ["volume", "create", "pg", "--size=8MiB", "--members=east/n2,west,north", "--lease=1s"];
    let made = first.run(&create);
    assert_eq!((&made["name"], &made["size_bytes"]), (&"pg".into(), &(8 << 20).into()), "{made:#}");
    assert_eq!(first.run(&create)["id"], made["id"], "asked again, it is there");
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut second.attach("pg"));
    second.run(&["volume", "detach", "pg"]);
    // What the other node holds is cloned there, too.
    let clone = first.run(&["snapshot", "clone", "pg", "copy"]);
    ledger.check_all(&mut second.attach("copy"));
    assert_eq!(clone["name"], "copy");
    first.refused(&["volume", "create", "kv", "--size=8MiB", "--members=west,north"]).says(2, &["kv", "east"]);
}

/// It is dead, and nobody who is asked knows more than that the volume was there.
#[test]
fn what_only_a_silent_node_knows_is_not_taken_for_gone() {
    let cluster = Cluster::start(&["east", "east/n2", "west", "north"]);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&["volume", "create", "pg", "--size=8MiB", "--members=east/n1,west,north", "--lease=1s"]);
    drop(first.attach("pg"));
    let made = first.run(&["snapshot", "create", "pg", "--name", "one"]);
    let id = made["snapshots"][0]["id"].as_str().expect("a snapshot has an id").to_string();
    assert_eq!(second.run(&["snapshot", "show", &id])["name"], "one");
    first.pause();
    for verb in
        [&["volume", "detach", "pg", "--force"][..], &["volume", "show", "pg"], &["volume", "delete", "pg", "--yes"]]
    {
        second.refused(verb).says(5, &["pg", "east/n1", "can't be asked"]);
    }
    for verb in [["snapshot", "show", &id], ["snapshot", "show", "pg@one"]] {
        second.refused(&verb).says(5, &["east/n1", "can't be asked"]);
    }
    second.refused(&["snapshot", "delete", &id]).says(5, &["east/n1", "can't be asked"]);
    first.resume();
    eventually("the node to answer again", || second.try_run(&["volume", "show", "pg"]).map(drop));
    eventually("the snapshot to be found", || second.try_run(&["snapshot", "show", &id]).map(drop));
    second.refused(&["snapshot", "show", &"0".repeat(32)]).says(3, &["000"]);
    second.run(&["volume", "detach", "pg", "--force"]);
    second.refused(&["volume", "show", "qq"]).says(3, &["qq"]);
}

#[test]
fn a_node_is_given_a_volume_before_it_makes_the_device() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let session = "00000000000000000000000000c0ffee";
    let publish = ["volume", "attach", "pg", "--publish-only", "--session", session];
    for _ in 0..2 {
        assert_eq!(first.run(&publish)["session"], session);
    }
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "there is no device yet");
    second.refused(&["volume", "attach", "pg", "--device", "nbd"]).says(4, &["pg", "n1"]);
    first.refused(&["volume", "attach", "pg", "--device", "nbd"]).says(4, &["pg"]);
    // It makes no device by itself when the daemon restarts.
    first.kill();
    first.start();
    let stage = ["volume", "attach", "pg", "--device", "nbd", "--session", session];
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "there is no device yet");
    let ledger = Ledger::of_new(BLOCKS);
    eventually("the device to be made", || first.try_run(&stage));
    ledger.fill(&mut first.connect("pg"));
    first.run(&["volume", "detach", "pg", "--session", session, "--keep-published"]);
    assert_eq!(first.volume("pg")["attached"]["session"], session);
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "the device is put away");
    first.run(&stage);
    ledger.check_all(&mut first.connect("pg"));
    // Taken away although it was never put away: whoever asks again hears the same.
    for _ in 0..2 {
        second.run(&["volume", "detach", "pg", "--session", session, "--force"]);
    }
    assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "its session is over");
    ledger.check_all(&mut second.attach("pg"));
}

/// It has the epoch like any other, and is the only one; what it refuses are writes, also after its daemon came back.
#[test]
fn a_device_that_is_attached_read_only_takes_no_writes() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    first.run(&["volume", "detach", "pg"]);
    let attach = ["volume", "attach", "pg", "--device", "nbd", "--read-only"];
    assert_eq!(first.run(&attach)["device"]["read_only"], true);
    for restarted in [false, true] {
        if restarted {
            first.kill();
            first.start();
        }
        let mut client = eventually("the device to be there", || NbdClient::connect(&first.nbd_socket(), "pg"));
        assert!(client.write(0, &[0xee; 4096]).is_err(), "a write was taken (restarted: {restarted})");
        let mut client = first.connect("pg");
        assert!(client.trim(0, 4096).is_err(), "a discard was taken (restarted: {restarted})");
        ledger.check_all(&mut first.connect("pg"));
    }
    first.refused(&["volume", "attach", "pg", "--device", "nbd"]).says(4, &["pg", "read-only"]);
    second.refused(&["volume", "attach", "pg", "--device", "nbd"]).says(4, &["pg", "n1"]);
    first.run(&["volume", "detach", "pg"]);
    ledger.fill(&mut second.attach("pg"));
}
