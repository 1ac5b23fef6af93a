//! The part of the report that tells of snapshots, and the aims.

use super::figures::{Changes, SnapshotFigures};
use crate::table::{markdown, number};
use crate::targets::{self, Target};

const PAUSE_MS_MAX: f64 = 10.0;
const READ_SLOWDOWN_MAX: f64 = 1.1;
const WRITE_SLOWDOWN_MAX: f64 = 1.2;
const CHAIN_SLOWDOWN_MAX: f64 = 1.5;
const FLATTENED_SLOWDOWN_MAX: f64 = 1.1;
const DIFF_S_MAX: f64 = 5.0;
/// The volume that the aim is for.
const DIFF_VOLUME_BYTES: u64 = 1 << 40;

/// Those of the aims that this run has figures for.
pub fn judge(figures: &SnapshotFigures) -> Vec<Target> {
    let pause = &figures.pause;
    let said = format!(
        "{} ms (while one is only shown {} ms, without either {} ms)",
        number(pause.beside_p99_ms),
        number(pause.shown_p99_ms),
        number(pause.without_p99_ms)
    );
    let met = pause.beside_p99_ms <= PAUSE_MS_MAX;
    let mut all = vec![Target::new("writes beside a snapshot, p99", format!("≤ {PAUSE_MS_MAX} ms"), said, met)];
    let held_max = PAUSE_MS_MAX + f64::from(pause.cut_rtt_ms);
    let what = format!("a cut over two volumes, {} ms apart, holds completions, p99", pause.cut_rtt_ms);
    let said = format!("{} ms", number(pause.cut_held_p99_ms));
    all.push(Target::new(&what, format!("≤ {held_max} ms"), said, pause.cut_held_p99_ms <= held_max));
    let ratios = [
        ("reads with 1,000 snapshots", figures.read_slowdown_1000_snapshots, READ_SLOWDOWN_MAX),
        (
            "writes with 1,000 snapshots, once the extent is its own",
            figures.write_slowdown_1000_snapshots,
            WRITE_SLOWDOWN_MAX,
        ),
        ("reads at the end of 100 clones", figures.chain100_slowdown, CHAIN_SLOWDOWN_MAX),
        ("the same, flattened", figures.chain100_flattened_slowdown, FLATTENED_SLOWDOWN_MAX),
    ];
    all.extend(ratios.into_iter().filter_map(|(what, ratio, max)| {
        let ratio = ratio?;
        Some(Target::new(what, format!("≤ {max} × without"), format!("{} ×", number(ratio)), ratio <= max))
    }));
    let judged = figures.differences.iter().filter(|found| found.volume_bytes == DIFF_VOLUME_BYTES);
    all.extend(judged.map(|found| {
        let what = format!("what changed in 1 % of 1 TiB, in pieces of {} KiB", found.piece_kib);
        let said = format!("{} s", number(found.seconds));
        Target::new(&what, format!("≤ {DIFF_S_MAX} s"), said, found.seconds <= DIFF_S_MAX)
    }));
    all
}

pub fn text(figures: &SnapshotFigures) -> String {
    let pause = &figures.pause;
    let many: Vec<Vec<String>> = figures
        .many
        .iter()
        .map(|with| {
            let figures = [
                with.made_ms_each,
                with.cold_read_us,
                with.cold_read_ratio,
                with.reads_per_s,
                with.read_ratio,
                with.writes_per_s,
                with.write_ratio,
            ];
            [with.snapshots.to_string()].into_iter().chain(figures.map(number)).collect()
        })
        .collect();
    let many_headings =
        ["snapshots", "made, ms each", "cold read µs", "×", "reads/s, QD16", "×", "writes/s, QD16", "×"];
    let chains: Vec<Vec<String>> = figures
        .chains
        .iter()
        .map(|chain| {
            let figures = [
                chain.made_ms_each,
                chain.read_us,
                chain.ratio,
                chain.flattened_read_us,
                chain.flattened_ratio,
                chain.writes_per_s,
                chain.write_ratio,
            ];
            [chain.clones.to_string()].into_iter().chain(figures.map(number)).collect()
        })
        .collect();
    let chain_headings = ["clones", "made, ms each", "cold read µs", "×", "flattened µs", "×", "writes/s, QD16", "×"];
    let differences: Vec<Vec<String>> = figures.differences.iter().map(difference).collect();
    let difference_headings =
        ["volume GiB", "pieces KiB", "changed bytes", "told in s", "as JSON, bytes", "index, bytes"];
    format!(
        "## Snapshots\n\n{aims}\nThree sites on this machine, no distance. {snapshots} snapshots, while four writers have \
         one write of 4 KiB under way each: latency p50 {beside_p50} ms, p99 {beside_p99} ms, at most {beside_max} ms of \
         the {writes} writes under way meanwhile; {without_p50} and {without_p99} ms without. {cuts} cuts over two \
         volumes led from two sites {rtt} ms apart: completions held {held} ms, p99.\n\n{many}\nEach extent is the \
         volume's own since the last snapshot. Cold: one read for each extent, scattered, after a restart of the \
         replicator. × is the time for a request against that with none, measured in turn in the same rounds.\n\n\
         {chains}\nCold reads by the first who reads there, right after the chain was made (clones are flattened in the \
         background from their first moment on), against those of the first volume after a restart; then again when all \
         is flattened, after restarts. Writes go to extents that are the clone's own.\n\n{differences}\n1 % of a thin volume, written at random in such pieces between \
         two snapshots on one replica: `farshore snapshot diff`, to the last byte of its answer. Measured in {took} s.\n",
        aims = targets::table(&judge(figures)),
        snapshots = pause.snapshots,
        beside_p50 = number(pause.beside_p50_ms),
        beside_p99 = number(pause.beside_p99_ms),
        beside_max = number(pause.beside_max_ms),
        writes = pause.writes_beside,
        without_p50 = number(pause.without_p50_ms),
        without_p99 = number(pause.without_p99_ms),
        cuts = pause.cuts,
        rtt = pause.cut_rtt_ms,
        held = number(pause.cut_held_p99_ms),
        many = markdown(&many_headings, 0, &many),
        chains = markdown(&chain_headings, 0, &chains),
        differences = markdown(&difference_headings, 0, &differences),
        took = number(figures.took_s),
    )
}

fn difference(found: &Changes) -> Vec<String> {
    vec![
        (found.volume_bytes >> 30).to_string(),
        found.piece_kib.to_string(),
        found.bytes.to_string(),
        number(found.seconds),
        found.answer_bytes.to_string(),
        found.index_bytes.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::figures::Pause;
    use super::*;

    fn figures() -> SnapshotFigures {
        let difference = |volume_bytes, piece_kib, seconds| Changes {
            volume_bytes,
            piece_kib,
            written_s: 1.0,
            seconds,
            bytes: 7,
            answer_bytes: 7,
            index_bytes: 7,
        };
        SnapshotFigures {
            pause: Pause { beside_p99_ms: 9.9, cut_rtt_ms: 5, cut_held_p99_ms: 15.1, ..Pause::default() },
            read_slowdown_1000_snapshots: Some(1.2),
            differences: vec![difference(1 << 40, 64, 4.0), difference(1 << 40, 4, 6.0), difference(1 << 32, 4, 9.0)],
            ..SnapshotFigures::default()
        }
    }

    #[test]
    fn each_aim_is_held_against_its_figure_and_what_was_not_measured_is_not_judged() {
        let met: Vec<bool> = judge(&figures()).into_iter().map(|target| target.met).collect();
        assert_eq!(met, [true, false, false, true, false]);
    }

    #[test]
    fn the_part_has_its_aims_and_its_tables() {
        let text = text(&figures());
        assert!(text.starts_with("## Snapshots\n") && text.contains("| **no** |") && text.contains("| 1024 | 4 | 7 |"));
    }
}
