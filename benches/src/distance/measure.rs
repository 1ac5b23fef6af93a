//! The section from begin to end.

use std::path::Path;
use std::time::Instant;

use super::figures::DistanceFigures;
use super::{moves, outage, shipping};

/// What is measured, by size.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    pub shipping: shipping::Scale,
    pub outage: outage::Scale,
    /// Volumes that are moved at once, fewer first.
    pub moved: &'static [usize],
}

pub const FULL: Scale = Scale {
    shipping: shipping::Scale { volume_bytes: 768 << 20, seconds: 8 },
    outage: outage::Scale { volume_bytes: 512 << 20, region_bytes: 64 << 20, passes: 5 },
    moved: &[1, 100],
};
pub const QUICK: Scale = Scale {
    shipping: shipping::Scale { volume_bytes: 256 << 20, seconds: 3 },
    outage: outage::Scale { volume_bytes: 256 << 20, region_bytes: 64 << 20, passes: 4 },
    moved: &[1, 10],
};

/// Sets three sites up below `dir` for each part, and measures; tells what is done.
pub fn measure(dir: &Path, scale: Scale, mut tell: impl FnMut(String)) -> Result<DistanceFigures, String> {
    let began = Instant::now();
    let shipped = shipping::measure(dir, scale.shipping)?;
    let (shipping, slowdown) = (shipped.figures, shipped.slowdown());
    tell(format!(
        "shipped {:.0} MiB/s (the disk alone takes {:.0}), {:.2} × where data halves, {:.0} % of a link of {:.0} Mbit/s; \
         writes beside it {slowdown:.2} ×, and it at {:.0} Mbit/s",
        shipped.mib_s,
        shipping.disk_mib_s,
        shipped.packed_ratio,
        shipping.link_share * 100.0,
        shipping.link_mbit_s,
        shipping.bulk_beside_mbit_s,
    ));
    let outage = outage::measure(dir, scale.outage)?;
    let resync_ratio = outage.shipped_bytes as f64 / outage.distinct_bytes.max(1) as f64;
    tell(format!(
        "a site away for {:.1} s at {:.1} MiB/s: shipped {resync_ratio:.2} × what differed, in sync after {:.1} s",
        outage.seconds, outage.written_mib_s, outage.resync_s
    ));
    let moves = moves::measure(dir, scale.moved)?;
    for (volumes, seconds) in &moves.failover_s {
        let switchover = moves.switchover_s.get(volumes).copied().unwrap_or_default();
        tell(format!("{volumes} volumes: failover {seconds:.2} s, switchover {switchover:.2} s"));
    }
    Ok(DistanceFigures {
        ship_mib_s: shipped.mib_s,
        ship_ratio: shipped.ratio,
        ship_packed_ratio: shipped.packed_ratio,
        foreground_slowdown: slowdown,
        resync_ratio,
        failover_s: moves.failover_s,
        switchover_s: moves.switchover_s,
        shipping,
        outage,
        took_s: began.elapsed().as_secs_f64(),
    })
}
