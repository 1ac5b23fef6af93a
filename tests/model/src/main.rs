//! `farshore-model`: a search.

use farshore_model::bug;
use farshore_model::explore::explore;
use farshore_model::layout;
use farshore_model::model::{Bounds, Model};

fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n = |i: usize| a[i].parse::<u16>().unwrap();
    let bounds = Bounds { epochs: n(2) as u8, writes: n(3) as u8, changes: n(4) as u8, wipes: n(5) as u8, forces: n(6) as u8, split: n(7) == 1, leases: n(8) == 1, menu: n(9), forced: n(10) as u8 };
    let l = layout::named(&a[1]).unwrap();
    let model = Model::new(l, bounds, a.get(11).and_then(|b| bug::named(b)));
    let o = explore(&model, 60_000_000);
    println!("{} {:?}: {} states depth {} in {:.1}s, {} MiB {:?} cut {}", l.name, bounds, o.states, o.depth, o.seconds, o.bytes >> 20, o.reached, o.cut_short);
    if let Some(c) = o.found {
        for (s, _) in &c.steps { println!("  {}", s.told(l)); }
        println!("VIOLATION {}", c.violation);
    }
}
