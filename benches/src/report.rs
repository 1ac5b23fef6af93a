//! The files of a run: latest.json, details.json, snapshots.json, distance.json, REPORT.md, and the plots beside it.

use std::fmt::Write as _;
use std::path::Path;

use crate::allocations;
use crate::distance::{self, figures::DistanceFigures};
use crate::plots;
use crate::readme::{self, END};
use crate::results::{Details, Row, Written};
use crate::snapshots::figures::SnapshotFigures;
use crate::snapshots::part;
use crate::stage::word;
use crate::table::{self, markdown, number};
use crate::targets;

/// Written by hand, kept beside the report: where the microseconds go.
const PROFILE: &str = "PROFILE.md";
const REPORT: &str = "REPORT.md";
const SNAPSHOTS: &str = "snapshots.json";
const DISTANCE: &str = "distance.json";
const DISTANCE_BEGIN: &str = "<!-- begin: distance -->\n";
const SNAPSHOTS_BEGIN: &str = "<!-- begin: snapshots -->\n";

/// Sections with a file and a part of the report of their own.
#[derive(Debug, Default)]
pub struct Sections {
    pub snapshots: Option<SnapshotFigures>,
    pub distance: Option<DistanceFigures>,
}

/// Writes all files; what could not be drawn is noted in the report.
pub fn write(dir: &Path, rows: &[Row], mut details: Details, sections: &Sections) -> Result<(), String> {
    std::fs::create_dir_all(dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
    let json = |value: Result<String, serde_json::Error>| value.map_err(|e| format!("writing JSON: {e}"));
    if let Some(figures) = &sections.snapshots {
        put(&dir.join(SNAPSHOTS), &json(serde_json::to_string_pretty(figures))?)?;
    }
    if let Some(figures) = &sections.distance {
        put(&dir.join(DISTANCE), &json(serde_json::to_string_pretty(figures))?)?;
    }
    // Alone it leaves the others as they are.
    if rows.is_empty() && details.wan.is_empty() && details.allocations.is_empty() {
        let report = dir.join(REPORT);
        let parts = parts(sections).into_iter().filter(|(_, text)| report.is_file() && !text.is_empty());
        return parts.into_iter().try_for_each(|(begin, text)| readme::renew(&report, begin, &text));
    }
    let mut plots = plots::all(rows);
    if let Err(why) = plots::draw(&plots, dir) {
        details.skipped.push(format!("SKIP plots: {why}"));
        plots.clear();
    }
    let pictures: Vec<(&str, &str)> = plots.iter().map(|plot| (plot.file, plot.title)).collect();
    let files = [
        ("latest.json", json(serde_json::to_string_pretty(&rounded(rows)))?),
        ("details.json", json(serde_json::to_string_pretty(&details))?),
        (REPORT, text(rows, &details, sections, &pictures, dir.join(PROFILE).is_file())),
    ];
    files.iter().try_for_each(|(name, text)| put(&dir.join(name), text))
}

/// Where each part begins in the report, and its text.
fn parts(sections: &Sections) -> [(&'static str, String); 2] {
    let snapshots = sections.snapshots.as_ref().map(part::text).unwrap_or_default();
    let distance = sections.distance.as_ref().map(distance::part::text).unwrap_or_default();
    [(SNAPSHOTS_BEGIN, snapshots), (DISTANCE_BEGIN, distance)]
}

fn put(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text.trim_end().to_string() + "\n").map_err(|e| format!("writing {}: {e}", path.display()))
}

/// More digits than were measured would only make the file's history longer.
fn rounded(rows: &[Row]) -> Vec<Row> {
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let row = |row: &Row| Row {
        iops: round(row.iops),
        mib_s: round(row.mib_s),
        p50_us: round(row.p50_us),
        p99_us: round(row.p99_us),
        limit_p50_us: row.limit_p50_us.map(round),
        limit_local_us: round(row.limit_local_us),
        ratio: row.ratio.map(round),
        cpu_us_per_io: round(row.cpu_us_per_io),
        ..row.clone()
    };
    rows.iter().map(row).collect()
}

fn text(rows: &[Row], details: &Details, sections: &Sections, plots: &[(&str, &str)], has_profile: bool) -> String {
    let mut out = String::from("# Benchmark\n\n");
    out += &header(details);
    if has_profile {
        let _ = write!(out, "\nWhere the microseconds go: [{PROFILE}]({PROFILE}).\n");
    }
    if !details.targets.is_empty() {
        let _ = write!(out, "\n## Aims\n\n{}", targets::table(&details.targets));
    }
    for (file, title) in plots {
        let _ = write!(out, "\n![{title}]({file})\n");
    }
    if !rows.is_empty() {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| table::cells(row).to_vec()).collect();
        let _ = write!(out, "\n## Rows\n\n{}{}", markdown(&table::HEADINGS, 3, &cells), ROWS_LEGEND);
    }
    out += &written(&details.written);
    out += &limits(details);
    out += &wan(details);
    out += &allocations::text(&details.allocations);
    for (begin, text) in parts(sections) {
        let _ = write!(out, "\n{begin}{text}{END}\n");
    }
    if !details.skipped.is_empty() {
        out += "\n## Not measured\n\n";
        details.skipped.iter().for_each(|why| _ = writeln!(out, "- {why}"));
    }
    out
}

const ROWS_LEGEND: &str = "
*limit*: for writes the second smallest, over the three replicas, of [QUIC echo to it + 4 KiB append and fdatasync], both
measured in the same run (class `flush`: append and fdatasync alone, the replica in the primary's site; a write with its
flush waits for the quorum in both classes); for reads and mixes the raw disk's p50 under the same load. *local*: append
and fdatasync. *ratio*: p50 ÷ limit; with more than one request under way, or larger ones, most of it is queueing. *CPU*:
all threads of all three replicators, what they do afterwards (applying, checkpoints) and while they wait included.
`fsync`: the p50 of the write plus that of the flush after it.
";

fn header(details: &Details) -> String {
    let machine = &details.machine;
    let state = if machine.modified { " with changes" } else { "" };
    format!(
        "Made by `{}` in {} s. Three sites on one machine share its disk and its {} CPUs with the client and the emulated WAN: \
        what counts is the ratio to the limits of the same run.\n\n{} ({} CPUs), {} GiB, Linux {}, {} on the data \
        directories, {}; commit {}{state}; load before the run {}. Volumes of {} MiB, {} s per row.\n",
        details.command,
        number(details.took_s),
        machine.cpus,
        machine.cpu,
        machine.cpus,
        machine.memory_bytes.div_ceil(1 << 30),
        machine.kernel,
        machine.file_system,
        machine.fio,
        machine.commit,
        machine.load_before,
        details.volume_bytes >> 20,
        details.seconds_per_row
    )
}

fn written(all: &[Written]) -> String {
    // At the least distance of each: what is written does not depend on it.
    let nearest = all.iter().map(|w| w.rtt_ms).min();
    let rows: Vec<Vec<String>> = all
        .iter()
        .filter(|w| Some(w.rtt_ms) == nearest)
        .map(|w| {
            let per_byte = |site: &str| {
                let bytes = w.written_bytes.get(site).copied().unwrap_or(0);
                number(bytes as f64 / w.user_bytes.max(1) as f64)
            };
            let settled = if w.settled { "yes" } else { "no" };
            vec![
                w.workload.clone(),
                word(w.device),
                word(w.durability),
                per_byte("east"),
                per_byte("west"),
                per_byte("north"),
                settled.into(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let headings = ["workload", "device", "class", "east", "west", "north", "settled"];
    format!(
        "\n## Bytes written per byte of the user\n\n{}\nBytes that each replicator handed to the block layer (`write_bytes` of \
        /proc/PID/io: journal, store and index; not the file system's own journal) from the row's begin until everything \
        was in the store behind a checkpoint. East is the primary.\n",
        markdown(&headings, 3, &rows)
    )
}

fn limits(details: &Details) -> String {
    let limits = &details.limits;
    let mut out = String::from("\n## Limits\n\n");
    let _ = writeln!(
        out,
        "4 KiB append and fdatasync: p50 {} µs, p99 {} µs by three at once; p50 {} µs by one alone.\n",
        number(limits.append_p50_us),
        number(limits.append_p99_us),
        number(limits.append_alone_p50_us)
    );
    let added: Vec<String> =
        limits.relay_added_p50_us.iter().map(|(ms, us)| format!("{} µs at a delay of {ms} ms", number(*us))).collect();
    let _ =
        writeln!(out, "The emulator adds to one way, p50: {} (passing it, and how late it is).\n", added.join(", "));
    let echoes: Vec<Vec<String>> = limits
        .echoes
        .iter()
        .map(|e| vec![e.rtt_ms.to_string(), number(e.west_p50_us), number(e.north_p50_us)])
        .collect();
    if !echoes.is_empty() {
        out += &markdown(&["RTT ms", "QUIC echo to west, p50 µs", "to north"], 0, &echoes);
    }
    let disk: Vec<Vec<String>> = limits
        .disk
        .iter()
        .map(|(name, d)| vec![name.clone(), number(d.iops), number(d.mib_s), number(d.p50_us), number(d.p99_us)])
        .collect();
    if !disk.is_empty() {
        let table = markdown(&["raw disk, unsynced", "IOPS", "MiB/s", "p50 µs", "p99 µs"], 1, &disk);
        let _ = write!(out, "\n{table}");
    }
    out
}

fn wan(details: &Details) -> String {
    if details.wan.is_empty() {
        return String::new();
    }
    let percent = |part: f64| format!("{:.1}", part * 100.0);
    let rows: Vec<Vec<String>> = details
        .wan
        .iter()
        .map(|w| {
            vec![
                w.transport.replace('\n', ", "),
                percent(w.loss),
                number(w.records.mbit_s),
                percent(w.records.resent),
                number(w.bulk.mbit_s),
                percent(w.bulk.resent),
                number(w.foreground_alone_p50_us / 1e3),
                number(w.foreground_beside_bulk_p50_us / 1e3),
                number(w.bulk_beside_foreground_mbit_s),
                format!("{} ({})", w.connections_lost, w.lost_to_gaps),
            ]
        })
        .collect();
    let headings = [
        "transport",
        "loss %",
        "records Mbit/s",
        "resent %",
        "bulk Mbit/s",
        "resent %",
        "4k p50 ms",
        "beside bulk",
        "bulk then, Mbit/s",
        "connections lost (to gaps)",
    ];
    format!(
        "\n## A long link\n\nRTT {} ms, {} Mbit/s each way between each two sites, a queue of one bandwidth-delay product, packets of \
        1500 bytes, random loss.\n\n{}\nRecords: 128 KiB writes, 128 at once, every remote waited for. Bulk: the first copy for a member that \
        joins. Beside each other: 300 writes of 4 KiB a second, every remote waited for. The aims are for `delay`, the default; \
        `cubic` stands here for comparison.\n",
        details.wan[0].rtt_ms,
        number(details.wan[0].link_mbit_s),
        markdown(&headings, 1, &rows)
    )
}
