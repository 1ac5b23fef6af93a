//! Stories: the histories by which protocols of this kind have lost data, told with the moments drawn by the seed.
//!
//! The turmoil of a seed finds these too, if given long enough; a story goes straight there, in a few milliseconds. Each
//! is harmless as long as the core is right, and is run for that; and each is where a core that is broken on purpose
//! shows it.

use crate::knobs::Knobs;
use crate::layout::{self, Layout};
use crate::network::Weather;
use crate::pairs::Pair;
use crate::plots::{changes, cuts, diskless, disks, distances, epochs, forces, places, reads};
use crate::run::{Outcome, finish, finish_both};
use crate::world::World;

pub struct Story {
    pub name: &'static str,
    layouts: &'static [&'static str],
    telling: Telling,
}

enum Telling {
    Of(fn(&mut World)),
    /// Of two volumes.
    OfTwo(fn(&mut Pair)),
}

const fn story(name: &'static str, layouts: &'static [&'static str], tell: fn(&mut World)) -> Story {
    Story { name, layouts, telling: Telling::Of(tell) }
}

const fn of_two(name: &'static str, layouts: &'static [&'static str], tell: fn(&mut Pair)) -> Story {
    Story { name, layouts, telling: Telling::OfTwo(tell) }
}

const DISKLESS: &[&str] = &["diskless-3", "diskless-away", "diskless-pair-witness"];
const COPIES_3: &[&str] = &["majority-3", "nearest-remote-3", "all-remotes-3"];

pub const STORIES: &[Story] = &[
    story("relay", COPIES_3, epochs::relay),
    story("figure-eight", &["majority-3"], epochs::figure_eight),
    story("long-tail", &["majority-3"], epochs::long_tail),
    story("between", &["majority-3"], epochs::between),
    story("hearsay", &["majority-3"], epochs::hearsay),
    story("duel", &["majority-3"], epochs::duel),
    story("late", &["majority-3"], epochs::late),
    story("echo", &["majority-3"], epochs::echo),
    story("split", &["majority-3", "flush-3"], reads::split),
    story("alone", &["majority-3"], reads::alone),
    story("sleep", &["majority-3"], reads::sleep),
    story("slow-store", &["majority-3"], reads::slow_store),
    story("handover", &["majority-3", "two-in-one-site"], reads::handover),
    story("farewell", &["majority-3", "two-in-one-site"], reads::farewell),
    story("late-fence", &["majority-3", "two-in-one-site"], reads::late_fence),
    story("neighbour", &["flush-two-in-one-site"], reads::neighbour),
    story("class", &["flush-neighbours-witness"], reads::class),
    story("shrink", &["pair-witness", "majority-3"], changes::shrink),
    story("stuck", &["majority-3", "pair-witness"], changes::stuck),
    story("grow", &["pair-witness"], changes::grow),
    story("taken-out", &["pair-witness"], changes::taken_out),
    story("old-site-returns", &["majority-3"], forces::old_site_returns),
    story("fork-behind", &["majority-3"], forces::behind),
    story("fork-late", &["majority-3"], forces::late),
    story("fork-written", &["majority-3"], forces::written),
    story("fork-cut-short", &["heavy-pair-witness"], forces::cut_short),
    story("fork-of-fenced", &["majority-3"], forces::fenced),
    story("fork-shipment", &["majority-5"], forces::shipment),
    story("witness", &["pair-witness"], changes::witness),
    story("heavy-joiner", &["majority-3"], changes::heavy_joiner),
    story("move", &["local-pair-witness"], changes::moved),
    story("left-alone", &["adaptive-pair-witness", "fallback-pair-witness"], distances::left_alone),
    story("left-behind", &["adaptive-3"], distances::left_behind),
    story("cost", &["observed-3", "scheduled", "majority-3", "adaptive-3", "two-in-one-site"], distances::cost),
    story("late-words", &["majority-3"], distances::late_words),
    story("stand-in-split", &["stand-in-pair"], places::split),
    story("stand-in-unasked", &["stand-in-pair"], places::unasked),
    story("stand-in-behind", &["stand-in-adaptive"], places::behind),
    story("bystander", &["observed-pair"], distances::bystander),
    story("fallback", &["fallback-pair-witness"], distances::left_alone),
    story("cut-shipments", &["majority-3", "scheduled"], distances::cut_shipments),
    story("mode-unheard", &["majority-3"], distances::mode_unheard),
    story("amnesia", &["majority-3"], disks::amnesia),
    story("resync", &["majority-3"], disks::resync),
    story("late-shipment", &["majority-3"], disks::late_shipment),
    story("blackout", &["majority-3", "flush-3"], disks::blackout),
    story("rotten-promise", &["majority-3"], disks::rotten_promise),
    story("tight", &["majority-3"], disks::tight),
    story("bad-sync", &["majority-3"], disks::bad_sync),
    story("memory-lost", DISKLESS, diskless::forgets),
    story("memory-alone", DISKLESS, diskless::one_copy),
    story("memory-short", &["diskless-3", "diskless-away"], diskless::left_behind),
    story("memory-read", DISKLESS, diskless::slow_stores),
    story("memory-split", DISKLESS, diskless::split),
    story("memory-relay", DISKLESS, diskless::relay),
    story("mark", &["majority-3", "flush-3"], cuts::mark),
    of_two("cut", &["majority-3", "flush-3"], cuts::cut),
    of_two("cut-late", &["majority-3", "flush-3"], cuts::late),
    of_two("cut-split", &["majority-3"], cuts::split),
    of_two("cut-unsynced", &["majority-3"], cuts::unsynced),
    of_two("cut-moved", &["majority-3", "two-in-one-site"], cuts::moved),
];

/// Seeds of each story that `make test` tells.
pub const STORY_SEEDS: u64 = 100;

pub fn named(name: &str) -> Option<&'static Story> {
    STORIES.iter().find(|s| s.name == name)
}

impl Story {
    /// The layout in which a seed tells it.
    pub fn layout(&self, seed: u64) -> &'static Layout {
        let name = self.layouts[seed as usize % self.layouts.len()];
        layout::named(name).expect("stories name layouts that there are")
    }

    /// Tells the story, heals everything, and judges. `heeds_the_core`: its own complaints count too.
    pub fn tell(&self, seed: u64, verbose: bool, heeds_the_core: bool) -> Outcome {
        let layout = self.layout(seed);
        match self.telling {
            Telling::Of(tell) => {
                let mut world = World::with(seed, layout, verbose, brisk);
                begin(&mut world, heeds_the_core);
                tell(&mut world);
                calm(&mut world);
                finish(world)
            }
            Telling::OfTwo(tell) => {
                let mut pair = Pair::with(seed, [layout, layout], verbose, brisk);
                pair.worlds.iter_mut().for_each(|world| begin(world, heeds_the_core));
                tell(&mut pair);
                pair.worlds.iter_mut().for_each(calm);
                finish_both(pair)
            }
        }
    }
}

fn begin(world: &mut World, heeds_the_core: bool) {
    world.heeds_the_core = heeds_the_core;
    let delay_us = world.dice.skewed(50, 1_000);
    world.network.weather = Weather { delay_us, jitter_us: delay_us, ..Weather::fair() };
}

fn calm(world: &mut World) {
    world.knobs.checkpoint_us = CALM_CHECKPOINT_US;
    world.knobs.ship_us = CALM_SHIP_US;
}

/// While everything heals, nothing needs to be in a hurry or late.
const CALM_CHECKPOINT_US: u64 = 500_000;
const CALM_SHIP_US: u64 = 20_000;

/// Short leases, quick disks, busy clients: much happens in little time.
fn brisk(knobs: &mut Knobs) {
    knobs.lease_us = 400_000;
    knobs.sync_us = knobs.sync_us.min(1_500);
    knobs.apply_us = knobs.apply_us.min(4_000);
    knobs.read_us = knobs.read_us.min(1_000);
    knobs.checkpoint_us = knobs.checkpoint_us.min(300_000);
    knobs.clients = 3;
    knobs.in_flight = 6;
    knobs.think_us = 3_000;
}
