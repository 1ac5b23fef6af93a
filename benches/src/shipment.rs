//! A copy of a volume for another site, while it is under way.

use std::time::{Duration, Instant};

use crate::fio::{self, Extent, Target};
use crate::stage::Stage;
use crate::workload::Workload;

/// Until a shipment is under way.
const BEGIN_PATIENCE: Duration = Duration::from_secs(20);
/// Sent to the new member: the shipment has begun in earnest.
const BEGUN_BYTES: u64 = 2 << 20;

/// An open loop, so that a write that waits holds up no other: 300 in a second.
const FOREGROUND: &str = "randwrite-4k-qd256";
const FOREGROUND_RATE: &str = "--rate_iops=300";

/// The writes that may have a shipment for company: their p50, in microseconds.
pub fn foreground(target: &Target, seconds: u64) -> Result<f64, String> {
    let workload: Workload = FOREGROUND.parse()?;
    Ok(fio::run(target, workload, Extent::Seconds(seconds), &[FOREGROUND_RATE])?.p50_us)
}

/// A copy for north of what east has, told by the lines that east logs when one is done.
pub struct Shipment<'s> {
    stage: &'s Stage,
    done_before: usize,
    began: Instant,
    passed_before: u64,
}

const DONE_LINE: &str = "resync: image shipped";

impl<'s> Shipment<'s> {
    /// Returns once it is under way.
    pub fn begin(stage: &'s Stage, volume: &str) -> Result<Shipment<'s>, String> {
        let done_before = stage.east().log_numbers(DONE_LINE, "bytes=").len();
        let passed_before = stage.wan().counts(0, 2).passed_bytes;
        let shipment = Shipment { stage, done_before, began: Instant::now(), passed_before };
        stage.east().run(&["member", "add", volume, "north"]);
        while shipment.passed_bytes() < BEGUN_BYTES && !shipment.done() {
            if shipment.began.elapsed() > BEGIN_PATIENCE {
                return Err(format!("no shipment of {volume} to north has begun"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(shipment)
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn done(&self) -> bool {
        self.stage.east().log_numbers(DONE_LINE, "bytes=").len() > self.done_before
    }

    pub fn passed_bytes(&self) -> u64 {
        self.stage.wan().counts(0, 2).passed_bytes - self.passed_before
    }

    /// What it carried: once it is done the volume's bytes in the time that east says it took, else what the link has
    /// carried so far.
    pub fn bytes_per_second(&self) -> f64 {
        let last = |field| self.stage.east().log_numbers(DONE_LINE, field).get(self.done_before).copied();
        match (last("bytes="), last("ms=")) {
            (Some(bytes), Some(ms)) => bytes as f64 * 1e3 / ms.max(1) as f64,
            _ => self.passed_bytes() as f64 / self.began.elapsed().as_secs_f64(),
        }
    }
}
