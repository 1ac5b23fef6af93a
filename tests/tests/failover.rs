//! A site is lost, moved away from, and comes back: no acknowledged write is missing.

use std::time::{Duration, Instant};

use farshore_tests::cluster::{Cluster, Ledger, Site, Writers, eventually};

const SITES: [&str; 3] = ["east", "west", "north"];
const BLOCKS: usize = 2048;
const CREATE: [&str; 8] = [
    "volume",
    "create",
    "pg",
    "--size=8MiB",
    "--members=east,west,north",
    "--lease=1s",
    "--quorum=majority",
    "--durability=write",
];

#[test]
fn the_primary_is_killed_another_site_takes_over_and_it_rejoins() {
    let cluster = Cluster::start(&SITES);
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    writers.wait_for(500);
    east.kill();

    let asked = Instant::now();
    west.run(&["failover", "--from", "east"]);
    west.run(&["volume", "attach", "pg", "--device", "nbd"]);
    println!("failover and attach took {} ms with a lease of 1 s", asked.elapsed().as_millis());
    writers.follow(west.nbd_socket());
    writers.wait_for(500);
    assert!(writers.stop() >= 1000);
    let mut client = west.connect("pg");
    ledger.check_all(&mut client);
    north.wait_volume("pg", "north to follow west", |v| v["primary"]["site"] == "west");

    east.start();
    cluster.wait_in_sync("west", "pg");
    east.refused_at_last(&["volume", "attach", "pg"]).says(4, &["west", "pg"]);
    // What came back must hold everything too: only it and one other are left.
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    west.run(&["switchover", "pg", "--to", "east"]);
    ledger.check_all(&mut east.attach("pg"));
}

#[test]
fn the_primary_moves_back_and_forth_under_load() {
    let cluster = Cluster::start(&SITES);
    let east = cluster.site("east");
    east.run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    drop(east.attach("pg"));
    let writers = Writers::start(&ledger, east.nbd_socket(), "pg", 4);
    for (from, to) in [("east", "west"), ("west", "north"), ("north", "east"), ("east", "north")] {
        writers.wait_for(200);
        let asked = Instant::now();
        cluster.site(from).run(&["switchover", "pg", "--to", to]);
        let moved = cluster.site(to);
        moved.run(&["volume", "attach", "pg", "--device", "nbd"]);
        println!("switchover {from} to {to} with attach: {} ms", asked.elapsed().as_millis());
        writers.follow(moved.nbd_socket());
        // Not the lease: the old primary gave it up.
        moved.wait_volume("pg", "the new site to be primary", |v| v["role"] == "primary");
    }
    writers.wait_for(200);
    writers.stop();
    let north = cluster.site("north");
    ledger.check_all(&mut north.connect("pg"));
    cluster.wait_in_sync("north", "pg");
}

#[test]
fn a_volume_grows_while_its_primary_dies() {
    let cluster = Cluster::start(&SITES);
    cluster.site("east").run(&CREATE);
    let ledger = Ledger::of_new(BLOCKS);
    ledger.fill(&mut cluster.site("east").attach("pg"));
    let mut size_mib = 8;
    for (round, (holder, next)) in
        [("east", "west"), ("west", "north"), ("north", "east"), ("east", "west")].iter().enumerate()
    {
        let [holder, next] = [holder, next].map(|s| cluster.site(s));
        cluster.wait_in_sync(&holder.name, "pg");
        let (old, new) = (size_mib << 20, (size_mib + 1) << 20);
        let grown = format!("{}MiB", size_mib + 1);
        // The change is under way, or done, or was never heard of when its holder dies.
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| holder.try_run(&["volume", "resize", "pg", &grown]).is_ok());
            std::thread::sleep(Duration::from_millis(5 * round as u64));
            holder.kill();
            println!(
                "round {round}: the resize was {}",
                if asked.join().expect("it ends") { "answered" } else { "cut short" }
            );
        });
        next.run(&["failover", "--from", &holder.name]);
        let found = next.volume("pg")["size_bytes"].as_u64();
        assert!(found == Some(old) || found == Some(new), "{found:?} is neither {old} nor {new}");
        eventually("the volume to be resized", || next.try_run(&["volume", "resize", "pg", &grown]));
        let mut client = next.attach("pg");
        assert_eq!(client.size_bytes, new);
        ledger.check_all(&mut client);
        client.write(new - 4096, &[7; 4096]).expect("the new end can be written");
        assert_eq!(client.read(new - 4096, 4096).expect("and read"), [7; 4096]);
        holder.start();
        size_mib += 1;
    }
    let volume = cluster.wait_in_sync("west", "pg");
    assert_eq!(volume["size_bytes"].as_u64(), Some(size_mib << 20));
    for site in SITES {
        cluster.site(site).wait_volume("pg", "every site to know the size", |v| v["size_bytes"] == size_mib << 20);
    }
}

/// Every site in turn, and again after a crash of all: numbers rise, and no writer is ever met again.
#[test]
fn a_restarted_process_never_draws_an_epoch_again() {
    let cluster = Cluster::start(&SITES);
    cluster.site("east").run(&CREATE);
    let mut drawn: Vec<(u64, String)> = Vec::new();
    for round in 0..9 {
        // Cut short by the crash below, or not: what it drew is forgotten with its process.
        let cut_short = cluster.site(SITES[(round + 1) % 3]);
        let site = cluster.site(SITES[round % 3]);
        eventually("an epoch", || site.try_run(&["promote", "pg"]));
        let epoch = site.volume("pg")["epoch"].as_str().expect("an epoch").to_string();
        let (number, writer) = epoch.split_once('.').expect("a number and a writer");
        let number = number.parse().expect("a number");
        assert!(drawn.iter().all(|(n, w)| *n < number && w != writer), "{epoch} after {drawn:?}");
        drawn.push((number, writer.to_string()));
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| cut_short.try_run(&["promote", "pg"]).is_ok());
            std::thread::sleep(Duration::from_millis(3 * round as u64));
            cluster.sites.iter().for_each(Site::kill);
            println!("{epoch}; then one that was {}", if asked.join().expect("it ends") { "won" } else { "cut short" });
        });
        cluster.sites.iter().for_each(Site::start);
        cluster.wait_connected();
    }
}
