//! The physical limits, measured in the same run as what is held against them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use farshore_wan::Conditions;
use serde::Serialize;

use crate::append;
use crate::echo::Echo;
use crate::fio::{self, Extent, Outcome, Target};
use crate::probe;
use crate::workload::Workload;

/// Sites that share this machine's disk.
const APPENDERS: usize = 3;

#[derive(Debug, Clone, Default, Serialize)]
pub struct Limits {
    /// 4 KiB append and fdatasync, by three appenders at once.
    pub append_p50_us: f64,
    pub append_p99_us: f64,
    /// The same by one alone, for comparison.
    pub append_alone_p50_us: f64,
    /// 4 KiB over QUIC and a small answer, to each remote site.
    pub echoes: Vec<EchoLimit>,
    /// What the relay adds to one way beyond its delay, by delay in milliseconds.
    pub relay_added_p50_us: Vec<(f64, f64)>,
    pub disk: BTreeMap<String, DiskLimit>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct EchoLimit {
    pub rtt_ms: u32,
    pub west_p50_us: f64,
    pub north_p50_us: f64,
}

/// The raw disk: no sync, past the page cache, on a file that is written all through.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DiskLimit {
    pub iops: f64,
    pub mib_s: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl From<&Outcome> for DiskLimit {
    fn from(outcome: &Outcome) -> DiskLimit {
        DiskLimit { iops: outcome.iops(), mib_s: outcome.mib_s(), p50_us: outcome.p50_us, p99_us: outcome.p99_us }
    }
}

impl Limits {
    pub fn measure_appends(&mut self, dir: &Path, time: Duration) -> Result<(), String> {
        let (alone, together) = append::measure(dir, APPENDERS, time)?;
        self.append_alone_p50_us = alone.p50_us();
        (self.append_p50_us, self.append_p99_us) = (together.p50_us(), together.p99_us());
        Ok(())
    }

    pub fn measure_relay(&mut self, delays_ms: &[f64], time: Duration) -> Result<(), String> {
        for ms in delays_ms {
            self.relay_added_p50_us.push((*ms, probe::added_us(Duration::from_secs_f64(ms / 1e3), time)?));
        }
        Ok(())
    }

    pub fn measure_disk(&mut self, file: &Target, workloads: &[Workload], seconds: u64) -> Result<(), String> {
        for workload in workloads {
            let outcome = fio::run(file, *workload, Extent::Seconds(seconds), &[])?;
            self.disk.insert(workload.to_string(), DiskLimit::from(&outcome));
        }
        Ok(())
    }

    pub fn measure_echo(&mut self, rtt_ms: u32, time: Duration) -> Result<(), String> {
        let conditions = Conditions::between_sites(Duration::from_millis(rtt_ms.into()));
        // Each with a relay and a connection of its own.
        let p50 = || Ok::<f64, String>(Echo::start(conditions)?.measure(conditions, time)?.p50_us());
        self.echoes.push(EchoLimit { rtt_ms, west_p50_us: p50()?, north_p50_us: p50()? });
        Ok(())
    }

    /// What a write can't be faster than: the second of three replicas to have it, where each takes an echo to it and
    /// its append.
    pub fn quorum_p50_us(&self, rtt_ms: u32) -> Option<f64> {
        let echo = self.echoes.iter().rev().find(|echo| echo.rtt_ms == rtt_ms)?;
        let mut replicas = [0.0, echo.west_p50_us, echo.north_p50_us].map(|rtt| rtt + self.append_p50_us);
        replicas.sort_by(f64::total_cmp);
        Some(replicas[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_second_of_three() {
        let echo = |rtt_ms, west_p50_us, north_p50_us| EchoLimit { rtt_ms, west_p50_us, north_p50_us };
        let echoes = vec![echo(0, 90.0, 80.0), echo(5, 5100.0, 5200.0)];
        let limits = Limits { append_p50_us: 100.0, echoes, ..Limits::default() };
        assert_eq!(limits.quorum_p50_us(0), Some(180.0));
        assert_eq!(limits.quorum_p50_us(5), Some(5200.0));
        assert_eq!(limits.quorum_p50_us(20), None);
    }
}
