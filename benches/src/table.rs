//! Tables: the terminal's, and Markdown's.

use std::fmt::Write as _;

use crate::results::Row;
use crate::stage::word;

pub const HEADINGS: [&str; 12] = [
    "workload",
    "device",
    "class",
    "RTT ms",
    "IOPS",
    "MiB/s",
    "p50 µs",
    "p99 µs",
    "limit µs",
    "local µs",
    "ratio",
    "CPU µs/IO",
];
const WIDTHS: [usize; 12] = [18, 6, 6, 6, 9, 8, 9, 9, 9, 8, 6, 9];

/// A number with as many digits as say something.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn optional(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), number)
}

pub fn cells(row: &Row) -> [String; 12] {
    [
        row.workload.clone(),
        word(row.device),
        word(row.durability),
        row.rtt_ms.to_string(),
        number(row.iops),
        number(row.mib_s),
        number(row.p50_us),
        number(row.p99_us),
        optional(row.limit_p50_us),
        number(row.limit_local_us),
        optional(row.ratio),
        number(row.cpu_us_per_io),
    ]
}

/// One line for the terminal; names to the left, numbers to the right.
pub fn line<S: AsRef<str>>(cells: &[S; 12]) -> String {
    let mut out = String::new();
    for (index, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        let cell = cell.as_ref();
        let _ = if index < 3 { write!(out, "{cell:<width$} ") } else { write!(out, "{cell:>width$} ") };
    }
    out.trim_end().to_string()
}

/// A Markdown table; the first `names` columns are text, the others numbers.
pub fn markdown<S: AsRef<str>>(headings: &[&str], names: usize, rows: &[Vec<S>]) -> String {
    let mut out = format!("| {} |\n|", headings.join(" | "));
    for index in 0..headings.len() {
        out += if index < names { "---|" } else { "---:|" };
    }
    out.push('\n');
    for row in rows {
        let cells: Vec<&str> = row.iter().map(AsRef::as_ref).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        assert_eq!([1234.56, 45.678, 1.006].map(number), ["1235", "45.7", "1.01"]);
        assert_eq!(optional(None), "-");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let row = ["randwrite-4k-qd1", "nbd", "write", "0", "1", "2", "3", "4", "5", "6", "7", "8"];
        let end = |text: &str, word: &str| text.find(word).map(|at| text[..at].chars().count() + word.chars().count());
        assert_eq!(end(&line(&HEADINGS), "RTT ms"), end(&line(&row), "  0"));
        assert_eq!(line(&HEADINGS).chars().count(), line(&row).chars().count());
    }

    #[test]
    fn markdown_is_aligned_by_kind() {
        assert_eq!(markdown(&["a", "b"], 1, &[vec!["x", "1"]]), "| a | b |\n|---|---:|\n| x | 1 |\n");
    }
}
