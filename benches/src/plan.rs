//! What is run: everything, the quick part of it, or what was named.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::stage::{Device, Durability};
use crate::workload::{Pattern, Workload};

/// Farshore's benchmark: three sites on this machine behind an emulated WAN, beside what disk and network cost alone.
///
/// Without any of --workload, --rtt, --device, --durability and --section all of it is run. With one of them only that,
/// for a quick look: the limits of the same moment are measured all the same.
#[derive(Debug, Clone, Parser)]
#[command(name = "farshore-bench", max_term_width = 120)]
pub struct Options {
    /// The part that fits into three minutes
    #[arg(long)]
    pub quick: bool,
    /// Only these, such as randwrite-4k-qd1 (also ones that are not in the full run)
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    pub workload: Vec<Workload>,
    /// Only these round-trip times between the sites
    #[arg(long, value_delimiter = ',', value_name = "MS,..")]
    pub rtt: Vec<u32>,
    #[arg(long, value_enum, value_delimiter = ',')]
    pub device: Vec<Device>,
    #[arg(long, value_enum, value_delimiter = ',')]
    pub durability: Vec<Durability>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    pub section: Vec<Section>,
    /// Only these parts lost on the long link, in percent (also ones that are not in the full run)
    #[arg(long, value_delimiter = ',', value_name = "PERCENT,..", value_parser = percent)]
    pub loss: Vec<f64>,
    /// How long each row is measured
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: Option<u64>,
    /// The volumes' size in MiB; each is filled before it is measured, or shipped over the long link
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(64..=65_536))]
    pub size: Option<u64>,
    /// Where farshore and farshore-replicator are; else beside this program
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// A folder on the disk that is measured
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Write latest.json, details.json, snapshots.json, distance.json, REPORT.md and the plots there; --section snapshots or distance renews its part alone
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Renew the table in this README
    #[arg(long, value_name = "FILE")]
    pub readme: Option<PathBuf>,
    /// A line for the transport section of the replicators' configuration, such as 'congestion = "bbr"'
    #[arg(long, value_name = "LINE")]
    pub transport: Vec<String>,
}

fn percent(text: &str) -> Result<f64, String> {
    let given: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=50.0).contains(&given) { Ok(given) } else { Err("must be 0 to 50".into()) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Workloads × devices × round-trip times
    Matrix,
    /// Reads beside those of qemu-nbd on the same disk
    Reads,
    /// Throughput and company on a lossy long link
    Wan,
    /// Calls of the allocator per request
    Allocations,
    /// The pause of a snapshot, the cost of many and of chains of clones, and what changed between two
    Snapshots,
    /// Shipments and what they cost the foreground, the return of a site, failover and switchover
    Distance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub workload: Workload,
    pub device: Device,
    pub durability: Durability,
    pub rtt_ms: u32,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub cases: Vec<Case>,
    pub sections: Vec<Section>,
    pub seconds: u64,
    pub volume_bytes: u64,
    pub quick: bool,
}

const FULL_SECTIONS: [Section; 6] =
    [Section::Matrix, Section::Reads, Section::Wan, Section::Allocations, Section::Snapshots, Section::Distance];
const QUICK_SECTIONS: [Section; 4] = [Section::Matrix, Section::Reads, Section::Wan, Section::Snapshots];
const FULL: [&str; 10] = [
    "randwrite-4k-qd1",
    "randwrite-4k-qd16",
    "randwrite-4k-qd64",
    "randread-4k-qd1",
    "randread-4k-qd16",
    "randread-4k-qd64",
    "write-128k-qd8",
    "read-128k-qd8",
    "mix70-4k-qd16",
    "fsync-4k-qd1",
];
/// Where it matters what a completion means.
const FULL_FLUSH: [&str; 4] = ["randwrite-4k-qd1", "randwrite-4k-qd16", "randwrite-4k-qd64", "fsync-4k-qd1"];
const QUICK: [&str; 5] =
    ["randwrite-4k-qd1", "randwrite-4k-qd64", "randread-4k-qd64", "write-128k-qd8", "fsync-4k-qd1"];
/// What depends on the distance.
const QUICK_FAR: [&str; 3] = ["randwrite-4k-qd1", "randwrite-4k-qd64", "fsync-4k-qd1"];
const QUICK_ONE: [&str; 1] = ["randwrite-4k-qd1"];

const FULL_RTTS_MS: [u32; 5] = [0, 1, 5, 20, 80];
const FUSE_RTTS_MS: [u32; 2] = [0, 5];
const QUICK_RTTS_MS: [u32; 2] = [0, 5];

impl Plan {
    pub fn of(options: &Options) -> Plan {
        let named = !options.workload.is_empty()
            || !options.rtt.is_empty()
            || !options.device.is_empty()
            || !options.durability.is_empty();
        let small = options.quick || named;
        let sections = match (&options.section[..], named) {
            ([], true) => vec![Section::Matrix],
            ([], false) if options.quick => QUICK_SECTIONS.to_vec(),
            ([], false) => FULL_SECTIONS.to_vec(),
            (wanted, _) => wanted.to_vec(),
        };
        let has_matrix = sections.contains(&Section::Matrix);
        Plan {
            cases: if has_matrix { cases(options, named) } else { Vec::new() },
            sections,
            seconds: options.seconds.unwrap_or(if options.quick { 2 } else { 8 }),
            volume_bytes: options.size.unwrap_or(if small { 256 } else { 1024 }) << 20,
            quick: small,
        }
    }

    /// In the order in which they are measured, each once.
    pub fn rtts_ms(&self) -> Vec<u32> {
        let mut rtts: Vec<u32> = self.cases.iter().map(|case| case.rtt_ms).collect();
        rtts.dedup();
        rtts
    }

    pub fn durabilities(&self) -> Vec<Durability> {
        let mut all: Vec<Durability> = self.cases.iter().map(|case| case.durability).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What the raw disk is measured with. A flush after each write would be no raw disk.
    pub fn disk_workloads(&self) -> Vec<Workload> {
        let mut all: Vec<Workload> = Vec::new();
        for workload in self.cases.iter().map(|case| case.workload) {
            if workload.pattern != Pattern::Fsync && !all.contains(&workload) {
                all.push(workload);
            }
        }
        all
    }
}

fn cases(options: &Options, named: bool) -> Vec<Case> {
    let chosen = |given: &[u32], usual: &[u32]| if given.is_empty() { usual.to_vec() } else { given.to_vec() };
    let devices = if options.device.is_empty() && named { vec![Device::Nbd] } else { options.device.clone() };
    let durabilities =
        if options.durability.is_empty() && named { vec![Durability::Write] } else { options.durability.clone() };
    let wanted = |device, durability| {
        (devices.is_empty() || devices.contains(&device))
            && (durabilities.is_empty() || durabilities.contains(&durability))
    };
    let rtts = chosen(&options.rtt, if options.quick { &QUICK_RTTS_MS } else { &FULL_RTTS_MS });
    let mut cases = Vec::new();
    for rtt_ms in rtts {
        for device in [Device::Nbd, Device::Fuse] {
            if device == Device::Fuse && options.rtt.is_empty() && !FUSE_RTTS_MS.contains(&rtt_ms) {
                continue;
            }
            for durability in [Durability::Write, Durability::Flush] {
                if !wanted(device, durability) {
                    continue;
                }
                let workloads = match &options.workload[..] {
                    [] => usual_workloads(options.quick, device, durability, rtt_ms),
                    given => given.to_vec(),
                };
                cases.extend(workloads.into_iter().map(|workload| Case { workload, device, durability, rtt_ms }));
            }
        }
    }
    cases
}

fn usual_workloads(quick: bool, device: Device, durability: Durability, rtt_ms: u32) -> Vec<Workload> {
    let names: &[&str] = match (quick, device, durability) {
        (false, _, Durability::Write) => &FULL,
        (false, _, Durability::Flush) => &FULL_FLUSH,
        (true, Device::Nbd, Durability::Write) if rtt_ms == 0 => &QUICK,
        (true, Device::Nbd, Durability::Write) => &QUICK_FAR,
        (true, Device::Nbd, Durability::Flush) => &QUICK_ONE,
        (true, Device::Fuse, Durability::Write) if rtt_ms == 0 => &QUICK_ONE,
        (true, Device::Fuse, _) => &[],
    };
    names.iter().map(|name| name.parse().expect("our own names are workloads")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Plan {
        Plan::of(&Options::parse_from(["farshore-bench"].iter().chain(arguments)))
    }

    #[test]
    fn the_full_run_has_every_workload_at_every_distance() {
        let plan = plan(&[]);
        assert_eq!(plan.rtts_ms(), FULL_RTTS_MS);
        let at = |rtt_ms, device| plan.cases.iter().filter(|c| c.rtt_ms == rtt_ms && c.device == device).count();
        assert_eq!(
            (at(0, Device::Nbd), at(0, Device::Fuse), at(80, Device::Nbd), at(80, Device::Fuse)),
            (14, 14, 14, 0)
        );
        assert_eq!(plan.sections, FULL_SECTIONS);
        // Setting up, limits and what each row needs beside its own time leave two thirds of 45 minutes for the rows.
        let rows_s = plan.cases.len() as u64 * plan.seconds;
        assert!(rows_s < 30 * 60, "{rows_s} s of rows");
    }

    #[test]
    fn the_quick_run_is_quick() {
        let plan = plan(&["--quick"]);
        let rows_s = plan.cases.len() as u64 * plan.seconds;
        assert!(rows_s <= 40 && plan.rtts_ms() == QUICK_RTTS_MS, "{rows_s} s of rows");
        assert_eq!(plan.durabilities(), [Durability::Write, Durability::Flush]);
    }

    #[test]
    fn what_is_named_is_run_and_nothing_else() {
        let one = Case {
            workload: "randwrite-4k-qd3".parse().unwrap(),
            device: Device::Nbd,
            durability: Durability::Write,
            rtt_ms: 7,
        };
        let named = plan(&["--workload", "randwrite-4k-qd3", "--rtt", "7", "--seconds", "5"]);
        assert_eq!((named.cases, named.sections, named.seconds), (vec![one], vec![Section::Matrix], 5));
        let fuse = plan(&["--workload", "fsync-4k-qd1", "--rtt", "80", "--device", "fuse", "--durability", "flush"]);
        assert_eq!(fuse.cases.len(), 1);
        assert!(plan(&["--section", "wan"]).cases.is_empty());
    }
}
