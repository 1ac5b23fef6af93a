//! Snapshots that outlive their volume, on real daemons: usable in every site, whatever is restarted or away, until the
//! last of them is deleted.

use std::sync::Arc;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, eventually};
use serde_json::Value;

const SITES: [&str; 3] = ["east", "west", "north"];
const MEMBERS: &str = "--members=east,west,north";
const BLOCKS: usize = 256;

fn start() -> Cluster {
    let more = "[store]\nscrub_interval_s = 0\n";
    Cluster::start_with(&SITES, Options { more, ..Options::default() })
}

fn create(site: &Site) {
    site.run(&["volume", "create", "pg", "--size=1MiB", MEMBERS, "--lease=1s"]);
}

/// A volume with two snapshots, each with other contents; what is in them.
fn with_two_snapshots(cluster: &Cluster) -> [Arc<Ledger>; 2] {
    let east = cluster.site("east");
    create(east);
    ["one", "two"].map(|name| {
        let ledger = Ledger::of_new(BLOCKS);
        ledger.fill(&mut east.attach("pg"));
        east.run(&["snapshot", "create", "pg", "--name", name]);
        east.run(&["volume", "detach", "pg"]);
        ledger
    })
}

fn delete_volume(site: &Site) {
    eventually("the deletion", || site.try_run(&["volume", "delete", "pg", "--yes"]));
}

fn listed(site: &Site) -> Vec<Value> {
    site.run(&["snapshot", "list"])["snapshots"].as_array().expect("a list").clone()
}

fn names(site: &Site) -> Vec<String> {
    listed(site).iter().map(|s| s["name"].as_str().expect("a name").to_string()).collect()
}

fn used(site: &Site) -> f64 {
    site.metric("farshore_store_used_bytes")
}

/// Waits until a site's store holds nothing any more.
fn emptied(site: &Site) {
    eventually("all space to come back", || match used(site) {
        0.0 => Ok(()),
        left => Err(format!("{left} bytes are used in {}", site.name)),
    });
}

#[test]
fn a_deleted_volumes_snapshots_are_used_as_before_until_the_last_is_gone() {
    let cluster = start();
    let (east, west) = (cluster.site("east"), cluster.site("west"));
    let [one, two] = with_two_snapshots(&cluster);
    let diff = east.run(&["snapshot", "diff", "pg@two", "--since", "one"]);
    delete_volume(east);
    for site in SITES.map(|site| cluster.site(site)) {
        site.refused_at_last(&["volume", "show", "pg"]).says(3, &["pg"]);
        assert_eq!(names(site), ["one", "two"], "in {}", site.name);
        assert!(
            listed(site).iter().all(|s| s["volume_deleted"] == true && s["volume"] == "pg" && s["state"] == "ready")
        );
        assert_eq!(site.run(&["snapshot", "diff", "pg@two", "--since", "one"]), diff);
    }
    west.refused(&["snapshot", "create", "pg", "--name", "three"]).says(3, &["pg"]);
    west.refused(&["snapshot", "restore", "pg@one", "--yes"]).says(4, &["was deleted", "snapshot clone"]);
    // Members and policy are those that the volume had.
    east.run(&["snapshot", "clone", "pg@one", "again"]);
    one.check_all(&mut east.attach("again"));
    let file = cluster.dir().join("two.fsx");
    let file = file.to_str().expect("our own paths are text");
    west.run(&["snapshot", "export", "pg@two", "--to", file]);
    assert_eq!(west.run(&["snapshot", "show", "pg@two"])["held_by"].as_array().map(Vec::len), Some(0));
    west.run(&["snapshot", "import", "copy", "--from", file, "--members=west"]);
    two.check_all(&mut west.attach("copy"));

    // A new volume of the name has nothing of the old one, and is asked first.
    create(east);
    east.run(&["snapshot", "create", "pg", "--name", "one"]);
    let new = east.run(&["snapshot", "show", "pg@one"]);
    assert_eq!((&new["volume_deleted"], new["shared_bytes"].as_u64()), (&false.into(), Some(0)));
    assert_eq!(east.run(&["snapshot", "show", "pg@two"])["volume_deleted"], true);
    east.run(&["snapshot", "delete", "pg@one", "--yes"]);
    east.run(&["volume", "delete", "pg", "--yes"]);
    assert_eq!(names(east), ["one", "two"], "those of the old one");

    west.run(&["snapshot", "update", "pg@one", "--hold", "backup"]);
    west.refused(&["snapshot", "delete", "pg@one", "--yes"]).says(4, &["held by backup", "--release backup"]);
    east.refused(&["snapshot", "delete", "pg@one", "--yes"]).says(4, &["held by backup", "west"]);
    west.run(&["snapshot", "update", "pg@one", "--release", "backup"]);
    west.run(&["snapshot", "delete", "pg@one", "--yes"]);
    for site in SITES.map(|site| cluster.site(site)) {
        assert_eq!(names(site).iter().filter(|name| *name == "one").count(), 0, "in {}", site.name);
    }
    one.check_all(&mut east.connect("again"));
    for volume in ["again", "copy"] {
        let at = if volume == "copy" { west } else { east };
        at.run(&["volume", "detach", volume]);
        for snapshot in listed(at).iter().filter(|s| s["volume"] == volume) {
            at.run(&["snapshot", "delete", snapshot["id"].as_str().expect("an id"), "--yes"]);
        }
        at.run(&["volume", "delete", volume, "--yes"]);
    }
    east.run(&["snapshot", "delete", "pg@two", "--yes"]);
    for site in SITES.map(|site| cluster.site(site)) {
        assert!(listed(site).is_empty());
        emptied(site);
    }
    println!(
        "two snapshots outlived their volume: listed, compared, cloned and exported in three sites, then all space was free"
    );
}

#[test]
fn kept_snapshots_survive_restarts_and_who_was_away_hears_of_deletions() {
    let cluster = start();
    let (east, west, north) = (cluster.site("east"), cluster.site("west"), cluster.site("north"));
    let [one, _] = with_two_snapshots(&cluster);
    // A member that is away keeps the volume from being deleted, as it does without snapshots.
    north.end();
    east.refused(&["volume", "delete", "pg", "--yes"]).says(5, &["north"]);
    assert_eq!(east.run(&["volume", "show", "pg"])["name"], "pg");
    north.start();
    delete_volume(east);
    for site in SITES {
        cluster.site(site).kill();
    }
    for site in SITES {
        cluster.site(site).launch();
    }
    SITES.iter().for_each(|site| cluster.site(site).wait_ready());
    cluster.wait_connected();
    for site in SITES.map(|site| cluster.site(site)) {
        assert_eq!(names(site), ["one", "two"], "in {} after kill -9", site.name);
    }
    east.run(&["snapshot", "clone", "pg@one", "again"]);
    one.check_all(&mut east.attach("again"));
    east.run(&["volume", "detach", "again"]);
    east.run(&["volume", "delete", "again", "--yes"]);

    north.end();
    for name in ["one", "two"] {
        eventually("the deletion", || east.try_run(&["snapshot", "delete", &format!("pg@{name}"), "--yes"]));
    }
    assert!(listed(east).is_empty() && listed(west).is_empty());
    emptied(west);
    // Whoever owes the news keeps it over a restart.
    east.kill();
    east.start();
    north.start();
    eventually("north to hear of it", || {
        let left = names(north);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    SITES.iter().for_each(|site| emptied(cluster.site(site)));
    println!("kept snapshots were there after kill -9 of all sites; one that was away heard of their deletion later");
}

#[test]
fn a_deletion_that_a_crash_cut_short_is_finished_or_has_not_happened() {
    let cluster = start();
    let east = cluster.site("east");
    let mut crashed = 0;
    for round in 0..6 {
        create(east);
        Ledger::of_new(BLOCKS).fill(&mut east.attach("pg"));
        east.run(&["snapshot", "create", "pg", "--name", "s"]);
        east.run(&["volume", "detach", "pg"]);
        let socket = east.control_socket();
        let socket = socket.to_str().expect("our own paths are text");
        let program = farshore_tests::cluster::program("farshore");
        let arguments = ["--socket", socket, "volume", "delete", "pg", "--yes"];
        let mut deletion = std::process::Command::new(program)
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the command line starts");
        std::thread::sleep(std::time::Duration::from_millis(round * 12));
        // Not where it was asked for: that one would only be asked again.
        let victim = cluster.site(["west", "east", "north"][round as usize % 3]);
        victim.kill();
        crashed += u32::from(deletion.wait().is_ok_and(|status| !status.success()));
        victim.start();
        cluster.wait_connected();
        eventually("the deletion to be finished", || match east.try_run(&["volume", "delete", "pg", "--yes"]) {
            Err(refusal) if refusal.exit == 3 => Ok(()),
            Ok(_) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        for site in SITES.map(|site| cluster.site(site)) {
            site.refused_at_last(&["volume", "show", "pg"]).says(3, &["pg"]);
            assert_eq!(names(site), ["s"], "in {}, round {round}", site.name);
        }
        east.run(&["snapshot", "delete", "pg@s", "--yes"]);
        SITES.iter().for_each(|site| emptied(cluster.site(site)));
    }
    println!("6 deletions with a daemon killed in them, {crashed} of them cut short: nothing lost, nothing left");
}
