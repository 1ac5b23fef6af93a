//! Throughput and company on a lossy long link: records, bulk, what bulk costs the foreground, what is sent twice.

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_wan::Conditions;
use serde::Serialize;

use crate::fio::{self, Extent, Target};
use crate::metrics;
use crate::shipment::{Shipment, foreground};
use crate::stage::{Device, Durability, Journal, SITES, Stage};
use crate::workload::Workload;

pub const RTT_MS: u32 = 50;
pub const LINK_BITS_PER_SECOND: u64 = 200_000_000;
/// 16 MiB under way: several times what such a link holds, and below what a volume may have un-acked.
const RECORDS: &str = "randwrite-128k-qd128";
const FOREGROUND_VOLUME: &str = "records";
const BULK_VOLUMES: [&str; 2] = ["bulk-1", "bulk-2"];
/// A resync that congestion control starves is not waited for.
const BULK_PATIENCE: Duration = Duration::from_secs(75);
/// A window of growing pace is not what lasts.
const RAMP: &str = "--ramp_time=3";

/// One link to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scenario {
    pub congestion: &'static str,
    pub loss: f64,
    /// The aims are for the default controller; others are shown for comparison.
    pub judged: bool,
}

impl Scenario {
    /// The default's, at this loss.
    pub fn of_loss(loss: f64) -> Scenario {
        Scenario { congestion: "delay", loss, judged: true }
    }
}

pub const FULL: [Scenario; 3] = [
    Scenario { congestion: "delay", loss: 0.001, judged: true },
    Scenario { congestion: "delay", loss: 0.01, judged: true },
    Scenario { congestion: "cubic", loss: 0.001, judged: false },
];
pub const QUICK: [Scenario; 1] = [Scenario { congestion: "delay", loss: 0.001, judged: true }];

#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub seconds: u64,
    pub foreground_bytes: u64,
    pub bulk_bytes: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct WanFigures {
    /// What the transport section of the replicators' configuration said.
    pub transport: String,
    pub rtt_ms: u32,
    pub loss: f64,
    pub link_mbit_s: f64,
    pub records: Throughput,
    pub bulk: Throughput,
    /// 300 writes of 4 KiB a second that wait for every remote.
    pub foreground_alone_p50_us: f64,
    pub foreground_beside_bulk_p50_us: f64,
    /// What the link to the new member meanwhile carried, the foreground's part included.
    pub bulk_beside_foreground_mbit_s: f64,
    /// Peers that were lost at any site, in all of it.
    pub connections_lost: usize,
    /// Of them with "too many gaps".
    pub lost_to_gaps: usize,
    pub judged: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Throughput {
    /// The user's bytes.
    pub mbit_s: f64,
    /// Of what the link carries.
    pub share: f64,
    /// Packets that QUIC took for lost and sent again ÷ packets sent.
    pub resent: f64,
}

impl WanFigures {
    pub fn rise(&self) -> f64 {
        self.foreground_beside_bulk_p50_us / self.foreground_alone_p50_us.max(1e-9) - 1.0
    }
}

/// Sets three sites up below `dir` for one link, and measures it. `transport` replaces the scenario's own lines.
pub fn measure(dir: &Path, transport: &[String], scenario: Scenario, scale: Scale) -> Result<WanFigures, String> {
    let lines = match transport {
        [] => format!("congestion = \"{}\"", scenario.congestion),
        given => given.join("\n"),
    };
    let rtt = Duration::from_millis(RTT_MS.into());
    let link = Conditions { loss: scenario.loss, ..Conditions::between_sites(rtt) };
    // The volumes are made and filled without the distance, but with the packets of the long link.
    let near = Conditions { mtu_bytes: link.mtu_bytes, ..Conditions::default() };
    let mut stage = Stage::set_up(dir, Journal::SHORT, &lines, near);
    stage.create(FOREGROUND_VOLUME, scale.foreground_bytes, &SITES.join(","), "all-remotes", Durability::Write);
    stage.fill(FOREGROUND_VOLUME)?;
    for volume in BULK_VOLUMES {
        stage.create(volume, scale.bulk_bytes, "east,west", "majority", Durability::Write);
        stage.fill(volume)?;
    }
    let target = stage.attach(FOREGROUND_VOLUME, Device::Nbd);
    stage.wan().set(link.behind_bottleneck(LINK_BITS_PER_SECOND, rtt));
    let quiet = Trouble::so_far(&stage);

    let records = measure_records(&stage, &target, scale.seconds)?;
    stage.settle(FOREGROUND_VOLUME);
    let foreground_alone_p50_us = foreground(&target, scale.seconds)?;
    let (bulk, unfinished) = measure_bulk(&stage, BULK_VOLUMES[0])?;
    // One that is still under way is company enough.
    let shipment = match unfinished {
        Some(shipment) => shipment,
        None => Shipment::begin(&stage, BULK_VOLUMES[1])?,
    };
    let (began, before) = (Instant::now(), shipment.passed_bytes());
    let foreground_beside_bulk_p50_us = foreground(&target, scale.seconds)?;
    let beside = shipment.passed_bytes() - before;
    let bulk_beside_foreground_mbit_s = beside as f64 * 8.0 / 1e6 / began.elapsed().as_secs_f64();
    if shipment.done() {
        return Err(
            "the shipment ended before the foreground beside it was measured; do: report this, with the log".into()
        );
    }
    let trouble = Trouble::so_far(&stage);
    // A device is closed over a fast link.
    stage.wan().set(Conditions::default());
    Ok(WanFigures {
        transport: lines,
        rtt_ms: RTT_MS,
        loss: scenario.loss,
        link_mbit_s: LINK_BITS_PER_SECOND as f64 / 1e6,
        records,
        bulk,
        foreground_alone_p50_us,
        foreground_beside_bulk_p50_us,
        bulk_beside_foreground_mbit_s,
        connections_lost: trouble.lost - quiet.lost,
        lost_to_gaps: trouble.gaps - quiet.gaps,
        judged: scenario.judged,
    })
}

fn measure_records(stage: &Stage, target: &Target, seconds: u64) -> Result<Throughput, String> {
    let workload: Workload = RECORDS.parse()?;
    let before = Sent::so_far(stage)?;
    let outcome = fio::run(target, workload, Extent::Seconds(seconds), &[RAMP])?;
    Ok(Throughput::of(outcome.bytes as f64 / outcome.seconds, Sent::so_far(stage)?.resent_since(before)))
}

/// What of a copy for north was carried, and the shipment itself if it was not done in time.
fn measure_bulk<'s>(stage: &'s Stage, volume: &str) -> Result<(Throughput, Option<Shipment<'s>>), String> {
    let sent = Sent::so_far(stage)?;
    let shipment = Shipment::begin(stage, volume)?;
    while !shipment.done() && shipment.elapsed() < BULK_PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    let throughput = Throughput::of(shipment.bytes_per_second(), Sent::so_far(stage)?.resent_since(sent));
    Ok((throughput, (!shipment.done()).then_some(shipment)))
}

impl Throughput {
    fn of(bytes_per_second: f64, resent: f64) -> Throughput {
        let share = bytes_per_second * 8.0 / LINK_BITS_PER_SECOND as f64;
        Throughput { mbit_s: bytes_per_second * 8.0 / 1e6, share, resent }
    }
}

/// Packets from east to both others, and those of them that its QUIC gave up for lost.
#[derive(Debug, Clone, Copy)]
struct Sent {
    packets: u64,
    lost: f64,
}

impl Sent {
    fn so_far(stage: &Stage) -> Result<Sent, String> {
        let text = metrics::scrape(stage.east().http)?;
        let lost = metrics::sum(&text, "farshore_peer_lost_packets_total", &[]);
        let lost = lost.ok_or("the replicator has no metric farshore_peer_lost_packets_total")?;
        Ok(Sent { packets: (1..SITES.len()).map(|to| stage.wan().counts(0, to).datagrams).sum(), lost })
    }

    fn resent_since(self, before: Sent) -> f64 {
        (self.lost - before.lost) / (self.packets - before.packets).max(1) as f64
    }
}

/// What the logs tell of lost connections.
struct Trouble {
    lost: usize,
    gaps: usize,
}

impl Trouble {
    fn so_far(stage: &Stage) -> Trouble {
        let logs: Vec<String> = stage.sites().iter().map(|site| site.log()).collect();
        let count = |words: &str| logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains(words)).count();
        Trouble { lost: count("peer down"), gaps: count("too many gaps") }
    }
}
