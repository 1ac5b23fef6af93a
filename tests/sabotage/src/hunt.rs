//! Trying one run after another until a checker speaks.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farshore_core::sabotage::{Sabotage, choose};
use farshore_sim::layout;
use farshore_sim::run::{Outcome, run_from_outside};
use farshore_sim::stories::{self, STORY_SEEDS, Story};

use crate::cases::{Case, name};

/// The seeds of turmoil that `make test` runs.
pub const SEEDS: u64 = 2_000;

/// One run to be tried, by what replays it.
#[derive(Clone, Copy)]
pub enum Trial {
    Turmoil(u64),
    Story(&'static Story, u64),
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trial::Turmoil(seed) => write!(f, "seed {seed} of turmoil"),
            Trial::Story(story, seed) => write!(f, "seed {seed} of {}", story.name),
        }
    }
}

/// What a checker said, and in which run.
pub struct Catch {
    pub trial: Trial,
    pub checker: &'static str,
    pub text: String,
}

#[derive(Default)]
pub struct Hunt {
    pub catch: Option<Catch>,
    pub runs: u64,
    /// Runs that ended in a panic, or in a volume that stood still: noticed, and not counted as caught.
    pub panicked: u64,
    pub stuck: u64,
    pub took: Duration,
}

impl Hunt {
    pub fn line(&self, case: &Case) -> String {
        let name = name(case.sabotage);
        let (seconds, panicked, stuck) = (self.took.as_secs_f64(), self.panicked, self.stuck);
        let aside = format!("run {}, {panicked} panicked, {stuck} stuck, {seconds:.1} s", self.runs);
        match &self.catch {
            Some(c) => format!("{name}: caught by {} at {} ({aside}): {}", c.checker, c.trial, c.text),
            None => format!("{name}: MISSED ({aside})"),
        }
    }
}

pub fn closing_line(caught: usize, missed: usize) -> String {
    format!("sabotage: {caught} caught, {missed} missed")
}

/// Everything that `make test` runs, the case's own stories first.
fn trials(case: &Case) -> impl Iterator<Item = Trial> {
    let told = case.stories.iter().filter_map(|name| stories::named(name)).collect::<Vec<_>>();
    let own = (0..STORY_SEEDS).flat_map(move |seed| told.clone().into_iter().map(move |s| Trial::Story(s, seed)));
    own.chain((0..SEEDS).map(Trial::Turmoil))
}

/// One run with one decision broken, or none. `None`: it panicked.
pub fn broken_run(sabotage: Option<Sabotage>, trial: Trial, verbose: bool) -> Option<Outcome> {
    choose(sabotage);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| match trial {
        Trial::Turmoil(seed) => run_from_outside(seed, layout::drawn(seed), verbose),
        Trial::Story(story, seed) => story.tell(seed, verbose, false),
    }));
    choose(None);
    outcome.ok()
}

pub fn hunt(case: &Case, limit: u64) -> Hunt {
    let began = Instant::now();
    let mut hunt = Hunt::default();
    for trial in trials(case).take(limit as usize) {
        hunt.runs += 1;
        match broken_run(Some(case.sabotage), trial, false).map(|o| o.violation) {
            None => hunt.panicked += 1,
            Some(None) => {}
            Some(Some(v)) if v.checker == "liveness" => hunt.stuck += 1,
            Some(Some(v)) => {
                hunt.catch = Some(Catch { trial, checker: v.checker, text: v.text });
                break;
            }
        }
    }
    hunt.took = began.elapsed();
    hunt
}

/// In how many of the first `runs` trials a checker speaks.
pub fn rate(case: &Case, runs: u64) -> usize {
    let caught = |trial: &Trial| {
        let violation = broken_run(Some(case.sabotage), *trial, false).and_then(|o| o.violation);
        violation.is_some_and(|v| v.checker != "liveness")
    };
    trials(case).take(runs as usize).filter(caught).count()
}

/// Hunts for all of them, several at a time; tells `done` of each as it ends.
pub fn hunt_all(cases: &[&Case], threads: usize, limit: u64, done: impl Fn(&Case, &Hunt) + Sync) -> (usize, usize) {
    let next = AtomicUsize::new(0);
    let (caught, told) = (AtomicUsize::new(0), Mutex::new(()));
    // What panics is counted; its message would drown the rest.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let hunt = hunt(case, limit);
                    caught.fetch_add(usize::from(hunt.catch.is_some()), Ordering::Relaxed);
                    let _one = told.lock();
                    done(case, &hunt);
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let caught = caught.into_inner();
    (caught, cases.len() - caught)
}
