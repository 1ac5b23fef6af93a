//! The binary against a control server with the fake engine: every verb, every format, errors and exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use farshore_proto::v1 as api;
use farshore_replicator::control::{ControlServer, OpError, OpKind, fake::FakeOperations};
use serde_json::Value;

struct Site {
    fake: Arc<FakeOperations>,
    socket: PathBuf,
    // Dropped in this order: server, its runtime, its directory.
    _server: ControlServer,
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("replicator.sock");
    let fake = Arc::new(FakeOperations::new("east", "n1"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(ControlServer::start(&socket, fake.clone())).unwrap();
    Site { fake, socket, _server: server, _runtime: runtime, dir }
}

fn farshore(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farshore")).env("FARSHORE_SOCKET", socket).args(args).output().unwrap()
}

impl Site {
    fn run(&self, args: &[&str]) -> Output {
        farshore(&self.socket, args)
    }

    /// Expects success; returns stdout.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut with = args.to_vec();
        with.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&with)).unwrap()
    }

    /// Expects an exit code; returns stderr.
    fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    fn create(&self, name: &str) -> Value {
        self.json(&["volume", "create", name, "--size", "10GiB", "--members", "east,west,north"])
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn sites_of(volume: &Value) -> Vec<&str> {
    volume["members"].as_array().unwrap().iter().map(|m| m["site"].as_str().unwrap()).collect()
}

#[test]
fn volumes_from_create_to_delete() {
    let site = site();
    let made = site.create("pg");
    assert_eq!((made["name"].as_str(), made["size_bytes"].as_u64()), (Some("pg"), Some(10 << 30)));
    assert_eq!(sites_of(&made), ["east", "west", "north"]);
    assert_eq!((made["policy"]["w"].as_u64(), made["policy"]["lease_ms"].as_u64()), (Some(2), Some(4_000)));

    let table = site.ok(&["volume", "list"]);
    assert!(table.starts_with("NAME") && table.contains("10 GiB") && table.contains("east,west,north"), "{table}");
    assert_eq!(site.json(&["volume", "show", made["id"].as_str().unwrap()])["name"], "pg", "an id names it too");

    let attached = site.json(&["volume", "attach", "pg", "--device", "fuse", "--read-only"]);
    assert_eq!((&attached["device"]["kind"], &attached["device"]["read_only"]), (&"fuse".into(), &true.into()));
    let error = site.fails(4, &["volume", "delete", "pg", "--yes"]);
    assert!(error.contains("\n  why: it is attached on east/n1\n  do:  detach it first"), "{error}");
    site.ok(&["volume", "detach", "pg", "--session", attached["session"].as_str().unwrap()]);
    assert_eq!(site.json(&["volume", "resize", "pg", "20GiB"])["size_bytes"], 20u64 << 30);
    let error = site.fails(8, &["volume", "resize", "pg", "1GiB"]);
    assert!(error.starts_with("error: volume \"pg\" can't shrink"), "{error}");

    let error = site.fails(4, &["volume", "delete", "pg"]);
    assert!(error.contains("east, west, north") && error.contains("--yes"), "{error}");
    assert!(site.fake.volume("pg").is_some());
    assert_eq!(site.ok(&["volume", "delete", "pg", "--yes"]), "pg is deleted\n");
    site.fails(3, &["volume", "show", "pg"]);
}

#[test]
fn create_passes_every_option_on() {
    let site = site();
    let args = "volume create db --size 1TiB --members east/n1,west --witness north --observer far --quorum w=2,minRemote=1,local \
                --durability flush --block-size 512 --lease 8s --on-quorum-loss fence:30s --iops 500 --bandwidth 50MiB --label pvc=prod/db --label a=b=c";
    let made = site.json(&args.split_whitespace().collect::<Vec<_>>());
    let policy = &made["policy"];
    assert_eq!((policy["quorum"].as_str(), policy["w"].as_u64()), (Some("numbers"), Some(2)));
    assert_eq!((policy["min_remote"].as_u64(), policy["local_required"].as_bool()), (Some(1), Some(true)));
    assert_eq!((policy["durability"].as_str(), policy["lease_ms"].as_u64()), (Some("flush"), Some(8_000)));
    assert_eq!((policy["on_quorum_loss"].as_str(), policy["fence_after_ms"].as_u64()), (Some("fence"), Some(30_000)));
    assert_eq!((policy["iops"].as_u64(), policy["bytes_per_second"].as_u64()), (Some(500), Some(50 << 20)));
    assert_eq!(made["block_size_bytes"], 512);
    assert_eq!((&made["labels"]["pvc"], &made["labels"]["a"]), (&"prod/db".into(), &"b=c".into()));
    let kinds: Vec<_> = made["members"].as_array().unwrap().iter().map(|m| m["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["data", "data", "witness", "observer"]);
    assert_eq!(made["members"][0]["node"], "n1");
}

#[test]
fn wrong_arguments_say_what_is_right() {
    let site = site();
    let create = |extra: &[&str]| {
        let mut args = vec!["volume", "create", "pg", "--members", "east,west,north"];
        if !extra.contains(&"--size") {
            args.extend(["--size", "1GiB"]);
        }
        args.extend(extra);
        site.fails(2, &args)
    };
    let cases: [(&[&str], &str); 12] = [
        (&["--quorum", "majorty"], "did you mean majority?"),
        (&["--quorum", "w=2,minRemot=1"], "Known: w, minRemote, local"),
        (&["--quorum", "w=4"], "w=4 can't be met by 3 data members"),
        (&["--size", "10GB"], "write for example 10GiB"),
        (&["--size", "5000"], "a multiple of 4096"),
        (&["--durability", "maybe"], "[possible values: write, flush]"),
        (&["--block-size", "1024"], "[possible values: 4096, 512]"),
        (&["--lease", "4"], "write for example 500ms"),
        (&["--lease", "1ms"], "500 to 60000 ms"),
        (&["--on-quorum-loss", "stop"], "use freeze"),
        (&["--witness", "west"], "site west is named twice"),
        (&["--label", "x"], "write key=value"),
    ];
    for (extra, part) in cases {
        let error = create(extra);
        assert!(error.contains(part), "{extra:?}: {part:?} is not in {error}");
    }
    let error = site.fails(2, &["volume", "create", "Pg", "--size", "1GiB", "--members", "east"]);
    assert!(error.contains("error: \"Pg\" can't be a volume's name\n  do:  use 1 to 63"), "{error}");
    site.fails(2, &["volume", "create", "pg", "--size", "1GiB"]);
    site.fails(2, &["volume", "create", "pg", "--size", "1GiB", "--members", "East"]);
    site.fails(2, &["promote"]);
    site.fails(2, &["promote", "pg", "--all"]);
    site.fails(2, &["promote", "pg", "--force"]);
    site.fails(2, &["promote", "pg", "--members", "east"]);
    site.fails(2, &["promote", "pg", "--yes"]);
    site.fails(2, &["failover"]);
    site.fails(2, &["failover", "--from", "west/n1"]);
    site.fails(2, &["status", "--count", "1"]);
    site.fails(2, &["status", "-o", "xml"]);
    assert!(site.fake.volume("pg").is_none());
}

#[test]
fn members_come_and_go() {
    let site = site();
    site.create("pg");
    let added = site.json(&["member", "add", "pg", "south/s1"]);
    assert_eq!(sites_of(&added), ["east", "west", "north", "south"]);
    assert_eq!(
        (&added["members"][3]["state"], &added["members"][3]["in_sync_set"]),
        (&"full-copy".into(), &false.into())
    );
    site.fails(6, &["member", "add", "pg", "south"]);
    let voter = site.json(&["member", "add", "pg", "w2", "--kind", "witness", "--wait"]);
    assert_eq!((&voter["members"][4]["kind"], &voter["members"][4]["votes"]), (&"witness".into(), &1.into()));
    let replaced = site.json(&["member", "replace", "pg", "west", "--with", "west/w9"]);
    assert_eq!((&replaced["members"][1]["node"], &replaced["members"][1]["kind"]), (&"w9".into(), &"data".into()));
    assert_eq!(sites_of(&site.json(&["member", "remove", "pg", "north"])), ["east", "west", "south", "w2"]);
    let error = site.fails(3, &["member", "remove", "pg", "north"]);
    assert!(error.contains("name one of its sites: east, west, south, w2"), "{error}");
    site.fails(4, &["member", "remove", "pg", "east"]);
}

#[test]
fn the_primary_moves() {
    let site = site();
    site.create("pg");
    let moved = site.json(&["switchover", "pg", "--to", "west"]);
    assert_eq!(moved["primary"]["site"], "west");
    let error = site.fails(4, &["volume", "attach", "pg"]);
    assert!(error.contains("do:  move it first: farshore switchover pg --to east"), "{error}");
    site.fails(3, &["switchover", "pg", "--to", "moon"]);

    let results = site.json(&["failover", "--from", "west"]);
    assert_eq!(
        (&results["results"][0]["ok"], &results["results"][0]["status"]["primary"]["site"]),
        (&true.into(), &"east".into())
    );
    let error = site.fails(3, &["failover", "--from", "west", "--volume", "pg"]);
    assert!(error.contains("no such volume has its primary in site \"west\""), "{error}");

    site.ok(&["demote", "pg"]);
    assert_eq!(site.json(&["promote", "pg"])["role"], "primary");
    site.json(&["volume", "attach", "pg"]);
    site.fails(4, &["demote", "pg"]);
}

#[test]
fn promote_all_and_failover_say_which_volume_failed() {
    let site = site();
    site.create("aa");
    site.create("bb");
    let mut cut = site.fake.volume("bb").unwrap();
    cut.members.iter_mut().filter(|m| !m.here).for_each(|m| m.connected = false);
    site.fake.put(cut);
    let output = site.run(&["promote", "--all"]);
    assert_eq!(output.status.code(), Some(1));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("aa      ok") && stdout.contains("bb      failed"), "{stdout}");
    assert!(stdout.contains("  why: no majority of its voters answers"), "{stdout}");
    assert!(text(&output.stderr).starts_with("error: 1 of 2 volumes failed"));
    // aa is primary by now; only bb is left to try.
    let output = site.run(&["promote", "--all", "-o", "json"]);
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results["results"].as_array().unwrap().len(), 1);
    assert_eq!(results["results"][0]["error"]["kind"], "unavailable");
    site.fails(5, &["promote", "bb"]);

    site.json(&["switchover", "aa", "--to", "west"]);
    let mut observer = site.fake.volume("aa").unwrap();
    observer.members[0].in_sync_set = false;
    site.fake.put(observer);
    let output = site.run(&["failover", "--from", "west"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("aa: this site holds no replica in the sync set"));
}

#[test]
fn force_says_what_it_gives_up_and_wants_yes() {
    let site = site();
    site.create("pg");
    let output = site.run(&["promote", "pg", "--force", "--members", "east,north/x"]);
    assert_eq!(output.status.code(), Some(4));
    let stdout = text(&output.stdout);
    assert!(stdout.contains("lineage generation 2 would be begun from east/n1"), "{stdout}");
    assert!(stdout.contains("gives up  acknowledged data: unknown for the last 41"), "{stdout}");
    assert!(text(&output.stderr).contains("add --yes"));
    assert_eq!(site.fake.volume("pg").unwrap().members.len(), 3);
    let output = site.run(&["promote", "pg", "--force", "--members", "east,north/x", "--yes", "-o", "json"]);
    assert!(output.status.success());
    let said = text(&output.stderr);
    let (before, after) = said.split_once("generation 2 was begun from east/n1 at seq").expect("what was done is said");
    assert!(before.contains("would be begun") && after.contains("gave up  acknowledged data: unknown for the last 41"));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(sites_of(&done), ["east", "north"]);
}

#[test]
fn resync_waits_and_refuses_to_discard_unasked() {
    let site = site();
    site.create("pg");
    let mut behind = site.fake.volume("pg").unwrap();
    behind.members[1].state = "diverged".into();
    behind.members[1].in_sync_set = false;
    site.fake.put(behind);
    let error = site.fails(4, &["resync", "pg", "--member", "west"]);
    assert!(error.contains("add --discard"), "{error}");
    let started = site.run(&["resync", "pg", "--member", "west", "--discard", "-o", "json"]);
    let said = text(&started.stderr);
    assert!(said.contains("of west is given up") && said.contains("kept there as volume diverged-pg"), "{said}");
    let started: Value = serde_json::from_slice(&started.stdout).unwrap();
    assert_eq!(started["members"][1]["state"], "resyncing");

    // What --wait waits for comes about while it does.
    let waiting = Command::new(env!("CARGO_BIN_EXE_farshore"))
        .env("FARSHORE_SOCKET", &site.socket)
        .args(["resync", "pg", "--wait", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut done = site.fake.volume("pg").unwrap();
    done.members[1].state = "replicating".into();
    (done.members[1].progress, done.members[1].in_sync_set) = (1.0, true);
    site.fake.put(done);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["members"][1]["in_sync_set"], true);
}

#[test]
fn a_scrub_says_what_it_found() {
    let site = site();
    site.create("pg");
    assert_eq!(site.json(&["scrub", "pg", "--wait"])["scrub"]["running"], false);
    let shown = site.ok(&["volume", "show", "pg"]);
    assert!(shown.contains("verified on 2023-11-14, no damage"), "{shown}");
    site.fails(3, &["scrub", "nothing"]);
}

#[test]
fn every_error_has_its_exit_code() {
    let site = site();
    let codes = [
        (OpKind::Internal, 1),
        (OpKind::Invalid, 2),
        (OpKind::NotFound, 3),
        (OpKind::FailedPrecondition, 4),
        (OpKind::Unavailable, 5),
        (OpKind::AlreadyExists, 6),
        (OpKind::Conflict, 7),
        (OpKind::Unsupported, 8),
    ];
    let help = text(&farshore(&site.socket, &["--help"]).stdout);
    for (kind, code) in codes {
        site.fake.fail_next(OpError::new(kind, "it failed", "do that").because("of this"));
        assert_eq!(site.fails(code, &["volume", "list"]), "error: it failed\n  why: of this\n  do:  do that\n");
        assert!(help.contains(&format!("\n  {code}  ")), "{help}");
    }
}

#[test]
fn without_a_replicator_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody.sock");
    for args in [&["status"][..], &["volume", "list"], &["site", "list"]] {
        let output = farshore(&socket, args);
        assert_eq!(output.status.code(), Some(5));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(socket.to_str().unwrap()) && stderr.contains("systemctl start"), "{stderr}");
    }
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert_eq!(farshore(&socket, &["status"]).status.code(), Some(5), "left over from a crash");
}

#[test]
fn watching_prints_one_report_after_another() {
    let site = site();
    site.create("pg");
    let watch = ["status", "--watch", "--interval", "100ms", "--count", "3"];
    let lines = site.ok(&[&watch[..], &["-o", "json"]].concat());
    let reports: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(reports.len(), 3);
    assert!(reports.iter().all(|r| r["volumes"][0]["name"] == "pg"));
    let yaml = site.ok(&[&watch[..], &["-o", "yaml"]].concat());
    assert_eq!(yaml.matches("---\n").count(), 3);
    let table = site.ok(&watch);
    assert_eq!(table.matches("pg  10 GiB").count(), 3);
    assert!(!table.contains('\x1b'), "no escapes where nobody looks");
    site.fails(3, &["status", "--watch", "nope"]);
}

#[test]
fn a_watch_goes_on_through_a_restart() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("replicator.sock");
    let fake = Arc::new(FakeOperations::new("east", "n1"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = runtime.block_on(ControlServer::start(&socket, fake.clone())).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_farshore"))
        .env("FARSHORE_SOCKET", &socket)
        .args(["status", "--watch", "--interval", "100ms", "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut reports = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(reports.next().unwrap().unwrap().contains("\"n1\""));
    runtime.block_on(first.stop()).unwrap();
    assert!(notes.next().unwrap().unwrap().ends_with("; trying again"));
    // What answers afterwards is told from what answered before by its name.
    let second = Arc::new(FakeOperations::new("east", "n2"));
    let second = runtime.block_on(ControlServer::start(&socket, second)).unwrap();
    assert!(reports.any(|line| line.unwrap().contains("\"n2\"")));
    child.kill().unwrap();
    child.wait().unwrap();
    runtime.block_on(second.stop()).unwrap();
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for_without_end() {
    let site = site();
    site.fake.stall_next();
    let error = site.fails(5, &["volume", "list", "--timeout", "300ms"]);
    assert!(error.contains("the replicator's answer did not come") && error.contains("--timeout"), "{error}");
    site.ok(&["volume", "list"]);
}

#[test]
fn json_and_yaml_hold_the_same() {
    let site = site();
    site.create("pg");
    for args in [
        &["status"][..],
        &["volume", "list"],
        &["volume", "show", "pg"],
        &["site", "list"],
        &["failover", "--from", "east"],
    ] {
        let json = site.json(args);
        let yaml = site.ok(&[args, &["-o", "yaml"]].concat());
        let yaml: Value = serde_norway::from_str(&yaml).unwrap();
        // The epoch is another after a second failover.
        if args[0] != "failover" {
            assert_eq!(json, yaml, "{args:?}");
        }
        assert!(!site.ok(args).is_empty());
    }
}

#[test]
fn a_closed_pipe_is_no_panic() {
    use std::io::Read;
    let site = site();
    let mut child = Command::new(env!("CARGO_BIN_EXE_farshore"))
        .env("FARSHORE_SOCKET", &site.socket)
        .args(["status", "--watch", "--interval", "100ms"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""));
}

#[test]
fn sites_and_their_state() {
    let site = site();
    let table = site.ok(&["site", "list"]);
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[1].starts_with("east") && lines[1].contains("this node"), "{table}");
    assert!(lines[2].contains("away for 41.0 s (no answer to the handshake)"), "{table}");
    assert!(lines[3].starts_with("west") && lines[3].contains("connected") && lines[3].contains("11.20 ms"), "{table}");
}

#[test]
fn the_doctor_judges_and_names_remedies() {
    let site = site();
    let output = site.run(&["doctor", "--config", "/nonexistent/replicator.toml", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    let check = |name: &str| {
        let found = view["checks"].as_array().unwrap().iter().find(|c| c["name"] == name);
        found.unwrap_or_else(|| panic!("no check {name}: {view}")).clone()
    };
    assert_eq!(check("configuration")["verdict"], "fail");
    assert_eq!(check("replicator")["verdict"], "ok");
    assert_eq!(check("peer north/north-1")["verdict"], "fail");
    assert_eq!(check("peer west/west-1")["verdict"], "ok");
    for c in view["checks"].as_array().unwrap() {
        assert_eq!(c["verdict"] == "ok", c["remedy"] == "", "{c}");
    }

    let data_dir = site.dir.path().join("data");
    std::fs::create_dir(&data_dir).unwrap();
    let config = site.dir.path().join("replicator.toml");
    let text_of = format!(
        "[node]\nsite = \"east\"\nnode = \"n1\"\ndata_dir = {data_dir:?}\n[transport]\nlisten = \"127.0.0.1:0\"\n[http]\nlisten = \"127.0.0.1:0\"\n"
    );
    std::fs::write(&config, text_of).unwrap();
    let output = farshore(Path::new("/nonexistent.sock"), &["doctor", "--config", config.to_str().unwrap()]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "no replicator, no certificates");
    for part in ["configuration", "UDP port", "HTTP port", "node certificate", "disk space", "direct I/O"] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    assert!(table.contains("  do:  "), "{table}");
}

#[test]
fn certificates_are_made_shown_and_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, out) = (dir.path().join("ca"), dir.path().join("pki"));
    let (ca, out) = (ca.to_str().unwrap(), out.to_str().unwrap());
    let run = |args: &[&str]| farshore(Path::new("/nonexistent.sock"), args);
    let json = |args: &[&str]| -> Value {
        let output = run(&[args, &["-o", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let made = json(&["cert", "ca", "--domain", "storage.example", "--dir", ca]);
    assert_eq!(made["certificates"][0]["is_ca"], true);
    let issue = ["cert", "issue", "--ca", ca, "--site", "east", "--node", "n1", "--out", out];
    let first = json(&issue);
    assert_eq!(first["certificates"][0]["identity"], "spiffe://storage.example/site/east/node/n1");
    assert_eq!(run(&issue).status.code(), Some(6), "nothing is overwritten unasked");
    assert_ne!(
        json(&[&issue[..], &["--force"]].concat())["certificates"][0]["fingerprint"],
        first["certificates"][0]["fingerprint"]
    );

    let node_pem = format!("{out}/node.pem");
    let shown = text(&run(&["cert", "show", &node_pem]).stdout);
    assert!(shown.starts_with("certificate  spiffe://storage.example/site/east/node/n1\n"), "{shown}");
    assert!(shown.contains("days left)"), "{shown}");
    let before = json(&["cert", "show", &node_pem]);
    let after = json(&["cert", "rotate", "--ca", ca, "--out", out, "--days", "30"]);
    assert_ne!(before["certificates"][0]["fingerprint"], after["certificates"][0]["fingerprint"]);
    assert_eq!(before["certificates"][0]["identity"], after["certificates"][0]["identity"]);
    assert_eq!(json(&["cert", "rotate-ca", "--ca", ca, "begin"])["certificates"].as_array().unwrap().len(), 2);
    assert_eq!(run(&["cert", "rotate-ca", "--ca", ca, "begin"]).status.code(), Some(4), "one rotation at a time");

    assert_eq!(run(&["cert", "show", "/nonexistent.pem"]).status.code(), Some(3));
    assert_eq!(run(&["cert", "ca", "--domain", "No Domain", "--dir", ca]).status.code(), Some(2));
    let bad_name = ["cert", "issue", "--ca", ca, "--site", "East", "--node", "n1", "--out", out];
    assert_eq!(run(&bad_name).status.code(), Some(2));

    // The doctor reads what was issued.
    let config = dir.path().join("replicator.toml");
    let write = |site: &str| {
        let pki = format!("ca = \"{out}/ca.pem\"\ncert = \"{node_pem}\"\nkey = \"{out}/node.key\"\n");
        let data = format!("data_dir = {:?}\n", dir.path());
        std::fs::write(&config, format!("[node]\nsite = \"{site}\"\nnode = \"n1\"\n{data}[transport]\n{pki}")).unwrap();
    };
    let judged = || {
        let output = run(&["doctor", "--config", config.to_str().unwrap(), "-o", "json"]);
        let view: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = view["checks"].as_array().unwrap().clone();
        let verdict = |name: &str| checks.iter().find(|c| c["name"] == name).unwrap()["verdict"].clone();
        ["CA certificate", "node certificate", "node key"].map(|name| verdict(name).as_str().unwrap().to_string())
    };
    write("east");
    assert_eq!(judged(), ["ok", "warn", "ok"], "30 days less a moment are a reason to warn");
    write("west");
    assert_eq!(judged()[1], "fail", "it is another site's");
}

#[test]
fn inspection_needs_no_replicator_and_tells_damage_by_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| farshore(Path::new("/nonexistent.sock"), args);
    let path = dir.path().to_str().unwrap();
    let output = run(&["inspect", "journal", path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1, "{report}");
    assert!(text(&run(&["inspect", "journal", path]).stdout).contains("problems:"));
    let output = run(&["inspect", "store", path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["problems"][0].as_str().unwrap().contains("this is not a store"), "{report}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was written");
    for what in ["journal", "store"] {
        assert_eq!(run(&["inspect", what, "/nonexistent"]).status.code(), Some(3));
    }
}

/// A volume with something of everything.
fn degraded() -> api::VolumeStatus {
    let member = |id, site: &str, kind: api::MemberKind| api::MemberStatus {
        id,
        site: site.into(),
        node: format!("{site}-1"),
        kind: kind.into(),
        votes: 1,
        connected: true,
        state: "replicating".into(),
        progress: 1.0,
        ..Default::default()
    };
    let (data, witness) = (api::MemberKind::Data, api::MemberKind::Witness);
    api::VolumeStatus {
        id: "000102030405060708090a0b0c0d0e0f".into(),
        name: "pg-data".into(),
        size_bytes: 10 << 30,
        block_size_bytes: 4096,
        role: api::Role::Primary.into(),
        state: "degraded".into(),
        reason: "west is behind".into(),
        epoch: "7.0000abcd".into(),
        lineage: "g1.00010203".into(),
        config_version: "7.0000abcd/3".into(),
        policy: Some(api::Policy {
            quorum: "majority".into(),
            w: 2,
            min_remote: 1,
            local_required: false,
            durability: api::Durability::Write.into(),
            lease_ms: 4_000,
            on_quorum_loss: api::QuorumLoss::Fence.into(),
            fence_after_ms: 30_000,
            iops: 500,
            mode: api::Mode::Adaptive.into(),
            max_commit_latency_ms: 50,
            ..api::Policy::default()
        }),
        members: vec![
            api::MemberStatus {
                in_sync_set: true,
                here: true,
                durable_seq: 1_388,
                applied_seq: 1_380,
                ..member(1, "east", data)
            },
            api::MemberStatus {
                state: "catching-up".into(),
                durable_seq: 1_000,
                applied_seq: 1_000,
                lag_records: 388,
                lag_bytes: 12 << 20,
                lag_ms: 41_000,
                progress: 0.72,
                rtt_us: 11_200,
                ..member(2, "west", data)
            },
            api::MemberStatus {
                in_sync_set: true,
                durable_seq: 1_388,
                applied_seq: 1_388,
                rtt_us: 20_500,
                ..member(3, "north", data)
            },
            api::MemberStatus {
                connected: false,
                state: "unreachable".into(),
                reason: "no answer to the handshake".into(),
                silent_ms: 125_000,
                ..member(4, "tiny", witness)
            },
        ],
        primary_site: "east".into(),
        primary_node: "east-1".into(),
        appended_seq: 1_389,
        durable_seq: 1_388,
        acked_seq: 1_388,
        applied_seq: 1_380,
        checkpointed_seq: 1_200,
        lease: Some(api::LeaseStatus { valid: true, remaining_ms: 3_500 }),
        loss: vec![
            api::SiteLoss {
                site: "east".into(),
                exact: true,
                can_continue: true,
                text: "losing east: nothing lost".into(),
                ..Default::default()
            },
            api::SiteLoss {
                site: "west".into(),
                records: 388,
                bytes: 12 << 20,
                ms: 41_000,
                unknown_ms: 9_000,
                lost_unknown_ms: 9_000,
                promote_records: 388,
                promote_bytes: 12 << 20,
                promote_ms: 41_000,
                promote_sized: true,
                ..Default::default()
            },
        ],
        conditions: vec![api::Condition {
            name: "member-unreachable".into(),
            text: "tiny has not been heard of for 125 s".into(),
            remedy: "is its replicator running? farshore doctor".into(),
        }],
        attached: Some(api::Attachment {
            site: "east".into(),
            node: "east-1".into(),
            session: "f".repeat(32),
            device: Some(api::DeviceStatus {
                kind: api::DeviceKind::Nbd.into(),
                path: "/dev/nbd0".into(),
                socket: "/run/farshore/nbd.sock".into(),
                export: "pg-data".into(),
                read_only: false,
            }),
            ..Default::default()
        }),
        labels: [("pvc".to_string(), "prod/pg".to_string())].into(),
        allocated_bytes: 1 << 30,
        reporter_site: "east".into(),
        reporter_node: "east-1".into(),
        ..Default::default()
    }
}

/// Compares with a file in `tests/golden`; FARSHORE_BLESS=1 writes it anew.
fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; if that is meant, FARSHORE_BLESS=1", path.display());
}

#[test]
fn status_looks_as_it_should() {
    let site = site();
    site.fake.put(degraded());
    golden("status.txt", &site.ok(&["status"]));
    golden("status.json", &site.ok(&["status", "-o", "json"]));
    golden("status.yaml", &site.ok(&["status", "-o", "yaml"]));
    golden("volume-list.txt", &site.ok(&["volume", "list"]));
}
