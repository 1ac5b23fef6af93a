//! The report's pictures, drawn by gnuplot.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::results::Row;
use crate::stage::{Device, Durability};

/// A picture: its file, its title in the report, and gnuplot's script for it.
pub struct Plot {
    pub file: &'static str,
    pub title: &'static str,
    pub script: String,
}

const STYLE: &str = "set terminal pngcairo size 820,460 font 'sans,11'\nset grid ytics lt 1 lc rgb '#dddddd'\n\
    set border 3 lc rgb '#888888'\nset tics nomirror\nset key above horizontal left samplen 2\n";
const SERIES: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#888888"];

/// Those that the rows have figures for.
pub fn all(rows: &[Row]) -> Vec<Plot> {
    [latency(rows), overhead(rows), depth(rows)].into_iter().flatten().collect()
}

/// Draws into `dir`; says why where that can't be done.
pub fn draw(plots: &[Plot], dir: &Path) -> Result<(), String> {
    for plot in plots {
        let script = format!("{STYLE}set output '{}'\n{}", dir.join(plot.file).display(), plot.script);
        let mut gnuplot = Command::new("gnuplot")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("starting gnuplot: {e}; tests/deps bench installs it"))?;
        let mut stdin = gnuplot.stdin.take().expect("it was asked for");
        stdin.write_all(script.as_bytes()).map_err(|e| format!("telling gnuplot: {e}"))?;
        drop(stdin);
        let output = gnuplot.wait_with_output().map_err(|e| format!("waiting for gnuplot: {e}"))?;
        if !output.status.success() {
            return Err(format!("gnuplot: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

fn qd1(rows: &[Row], device: Device, durability: Durability) -> Vec<&Row> {
    let of = |row: &&Row| row.workload == "randwrite-4k-qd1" && row.device == device && row.durability == durability;
    rows.iter().filter(of).collect()
}

/// p50 beside its limit, by distance.
fn latency(rows: &[Row]) -> Option<Plot> {
    let write = qd1(rows, Device::Nbd, Durability::Write);
    if write.len() < 2 {
        return None;
    }
    let flush = qd1(rows, Device::Nbd, Durability::Flush);
    let mut script = String::from("$data << END\n");
    for row in write {
        let local = flush.iter().find(|f| f.rtt_ms == row.rtt_ms).map_or("NaN".into(), |f| f.p50_us.to_string());
        let _ = writeln!(script, "\"{} ms\" {} {} {local}", row.rtt_ms, row.limit_p50_us?, row.p50_us);
    }
    let [blue, red, green, grey] = SERIES;
    let _ = red;
    script += &format!(
        "END\nset style data histogram\nset style histogram clustered gap 1\nset style fill solid noborder\n\
        set logscale y\nset xlabel 'round trip between the sites'\nset ylabel 'p50 of a 4k write at QD1, µs'\n\
        plot $data using 2:xtic(1) title 'limit: echo + append' lc rgb '{grey}', \
        '' using 3 title 'durability write' lc rgb '{blue}', '' using 4 title 'durability flush' lc rgb '{green}'\n"
    );
    Some(Plot { file: "latency.png", title: "A 4k write at QD1 beside what it can't be faster than", script })
}

/// What we add to the limit, by distance.
fn overhead(rows: &[Row]) -> Option<Plot> {
    let (nbd, fuse) = (qd1(rows, Device::Nbd, Durability::Write), qd1(rows, Device::Fuse, Durability::Write));
    if nbd.len() < 2 {
        return None;
    }
    let mut script = String::from("$data << END\n");
    for row in nbd {
        let extra = |row: &Row| row.limit_p50_us.map_or(f64::NAN, |limit| row.p50_us - limit);
        let over_fuse = fuse.iter().find(|f| f.rtt_ms == row.rtt_ms).map_or("NaN".into(), |f| extra(f).to_string());
        let _ = writeln!(script, "\"{} ms\" {} {over_fuse}", row.rtt_ms, extra(row));
    }
    let [blue, red, ..] = SERIES;
    script += &format!(
        "END\nset style data histogram\nset style histogram clustered gap 1\nset style fill solid noborder\n\
        set yrange [0:*]\nset xlabel 'round trip between the sites'\nset ylabel 'p50 − limit, µs'\n\
        plot $data using 2:xtic(1) title 'NBD' lc rgb '{blue}', '' using 3 title 'FUSE + loop' lc rgb '{red}'\n"
    );
    Some(Plot { file: "overhead.png", title: "What a 4k write at QD1 takes beyond its limit", script })
}

/// Requests a second, by queue depth and distance.
fn depth(rows: &[Row]) -> Option<Plot> {
    let of = |pattern: &str, rtt_ms: u32| -> Vec<(u32, f64)> {
        let own = rows
            .iter()
            .filter(|row| row.device == Device::Nbd && row.durability == Durability::Write && row.rtt_ms == rtt_ms);
        let prefix = format!("{pattern}-4k-qd");
        own.filter_map(|row| Some((row.workload.strip_prefix(&prefix)?.parse().ok()?, row.iops))).collect()
    };
    let wanted = [
        ("randread", 0, "reads"),
        ("randwrite", 0, "writes, RTT 0"),
        ("randwrite", 5, "writes, RTT 5 ms"),
        ("randwrite", 20, "writes, RTT 20 ms"),
    ];
    let (mut data, mut lines) = (String::new(), Vec::new());
    for (index, (pattern, rtt_ms, title)) in wanted.into_iter().enumerate() {
        let points = of(pattern, rtt_ms);
        if points.len() < 2 {
            continue;
        }
        let _ = writeln!(data, "$series{index} << END");
        points.iter().for_each(|(depth, iops)| _ = writeln!(data, "{depth} {iops}"));
        data += "END\n";
        lines.push(format!(
            "$series{index} using 1:2 with linespoints lw 2 pt 7 lc rgb '{}' title '{title}'",
            SERIES[index]
        ));
    }
    if lines.is_empty() {
        return None;
    }
    let axes = "set logscale xy\nset xtics (1,16,64)\nset xrange [0.8:80]\nset xlabel 'queue depth'\nset ylabel '4k requests a second'\n";
    let script = format!("{data}{axes}plot {}\n", lines.join(", "));
    Some(Plot { file: "depth.png", title: "Requests a second by queue depth", script })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert!(all(&[]).is_empty());
    }
}
