//! The part of the report that tells of distance, and the aims.

use super::figures::DistanceFigures;
use crate::table::{markdown, number};
use crate::targets::{self, Target};

const SLOWDOWN_MAX: f64 = 1.2;
const RESYNC_RATIO_MAX: f64 = 1.2;

pub fn judge(figures: &DistanceFigures) -> Vec<Target> {
    let ratio = |what: &str, ratio: f64, max: f64| {
        Target::new(what, format!("≤ {max} ×"), format!("{} ×", number(ratio)), ratio <= max)
    };
    let beside = format!("writes beside a shipment, {} ms apart, p50", figures.shipping.rtt_ms);
    vec![
        ratio(&beside, figures.foreground_slowdown, SLOWDOWN_MAX),
        ratio("shipped after an outage, of what differs", figures.resync_ratio, RESYNC_RATIO_MAX),
    ]
}

pub fn text(figures: &DistanceFigures) -> String {
    let (shipping, outage) = (&figures.shipping, &figures.outage);
    let moves: Vec<Vec<String>> = figures
        .failover_s
        .iter()
        .map(|(volumes, failover)| {
            let switchover = figures.switchover_s.get(volumes).copied().unwrap_or_default();
            vec![volumes.to_string(), number(*failover), number(switchover)]
        })
        .collect();
    format!(
        "## Distance\n\n{aims}\nA volume of {mib} MiB for a new member: {ship} MiB/s over loopback, where the disk alone \
         takes {disk} MiB/s from one client (three replicators and two copies share it); {ratio} × its bytes, and of data that halves {packed} × \
         its bytes on the link. Over \
         {rtt} ms and {link} Mbit/s: {share} % of the link; 300 writes of 4 KiB a second that wait for every remote take \
         {alone} ms alone and {beside} ms beside another one that goes on at {bulk} Mbit/s, p50.\n\nA site away for {away} s while the others wrote \
         {rate} MiB/s, {written} MiB to {distinct} MiB of distinct blocks, more than the journal holds: {shipped} MiB were \
         shipped, and it was in sync {resync} s after its start.\n\n{moves}\nFailover: from the end of the primary's site \
         until the verb's answer; a lease of 1 s has to run out. Measured in {took} s.\n",
        aims = targets::table(&judge(figures)),
        mib = shipping.volume_bytes >> 20,
        ship = number(figures.ship_mib_s),
        disk = number(shipping.disk_mib_s),
        ratio = number(figures.ship_ratio),
        packed = number(figures.ship_packed_ratio),
        rtt = shipping.rtt_ms,
        link = number(shipping.link_mbit_s),
        share = number(shipping.link_share * 100.0),
        alone = number(shipping.foreground_alone_p50_us / 1e3),
        beside = number(shipping.foreground_beside_p50_us / 1e3),
        bulk = number(shipping.bulk_beside_mbit_s),
        away = number(outage.seconds),
        rate = number(outage.written_mib_s),
        written = outage.written_bytes >> 20,
        distinct = outage.distinct_bytes >> 20,
        shipped = outage.shipped_bytes >> 20,
        resync = number(outage.resync_s),
        moves = markdown(&["volumes", "failover, s", "switchover, s"], 0, &moves),
        took = number(figures.took_s),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_has_its_aims_and_its_tables() {
        let figures = DistanceFigures {
            foreground_slowdown: 1.3,
            resync_ratio: 1.01,
            failover_s: [(1, 1.1), (100, 2.5)].into(),
            switchover_s: [(1, 0.1), (100, 0.9)].into(),
            ..DistanceFigures::default()
        };
        let met: Vec<bool> = judge(&figures).into_iter().map(|target| target.met).collect();
        assert_eq!(met, [false, true]);
        let text = text(&figures);
        assert!(text.starts_with("## Distance\n") && text.contains("| 100 | 2.50 | 0.90 |"), "{text}");
        let json = serde_json::to_value(&figures).unwrap();
        assert_eq!((&json["failover_s"]["100"], &json["switchover_s"]["1"]), (&2.5.into(), &0.1.into()));
    }
}
