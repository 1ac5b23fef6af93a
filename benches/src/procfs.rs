//! What a process has used, as the kernel counts it.

use std::fs;

/// /proc counts in hundredths of a second on every Linux.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In user mode and in the kernel on its behalf, all threads, those that have ended too.
    pub cpu_us: u64,
    /// What it caused to be written to the block layer; what it wrote into the page cache counts when it is dirtied.
    pub written_bytes: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Usage, String> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).map_err(|e| format!("reading {path}: {e}"))
        };
        let (stat, io) = (read("stat")?, read("io")?);
        let cpu_us = cpu_us(&stat).ok_or_else(|| format!("/proc/{pid}/stat reads {stat:?}"))?;
        let written_bytes = written_bytes(&io).ok_or_else(|| format!("/proc/{pid}/io reads {io:?}"))?;
        Ok(Usage { cpu_us, written_bytes })
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_us: self.cpu_us.saturating_sub(before.cpu_us),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

fn cpu_us(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold anything; utime and stime are fields 14 and 15, the state is 3.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * (1_000_000 / TICKS_PER_SECOND))
}

fn written_bytes(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_time_are_counted_whatever_the_name() {
        let stat = "42 (a ) 7 R) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 100 0 0";
        assert_eq!(cpu_us(stat), Some(3_000_000));
        assert_eq!(cpu_us("42 (x) S 1"), None);
    }

    #[test]
    fn writes_are_those_that_reach_the_disk() {
        let io = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        assert_eq!(written_bytes(io), Some(4096));
        assert_eq!(written_bytes("rchar: 1\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let before = Usage::of(std::process::id()).unwrap();
        let after = Usage::of(std::process::id()).unwrap();
        assert!(after.cpu_us >= before.cpu_us);
        assert_eq!(before.since(after).written_bytes, 0);
    }
}
