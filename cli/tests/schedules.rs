//! `farshore snapshot schedule …` against a control server with the fake engine.

mod fake_site;

use fake_site::{golden, site};

const HOURLY: [&str; 9] =
    ["snapshot", "schedule", "create", "pg", "hourly", "--every=1h", "--keep=24", "--keep-for=7d", "--label=app=db"];

#[test]
fn schedules_from_create_to_delete() {
    let site = site();
    let made = site.json(&HOURLY);
    assert_eq!((&made["name"], &made["volume"], &made["state"]), (&"hourly".into(), &"pg".into(), &"waiting".into()));
    let (interval, kept_for) = (made["interval_ms"].as_u64(), made["keep_for_ms"].as_u64());
    assert_eq!((interval, made["keep"].as_u64(), kept_for), (Some(3_600_000), Some(24), Some(604_800_000)));
    assert_eq!((&made["pattern"], &made["labels"]["app"]), (&"{schedule}-{time}".into(), &"db".into()));
    assert_eq!(site.json(&HOURLY)["id"], made["id"], "the same again is a no-op");
    let error = site.fails(6, &["snapshot", "schedule", "create", "pg", "hourly", "--every", "2h", "--keep", "24"]);
    assert!(error.contains("another one") && error.contains("schedule delete pg hourly"), "{error}");

    site.ok(&["snapshot", "schedule", "create", "wal", "daily", "--every", "1d", "--keep", "7"]);
    let count = |args: &[&str]| site.json(args)["schedules"].as_array().unwrap().len();
    assert_eq!(count(&["snapshot", "schedule", "list"]), 2);
    assert_eq!(count(&["snapshot", "schedule", "list", "wal"]), 1);
    site.fails(3, &["snapshot", "schedule", "list", "nothing"]);
    assert_eq!(site.json(&["snapshot", "schedule", "show", "pg", "hourly"])["id"], made["id"]);
    site.fails(3, &["snapshot", "schedule", "show", "pg", "daily"]);

    let error = site.fails(4, &["snapshot", "schedule", "delete", "pg", "hourly"]);
    assert!(error.contains("--yes"), "{error}");
    let said = site.ok(&["snapshot", "schedule", "delete", "pg", "hourly", "--yes"]);
    assert_eq!(said, "schedule hourly of pg is deleted; its snapshots stay\n");
    let error = site.fails(3, &["snapshot", "schedule", "delete", "pg", "hourly", "--yes"]);
    assert!(error.contains("schedule list pg"), "{error}");
}

#[test]
fn what_can_not_be_scheduled_is_refused_with_what_can() {
    let site = site();
    let create = ["snapshot", "schedule", "create", "pg"];
    for (args, part) in [
        (&["No", "--every=1h", "--keep=1"][..], "schedule's name"),
        (&["a", "--every=100ms", "--keep=1"], "from 1 s"),
        (&["a", "--every=1", "--keep=1"], "write for example"),
        (&["a", "--every=1h"], "--keep"),
        (&["a", "--every=1h", "--keep=0"], "for ever"),
        (&["a", "--every=1h", "--keep-for=1min"], "at least one interval"),
        (&["a", "--every=1h", "--keep=1", "--pattern={schedule}"], "{time}"),
        (&["a", "--every=1h", "--keep=1", "--label=farshore.x=y"], "replicator's own"),
    ] {
        let error = site.fails(2, &[&create[..], args].concat());
        assert!(error.contains(part), "{args:?}: {part:?} is not in {error}");
    }
    site.fails(3, &["snapshot", "schedule", "create", "nothing", "a", "--every=1h", "--keep=1"]);
    let error =
        site.fails(2, &["volume", "create", "x", "--size=1MiB", "--members=east", "--label=farshore.schedule.a=1"]);
    assert!(error.contains("replicator's own"), "{error}");
}

#[test]
fn what_people_see_looks_as_it_did() {
    let site = site();
    let none = "no schedules; make one with: farshore snapshot schedule create\n";
    assert_eq!(site.ok(&["snapshot", "schedule", "list"]), none);
    golden("schedule-show.txt", &site.ok(&HOURLY));
    site.ok(&["snapshot", "schedule", "create", "wal", "daily", "--every", "1d", "--keep-for", "30d"]);
    golden("schedule-list.txt", &site.ok(&["snapshot", "schedule", "list"]));
    let yaml = site.ok(&["snapshot", "schedule", "list", "-o", "yaml"]);
    let yaml: serde_json::Value = serde_norway::from_str(&yaml).unwrap();
    assert_eq!(site.json(&["snapshot", "schedule", "list"]), yaml);
}
