//! What must be refused is refused by name, with the reason and a way out, and harms nothing.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use farshore_tests::cluster::{Cluster, Ledger, Options, Site, farshore};

fn create<'a>(name: &'a str, size: &'a str, members: &'a str) -> [&'a str; 7] {
    ["volume", "create", name, "--size", size, "--members", members]
}

fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}

#[test]
fn volumes_that_can_not_be_are_not_created() {
    let cluster = Cluster::start(&["east", "west"]);
    let east = cluster.site("east");
    let pg = create("pg", "8MiB", "east,west");
    let bad = |more: &[&str]| east.refused(&with(&pg, more));
    bad(&["--quorum", "majorty"]).says(2, &["majorty", "majority"]);
    bad(&["--quorum", "w=3"]).says(2, &["w=3", "2 data members"]);
    bad(&["--quorum", "w=1,minRemote=2"]).says(2, &["minRemote=2", "2 data members"]);
    bad(&["--quorum", "w=0"]).says(2, &["w must be 1 or more"]);
    bad(&["--quorum", "w=1,minRemotes=1"]).says(2, &["minRemotes", "minRemote"]);
    bad(&["--lease", "10ms"]).says(2, &["10 ms", "500"]);
    bad(&["--lease", "4"]).says(2, &["4", "4s"]);
    bad(&["--on-quorum-loss", "panic"]).says(2, &["panic", "freeze"]);
    bad(&["--block-size", "1000"]).says(2, &["1000", "4096"]);
    for size in ["0", "1000000", "1MB", "65TiB", "16EiB", "99999999999999999999"] {
        let refusal = east.refused(&create("pg", size, "east,west"));
        assert_eq!(refusal.exit, 2, "size {size}: {refusal:?}");
    }
    east.refused(&create("pg", "4095", "east,west")).says(2, &["4095", "4096"]);
    east.refused(&create("Pg", "8MiB", "east,west")).says(2, &["Pg", "a-z"]);
    east.refused(&create("pg", "8MiB", "east,south")).says(2, &["south", "known sites: east, west"]);
    east.refused(&create("pg", "8MiB", "east,east")).says(2, &["east", "twice"]);
    east.refused(&create("pg", "8MiB", "east/n7,west")).says(2, &["n7", "n1"]);
    // Nothing of all this is left anywhere.
    for site in &cluster.sites {
        assert_eq!(site.run(&["volume", "list"])["volumes"].as_array().map(Vec::len), Some(0), "{}", site.name);
    }
    east.run(&pg);
    east.run(&pg);
    east.refused(&create("pg", "16MiB", "east,west")).says(6, &["pg", "another"]);
    // West would end up with two volumes of one name.
    cluster.site("west").refused(&create("pg", "16MiB", "west,east")).says(6, &["pg"]);
}

/// Each copy needs its part of the journal, or it might never open again after a crash.
#[test]
fn a_copy_for_which_the_journal_has_no_room_is_not_made() {
    let options = Options { journal_budget: "16MiB", journal_segment: "4MiB", ..Options::default() };
    let cluster = Cluster::start_with(&["east", "west"], options);
    let east = cluster.site("east");
    for name in ["one", "two"] {
        east.run(&create(name, "4MiB", "east,west"));
    }
    east.refused(&create("three", "4MiB", "east,west")).says(4, &["three", "16 MiB", "journal.budget_bytes", "20MiB"]);
    for site in &cluster.sites {
        assert_eq!(site.run(&["volume", "list"])["volumes"].as_array().map(Vec::len), Some(2), "{}", site.name);
    }
    east.run(&["volume", "delete", "one", "--yes"]);
    east.run(&create("three", "4MiB", "east,west"));
}

#[test]
fn a_member_that_is_away_is_named_and_creation_leaves_nothing_behind() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let east = cluster.site("east");
    cluster.site("north").kill();
    east.refused(&create("pg", "8MiB", "east,west,north")).says(5, &["north", "site list"]);
    for site in ["east", "west"] {
        let listed = cluster.site(site).run(&["volume", "list"]);
        assert_eq!(listed["volumes"].as_array().map(Vec::len), Some(0), "{site}: {listed:#}");
    }
}

#[test]
fn attaching_deleting_and_promoting_at_the_wrong_time_or_place() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west, north] = ["east", "west", "north"].map(|s| cluster.site(s));
    east.run(&with(&create("pg", "8MiB", "east,west,north"), &["--lease", "1s"]));
    east.refused(&["volume", "attach", "nosuch"]).says(3, &["nosuch"]);
    west.refused(&["volume", "attach", "pg"]).says(4, &["pg", "east", "west", "promote"]);
    let first = east.run(&["volume", "attach", "pg", "--device", "nbd"]);
    let again = east.run(&["volume", "attach", "pg", "--device", "nbd"]);
    assert_eq!(first["session"], again["session"], "the same node again is a no-op");
    east.refused(&["volume", "attach", "pg", "--device", "ublk"]).says(8, &["ublk", "nbd"]);
    west.refused(&["volume", "attach", "pg"]).says(4, &["pg", "east"]);
    for site in [east, west] {
        site.refused(&["volume", "delete", "pg"]).says(4, &["pg", "--yes"]);
        site.refused(&["volume", "delete", "pg", "--yes"]).says(4, &["pg", "attached in east", "detach"]);
    }
    west.refused(&["promote", "pg"]).says(4, &["pg", "east", "switchover", "failover"]);
    west.refused(&["failover", "--from", "west"]).says(2, &["west"]);
    west.refused(&["failover", "--from", "mars"]).says(3, &["mars"]);
    east.refused(&["switchover", "pg", "--to", "mars"]).says(2, &["pg", "mars"]);
    east.refused(&["volume", "resize", "pg", "4MiB"]).says(2, &["pg", "shrink"]);
    east.refused(&["volume", "resize", "pg", "8389000"]).says(2, &["8389000", "4096"]);
    east.refused(&["member", "remove", "pg", "mars"]).says(3, &["pg", "mars"]);
    east.refused(&["member", "add", "pg", "west"]).says(6, &["west"]);
    east.refused(&["member", "add", "pg", "mars"]).says(2, &["mars"]);
    east.refused(&["volume", "detach", "pg", "--session", "0123"]).says(2, &["0123"]);
    east.refused(&["volume", "detach", "pg", "--session", &"0".repeat(32)]).says(4, &["pg", "session"]);
    // All of it left the volume as it was.
    let mut client = east.connect("pg");
    let ledger = Ledger::of_new(64);
    ledger.fill(&mut client);
    ledger.check_all(&mut client);
    drop(client);

    // Without a quorum promotion names who is missing.
    east.kill();
    north.kill();
    let refusal = west.refused(&["failover", "--from", "east"]);
    refusal.says(1, &["pg", "a majority of votes", "east/n1", "north/n1", "restore contact"]);
}

#[test]
fn a_directory_that_is_not_ours_or_not_understood_stays_as_it_is() {
    let cluster = Cluster::start(&["east", "west"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&create("pg", "8MiB", "east,west"));
    let config = std::fs::read_to_string(east.config_path()).expect("a configuration");
    let with_config = |text: &str| {
        std::fs::write(east.config_path(), text).expect("a configuration can be written");
        let said = east.start_refused();
        std::fs::write(east.config_path(), &config).expect("a configuration can be written");
        said
    };
    let said = |what: &str, said: String, words: &[&str]| {
        for word in words {
            assert!(said.contains(word), "{what}: does not say {word:?}: {said}");
        }
        assert!(!said.contains("panicked"), "{what}: {said}");
    };

    // A second replicator on the same directory; the first one goes on.
    let second = config.replace(&format!(":{}\"", east.udp), ":0\"").replace(&format!(":{}\"", east.http), ":0\"");
    said("a second daemon", with_config(&second), &[&text(&east.data_dir()), "another"]);
    east.volume("pg");
    assert!(east.stop().success());

    said("an unknown key", with_config(&format!("{config}\n[transport2]\nx = 1\n")), &["transport2", "transport"]);
    said(
        "an unknown key",
        with_config(&config.replace("idle_timeout_ms", "idle_time_ms")),
        &["idle_time_ms", "idle_timeout_ms"],
    );
    said(
        "a value",
        with_config(&config.replace("idle_timeout_ms = 1000", "idle_timeout_ms = 1")),
        &["idle_timeout_ms", "500"],
    );
    let foreign = config.replace(&text(&east.data_dir()), &text(&west.data_dir()));
    assert!(west.stop().success());
    said("another node's directory", with_config(&foreign), &[&text(&west.data_dir()), "west/n1", "east/n1"]);
    // What was refused is unharmed.
    west.start();
    west.volume("pg");

    let journal = east.data_dir().join("journal");
    let superblock = find(&journal, b"FSJS");
    let whole = std::fs::read(&superblock).expect("a superblock");
    let spoiled = |change: &dyn Fn(&mut Vec<u8>), file: &Path, whole: &[u8]| {
        let mut bytes = whole.to_vec();
        change(&mut bytes);
        std::fs::write(file, &bytes).expect("a superblock can be written");
        let said = east.start_refused();
        assert_eq!(
            std::fs::read(file).expect("it is still there"),
            bytes,
            "what is not understood must not be changed"
        );
        std::fs::write(file, whole).expect("a superblock can be written");
        said
    };
    let newer = |bytes: &mut Vec<u8>| {
        for slot in bytes.chunks_mut(4096) {
            slot[4] = 99;
            let crc = crc32(&slot[..4092]);
            slot[4092..].copy_from_slice(&crc.to_le_bytes());
        }
    };
    said("a newer journal", spoiled(&newer, &superblock, &whole), &["99", &text(&journal)]);
    let torn = |bytes: &mut Vec<u8>| bytes.iter_mut().skip(8).step_by(100).for_each(|b| *b ^= 0x55);
    said("a damaged journal superblock", spoiled(&torn, &superblock, &whole), &["superblock", &text(&journal)]);

    let store = east.data_dir().join("store");
    let superblock = find(&store, b"FSST");
    let whole = std::fs::read(&superblock).expect("a superblock");
    let newer = |bytes: &mut Vec<u8>| {
        bytes[4] = 99;
        let end = bytes.len() - 4;
        let crc = crc32(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
    };
    said("a newer store", spoiled(&newer, &superblock, &whole), &["99", &text(&store)]);
    said("a damaged store superblock", spoiled(&torn, &superblock, &whole), &["superblock", &text(&store)]);

    east.start();
    cluster.wait_connected();
    east.run(&["volume", "attach", "pg", "--device", "nbd"]);
}

/// The file in a directory that begins with this magic.
fn find(dir: &Path, magic: &[u8]) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir).expect("a directory").map(|f| f.expect("an entry").path());
    files
        .filter(|f| f.is_file())
        .find(|f| {
            let mut begin = [0; 4];
            std::fs::File::open(f).and_then(|mut f| f.read_exact(&mut begin)).is_ok() && begin == *magic
        })
        .unwrap_or_else(|| panic!("no superblock in {}", dir.display()))
}

/// As the formats define it: the reflected CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn garbage_on_every_socket_disturbs_nobody() {
    let cluster = Cluster::start(&["east", "west"]);
    let east = cluster.site("east");
    east.run(&create("pg", "8MiB", "east,west"));
    let ledger = Ledger::of_new(256);
    let mut client = east.attach("pg");
    ledger.fill(&mut client);

    let mut dice = 0x1234_5678_u32;
    let mut noise = |len: usize| -> Vec<u8> {
        (0..len)
            .map(|_| {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (dice >> 24) as u8
            })
            .collect()
    };
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for round in 0..2000 {
        let mut packet = noise(1 + round % 1400);
        // A third looks like a long header of QUIC, version 1.
        if round % 3 == 0 && packet.len() > 8 {
            packet[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
        }
        udp.send_to(&packet, ("127.0.0.1", east.udp)).expect("loopback sends");
    }
    for socket in [east.nbd_socket(), east.control_socket()] {
        for round in 0..40 {
            let mut stream = UnixStream::connect(&socket).expect("a daemon that listens");
            stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
            let _ = stream.write_all(&noise(1 + round * 100));
            let _ = stream.read(&mut [0; 64]);
        }
    }
    nbd_nonsense(east);
    for request in ["GET /../../etc/passwd HTTP/1.1\r\n\r\n", "\0\0\0\0", "POST /metrics HTTP/9.9\r\nx\r\n\r\n"] {
        let mut http = std::net::TcpStream::connect(("127.0.0.1", east.http)).expect("a daemon that listens");
        http.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let _ = http.write_all(request.as_bytes());
        let mut answer = [0; 16];
        let n = http.read(&mut answer).unwrap_or(0);
        assert!(!answer[..n].windows(3).any(|w| w == b"200"), "{request:?} was served");
    }

    ledger.check_all(&mut client);
    ledger.fill(&mut client);
    cluster.wait_connected();
    assert!(!east.log().contains("panicked"), "a panic on foreign bytes");
}

/// Requests that a client can send by mistake, on an open connection.
fn nbd_nonsense(east: &Site) {
    let beyond = 8 << 20;
    for (offset, length) in [(beyond, 4096), (beyond - 4096, 8192), (u64::MAX - 4095, 4096), (1, 4096), (0, 1)] {
        let mut client = east.connect("pg");
        assert!(client.write(offset, &vec![1; length]).is_err(), "a write at {offset} + {length} was taken");
        let mut client = east.connect("pg");
        assert!(client.read(offset, length).is_err() || offset < beyond, "a read at {offset} + {length} was answered");
    }
}

#[test]
fn strangers_are_not_let_in() {
    let cluster = Cluster::lay_out(&["east", "west"], Options::default());
    // West comes with a certificate of its own making.
    let foreign = cluster.dir().join("foreign-ca");
    let [dir, out] = [text(&foreign), text(&cluster.site("west").dir.join("pki"))];
    farshore(&["cert", "ca", "--domain", "test", "--dir", &dir]).expect("a CA can be made");
    let issue = ["cert", "issue", "--ca", &dir, "--site", "west", "--node", "n1", "--out", &out, "--force"];
    farshore(&issue).expect("a certificate can be issued");
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.start();
    west.start();
    for (site, other) in [(east, "west"), (west, "east")] {
        let reason = farshore_tests::cluster::eventually("the link to be refused with a reason", || {
            let list = site.run(&["site", "list"]);
            let peer = list["peers"][0].clone();
            assert_ne!(peer["connected"], true, "{} let a stranger in: {list:#}", site.name);
            match peer["reason"].as_str() {
                Some(reason) if !reason.is_empty() => Ok(reason.to_string()),
                _ => Err(format!("{list:#}")),
            }
        });
        println!("{} about {other}: {reason}", site.name);
        assert!(reason.contains("certificate") || reason.contains("CA"), "{}: {reason}", site.name);
    }
    east.refused(&create("pg", "8MiB", "east,west")).says(5, &["west", "site list"]);
}
