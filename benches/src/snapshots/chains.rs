//! Reads at the end of a chain of clones: by the first who reads there, and when the chain is flattened.
//!
//! A clone is flattened in the background from its first moment on, a page of extents with each checkpoint. So a chain as
//! it is met is partly flattened already; what one costs of which nothing is, the store's own figures tell
//! (`store/tests_figures`).

use std::time::{Duration, Instant};

use super::figures::Chain;
use super::volumes::{MEMBERS, attach, create, first_reads, median, restart, run};
use crate::fio;
use crate::stage::Stage;

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub depths: &'static [u32],
    pub volume_bytes: u64,
    pub rounds: usize,
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
        chains.push(Chain { clones: link, made_ms_each, read_us, ratio, flattened_read_us: 0.0, flattened_ratio: 0.0 });
        (began, made) = (Instant::now(), 0);
    }
    std::thread::sleep(scale.flattened_within);
    let mut flat = vec![Vec::new(); attached.len()];
    for _ in 0..scale.rounds {
        restart(east, &attached)?;
        for (volume, found) in attached.iter().zip(&mut flat) {
            found.push(cold(volume)?);
        }
    }
    for (chain, found) in chains.iter_mut().zip(&flat[1..]) {
        chain.flattened_read_us = median(found.clone());
        chain.flattened_ratio = median(found.iter().zip(&flat[0]).map(|(own, none)| own / none.max(1e-9)).collect());
    }
    attached.iter().try_for_each(|volume| run(east, &["volume", "detach", volume]).map(drop))?;
    Ok(chains)
}
