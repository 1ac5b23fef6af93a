//! Volumes of this section: made, filled, attached side by side.

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_tests::cluster::{NbdClient, Site};

use crate::fio::{self, Extent, Target};
use crate::workload::{Pattern, Workload};

pub const MEMBERS: &str = "--members=east,west,north";
pub const BLOCK_BYTES: usize = 4096;
/// What the store allocates and copies by.
pub const EXTENT_BYTES: u64 = 64 << 10;
/// For what a daemon does right after its start.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Tries until it is done; what was said last if it never is.
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(last) if began.elapsed() > PATIENCE => {
                return Err(format!("waited {} s for {what}, in vain: {last}", PATIENCE.as_secs()));
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Runs a verb; an error says what the command line said.
pub fn run(site: &Site, arguments: &[&str]) -> Result<serde_json::Value, String> {
    site.try_run(arguments).map_err(|refusal| format!("farshore {}: {}", arguments.join(" "), refusal.text))
}

pub fn create(site: &Site, name: &str, bytes: u64, members: &str) -> Result<(), String> {
    run(site, &["volume", "create", name, "--size", &bytes.to_string(), members, "--lease=1s"]).map(drop)
}

/// Attached as an NBD export, beside any others.
pub fn attach(site: &Site, name: &str) -> Result<Target, String> {
    run(site, &["volume", "attach", name, "--device", "nbd"])?;
    Ok(target(site, name))
}

pub fn target(site: &Site, name: &str) -> Target {
    Target::Nbd { socket: site.nbd_socket(), export: name.into() }
}

pub fn client(site: &Site, name: &str) -> Result<NbdClient, String> {
    until("a device", || NbdClient::connect(&site.nbd_socket(), name).map_err(|e| format!("{e:?}")))
}

/// Ends the daemon in order and starts it again: what it remembered of the index is gone. These volumes were attached,
/// and come back so.
pub fn restart(site: &Site, attached: &[String]) -> Result<(), String> {
    let status = site.stop();
    if !status.success() {
        return Err(format!("{}'s replicator ended with {status}", site.name));
    }
    site.start();
    for volume in attached {
        let mut device = client(site, volume)?;
        device.read(0, BLOCK_BYTES).map_err(|e| format!("reading {volume} after a restart: {e:?}"))?;
    }
    Ok(())
}

/// Writes 4 KiB to each extent.
pub fn write_each_extent(target: &Target) -> Result<(), String> {
    let workload = Workload { pattern: Pattern::Write, block_kib: 4, depth: 16 };
    let strides = format!("--rw=write:{}k", EXTENT_BYTES / 1024 - 4);
    fio::run(target, workload, Extent::Once, &[&strides]).map(drop)
}

/// 4 KiB at random, sixteen at a time.
pub fn writes_per_s(target: &Target, seconds: u64) -> Result<f64, String> {
    let workload = Workload { pattern: Pattern::RandWrite, block_kib: 4, depth: 16 };
    Ok(fio::run(target, workload, Extent::Seconds(seconds), &[])?.iops())
}

/// Reads 4 KiB of each extent, scattered, one after the other: microseconds for one, by the mean of all but the slowest
/// hundredth. A median would not see what is looked up for sixteen extents at once.
pub fn first_reads(site: &Site, volume: &str) -> Result<f64, String> {
    let mut device = client(site, volume)?;
    let extents = device.size_bytes / EXTENT_BYTES;
    let read = |number: u64| {
        let start = Instant::now();
        device
            .read(scattered(number, extents) * EXTENT_BYTES, BLOCK_BYTES)
            .map_err(|e| format!("reading {volume}: {e:?}"))?;
        Ok::<_, String>(start.elapsed())
    };
    let mut all = (0..extents).map(read).collect::<Result<Vec<Duration>, String>>()?;
    all.sort_unstable();
    all.truncate((all.len() * 99).div_ceil(100));
    Ok(all.iter().sum::<Duration>().as_secs_f64() * 1e6 / all.len().max(1) as f64)
}

/// Another extent for each number below how many there are, which is a power of two: far from the last one.
pub fn scattered(number: u64, extents: u64) -> u64 {
    number.wrapping_mul(2_654_435_761) % extents
}

pub fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(0.0)
}

/// All that lies below a folder.
pub fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(Vec::new())), (2.0, 0.0));
    }

    #[test]
    fn scattered_extents_are_each_met_once() {
        let mut met: Vec<u64> = (0..2048).map(|number| scattered(number, 2048)).collect();
        met.sort_unstable();
        assert_eq!(met, (0..2048).collect::<Vec<_>>());
    }
}
