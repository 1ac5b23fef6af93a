//! What was aimed at, and what was reached. The aims are ratios within one run.

use serde::Serialize;

use crate::limits::Limits;
use crate::reference::ReadReference;
use crate::results::{Row, Written};
use crate::stage::{Device, Durability};
use crate::table::{markdown, number};
use crate::wan::WanFigures;

const NEAR_RATIO_MAX: f64 = 1.5;
const FAR_EXTRA_US_MAX: f64 = 300.0;
const RANDOM_SHARE_MIN: f64 = 0.2;
const SEQUENTIAL_SHARE_MIN: f64 = 0.4;
const AMPLIFICATION_MAX: f64 = 2.5;
const READS_RATIO_MIN: f64 = 0.5;
const LINK_SHARE_MIN: f64 = 0.8;
const RESENT_MAX: f64 = 0.05;
const RISE_MAX: f64 = 0.2;
const RELAY_US_MAX: f64 = 100.0;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    pub what: String,
    pub aim: String,
    pub reached: String,
    pub met: bool,
}

impl Target {
    pub fn new(what: &str, aim: String, reached: String, met: bool) -> Target {
        Target { what: what.into(), aim, reached, met }
    }
}

/// As Markdown.
pub fn table(targets: &[Target]) -> String {
    let met = |target: &Target| if target.met { "yes" } else { "**no**" };
    let row = |t: &Target| vec![t.what.clone(), t.aim.clone(), t.reached.clone(), met(t).into()];
    let rows: Vec<Vec<String>> = targets.iter().map(row).collect();
    markdown(&["what", "aim", "reached", "met"], 4, &rows)
}

/// Those of the aims that this run has figures for.
pub fn judge(
    rows: &[Row],
    written: &[Written],
    limits: &Limits,
    reads: Option<&ReadReference>,
    wan: &[WanFigures],
) -> Vec<Target> {
    let mut all = Vec::new();
    all.extend(latency(rows));
    all.extend(throughput(rows, written, limits));
    all.extend(amplification(written));
    if let Some(reads) = reads {
        let said = format!(
            "{} × ({} and {} IOPS)",
            number(reads.ratio),
            number(reads.farshore.iops),
            number(reads.qemu_nbd.iops)
        );
        let what = "reads at QD64 against qemu-nbd --cache=none --aio=native";
        all.push(Target::new(what, format!("≥ {READS_RATIO_MIN} ×"), said, reads.ratio >= READS_RATIO_MIN));
    }
    wan.iter().filter(|figures| figures.judged).for_each(|figures| all.extend(long_link(figures)));
    let worst = limits.relay_added_p50_us.iter().map(|(_, added)| *added).reduce(f64::max);
    all.extend(worst.map(|us| {
        let what = "what the emulator itself adds to one way, p50";
        Target::new(what, format!("≤ {RELAY_US_MAX} µs"), format!("{} µs", number(us)), us <= RELAY_US_MAX)
    }));
    all
}

fn of_nbd<'r>(rows: &'r [Row], workload: &str) -> impl Iterator<Item = &'r Row> {
    rows.iter()
        .filter(move |row| row.workload == workload && row.device == Device::Nbd && row.durability == Durability::Write)
}

fn latency(rows: &[Row]) -> Vec<Target> {
    let judged = of_nbd(rows, "randwrite-4k-qd1").filter_map(|row| {
        let limit = row.limit_p50_us?;
        let what = format!("4k write at QD1, RTT {} ms, p50", row.rtt_ms);
        Some(if row.rtt_ms == 0 {
            let ratio = row.p50_us / limit;
            let said = format!("{} × ({} of {} µs)", number(ratio), number(row.p50_us), number(limit));
            Target::new(&what, format!("≤ {NEAR_RATIO_MAX} × limit"), said, ratio <= NEAR_RATIO_MAX)
        } else {
            let extra = row.p50_us - limit;
            let said = format!("limit + {} µs ({} of {} µs)", number(extra), number(row.p50_us), number(limit));
            Target::new(&what, format!("≤ limit + {FAR_EXTRA_US_MAX} µs"), said, extra <= FAR_EXTRA_US_MAX)
        })
    });
    judged.collect()
}

fn throughput(rows: &[Row], written: &[Written], limits: &Limits) -> Vec<Target> {
    let mut all = Vec::new();
    let near = |workload: &str| of_nbd(rows, workload).find(|row| row.rtt_ms == 0);
    if let (Some(row), Some(disk)) = (near("randwrite-4k-qd64"), limits.disk.get("randwrite-4k-qd64")) {
        let share = row.iops / disk.iops.max(1e-9);
        let (own, raw, cpu) = (number(row.iops), number(disk.iops), number(row.cpu_us_per_io));
        let said = format!("{} × ({own} of {raw} IOPS; {cpu} µs of CPU per write, three replicas)", number(share));
        let what = "4k random writes at QD64, three sites on one machine";
        all.push(Target::new(
            what,
            format!("≥ {RANDOM_SHARE_MIN} × the raw disk, unsynced"),
            said,
            share >= RANDOM_SHARE_MIN,
        ));
    }
    let name = "write-128k-qd8";
    let total = written.iter().find(|w| w.workload == name && w.device == Device::Nbd && w.rtt_ms == 0);
    if let (Some(row), Some(disk), Some(total)) = (near(name), limits.disk.get(name), total) {
        let possible = disk.mib_s / total.total().max(1e-9);
        let share = row.mib_s / possible.max(1e-9);
        let said = format!(
            "{} × ({} MiB/s; raw {} MiB/s ÷ {} bytes written per byte)",
            number(share),
            number(row.mib_s),
            number(disk.mib_s),
            number(total.total())
        );
        let what = "sequential 128k writes";
        let aim = format!("≥ {SEQUENTIAL_SHARE_MIN} × raw ÷ what all replicas write");
        all.push(Target::new(what, aim, said, share >= SEQUENTIAL_SHARE_MIN));
    }
    all
}

fn amplification(written: &[Written]) -> Vec<Target> {
    let judged = ["randwrite-4k-qd64", "write-128k-qd8"].into_iter().filter_map(|name| {
        let of = |w: &&Written| w.workload == name && w.device == Device::Nbd && w.durability == Durability::Write;
        let found = written.iter().filter(of).min_by_key(|w| w.rtt_ms)?;
        let worst = found.amplification();
        let what = format!("bytes that a replica writes per byte of the user, {name}");
        let unsettled = if found.settled { "" } else { " (not all of it had been written)" };
        let met = worst <= AMPLIFICATION_MAX && found.settled;
        Some(Target::new(&what, format!("≤ {AMPLIFICATION_MAX}"), format!("{}{unsettled}", number(worst)), met))
    });
    judged.collect()
}

fn long_link(figures: &WanFigures) -> Vec<Target> {
    let percent = |part: f64| format!("{:.1} %", part * 100.0);
    let at = format!(
        "{} ms, {} loss, {} Mbit/s, {}",
        figures.rtt_ms,
        percent(figures.loss),
        number(figures.link_mbit_s),
        figures.transport.replace('\n', ", ")
    );
    let mut all = Vec::new();
    for (name, carried) in [("records", figures.records), ("bulk", figures.bulk)] {
        let said = format!("{} ({} Mbit/s)", percent(carried.share), number(carried.mbit_s));
        let aim = format!("≥ {} of the link", percent(LINK_SHARE_MIN));
        all.push(Target::new(&format!("{name} at {at}"), aim, said, carried.share >= LINK_SHARE_MIN));
        let aim = format!("≤ {}", percent(RESENT_MAX));
        let met = carried.resent <= RESENT_MAX;
        all.push(Target::new(&format!("resent of {name} at {at}"), aim, percent(carried.resent), met));
    }
    let rise = figures.rise();
    let said = format!(
        "{} ({} → {} ms, bulk at {} Mbit/s)",
        percent(rise),
        number(figures.foreground_alone_p50_us / 1e3),
        number(figures.foreground_beside_bulk_p50_us / 1e3),
        number(figures.bulk_beside_foreground_mbit_s)
    );
    let what = format!("rise of the foreground's p50 beside bulk at {at}");
    all.push(Target::new(&what, format!("≤ {}", percent(RISE_MAX)), said, rise <= RISE_MAX));
    let said = format!("{} of {} lost", figures.lost_to_gaps, figures.connections_lost);
    let what = format!("connections lost to \"too many gaps\" at {at}");
    all.push(Target::new(&what, "0".into(), said, figures.lost_to_gaps == 0));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::limits::DiskLimit;

    fn row(workload: &str, rtt_ms: u32, p50_us: f64, limit_p50_us: f64) -> Row {
        Row {
            workload: workload.into(),
            device: Device::Nbd,
            durability: Durability::Write,
            rtt_ms,
            iops: 2000.0,
            mib_s: 50.0,
            p50_us,
            p99_us: 2.0 * p50_us,
            limit_p50_us: Some(limit_p50_us),
            limit_local_us: 100.0,
            ratio: Some(p50_us / limit_p50_us),
            cpu_us_per_io: 100.0,
        }
    }

    fn written(workload: &str, per_site: u64) -> Written {
        Written {
            workload: workload.into(),
            device: Device::Nbd,
            durability: Durability::Write,
            rtt_ms: 0,
            user_bytes: 1000,
            written_bytes: ["east", "west", "north"].map(|site| (site.to_string(), per_site)).into(),
            settled: true,
        }
    }

    #[test]
    fn near_and_far_writes_have_different_aims() {
        let judged = latency(&[row("randwrite-4k-qd1", 0, 290.0, 200.0), row("randwrite-4k-qd1", 5, 5600.0, 5200.0)]);
        assert_eq!(judged.iter().map(|t| t.met).collect::<Vec<_>>(), [true, false]);
        assert!(judged[0].reached.starts_with("1.45 ×") && judged[1].reached.starts_with("limit + 400 µs"));
    }

    #[test]
    fn throughput_is_held_against_the_disk_and_what_all_replicas_write() {
        let disk = |iops, mib_s| DiskLimit { iops, mib_s, p50_us: 1.0, p99_us: 1.0 };
        let disks = [("randwrite-4k-qd64", disk(9000.0, 1.0)), ("write-128k-qd8", disk(1.0, 600.0))];
        let limits = Limits { disk: disks.map(|(name, limit)| (name.to_string(), limit)).into(), ..Limits::default() };
        let rows = [row("randwrite-4k-qd64", 0, 1.0, 1.0), row("write-128k-qd8", 0, 1.0, 1.0)];
        // 6 bytes written per byte: 100 MiB/s would be possible, 50 are reached.
        let judged = throughput(&rows, &[written("write-128k-qd8", 2000)], &limits);
        assert_eq!(judged.iter().map(|t| t.met).collect::<Vec<_>>(), [true, true]);
        assert!(judged[1].reached.starts_with("0.50 ×"), "{}", judged[1].reached);
    }

    #[test]
    fn amplification_is_the_worst_replica_and_unsettled_is_unmet() {
        let mut uneven = written("randwrite-4k-qd64", 2000);
        uneven.written_bytes = BTreeMap::from([("east".into(), 2000), ("west".into(), 2600)]);
        let mut unsettled = written("write-128k-qd8", 2000);
        unsettled.settled = false;
        let judged = amplification(&[uneven, unsettled]);
        assert_eq!(judged.iter().map(|t| t.met).collect::<Vec<_>>(), [false, false]);
        assert!(judged[0].reached.starts_with("2.60"));
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        assert_eq!(judge(&[], &[], &Limits::default(), None, &[]), []);
    }
}
