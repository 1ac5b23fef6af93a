//! Seeds over all layouts: safety under turmoil, then convergence. A failure prints the command that replays it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use farshore_sim::layout::LAYOUTS;
use farshore_sim::rules::{EDGES, REFUSALS};
use farshore_sim::run::{finish, run};
use farshore_sim::stories::{STORIES, STORY_SEEDS};
use farshore_sim::sweep::sweep;
use farshore_sim::world::World;

const SEEDS: u64 = 2000;

#[test]
fn every_seed_is_safe_and_converges() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let sum = sweep(0..SEEDS, None, jobs, true);
    let failed: Vec<String> = sum
        .failed
        .iter()
        .map(|f| format!("seed {} layout {}: {}\n  replay: {}", f.seed, f.layout, f.text, f.replay()))
        .collect();
    assert!(failed.is_empty(), "{} of {} seeds failed:\n{}", failed.len(), sum.seeds, failed.join("\n"));
    assert_eq!(sum.seeds, SEEDS);
    // A simulator in which nothing happens proves nothing.
    assert!(sum.events >= SEEDS * 2000, "{} events", sum.events);
    assert!(sum.faults() >= SEEDS * 5, "{} faults", sum.faults());
    assert!(sum.promotions() >= SEEDS * 2, "{} promotions", sum.promotions());
    assert!(sum.changes() >= SEEDS, "{} configuration changes", sum.changes());
    assert!(sum.acked >= SEEDS * 100, "{} acknowledged writes", sum.acked);
    assert_eq!(sum.layouts.len(), LAYOUTS.len(), "{:?}", sum.layouts);
}

/// Told of a core that is right, every story ends well. What they are for is in the sabotage suite.
#[test]
fn every_story_ends_well() {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let tell = || {
        while let Some(story) = STORIES.get(next.fetch_add(1, Ordering::Relaxed)) {
            for seed in 0..STORY_SEEDS {
                if let Some(v) = story.tell(seed, false, true).violation {
                    let text = format!("seed {seed} of {}: {}: {}", story.name, v.checker, v.text);
                    failed.lock().expect("a story panicked").push(text);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        (0..std::thread::available_parallelism().map_or(1, usize::from)).for_each(|_| drop(scope.spawn(tell)));
    });
    let failed = failed.into_inner().expect("a story panicked");
    assert!(failed.is_empty(), "{} stories ended badly:\n{}", failed.len(), failed.join("\n"));
}

/// A holder without its peer fills its journal with as much as it may have un-acked; then it falls, and the next epoch
/// begins behind all of that.
#[test]
fn an_epoch_begins_behind_all_that_may_be_unacked() {
    let layout = LAYOUTS.iter().find(|l| l.name == "pair-witness").expect("it is listed");
    for seed in 0..20 {
        let mut world = World::with(seed, layout, false, |knobs| {
            knobs.clients = 6;
            knobs.think_us = 4_000;
            knobs.in_flight = 200;
        });
        let holder = world.begin_work();
        let other = world.other_than(&[holder]);
        world.part(&[other]);
        world.pause(2_000_000, 3_000_000);
        world.fall(holder);
        let violation = finish(world).violation;
        assert!(violation.is_none(), "seed {seed}: {violation:?}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for layout in LAYOUTS {
        let (a, b) = (run(7, layout, false), run(7, layout, false));
        assert_eq!(format!("{:?}", a.tally), format!("{:?}", b.tally), "{}", layout.name);
        assert_eq!((a.acked_writes, a.reads, a.virtual_us), (b.acked_writes, b.reads, b.virtual_us));
    }
}

/// The lists of what can be reached are the core's own.
#[test]
fn every_rule_of_the_core_is_listed() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../replicator/core/src");
    let mut text = String::new();
    let mut dirs = vec![core];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the core's sources can be read") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                text += &std::fs::read_to_string(&path).expect("a source file");
            }
        }
    }
    let after = |marker: &str| -> BTreeSet<&str> {
        let quoted = text.split(marker).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
        quoted.filter_map(|rest| rest.split('"').next()).collect()
    };
    assert_eq!(after(" rule: "), EDGES.iter().copied().collect());
    assert_eq!(after("Refusal::new("), REFUSALS.iter().copied().collect());
}
