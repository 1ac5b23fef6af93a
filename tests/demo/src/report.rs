//! What the demo prints: one line a step, with the time since it began.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Report {
    began: Instant,
}

impl Report {
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// A step that is done, or a fact.
    pub fn step(&self, text: impl Display) {
        line(&format!("[{:6.2} s] {text}", self.began.elapsed().as_secs_f64()));
    }

    /// A detail of the step above.
    pub fn detail(&self, text: impl Display) {
        line(&format!("           {text}"));
    }

    /// A part of a whole, with the time it took.
    pub fn part(&self, name: &str, took: Duration, text: impl Display) {
        line(&format!("           {name:<28} {:7.3} s  {text}", took.as_secs_f64()));
    }
}

/// A reader that went away must not stop the demo from clearing up.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// The last line, the same in every version so that results can be compared.
pub fn closing_line(verified: usize, lost: usize, failover: Duration) -> String {
    format!("demo: verified {verified} commits, lost {lost}, failover {:.2} s", failover.as_secs_f64())
}

/// 1536 as `1.5 KiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_has_its_form() {
        let line = closing_line(5123, 0, Duration::from_millis(4567));
        assert_eq!(line, "demo: verified 5123 commits, lost 0, failover 4.57 s");
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!([bytes(0), bytes(1023), bytes(1536), bytes(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
    }
}
