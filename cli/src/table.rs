//! Aligned columns, and numbers as people read them.

/// Rows of text; the last column is never padded.
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
    indent: &'static str,
}

impl Table {
    /// A heading that begins with '>' is right-aligned.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        let rows = vec![headings.iter().map(|h| h.trim_start_matches('>').to_string()).collect()];
        Self { rows, right, indent: "" }
    }

    pub fn indented(mut self, indent: &'static str) -> Self {
        self.indent = indent;
        self
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub fn render(&self) -> String {
        let columns = self.right.len();
        let width = |c: usize| self.rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = self.indent.to_string();
            for (c, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[c] - cell.chars().count());
                line += &if self.right[c] { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
                line += "  ";
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// An absent value.
pub const NONE: &str = "-";

pub fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.into() } else { text.into() }
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let whole = unit == 0 || value.fract() == 0.0 || value >= 100.0;
    if whole { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

pub fn time_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{} d {} h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

pub fn time_us(us: u64) -> String {
    if us < 100_000 { format!("{:.2} ms", us as f64 / 1e3) } else { time_ms(us / 1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let mut table = Table::new(&["NAME", ">SIZE", "STATE"]).indented("  ");
        table.row(["pg".into(), "10 GiB".into(), "ok".into()]);
        table.row(["longer-é".into(), "1 B".into(), String::new()]);
        assert_eq!(table.render(), "  NAME        SIZE  STATE\n  pg        10 GiB  ok\n  longer-é     1 B\n");
    }

    #[test]
    fn numbers_read_well() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 30, "10 GiB"), (u64::MAX, "16384 PiB")];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        let times = [
            (999, "999 ms"),
            (41_500, "41.5 s"),
            (125_000, "2 min 5 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        for (ms, text) in times {
            assert_eq!(time_ms(ms), text);
        }
        assert_eq!(time_us(11_200), "11.20 ms");
        assert_eq!(time_us(2_000_000), "2.0 s");
    }
}
