//! Data directories of earlier versions, and of this one: replicators start on them, and every block is what it was.
//!
//! The fixtures lie in `tests/fixtures`, in a folder for each version; CONTRIBUTING.md says when one is added, and how.

use std::path::{Path, PathBuf};

use farshore_tests::cluster::fixture::{Book, Fixture, SITES, options};
use farshore_tests::cluster::{Cluster, Ledger, eventually, farshore};

const STOPPED: &str = "stopped";
const KILLED: &str = "killed";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a checkout can bear; a larger one is made of smaller volumes.
const ARCHIVE_BYTES_MAX: u64 = 300 << 10;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our own paths are text")
}

#[test]
fn every_block_of_every_kept_directory_is_what_it_was() {
    let all = Fixture::all(&fixtures());
    assert!(all.len() >= 2, "fixtures are gone");
    for fixture in all {
        println!("{}", fixture.name());
        let cluster = Cluster::lay_out(&SITES, options());
        let books = fixture.unpack(&cluster);
        assert!(books.len() >= 5, "{}: books are gone", fixture.name());
        for site in &cluster.sites {
            for part in ["journal", "store"] {
                if part == "store" && !fixture.name().contains(STOPPED) {
                    // Blocks that were overwritten after the last checkpoint differ until the journal is redone.
                    continue;
                }
                let path = site.data_dir().join(part);
                let found = farshore(&["inspect", part, text(&path)]);
                assert!(found.is_ok(), "{}: {part} of {}: {found:?}", fixture.name(), site.name);
            }
        }
        cluster.launch();
        for book in &books {
            read_everywhere(&cluster, book);
        }
    }
}

/// Every copy in turn leads the volume and shows it; then it is written, which an old directory must take too.
fn read_everywhere(cluster: &Cluster, book: &Book) {
    let Book { name, sites, ledger } = book;
    if name.starts_with("diverged-") {
        for site in sites {
            ledger.check_all(&mut cluster.site(site).connect(name));
        }
        return;
    }
    for (at, site) in sites.iter().enumerate() {
        if at > 0 {
            cluster.wait_in_sync(&sites[at - 1], name);
            cluster.site(&sites[at - 1]).run(&["switchover", name, "--to", site]);
        }
        let site = cluster.site(site);
        eventually("the volume to be attached", || site.try_run(&["volume", "attach", name, "--device", "nbd"]));
        let mut client = site.connect(name);
        ledger.check_all(&mut client);
        ledger.write(&mut client, at).expect("an old volume can be written");
        ledger.check(&mut client, at).expect("and read");
        drop(client);
        site.run(&["volume", "detach", name]);
    }
}

/// A version that changes what is on disks adds a folder of its own; see CONTRIBUTING.md.
#[test]
fn this_version_has_its_fixtures() {
    let folder = fixtures().join(VERSION);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        make(&folder);
    }
    for name in [STOPPED, KILLED] {
        let fixture = Fixture::new(&folder, name);
        assert!(
            fixture.exists(),
            "{} is missing: FARSHORE_BLESS=1 cargo test --release -p farshore-tests --test old_data makes it",
            fixture.name()
        );
        let bytes = Path::new(&fixture.name()).metadata().expect("it is there").len();
        assert!(bytes <= ARCHIVE_BYTES_MAX, "{} has {bytes} bytes", fixture.name());
    }
}

/// Volumes of every kind in few blocks, then an orderly end, then a crash with writes that are only in the journal.
fn make(folder: &Path) {
    let cluster = Cluster::start_with(&SITES, options());
    let [east, west, north] = SITES.map(|s| cluster.site(s));
    let [pg, logs, fork] = [512, 256, 256].map(Ledger::of_new);
    let create = |name: &str, more: &[&str]| {
        let words = ["volume", "create", name, "--lease=1s", "--size"];
        east.run(&words.iter().chain(more).copied().collect::<Vec<_>>());
    };
    create("pg", &["1MiB", "--members=east,west,north"]);
    create("logs", &["1MiB", "--members=east,west", "--witness=north", "--durability=flush"]);
    create("fork", &["1MiB", "--members=east,west,north"]);
    create("gone", &["1MiB", "--members=east,west,north"]);
    east.run(&["volume", "delete", "gone", "--yes"]);

    // One history is lost: what west did not see, it is made to do without.
    let mut client = east.attach("fork");
    (0..8).for_each(|block| fork.write(&mut client, block).expect("a write"));
    cluster.wait_in_sync("east", "fork");
    west.kill();
    let won = fork.fork();
    (4..12).for_each(|block| fork.write(&mut client, block).expect("a write"));
    drop(client);
    [east, north].iter().for_each(|site| site.kill());
    west.start();
    west.run(&["promote", "fork", "--force", "--members", "west", "--yes"]);
    let mut client = west.attach("fork");
    (6..10).for_each(|block| won.write(&mut client, block).expect("a write"));
    drop(client);
    [east, north].iter().for_each(|site| site.start());
    cluster.wait_connected();
    let mut books = Vec::new();
    for site in [east, north] {
        site.wait_volume("fork", "the lost history to be known as such", |v| v["state"] == "diverged");
        west.run(&["resync", "fork", "--member", &site.name, "--discard"]);
        let volumes = site.run(&["volume", "list"]);
        let mut names = volumes["volumes"].as_array().into_iter().flatten().filter_map(|v| v["name"].as_str());
        let copy = names.find(|name| name.starts_with("diverged-fork")).expect("the lost history is kept");
        books.push(Book::new(copy, &[&site.name], &fork));
    }
    cluster.wait_in_sync("west", "fork");
    west.run(&["volume", "detach", "fork"]);
    books.push(Book::new("fork", &["west", "east", "north"], &won));

    // Writes, holes, overwrites, a volume that grew, a second epoch, a scrub's notes.
    drop(east.attach("pg"));
    east.run(&["volume", "resize", "pg", "2MiB"]);
    let mut client = east.connect("pg");
    (0..20).chain(500..512).for_each(|block| pg.write(&mut client, block).expect("a write"));
    (3..6).for_each(|block| pg.trim(&mut client, block).expect("a trim"));
    drop(client);
    east.run(&["volume", "detach", "pg"]);
    cluster.wait_in_sync("east", "pg");
    east.run(&["switchover", "pg", "--to", "west"]);
    let mut client = west.attach("pg");
    (5..9).for_each(|block| pg.write(&mut client, block).expect("a write"));
    drop(client);
    west.run(&["volume", "detach", "pg"]);
    cluster.wait_in_sync("west", "pg");
    west.run(&["switchover", "pg", "--to", "east"]);
    let mut client = east.attach("logs");
    (0..6).for_each(|block| logs.write(&mut client, block * 40).expect("a write"));
    client.flush().expect("a flush");
    drop(client);
    east.run(&["volume", "detach", "logs"]);
    for site in &cluster.sites {
        site.wait_volume("pg", "everything to be applied", |v| v["applied_seq"] == v["durable_seq"]);
        site.run(&["scrub", "pg", "--wait"]);
    }
    books.push(Book::new("pg", &["east", "west", "north"], &pg));
    books.push(Book::new("logs", &["east", "west"], &logs));
    cluster.sites.iter().for_each(|site| assert!(site.stop().success()));
    Fixture::new(folder, STOPPED).pack(&cluster, &books);

    cluster.launch();
    let mut client = east.attach("logs");
    (0..6).for_each(|block| logs.write(&mut client, block * 40 + 1).expect("a write"));
    client.flush().expect("a flush");
    let mut client = east.attach("pg");
    (10..30).for_each(|block| pg.write(&mut client, block).expect("a write"));
    [west, north].iter().for_each(|site| site.kill());
    std::thread::scope(|scope| {
        let unanswered = scope.spawn(|| pg.write(&mut client, 40));
        east.wait_volume("pg", "the write to be in the journal", |v| {
            v["durable_seq"].as_u64() > v["acked_seq"].as_u64()
        });
        east.kill();
        assert!(unanswered.join().expect("it does not panic").is_err(), "it had no quorum");
    });
    Fixture::new(folder, KILLED).pack(&cluster, &books);
}
