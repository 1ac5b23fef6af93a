//! Tests of the configuration file.

use proptest::prelude::*;

use super::*;

const MINIMAL: &str = "[node]\nsite = \"east\"\nnode = \"n1\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/etc/farshore/replicator.toml"), text)
}

fn refusal(extra: &str) -> String {
    let text = format!("{MINIMAL}{extra}");
    parse(&text).expect_err(extra).to_string()
}

#[test]
fn two_names_are_enough() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.transport.listen.to_string(), "[::]:7441");
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:7442");
    assert_eq!(config.control.socket, Path::new(SOCKET_PATH));
    assert_eq!(config.nbd.socket, Path::new("/run/farshore/nbd.sock"));
    assert_eq!(config.node.data_dir, Path::new("/var/lib/farshore"));
    assert_eq!(config.journal.budget_bytes, ByteSize(1 << 30));
    assert_eq!(config.journal.engine, JournalEngine::Auto);
    assert!(config.summary().contains("east/n1"));
}

#[test]
fn the_example_file_says_the_defaults_and_every_key() {
    let text = include_str!("../../deploy/replicator.example.toml");
    let example = parse(text).unwrap();
    let mut defaults = parse("[node]\nsite = \"east\"\nnode = \"east-1\"\n").unwrap();
    defaults.peers = example.peers.clone();
    assert_eq!(example, defaults);
    // Keys without a default stand there behind a '#'.
    for (section, keys) in KEYS {
        assert!(text.contains(&format!("[{section}]")), "{section}");
        for key in keys {
            assert!(
                text.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} ="))),
                "{section}.{key}"
            );
        }
    }
}

#[test]
fn the_list_of_keys_is_that_of_the_structs() {
    // serde names the fields it knows when it meets one that it does not.
    for (section, keys) in KEYS {
        let body =
            if section == "peers" { format!("[[{section}]]\nzzz = 1\n") } else { format!("[{section}]\nzzz = 1\n") };
        let text = if section == "node" { body } else { format!("{MINIMAL}{body}") };
        let error = toml::from_str::<Config>(&text).unwrap_err();
        let known: BTreeSet<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert_eq!(known, keys.iter().copied().collect(), "{}", error.message());
    }
    let sections = toml::from_str::<Config>("[zzz]").unwrap_err();
    for (section, _) in KEYS {
        assert!(sections.message().contains(&format!("`{section}`")), "{section}");
    }
}

#[test]
fn unknown_keys_name_the_file_the_key_and_the_nearest() {
    let message = refusal("[jornal]\n");
    assert!(
        message.starts_with("/etc/farshore/replicator.toml: jornal is not a known key; did you mean journal?"),
        "{message}"
    );
    let message = refusal("[journal]\nbudget = \"1GiB\"\n");
    assert!(message.contains("journal.budget is not a known key"), "{message}");
    let message = refusal("[transport]\nlissen = \"[::]:1\"\n");
    assert!(message.contains("transport.lissen is not a known key; did you mean listen?"), "{message}");
    let message = refusal("[[peers]]\nsite=\"w\"\nnode=\"n\"\nadress=\"w:1\"\n");
    assert!(message.contains("peers.adress is not a known key; did you mean address?"), "{message}");
    let message = refusal("[log]\nxyzzyxyzzy = 1\n");
    assert!(message.contains("; known: filter, format"), "{message}");
}

#[test]
fn bad_values_name_the_key_what_was_found_and_what_may_be() {
    let cases = [
        ("[transport]\nidle_timeout_ms = 5\n", "transport.idle_timeout_ms = 5: give 500"),
        (
            "[transport]\ncongestion = \"reno\"\n",
            "line 5 (congestion = \"reno\"): unknown variant `reno`, expected one of `delay`",
        ),
        ("[transport]\nca = \"pki/ca.pem\"\n", "transport.ca = pki/ca.pem: give an absolute path"),
        (
            "[transport]\nship_bytes_per_second = 0\n",
            "transport.ship_bytes_per_second = 0B: give at least 256KiB, or leave it out for no limit",
        ),
        ("[transport]\nwindow_bytes = 1\n", "transport.window_bytes = 1B: give 64KiB"),
        ("[journal]\nsegment_bytes = \"5000KB\"\n", "\"5000KB\" is not a size"),
        ("[journal]\nsegment_bytes = -1\n", "a size like"),
        ("[journal]\nsegment_bytes = \"1MiB\"\n", "journal.segment_bytes = 1MiB: give whole MiB"),
        ("[journal]\nbudget_bytes = \"100MiB\"\n", "journal.budget_bytes = 100MiB: give at least 4 segments (256MiB)"),
        ("[store]\nslab = \"sdb\"\n", "store.slab = sdb: give an absolute path"),
        ("[journal]\nengine = \"aio\"\n", "expected one of `auto`, `io_uring`, `threads`"),
        ("[[peers]]\nsite = \"east\"\nnode = \"n1\"\n", "peers = east/n1: is this node itself"),
        ("[[peers]]\nsite = \"West\"\nnode = \"n1\"\n", "peers.site = \"West\": use 1 to 63"),
        ("[[peers]]\nsite = \"w\"\nnode = \"n1\"\naddress = \"w\"\n", "peers.address = \"w\": give host:port"),
        ("[[peers]]\nsite = \"w\"\nnode = \"n1\"\naddress = \":1\"\n", "peers.address = \":1\": give host:port"),
        ("[nbd]\ntcp = \"0.0.0.0:10809\"\n", "nbd.tcp = 0.0.0.0:10809: give ca, cert and key too"),
        (
            "[nbd]\ntcp = \"127.0.0.1:1\"\nca = \"/c\"\nkey = \"/k\"\n",
            "nbd.cert = nothing: give ca, cert and key together",
        ),
        ("[nbd]\nca = \"/c\"\ncert = \"/c\"\nkey = \"/k\"\n", "nbd.tcp = nothing: give an address"),
        ("[http]\nlisten = \"localhost\"\n", "line 5 (listen = \"localhost\")"),
        ("[log]\nfilter = \"\"\n", "log.filter = \"\": give a level"),
        ("[log\n", "line 4 ([log)"),
    ];
    for (extra, part) in cases {
        let message = refusal(extra);
        assert!(message.contains(part), "{part:?} is not in {message:?}");
        assert!(message.starts_with("/etc/farshore/replicator.toml: "), "{message}");
    }
    assert!(parse("").unwrap_err().to_string().contains("missing field `node`"));
    assert!(parse("[node]\nsite = \"east\"\n").unwrap_err().to_string().contains("missing field `node`"));
}

#[test]
fn a_missing_file_says_where_to_start() {
    let message = Config::load(Path::new("/nonexistent/replicator.toml")).unwrap_err().to_string();
    assert!(
        message.contains("/nonexistent/replicator.toml") && message.contains("replicator.example.toml"),
        "{message}"
    );
}

#[test]
fn sizes_read_back_as_they_are_written() {
    let cases = [("0", 0), ("4096", 4096), ("4KiB", 4096), ("10 GiB", 10 << 30), ("3TiB", 3 << 40), ("7B", 7)];
    for (text, bytes) in cases {
        assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>(), Ok(ByteSize(bytes)));
    }
    for bad in ["", "GiB", "-1", "1.5GiB", "1GB", "1gib", "99999999PiB", "18446744073709551616", "1GiBx", "é"] {
        assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(\\[|\\]|=|\"|\n|node|site|peers|journal|segment_bytes|é|[ -~]){0,60}") {
        let _ = parse(&text);
        let _ = text.parse::<ByteSize>();
        let _ = nearest(&text, &["journal", "transport"]);
    }

    #[test]
    fn every_size_reads_back(bytes: u64) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse::<ByteSize>(), Ok(ByteSize(bytes)));
    }
}
