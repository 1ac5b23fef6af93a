//! Many seeds on several threads, and the sum of what they did. What a seed does depends on nothing but the seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::layout::{self, Layout};
use crate::rules::{CHANGES, EDGES, RECOVERY, REFUSALS};
use crate::run::{Outcome, run};
use crate::world::Tally;

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What a seed failed with, and how to see it again.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub layout: &'static str,
    pub text: String,
}

impl Failure {
    pub fn replay(&self) -> String {
        format!("cargo run --release -p farshore-sim -- --seed {} --layout {}", self.seed, self.layout)
    }
}

/// One seed; a panic of the core or of the simulator is a failure like any other.
pub fn judged(seed: u64, layout: &'static Layout, verbose: bool) -> Result<Outcome, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with(|text| *text.borrow_mut() = info.to_string().replace('\n', " "));
            if std::thread::current().name() != Some(SWEEPER) {
                before(info);
            }
        }));
    });
    let fail = |text| Failure { seed, layout: layout.name, text };
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(seed, layout, verbose)));
    let mut outcome = outcome.map_err(|_| fail(PANIC.with(|text| text.take())))?;
    match outcome.violation.take() {
        Some(violation) => Err(fail(format!("{}: {}", violation.checker, violation.text))),
        None => Ok(outcome),
    }
}

const SWEEPER: &str = "sweeper";

/// Runs the seeds on `jobs` threads; the layout is drawn by the seed unless one is named. Ends early at a failure
/// unless told to go on.
pub fn sweep(seeds: Range<u64>, layout: Option<&'static Layout>, jobs: usize, keep_going: bool) -> Sum {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let work = || {
                let mut sum = Sum::default();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    sum.add(judged(seed, layout.unwrap_or_else(|| layout::drawn(seed)), false));
                    if !sum.failed.is_empty() && !keep_going {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                total.lock().unwrap_or_else(PoisonError::into_inner).join(sum);
            };
            let thread = std::thread::Builder::new().name(SWEEPER.to_string());
            thread.spawn_scoped(scope, work).expect("a thread can be started");
        }
    });
    let mut sum = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    sum.failed.sort_by_key(|f| f.seed);
    sum
}

#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub failed: Vec<Failure>,
    pub acked: u64,
    pub reads: u64,
    pub messages: u64,
    pub events: u64,
    pub virtual_us: u64,
    pub edges: BTreeMap<&'static str, u64>,
    pub refusals: BTreeMap<&'static str, u64>,
    /// What operators asked for, and what of it was done.
    pub asked: BTreeMap<&'static str, u64>,
    pub done: BTreeMap<&'static str, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    pub layouts: BTreeMap<&'static str, u64>,
}

impl Tally {
    pub fn join(&mut self, from: &Tally) {
        join(&mut self.edges, &from.edges);
        join(&mut self.refusals, &from.refusals);
        join(&mut self.asked, &from.asked);
        join(&mut self.done, &from.done);
        join(&mut self.faults, &from.faults);
        self.messages += from.messages;
        self.events += from.events;
    }
}

fn join(into: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>) {
    for (name, n) in from {
        *into.entry(name).or_default() += n;
    }
}

impl Sum {
    pub fn add(&mut self, outcome: Result<Outcome, Failure>) {
        self.seeds += 1;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(failure) => return self.failed.push(failure),
        };
        self.acked += outcome.acked_writes;
        self.reads += outcome.reads;
        self.messages += outcome.tally.messages;
        self.events += outcome.tally.events;
        self.virtual_us += outcome.virtual_us;
        join(&mut self.edges, &outcome.tally.edges);
        join(&mut self.refusals, &outcome.tally.refusals);
        join(&mut self.asked, &outcome.tally.asked);
        join(&mut self.done, &outcome.tally.done);
        join(&mut self.faults, &outcome.tally.faults);
        *self.layouts.entry(outcome.layout).or_default() += 1;
    }

    fn join(&mut self, other: Sum) {
        self.seeds += other.seeds;
        self.failed.extend(other.failed);
        self.acked += other.acked;
        self.reads += other.reads;
        self.messages += other.messages;
        self.events += other.events;
        self.virtual_us += other.virtual_us;
        join(&mut self.edges, &other.edges);
        join(&mut self.refusals, &other.refusals);
        join(&mut self.asked, &other.asked);
        join(&mut self.done, &other.done);
        join(&mut self.faults, &other.faults);
        join(&mut self.layouts, &other.layouts);
    }

    pub fn faults(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Epochs that opened.
    pub fn promotions(&self) -> u64 {
        self.edges.get("epoch-open").copied().unwrap_or(0)
    }

    /// Changes of the configuration that took effect: those ordered, and joiners that entered the sync set.
    pub fn changes(&self) -> u64 {
        let ordered: u64 = CHANGES.iter().filter_map(|name| self.done.get(name)).sum();
        ordered + self.edges.get("sync-set-grow").copied().unwrap_or(0)
    }

    /// Names of the core's edges and refusals that no seed reached.
    pub fn never_reached(&self) -> Vec<&'static str> {
        let reached: BTreeSet<&str> = self.edges.keys().chain(self.refusals.keys()).copied().collect();
        let all: BTreeSet<&'static str> = EDGES.iter().chain(REFUSALS).chain(RECOVERY).copied().collect();
        all.into_iter().filter(|name| !reached.contains(name)).collect()
    }

    pub fn print(&self, seconds: f64) {
        let seeds = self.seeds.max(1) as f64;
        let mean = |n: u64| n as f64 / seeds;
        println!(
            "a seed, on average: {:.0} events, {:.0} messages, {:.1} faults, {:.1} promotions, {:.1} configuration \
             changes, {:.0} acknowledged writes, {:.0} reads, {:.1} virtual seconds",
            mean(self.events),
            mean(self.messages),
            mean(self.faults()),
            mean(self.promotions()),
            mean(self.changes()),
            mean(self.acked),
            mean(self.reads),
            self.virtual_us as f64 / 1e6 / seeds,
        );
        let lists = [
            ("layouts", &self.layouts),
            ("faults", &self.faults),
            ("edges reached", &self.edges),
            ("answers given", &self.refusals),
            ("asked for", &self.asked),
            ("carried out", &self.done),
        ];
        for (title, counts) in lists {
            let list: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            println!("{title}: {}", list.join(", "));
        }
        let never = self.never_reached();
        println!("never reached ({}): {}", never.len(), if never.is_empty() { "-".into() } else { never.join(", ") });
        for failure in &self.failed {
            println!("FAILED seed {} layout {}: {}", failure.seed, failure.layout, failure.text);
            println!("  replay: {}", failure.replay());
        }
        println!("sim: {} seeds, {} violations, {:.0} seeds/s", self.seeds, self.failed.len(), seeds / seconds);
    }
}
