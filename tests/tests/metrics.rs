//! What `/metrics` tells after real work is what was done.

use farshore_tests::cluster::{Cluster, eventually};

const BLOCK: u64 = 4096;

#[test]
fn what_users_ask_for_and_what_the_journal_does_is_counted() {
    let cluster = Cluster::start(&["east", "west", "north"]);
    let [east, west] = ["east", "west"].map(|s| cluster.site(s));
    east.run(&["volume", "create", "pg", "--size=8MiB", "--members=east,west,north", "--lease=1s"]);
    let mut client = east.attach("pg");
    for block in 0..10 {
        client.write(block * BLOCK, &[7; BLOCK as usize]).expect("a write to a healthy volume completes");
    }
    client.read(0, 3 * BLOCK as usize).expect("a healthy volume can be read");
    client.flush().expect("a flush completes");
    client.trim(0, 2 * BLOCK as u32).expect("a discard completes");

    let io = |family: &str, op: &str| east.metric(&format!("farshore_volume_io_{family}{{volume=\"pg\",op=\"{op}\"}}"));
    for (op, requests, bytes) in [("write", 10, 10 * BLOCK), ("read", 1, 3 * BLOCK), ("discard", 1, 2 * BLOCK)] {
        assert!(io("seconds_count", op) >= f64::from(requests), "{op}");
        assert!(io("bytes_total", op) >= bytes as f64, "{op}");
        assert!(io("seconds_sum", op) > 0.0, "{op}");
    }
    assert!(io("seconds_count", "flush") >= 1.0);
    assert_eq!(io("errors_total", "write"), 0.0);
    for site in [east, west] {
        // Ten writes, the discard, and the epoch's first record.
        assert!(site.metric("farshore_journal_records_total") >= 12.0);
        assert!(site.metric("farshore_journal_written_bytes_total") >= (10 * BLOCK) as f64);
        assert!(site.metric("farshore_journal_sync_seconds_count") >= 11.0);
    }
    let to_west = |family: &str| east.metric(&format!("farshore_peer_{family}{{site=\"west\",node=\"n1\"}}"));
    assert_eq!(to_west("connected"), 1.0);
    for family in ["sent_bytes_total", "received_bytes_total", "sent_packets_total", "rtt_seconds", "window_bytes"] {
        assert!(to_west(family) > 0.0, "{family}");
    }
    assert!(to_west("certificate_expiry_timestamp_seconds") > 1.7e9);
    // Loopback carries more than a frame of 1500 bytes.
    eventually("the path's MTU to be found", || match to_west("mtu_bytes") {
        found if found > 1500.0 => Ok(()),
        found => Err(format!("{found} bytes so far")),
    });
}
