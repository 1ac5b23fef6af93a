//! Runs of fio, and what they said.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::histogram::Histogram;
use crate::workload::{Pattern, Workload};

/// Where the I/O goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// An export of an NBD server on a unix socket; the client is libnbd in fio, no kernel between.
    Nbd { socket: PathBuf, export: String },
    /// A block device or a file, past the page cache, by io_uring.
    Direct(PathBuf),
}

impl Target {
    fn arguments(&self) -> Vec<String> {
        match self {
            Target::Nbd { socket, export } => {
                vec!["--ioengine=nbd".into(), format!("--uri=nbd+unix:///{export}?socket={}", socket.display())]
            }
            Target::Direct(path) => {
                vec!["--ioengine=io_uring".into(), "--direct=1".into(), format!("--filename={}", path.display())]
            }
        }
    }
}

/// How long, or how much.
#[derive(Debug, Clone, Copy)]
pub enum Extent {
    Seconds(u64),
    /// Each byte of the target once.
    Once,
    /// What the other arguments say.
    Part,
}

/// What fio counted.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub seconds: f64,
    pub ios: u64,
    pub bytes: u64,
    pub written_bytes: u64,
    pub p50_us: f64,
    pub p99_us: f64,
}

impl Outcome {
    pub fn iops(&self) -> f64 {
        self.ios as f64 / self.seconds.max(1e-9)
    }

    pub fn mib_s(&self) -> f64 {
        self.bytes as f64 / f64::from(1 << 20) / self.seconds.max(1e-9)
    }
}

/// One run. `more` is for fio as it is.
pub fn run(target: &Target, workload: Workload, extent: Extent, more: &[&str]) -> Result<Outcome, String> {
    let mut command = Command::new("fio");
    command
        .args(["--name=bench", "--thread", "--output-format=json+", "--randrepeat=0", "--norandommap=1"])
        // Latency from the submission to the completion, in every bucket.
        .args(["--lat_percentiles=1", "--clat_percentiles=0", "--group_reporting"])
        .args(target.arguments())
        .args(workload.fio_arguments())
        .args(more);
    match extent {
        Extent::Seconds(seconds) => command.args(["--time_based".into(), format!("--runtime={seconds}")]),
        Extent::Once => command.arg("--size=100%"),
        Extent::Part => &mut command,
    };
    let output = command.output().map_err(|e| format!("starting fio: {e}; tests/deps bench installs it"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("fio {workload} on {target:?} ended with {}: {}", output.status, said.trim()));
    }
    parse(&text, workload).map_err(|reason| format!("fio {workload} on {target:?}: {reason}"))
}

/// What a run's JSON says. fio may print notes of its own before it.
pub fn parse(text: &str, workload: Workload) -> Result<Outcome, String> {
    let begin = text.find('{').ok_or("its output holds no JSON")?;
    let value: Value = serde_json::from_str(&text[begin..]).map_err(|e| format!("its output is not JSON: {e}"))?;
    let job = value.pointer("/jobs/0").ok_or("its output names no job")?;
    match job["error"].as_i64() {
        Some(0) => {}
        error => return Err(format!("the job failed with error {error:?}")),
    }
    let number = |path: &str| {
        job.pointer(path)
            .and_then(Value::as_f64)
            .ok_or_else(|| format!("its output lacks {path}; fio 3.2 or newer is needed"))
    };
    let (read, write) = (number("/read/total_ios")?, number("/write/total_ios")?);
    let written_bytes = number("/write/io_bytes")?;
    let ms = number("/read/runtime")?.max(number("/write/runtime")?);
    if read + write < 1.0 || ms <= 0.0 {
        return Err("nothing was done in the time given".into());
    }
    let mut latency = histogram(job, "/read/lat_ns/bins")?;
    latency.merge(&histogram(job, "/write/lat_ns/bins")?);
    let (mut p50_us, mut p99_us) = (latency.p50_us(), latency.p99_us());
    if workload.pattern == Pattern::Fsync {
        // A write and its flush are two samples; their pairs are not told.
        let sync = histogram(job, "/sync/lat_ns/bins")?;
        p50_us += sync.p50_us();
        p99_us += sync.p99_us();
    }
    Ok(Outcome {
        seconds: ms / 1e3,
        ios: (read + write) as u64,
        bytes: (number("/read/io_bytes")? + written_bytes) as u64,
        written_bytes: written_bytes as u64,
        p50_us,
        p99_us,
    })
}

fn histogram(job: &Value, path: &str) -> Result<Histogram, String> {
    let mut histogram = Histogram::default();
    for (ns, count) in job.pointer(path).and_then(Value::as_object).into_iter().flatten() {
        let ns = ns.parse().map_err(|_| format!("{path} has a bucket {ns:?}"))?;
        histogram.add(ns, count.as_u64().ok_or_else(|| format!("{path} has a count {count}"))?);
    }
    Ok(histogram)
}

/// Writes all of a target once.
pub fn fill(target: &Target) -> Result<Outcome, String> {
    let workload = Workload { pattern: Pattern::Write, block_kib: 128, depth: 16 };
    run(target, workload, Extent::Once, &["--refill_buffers"])
}

/// As [`fill`], with bytes of which half can be told from the other half.
pub fn fill_compressible(target: &Target) -> Result<Outcome, String> {
    let workload = Workload { pattern: Pattern::Write, block_kib: 128, depth: 16 };
    let half = ["--refill_buffers", "--buffer_compress_percentage=50", "--buffer_compress_chunk=4096"];
    run(target, workload, Extent::Once, &half)
}

/// Makes a file of so many bytes, written all through: no block of it is allocated while it is measured.
pub fn written_file(path: &Path, bytes: u64) -> Result<Target, String> {
    let named = |e: std::io::Error| format!("making {}: {e}", path.display());
    std::fs::File::create(path).and_then(|file| file.set_len(bytes)).map_err(named)?;
    let target = Target::Direct(path.into());
    fill(&target)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(name: &str) -> Workload {
        name.parse().unwrap()
    }

    const EMPTY: &str = r#"{"total_ios": 0, "io_bytes": 0, "runtime": 0, "lat_ns": {"N": 0}}"#;

    fn told(read: &str, write: &str, sync: &str) -> String {
        format!(
            r#"note: something
{{"fio version": "fio-3.33", "jobs": [{{"error": 0, "read": {read}, "write": {write}, "sync": {sync}}}]}}"#
        )
    }

    #[test]
    fn reads_and_writes_are_taken_together() {
        let read =
            r#"{"total_ios": 3, "io_bytes": 12288, "runtime": 2000, "lat_ns": {"bins": {"1000": 2, "9000": 1}}}"#;
        let write = r#"{"total_ios": 2, "io_bytes": 8192, "runtime": 1900, "lat_ns": {"bins": {"5000": 2}}}"#;
        let outcome = parse(&told(read, write, r#"{"total_ios": 0}"#), workload("mix70-4k-qd16")).unwrap();
        assert_eq!((outcome.ios, outcome.bytes, outcome.written_bytes), (5, 20480, 8192));
        assert_eq!((outcome.seconds, outcome.iops()), (2.0, 2.5));
        assert_eq!((outcome.p50_us, outcome.p99_us), (5.0, 9.0));
    }

    #[test]
    fn a_flush_is_added_to_its_write() {
        let write = r#"{"total_ios": 4, "io_bytes": 16384, "runtime": 1000, "lat_ns": {"bins": {"5000": 4}}}"#;
        let sync = r#"{"total_ios": 4, "lat_ns": {"bins": {"700": 3, "900": 1}}}"#;
        let outcome = parse(&told(EMPTY, write, sync), workload("fsync-4k-qd1")).unwrap();
        assert_eq!((outcome.p50_us, outcome.p99_us), (5.7, 5.9));
    }

    #[test]
    fn what_is_no_result_is_refused_by_its_reason() {
        let refused = |text: &str| parse(text, workload("randwrite-4k-qd1")).unwrap_err();
        assert!(refused("fio: error").contains("no JSON"));
        assert!(refused("{ broken").contains("not JSON"));
        assert!(refused("{}").contains("no job"));
        assert!(refused(r#"{"jobs": [{"error": 5}]}"#).contains("error Some(5)"));
        assert!(refused(r#"{"jobs": [{"error": 0}]}"#).contains("lacks /read/total_ios"));
        assert!(refused(&told(EMPTY, EMPTY, "{}")).contains("nothing was done"));
    }
}
