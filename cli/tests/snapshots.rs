//! `farshore snapshot …` against a control server with the fake engine: every verb, every format, errors.

mod fake_site;

use std::process::Stdio;

use fake_site::{golden, site, text};
use serde_json::Value;

#[test]
fn snapshots_from_create_to_delete() {
    let site = site();
    let made = site.json(&["snapshot", "create", "pg", "--name", "before", "--label", "app=db"]);
    let made = &made["snapshots"][0];
    assert_eq!((&made["name"], &made["volume"], &made["state"]), (&"before".into(), &"pg".into(), &"ready".into()));
    assert_eq!(made["labels"]["app"], "db");
    let again = site.json(&["snapshot", "create", "pg", "--name", "before", "--label", "app=db"]);
    assert_eq!(again["snapshots"][0]["id"], made["id"], "the same again is a no-op");
    let error = site.fails(6, &["snapshot", "create", "pg", "--name", "before"]);
    assert!(error.contains("pg@before exists"), "{error}");
    let drawn = site.json(&["snapshot", "create", "pg"]);
    assert!(drawn["snapshots"][0]["name"].as_str().unwrap().starts_with("20"), "{drawn}");

    assert_eq!(site.json(&["snapshot", "list"])["snapshots"].as_array().unwrap().len(), 2);
    assert_eq!(site.json(&["snapshot", "list", "wal"])["snapshots"].as_array().unwrap().len(), 0);
    site.fails(3, &["snapshot", "list", "nothing"]);
    let id = made["id"].as_str().unwrap();
    assert_eq!(site.json(&["snapshot", "show", id])["name"], "before", "an id names it too");
    assert!(site.ok(&["volume", "show", "pg"]).contains("  snapshots 2\n"));

    let error = site.fails(4, &["snapshot", "delete", "pg@before"]);
    assert!(error.contains("pg@before would be deleted") && error.contains("--yes"), "{error}");
    site.ok(&["snapshot", "update", "pg@before", "--hold", "backup", "--unlabel", "app", "--label", "tier=gold"]);
    let error = site.fails(4, &["snapshot", "delete", "pg@before", "--yes"]);
    assert!(error.contains("held by backup") && error.contains("--release backup"), "{error}");
    let released = site.json(&["snapshot", "update", "pg@before", "--release", "backup"]);
    assert_eq!((released["held_by"].as_array().unwrap().len(), &released["labels"]["tier"]), (0, &"gold".into()));
    assert!(released["labels"].get("app").is_none());
    assert_eq!(site.ok(&["snapshot", "delete", "pg@before", "--yes"]), "pg@before is deleted\n");
    site.fails(3, &["snapshot", "show", "pg@before"]);
}

#[test]
fn wrong_names_say_what_is_right() {
    let site = site();
    site.ok(&["snapshot", "create", "pg", "--name", "a"]);
    for (args, part) in [
        (&["snapshot", "show", "pg"][..], "write VOLUME@NAME"),
        (&["snapshot", "show", "pg@No"], "can't be a snapshot's name"),
        (&["snapshot", "create", "pg", "--name", "a b"], "can't be a snapshot's name"),
        (&["snapshot", "create", "pg", "pg"], "named twice"),
        (&["snapshot", "create", "pg", "--label", "farshore.cut=x"], "the replicator's own"),
        (&["snapshot", "create", "pg", "--label", "x"], "write key=value"),
        (&["snapshot", "update", "pg@a"], "nothing to change"),
        (&["snapshot", "update", "pg@a", "--hold", "x", "--release", "x"], "at once"),
        (&["snapshot", "export", "pg@a", "--resume"], "a pipe can't be gone on with"),
    ] {
        let error = site.fails(2, args);
        assert!(error.contains(part), "{args:?}: {part:?} is not in {error}");
    }
    site.fails(3, &["snapshot", "show", "pg@nothing"]);
    site.fails(3, &["snapshot", "create", "nothing"]);
    site.fails(2, &["snapshot", "create"]);
}

#[test]
fn several_volumes_are_cut_at_one_moment() {
    let site = site();
    let cut = site.json(&["snapshot", "create", "pg", "wal", "--name", "both"]);
    let parts = cut["snapshots"].as_array().unwrap();
    assert_eq!(parts.len(), 2);
    assert!(parts[0]["group_id"] == parts[1]["group_id"] && parts[0]["group_id"] != "", "{cut}");
    assert_eq!(cut["held_us"], 1250);
    let error = site.fails(6, &["snapshot", "create", "pg", "--name", "both", "--label", "a=b"]);
    assert!(error.contains("pg@both"), "{error}");
}

#[test]
fn clones_take_after_their_source() {
    let site = site();
    site.ok(&["snapshot", "create", "pg", "--name", "s1"]);
    let clone = site.json(&["snapshot", "clone", "pg@s1", "pg-test"]);
    assert_eq!((&clone["source"], clone["size_bytes"].as_u64()), (&"pg@s1".into(), Some(1 << 30)));
    assert_eq!(clone["policy"]["quorum"], "all-remotes");
    assert_eq!(clone["members"].as_array().unwrap().len(), 3);
    assert_eq!(site.json(&["snapshot", "show", "pg@s1"])["clones"][0], "pg-test");
    assert!(site.ok(&["volume", "show", "pg-test"]).contains("  source    pg@s1\n"));
    let larger = site.json(&["snapshot", "clone", "pg@s1", "larger", "--size", "2GiB", "--members", "east,west"]);
    assert_eq!((larger["size_bytes"].as_u64(), larger["members"].as_array().unwrap().len()), (Some(2 << 30), 2));
    assert_eq!(site.json(&["snapshot", "clone", "pg", "now"])["source"], "pg@clone-now");
    let error = site.fails(2, &["snapshot", "clone", "pg@s1", "less", "--size", "512MiB"]);
    assert!(error.contains("can't have 536870912 bytes"), "{error}");
    site.fails(3, &["snapshot", "clone", "pg@nothing", "none"]);
}

#[test]
fn a_restore_wants_yes_and_no_device() {
    let site = site();
    site.ok(&["snapshot", "create", "pg", "--name", "s1"]);
    let error = site.fails(4, &["snapshot", "restore", "pg@s1"]);
    assert!(error.contains("no longer what it holds now"), "{error}");
    site.ok(&["volume", "attach", "pg"]);
    let error = site.fails(4, &["snapshot", "restore", "pg@s1", "--yes"]);
    assert!(error.contains("detach it first"), "{error}");
    site.ok(&["volume", "detach", "pg"]);
    assert_eq!(site.ok(&["snapshot", "restore", "pg@s1", "--yes"]), "pg holds what pg@s1 held; 32 KiB were put back\n");
}

#[test]
fn a_deleted_volumes_snapshots_stay() {
    let site = site();
    site.ok(&["snapshot", "create", "pg", "--name", "s1"]);
    let id = site.json(&["snapshot", "show", "pg@s1"])["id"].as_str().unwrap().to_string();
    site.ok(&["volume", "delete", "pg", "--yes"]);
    site.fails(3, &["volume", "show", "pg"]);
    let listed = site.json(&["snapshot", "list", "pg"]);
    assert_eq!((&listed["snapshots"][0]["id"], &listed["snapshots"][0]["volume_deleted"]), (&id.into(), &true.into()));
    assert!(site.ok(&["snapshot", "list"]).contains("ready, volume deleted"));
    assert!(site.ok(&["snapshot", "show", "pg@s1"]).starts_with("pg@s1  ready, volume deleted\n"));
    let error = site.fails(4, &["snapshot", "restore", "pg@s1", "--yes"]);
    assert!(error.contains("was deleted") && error.contains("snapshot clone"), "{error}");
    let clone = site.json(&["snapshot", "clone", "pg@s1", "again"]);
    assert_eq!((&clone["source"], clone["members"].as_array().unwrap().len()), (&"pg@s1".into(), 3));
    site.ok(&["snapshot", "delete", "pg@s1", "--yes"]);
    site.fails(3, &["snapshot", "list", "pg"]);
}

#[test]
fn what_snapshots_may_hold_is_bounded() {
    let site = site();
    let limited = site.json(&["snapshot", "limit", "pg", "--bytes", "100MiB"]);
    assert_eq!((limited["snapshot_limit_bytes"].as_u64(), limited["name"].as_str()), (Some(100 << 20), Some("pg")));
    assert!(site.ok(&["volume", "show", "pg"]).contains("  snapshots 0, which hold 12 MiB of at most 100 MiB\n"));
    assert!(
        site.json(&["snapshot", "limit", "pg", "--percent", "50"])["snapshot_limit_bytes"].as_u64() > Some(500 << 20)
    );
    assert_eq!(site.json(&["snapshot", "limit", "pg", "--none"])["snapshot_limit_bytes"], 0);
    for bad in [&["pg"][..], &["pg", "--bytes=1MiB", "--percent=5"], &["pg", "--percent=1001"]] {
        site.fails(2, &[&["snapshot", "limit"], bad].concat());
    }
    site.fails(3, &["snapshot", "limit", "nothing", "--none"]);
}

#[test]
fn a_difference_is_of_one_volume() {
    let site = site();
    for name in ["s1", "s2"] {
        site.ok(&["snapshot", "create", "pg", "--name", name]);
    }
    site.ok(&["snapshot", "create", "wal", "--name", "w1"]);
    let all = site.json(&["snapshot", "diff", "pg@s2"]);
    assert_eq!((all["ranges"].as_array().unwrap().len(), all["data_bytes"].as_u64()), (2, Some(8192)));
    let since = site.json(&["snapshot", "diff", "pg@s2", "--since", "s1"]);
    assert_eq!(since["ranges"][0]["offset_bytes"], 65_536);
    assert_eq!(since["ranges"].as_array().unwrap().len(), 1);
    let error = site.fails(2, &["snapshot", "diff", "pg@s2", "--since", "wal@w1"]);
    assert!(error.contains("of two volumes"), "{error}");
}

#[test]
fn exports_are_imported_and_nothing_else_is() {
    let site = site();
    for name in ["s1", "s2", "s3"] {
        site.ok(&["snapshot", "create", "pg", "--name", name]);
    }
    let (whole, copy) = (site.path("s3.fsx"), site.path("copy.fsx"));
    let done = site.json(&["snapshot", "export", "pg@s3", "--to", &whole]);
    assert_eq!((done["data_bytes"].as_u64(), done["resumed_bytes"].as_u64()), (Some(12288), Some(0)));
    assert_eq!(site.json(&["snapshot", "show", "pg@s3"])["held_by"].as_array().unwrap().len(), 0);
    let error = site.fails(6, &["snapshot", "export", "pg@s3", "--to", &whole]);
    assert!(error.contains("--resume") && error.contains("--force"), "{error}");
    let error = site.fails(4, &["snapshot", "export", "pg@s3", "--to", &whole, "--resume"]);
    assert!(error.contains("whole already"), "{error}");
    let error = site.fails(4, &["snapshot", "export", "pg@s2", "--to", &whole, "--resume"]);
    assert!(error.contains("is an export of pg@s3, not of what was asked for"), "{error}");

    // The same bytes through a pipe, and when it was cut, wherever that was.
    let piped = site.run(&["snapshot", "export", "pg@s3"]);
    let bytes = std::fs::read(&whole).unwrap();
    assert!(piped.status.success() && piped.stdout == bytes, "{}", text(&piped.stderr));
    for len in [0, 5, bytes.len() / 3, bytes.len() / 2, bytes.len() - 3] {
        std::fs::write(&copy, &bytes[..len]).unwrap();
        let error = site.fails(4, &["snapshot", "import", "restored", "--from", &copy, "--members", "east,west,north"]);
        assert!(error.contains("it is cut") && error.contains("--resume"), "{error}");
        if len < 20 {
            site.fails(3, &["volume", "show", "restored"]);
        }
        site.ok(&["snapshot", "export", "pg@s3", "--to", &copy, "--resume"]);
        assert!(std::fs::read(&copy).unwrap() == bytes, "cut at {len}");
    }

    let imported = site.json(&["snapshot", "import", "restored", "--from", &whole, "--members", "east,west,north"]);
    assert_eq!((&imported["snapshot"]["name"], imported["written_bytes"].as_u64()), (&"s3".into(), Some(12288)));
    assert_eq!(site.json(&["volume", "show", "restored"])["size_bytes"], 1u64 << 30);
    let ranges = |snapshot: &str| site.json(&["snapshot", "diff", snapshot])["ranges"].clone();
    assert_eq!(ranges("restored@s3"), ranges("pg@s3"));
    let mut import = site.command(&["snapshot", "import", "wal", "--name", "piped"]);
    let mut import = import.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut import.stdin.take().unwrap(), &bytes).unwrap();
    let output = import.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "wal@piped holds what pg@s3 held: 12 KiB written\n");

    let refused = |change: &dyn Fn(&mut Vec<u8>), part: &str| {
        let mut bad = bytes.clone();
        change(&mut bad);
        std::fs::write(&copy, &bad).unwrap();
        let error = site.fails(4, &["snapshot", "import", "wal", "--from", &copy]);
        assert!(error.contains(part), "{part:?} is not in {error}");
    };
    refused(&|b| b[8] = 9, "its format is version 9, and this program knows versions up to 1");
    refused(&|b| b[0] = b'x', "it is no export of Farshore");
    refused(&|b| b[bytes.len() / 2] ^= 4, "it is damaged at byte");
    refused(&|b| b.push(0), "it goes on after its end");
    site.ok(&["volume", "create", "small", "--size", "1MiB", "--members", "east"]);
    let error = site.fails(4, &["snapshot", "import", "small", "--from", &whole]);
    assert!(error.contains("has 1048576 bytes") && error.contains("volume resize small"), "{error}");
    let changes = site.path("s3-s1.fsx");
    assert_eq!(site.json(&["snapshot", "export", "pg@s3", "--since", "s1", "--to", &changes])["data_bytes"], 8192);
    let error = site.fails(4, &["snapshot", "import", "more", "--from", &changes, "--members", "east"]);
    assert!(error.contains("only what changed since s1"), "{error}");
    site.fails(3, &["snapshot", "import", "wal", "--from", &site.path("nothing")]);
}

#[test]
fn json_and_yaml_hold_the_same() {
    let site = site();
    site.ok(&["snapshot", "create", "pg", "--name", "s1"]);
    for args in [
        &["snapshot", "list"][..],
        &["snapshot", "show", "pg@s1"],
        &["snapshot", "diff", "pg@s1"],
        &["snapshot", "create", "pg", "--name", "s1"],
    ] {
        let yaml = site.ok(&[args, &["-o", "yaml"]].concat());
        assert_eq!(site.json(args), serde_norway::from_str::<Value>(&yaml).unwrap(), "{args:?}");
        assert!(!site.ok(args).is_empty());
    }
}

#[test]
fn what_people_see_looks_as_it_did() {
    let site = site();
    assert_eq!(site.ok(&["snapshot", "list"]), "no snapshots; make one with: farshore snapshot create\n");
    site.ok(&["snapshot", "create", "pg", "--name", "nightly", "--label", "app=db"]);
    golden("snapshot-group.txt", &site.ok(&["snapshot", "create", "pg", "wal", "--name", "both"]));
    site.ok(&["snapshot", "update", "pg@nightly", "--hold", "backup"]);
    golden("snapshot-list.txt", &site.ok(&["snapshot", "list"]));
    golden("snapshot-show.txt", &site.ok(&["snapshot", "show", "pg@nightly"]));
    golden("snapshot-diff.txt", &site.ok(&["snapshot", "diff", "pg@both", "--since", "nightly"]));
}
