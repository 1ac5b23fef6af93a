//! Taking a volume from a node, as an orchestrator's controller does that may run anywhere: what is said to be done is so,
//! whatever the one that was asked knows, and nothing is acknowledged afterwards.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, NbdClient, Network, Options, Site, Writers, eventually};

const BLOCKS: usize = 1024;
const WRITERS: usize = 4;
const SITES: [&str; 4] = ["east", "east/n2", "west", "north"];
const CREATE: [&str; 6] =
    ["volume", "create", "pg", "--size=8MiB", "--members=east/n1,east/n2,west,north", "--lease=1s"];
/// As the driver asks for it.
const FROM_N1: [&str; 5] = ["volume", "detach", "pg", "--force", "--node=n1"];
const FROM_N2: [&str; 5] = ["volume", "detach", "pg", "--force", "--node=n2"];

fn apart(test: &str) -> Option<Cluster> {
    match Network::lay(SITES.len()) {
        Ok(network) => {
            let cluster = Cluster::lay_out_in(&SITES, Options::default(), Some(network));
            cluster.launch();
            Some(cluster)
        }
        Err(why) => {
            println!("SKIP {test}: no network namespaces here: {why}");
            None
        }
    }
}

fn network(cluster: &Cluster) -> &Network {
    cluster.network.as_ref().expect("these sites are apart")
}

fn on(site: &Site) -> String {
    let volume = site.volume("pg");
    volume["attached"]["node"].as_str().unwrap_or("nobody").to_string()
}

/// The controller stands beside the old node, with which it was cut off; the volume is attached at another one meanwhile.
#[test]
fn a_controller_that_was_cut_off_does_not_say_that_it_is_done() {
    let test = "a_controller_that_was_cut_off_does_not_say_that_it_is_done";
    let Some(cluster) = apart(test) else { return };
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    network(&cluster).isolate(0);
    second.run(&FROM_N1);
    assert_eq!(on(second), "nobody");
    let mut client = second.attach("pg");
    ledger.check_all(&mut client);
    let writers = Writers::start(&ledger, second.nbd_socket(), "pg", WRITERS);
    writers.wait_for(50);
    // What it knows of is the session of before: of its own node it may say nothing, of the other one neither.
    assert_eq!(on(first), "n1");
    for verb in [&FROM_N2, &FROM_N1] {
        first.refused(verb).says(5, &["pg", "too few members"]);
    }
    network(&cluster).heal();
    // Late, and at last done: it ends nobody else's session.
    eventually("the controller to hear of the others", || first.try_run(&FROM_N1).map(drop));
    writers.wait_for(50);
    assert_eq!(on(second), "n2");
    assert_eq!(writers.failed(), 0, "the session of the other node is nobody's to end");
    writers.stop();
    ledger.check_all(&mut client);
    // And the other way round: this node is asked for the other one's session, of which it has heard now.
    first.run(&FROM_N2);
    assert!(NbdClient::connect(&second.nbd_socket(), "pg").is_err(), "its session is over");
    ledger.check_all(&mut first.attach("pg"));
}

/// It has the device open and goes on writing, stopped or cut off, when the volume is taken from it.
#[test]
fn nothing_is_acknowledged_after_the_answer() {
    let test = "nothing_is_acknowledged_after_the_answer";
    let Some(cluster) = apart(test) else { return };
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    for stopped in [true, false] {
        cluster.wait_in_sync("east", "pg");
        let writers = Writers::start(&ledger, first.nbd_socket(), "pg", WRITERS);
        writers.wait_for(200);
        if stopped {
            first.pause()
        } else {
            network(&cluster).isolate(0)
        }
        let asked = Instant::now();
        second.run(&FROM_N1);
        let took = asked.elapsed();
        // What it had told its client by then is counted.
        std::thread::sleep(Duration::from_millis(200));
        let acked = writers.acked();
        let mut client = second.attach("pg");
        if stopped {
            first.resume()
        } else {
            network(&cluster).heal()
        }
        eventually("the old session's writers to fail", || {
            if writers.failed() > 0 { Ok(()) } else { Err(writers.acked()) }
        });
        std::thread::sleep(Duration::from_millis(300));
        let late = writers.acked() - acked;
        // One that was stopped may have looked at its lease and not told yet: of each writer's one request.
        let allowed = if stopped { WRITERS as u64 } else { 0 };
        assert!(late <= allowed, "a fenced node acknowledged {late} writes (stopped: {stopped})");
        writers.stop();
        println!("fenced in {} ms after {acked} acknowledged writes, stopped: {stopped}", took.as_millis());
        ledger.check_all(&mut client);
        ledger.fill(&mut client);
        assert!(NbdClient::connect(&first.nbd_socket(), "pg").is_err(), "the fenced device is gone");
        // The same again, with the volume at another node: done, and nobody's session ends.
        first.run(&FROM_N1);
        second.run(&FROM_N1);
        assert_eq!(on(second), "n2");
        ledger.check_all(&mut client);
        drop(client);
        second.run(&FROM_N2);
        drop(first.attach("pg"));
    }
}

/// The old node never comes back, and whoever has taken its place is left alone.
#[test]
fn asked_again_of_a_node_that_stays_silent_it_is_done_and_changes_nothing() {
    let cluster = Cluster::start(&SITES);
    let [first, second, west] = ["east", "east/n2", "west"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    first.kill();
    // Nobody is attached, and nobody knows what it would do if it came back: the epoch is taken, once.
    for _ in 0..2 {
        second.run(&FROM_N1);
    }
    let mut client = second.attach("pg");
    ledger.check_all(&mut client);
    let epoch = second.volume("pg")["epoch"].clone();
    second.run(&FROM_N1);
    assert_eq!((on(second), &second.volume("pg")["epoch"]), ("n2".into(), &epoch), "the holder keeps its epoch");
    ledger.fill(&mut client);
    drop(client);
    // Nor once the volume lives in another site: a late call does not bring it back.
    second.run(&["volume", "detach", "pg"]);
    second.run(&["switchover", "pg", "--to", "west"]);
    let mut client = west.attach("pg");
    second.run(&FROM_N1);
    assert_eq!(west.volume("pg")["primary"]["site"], "west");
    ledger.check_all(&mut client);
    first.start();
    first.run(&FROM_N1);
    ledger.fill(&mut client);
}

/// Its device was fenced for want of a quorum, and the register still names it.
#[test]
fn a_node_that_lost_its_device_is_not_named_after_the_answer() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&[&CREATE[..], &["--on-quorum-loss", "fence:1s"]].concat());
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut first.attach("pg"));
    cluster.wait_in_sync("east", "pg");
    for other in &SITES[1..] {
        cluster.site(other).pause();
    }
    first.wait_volume("pg", "the device to be fenced", |v| v["role"] != "primary");
    for other in &SITES[1..] {
        cluster.site(other).resume();
    }
    cluster.wait_connected();
    assert_eq!(on(second), "n1");
    eventually("the volume to be taken from it", || second.try_run(&FROM_N1).map(drop));
    ledger.check_all(&mut second.attach("pg"));
}

/// As the driver's node asks for the device of what its controller published.
fn stage(session: &str) -> [&str; 8] {
    ["volume", "attach", "pg", "--published", "--device", "nbd", "--session", session]
}

const FIRST: &str = "000000000000000000000000000f1125";
const SECOND: &str = "0000000000000000000000000005ec0d";

fn publish(site: &Site, session: &str) {
    site.run(&["volume", "attach", "pg", "--publish-only", "--session", session]);
}

/// The node's driver was stopped between its look at the volume and its request, and the volume was taken from the node.
#[test]
fn a_node_that_asks_late_gets_nothing_back() {
    let cluster = Cluster::start(&SITES);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    first.run(&CREATE);
    let over = ["pg", "not published here", "publish the volume on this node"];
    first.refused(&stage(FIRST)).says(4, &over);
    let ledger = Ledger::of_new(BLOCKS);
    publish(first, FIRST);
    first.run(&stage(FIRST));
    ledger.fill(&mut first.connect("pg"));
    // Staged anew after a crash, and put away and staged again: it is published all the while.
    first.kill();
    first.start();
    eventually("the device to be there again", || first.try_run(&stage(FIRST)).map(drop));
    first.run(&["volume", "detach", "pg", "--session", FIRST, "--keep-published"]);
    first.run(&stage(FIRST));
    ledger.check_all(&mut first.connect("pg"));
    cluster.wait_in_sync("east", "pg");
    // Its own replicator ended the session, and holds the epoch still.
    second.run(&FROM_N1);
    first.refused(&stage(FIRST)).says(4, &over);
    assert_eq!(on(second), "nobody");
    publish(second, SECOND);
    first.refused(&stage(FIRST)).says(4, &["pg", "n2"]);
    second.run(&stage(SECOND));
    ledger.check_all(&mut second.connect("pg"));
    ledger.fill(&mut second.connect("pg"));
    second.run(&FROM_N2);
    // Fenced by its neighbour while it was stopped: what it knows itself still names the session.
    publish(first, FIRST);
    cluster.wait_in_sync("east", "pg");
    first.pause();
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| first.try_run(&stage(FIRST)));
        second.run(&FROM_N1);
        first.resume();
        late.join().expect("it ends")
    });
    if let Err(refusal) = late {
        println!("asked while it was stopped: {}", refusal.text);
    }
    eventually("the session to be over there, too", || match first.try_run(&stage(FIRST)) {
        Err(refusal) if refusal.text.contains("not published here") => Ok(()),
        other => Err(format!("{:?}", other.map(drop).map_err(|refusal| refusal.text))),
    });
    assert_eq!(on(second), "nobody");
    publish(second, SECOND);
    second.run(&stage(SECOND));
    ledger.check_all(&mut second.connect("pg"));
    // And after a restart, with a register of its own that may be older than the quorum's.
    first.kill();
    first.start();
    eventually("it to be refused", || match first.try_run(&stage(FIRST)) {
        Err(refusal) if refusal.text.contains("pg") && refusal.exit == 4 => Ok(()),
        other => Err(format!("{:?}", other.map(drop).map_err(|refusal| refusal.text))),
    });
    ledger.fill(&mut second.connect("pg"));
}

/// The same at a node without a copy.
#[test]
fn a_node_without_a_copy_gets_nothing_back_either() {
    without_a_copy(Options::default());
}

/// And where a member that has one serves it.
#[test]
fn a_node_that_is_served_gets_nothing_back_either() {
    without_a_copy(Options { more: "[device]\nwithout_copy = \"member\"\n", ..Options::default() });
}

fn without_a_copy(options: Options) {
    let cluster = Cluster::start_with(&SITES, options);
    let [first, second] = ["east", "east/n2"].map(|s| cluster.site(s));
    second.run(&["volume", "create", "pg", "--size=8MiB", "--members=east/n2,west,north", "--lease=1s"]);
    let over = ["pg", "over", "publish the volume on"];
    first.refused(&stage(FIRST)).says(4, &over);
    let ledger = Ledger::of_new(BLOCKS);
    publish(first, FIRST);
    first.run(&stage(FIRST));
    ledger.fill(&mut first.connect("pg"));
    second.run(&FROM_N1);
    first.refused(&stage(FIRST)).says(4, &over);
    assert_eq!(on(second), "nobody");
    publish(second, SECOND);
    first.refused(&stage(FIRST)).says(4, &["pg", "n2"]);
    second.run(&stage(SECOND));
    ledger.check_all(&mut second.connect("pg"));
}
