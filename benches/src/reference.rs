//! Reads beside those of qemu-nbd, on the same disk and under the same client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::fio::{self, Extent, Target};
use crate::limits::DiskLimit;
use crate::workload::Workload;

const READY_PATIENCE: Duration = Duration::from_secs(20);
pub const WORKLOAD: &str = "randread-4k-qd64";

#[derive(Debug, Clone, Copy, Serialize)]
pub struct ReadReference {
    pub farshore: DiskLimit,
    pub qemu_nbd: DiskLimit,
    /// IOPS of ours ÷ IOPS of qemu-nbd's.
    pub ratio: f64,
}

/// A qemu-nbd that ends with the value.
pub struct QemuNbd {
    child: Child,
    socket: PathBuf,
}

impl QemuNbd {
    /// Serves a raw file past the page cache.
    pub fn serve(file: &Path, socket: PathBuf) -> Result<QemuNbd, String> {
        let child = Command::new("qemu-nbd")
            .args(["--persistent", "--format=raw", "--cache=none", "--aio=native", "--shared=4", "--export-name=disk"])
            .arg(format!("--socket={}", socket.display()))
            .arg(file)
            .stdin(Stdio::null())
            // It complains of each client that leaves without a farewell, as fio does.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("starting qemu-nbd: {e}; tests/deps bench installs it"))?;
        let mut server = QemuNbd { child, socket };
        let began = Instant::now();
        while std::os::unix::net::UnixStream::connect(&server.socket).is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(format!("qemu-nbd ended with {status}; try it by hand on {}", file.display()));
            }
            if began.elapsed() > READY_PATIENCE {
                return Err("qemu-nbd does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub fn target(&self) -> Target {
        Target::Nbd { socket: self.socket.clone(), export: "disk".into() }
    }
}

impl Drop for QemuNbd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ours and qemu's in turns, so that a moment's noise meets both; the better half of each counts.
pub fn compare(ours: &Target, file: &Path, socket: PathBuf, seconds: u64) -> Result<ReadReference, String> {
    let workload: Workload = WORKLOAD.parse()?;
    let server = QemuNbd::serve(file, socket)?;
    let mut best: [Option<DiskLimit>; 2] = [None, None];
    for _ in 0..2 {
        for (target, best) in [ours.clone(), server.target()].iter().zip(&mut best) {
            let outcome = DiskLimit::from(&fio::run(target, workload, Extent::Seconds(seconds), &[])?);
            if best.is_none_or(|best| best.iops < outcome.iops) {
                *best = Some(outcome);
            }
        }
    }
    let [Some(farshore), Some(qemu_nbd)] = best else { return Err("nothing was measured".into()) };
    Ok(ReadReference { farshore, qemu_nbd, ratio: farshore.iops / qemu_nbd.iops.max(1e-9) })
}
