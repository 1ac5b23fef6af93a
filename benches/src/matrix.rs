//! The rows: each workload on each device at each distance.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_wan::Conditions;

use crate::fio::{self, Extent};
use crate::limits::Limits;
use crate::plan::{Case, Plan};
use crate::procfs::Usage;
use crate::results::{Row, Written};
use crate::stage::{Device, Durability, SITES, Stage, fuse_is_there, word};
use crate::table;
use crate::workload::Pattern;

pub const MEMBERS: &str = "east,west,north";

#[derive(Debug, Default)]
pub struct Matrix {
    pub rows: Vec<Row>,
    pub written: Vec<Written>,
    pub skipped: Vec<String>,
}

/// The volume of a class.
pub fn volume(durability: Durability) -> String {
    format!("bench-{}", word(durability))
}

/// Makes and fills the volumes that the plan needs.
pub fn prepare(plan: &Plan, stage: &mut Stage) -> Result<(), String> {
    for durability in plan.durabilities() {
        let name = volume(durability);
        stage.create(&name, plan.volume_bytes, MEMBERS, "majority", durability);
        stage.fill(&name)?;
    }
    Ok(())
}

/// Measures every case of the plan, and the echo at each distance before its rows; tells each row as it is there.
pub fn run(
    plan: &Plan,
    stage: &mut Stage,
    limits: &mut Limits,
    echo_time: Duration,
    mut tell: impl FnMut(&str),
) -> Result<Matrix, String> {
    let mut matrix = Matrix { rows: Vec::new(), written: Vec::new(), skipped: Vec::new() };
    tell(&table::line(&table::HEADINGS));
    for rtt_ms in plan.rtts_ms() {
        stage.set_apart(
            Conditions::between_sites(Duration::from_millis(rtt_ms.into())),
            &volume(plan.cases[0].durability),
        )?;
        limits.measure_echo(rtt_ms, echo_time)?;
        for case in plan.cases.iter().filter(|case| case.rtt_ms == rtt_ms) {
            if case.device == Device::Fuse
                && let Err(why) = fuse_is_there()
            {
                let said = format!("SKIP {} at RTT {} ms over FUSE: {why}", case.workload, case.rtt_ms);
                tell(&said);
                matrix.skipped.push(said);
                continue;
            }
            let (row, written) = measure(case, plan.seconds, stage, limits)?;
            tell(&table::line(&table::cells(&row)));
            matrix.rows.push(row);
            matrix.written.extend(written);
        }
    }
    stage.wan().set(Conditions::default());
    Ok(matrix)
}

fn measure(case: &Case, seconds: u64, stage: &mut Stage, limits: &Limits) -> Result<(Row, Option<Written>), String> {
    let volume = volume(case.durability);
    let target = stage.attach(&volume, case.device);
    let before = stage.usage()?;
    let outcome = fio::run(&target, case.workload, Extent::Seconds(seconds), &[])?;
    let settled = !case.workload.writes() || stage.settle(&volume);
    let used: Vec<Usage> = stage.usage()?.into_iter().zip(before).map(|(after, before)| after.since(before)).collect();
    let limit_p50_us = limit(case, limits);
    let row = Row {
        workload: case.workload.to_string(),
        device: case.device,
        durability: case.durability,
        rtt_ms: case.rtt_ms,
        iops: outcome.iops(),
        mib_s: outcome.mib_s(),
        p50_us: outcome.p50_us,
        p99_us: outcome.p99_us,
        limit_p50_us,
        limit_local_us: limits.append_p50_us,
        ratio: limit_p50_us.map(|limit| outcome.p50_us / limit),
        cpu_us_per_io: used.iter().map(|usage| usage.cpu_us).sum::<u64>() as f64 / outcome.ios.max(1) as f64,
    };
    let written_bytes: BTreeMap<String, u64> =
        SITES.iter().zip(&used).map(|(site, usage)| (site.to_string(), usage.written_bytes)).collect();
    let written = Written {
        workload: row.workload.clone(),
        device: case.device,
        durability: case.durability,
        rtt_ms: case.rtt_ms,
        user_bytes: outcome.written_bytes,
        written_bytes,
        settled,
    };
    Ok((row, case.workload.writes().then_some(written)))
}

fn limit(case: &Case, limits: &Limits) -> Option<f64> {
    match case.workload.pattern {
        Pattern::RandWrite | Pattern::Write if case.durability == Durability::Flush => Some(limits.append_p50_us),
        Pattern::RandWrite | Pattern::Write | Pattern::Fsync => limits.quorum_p50_us(case.rtt_ms),
        Pattern::RandRead | Pattern::Read | Pattern::Mix70 => {
            limits.disk.get(&case.workload.to_string()).map(|disk| disk.p50_us)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{DiskLimit, EchoLimit};

    #[test]
    fn each_kind_of_row_is_held_against_its_own_limit() {
        let disk = DiskLimit { iops: 1.0, mib_s: 1.0, p50_us: 60.0, p99_us: 70.0 };
        let limits = Limits {
            append_p50_us: 100.0,
            echoes: vec![EchoLimit { rtt_ms: 5, west_p50_us: 5100.0, north_p50_us: 5100.0 }],
            disk: BTreeMap::from([("randread-4k-qd1".to_string(), disk)]),
            ..Limits::default()
        };
        let of = |name: &str, durability| {
            limit(&Case { workload: name.parse().unwrap(), device: Device::Nbd, durability, rtt_ms: 5 }, &limits)
        };
        assert_eq!(of("randwrite-4k-qd1", Durability::Write), Some(5200.0));
        assert_eq!(of("randwrite-4k-qd1", Durability::Flush), Some(100.0));
        assert_eq!(of("fsync-4k-qd1", Durability::Flush), Some(5200.0));
        assert_eq!(of("randread-4k-qd1", Durability::Write), Some(60.0));
        assert_eq!(of("randread-4k-qd64", Durability::Write), None);
    }
}
