//! The table in README.md: what a user chooses a policy by.

use std::path::Path;

use crate::results::Row;
use crate::stage::{Device, Durability};
use crate::table::{markdown, number};

const BEGIN: &str = "<!-- begin: make bench writes what stands here -->\n";
pub const END: &str = "<!-- end -->";

/// Puts the rows' table between the marks of a README.
pub fn update(path: &Path, rows: &[Row]) -> Result<(), String> {
    renew(path, BEGIN, &table(rows))
}

/// Puts a text between the marks of a file.
pub fn renew(path: &Path, begin: &str, text: &str) -> Result<(), String> {
    let named = |e: std::io::Error| format!("{}: {e}", path.display());
    let found = std::fs::read_to_string(path).map_err(named)?;
    let renewed = between_marks(&found, begin, text);
    let renewed = renewed.ok_or_else(|| format!("{} has no {}", path.display(), begin.trim()))?;
    std::fs::write(path, renewed).map_err(named)
}

fn between_marks(found: &str, begin: &str, text: &str) -> Option<String> {
    let (before, rest) = found.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}{text}{END}{after}"))
}

/// One line for each distance that was measured over NBD.
fn table(rows: &[Row]) -> String {
    let find = |workload: &str, durability, rtt_ms| {
        let of = |row: &&Row| row.device == Device::Nbd && row.workload == workload && row.durability == durability;
        rows.iter().find(|row| of(row) && row.rtt_ms == rtt_ms)
    };
    let ms = |us: Option<f64>| us.map_or_else(|| "-".into(), |us| number(us / 1e3));
    let p50 = |durability, rtt_ms| ms(find("randwrite-4k-qd1", durability, rtt_ms).map(|row| row.p50_us));
    let iops =
        |workload, rtt_ms| find(workload, Durability::Write, rtt_ms).map_or_else(|| "-".into(), |row| number(row.iops));
    let measured = rows.iter().filter(|row| row.workload == "randwrite-4k-qd1" && row.durability == Durability::Write);
    let lines: Vec<Vec<String>> = measured
        .filter(|row| row.device == Device::Nbd)
        .map(|row| {
            vec![
                format!("{} ms", row.rtt_ms),
                ms(row.limit_p50_us),
                p50(Durability::Write, row.rtt_ms),
                p50(Durability::Flush, row.rtt_ms),
                iops("randwrite-4k-qd64", row.rtt_ms),
                iops("randread-4k-qd64", row.rtt_ms),
            ]
        })
        .collect();
    let headings = [
        "round trip between the sites",
        "limit, ms",
        "4k write, ms",
        "class `flush`, ms",
        "writes/s at QD64",
        "reads/s at QD64",
    ];
    markdown(&headings, 1, &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_renewed() {
        let text = format!("a\n{BEGIN}old\n{END}\nz\n");
        assert_eq!(between_marks(&text, BEGIN, "new\n"), Some(format!("a\n{BEGIN}new\n{END}\nz\n")));
        assert_eq!(between_marks("no marks", BEGIN, "new"), None);
    }

    #[test]
    fn a_distance_is_a_line() {
        let row = |workload: &str, durability, p50_us| Row {
            workload: workload.into(),
            device: Device::Nbd,
            durability,
            rtt_ms: 5,
            iops: 1234.4,
            mib_s: 1.0,
            p50_us,
            p99_us: 1.0,
            limit_p50_us: Some(5200.0),
            limit_local_us: 1.0,
            ratio: None,
            cpu_us_per_io: 1.0,
        };
        let rows = [
            row("randwrite-4k-qd1", Durability::Write, 5400.0),
            row("randwrite-4k-qd1", Durability::Flush, 210.0),
            row("randwrite-4k-qd64", Durability::Write, 9000.0),
        ];
        assert_eq!(table(&rows).lines().nth(2), Some("| 5 ms | 5.20 | 5.40 | 0.21 | 1234 | - |"));
    }
}
