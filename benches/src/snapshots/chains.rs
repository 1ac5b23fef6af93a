//! Reads at the end of a chain of clones: by the first who reads there, and when the chain is flattened; and writes.
//!
//! A clone is flattened in the background from its first moment on, a page of extents with each checkpoint. So a chain as
//! it is met is partly flattened already; what one costs of which nothing is, the store's own figures tell
//! (`store/tests_figures`).

use std::time::{Duration, Instant};

use super::figures::Chain;
use super::rounds::Rounds;
use super::volumes::{MEMBERS, attach, create, first_reads, restart, run, target, write_each_extent, writes_per_s};
use crate::fio;
use crate::stage::Stage;

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub depths: &'static [u32],
    pub volume_bytes: u64,
    pub rounds: usize,
    /// Of writes, to each in each round.
    pub seconds: u64,
    /// Given to the background.
    pub flattened_within: Duration,
}

fn name(link: u32) -> String {
    format!("link-{link}")
}

pub fn measure(stage: &Stage, scale: Scale) -> Result<Vec<Chain>, String> {
    let east = stage.east();
    let first = name(0);
    create(east, &first, scale.volume_bytes, MEMBERS)?;
    fio::fill(&attach(east, &first)?)?;
    run(east, &["snapshot", "create", &first, "--name", "s"])?;
    stage.settle(&first);
    let cold = |volume: &str| first_reads(east, volume);
    let (mut chains, mut attached) = (Vec::new(), vec![first.clone()]);
    let (mut began, mut made) = (Instant::now(), 0);
    for link in 1..=scale.depths.last().copied().unwrap_or(0) {
        run(east, &["snapshot", "clone", &format!("{}@s", name(link - 1)), &name(link)])?;
        run(east, &["snapshot", "create", &name(link), "--name", "s"])?;
        made += 1;
        if !scale.depths.contains(&link) {
            continue;
        }
        let made_ms_each = began.elapsed().as_secs_f64() * 1e3 / f64::from(made);
        attach(east, &name(link))?;
        attached.push(name(link));
        let read_us = cold(&name(link))?;
        // Nobody has read the first volume either, then.
        restart(east, &attached)?;
        let ratio = read_us / cold(&first)?.max(1e-9);
        chains.push(Chain { clones: link, made_ms_each, read_us, ratio, ..Chain::default() });
        (began, made) = (Instant::now(), 0);
    }
    std::thread::sleep(scale.flattened_within);
    let (mut flat, mut written) = (Rounds::new(&attached), Rounds::new(&attached));
    for _ in 0..scale.rounds {
        restart(east, &attached)?;
        flat.add(&attached, |volume| cold(volume))?;
    }
    // Each extent its own.
    for volume in &attached {
        write_each_extent(&target(east, volume))?;
        stage.settle(volume);
    }
    for _ in 0..scale.rounds {
        written.add(&attached, |volume| writes_per_s(&target(east, volume), scale.seconds))?;
        attached.iter().for_each(|volume| _ = stage.settle(volume));
    }
    for (at, chain) in (1..).zip(&mut chains) {
        (chain.flattened_read_us, chain.flattened_ratio) = (flat.median(at), flat.to_first(at));
        (chain.writes_per_s, chain.write_ratio) = (written.median(at), 1.0 / written.to_first(at).max(1e-9));
    }
    attached.iter().try_for_each(|volume| run(east, &["volume", "detach", volume]).map(drop))?;
    Ok(chains)
}
