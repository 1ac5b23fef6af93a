//! What fio is asked to do, and its name: `randwrite-4k-qd16`.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    RandWrite,
    RandRead,
    Write,
    Read,
    /// 70 % reads, 30 % writes, both at random.
    Mix70,
    /// Random writes with a flush after each.
    Fsync,
}

const PATTERNS: [(Pattern, &str); 6] = [
    (Pattern::RandWrite, "randwrite"),
    (Pattern::RandRead, "randread"),
    (Pattern::Write, "write"),
    (Pattern::Read, "read"),
    (Pattern::Mix70, "mix70"),
    (Pattern::Fsync, "fsync"),
];

/// Deeper queues than fio's single thread could keep filled.
const DEPTH_MAX: u32 = 4096;
const BLOCK_KIB_MAX: u32 = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workload {
    pub pattern: Pattern,
    pub block_kib: u32,
    pub depth: u32,
}

impl Workload {
    pub fn writes(self) -> bool {
        !self.only_reads()
    }

    pub fn only_reads(self) -> bool {
        matches!(self.pattern, Pattern::RandRead | Pattern::Read)
    }

    /// fio's own words for the pattern.
    pub fn fio_arguments(self) -> Vec<String> {
        let (rw, more): (&str, &[&str]) = match self.pattern {
            Pattern::RandWrite => ("randwrite", &[]),
            Pattern::RandRead => ("randread", &[]),
            Pattern::Write => ("write", &[]),
            Pattern::Read => ("read", &[]),
            Pattern::Mix70 => ("randrw", &["--rwmixread=70"]),
            Pattern::Fsync => ("randwrite", &["--fsync=1"]),
        };
        let own = [format!("--rw={rw}"), format!("--bs={}k", self.block_kib), format!("--iodepth={}", self.depth)];
        own.into_iter().chain(more.iter().map(|word| word.to_string())).collect()
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = PATTERNS.iter().find(|(pattern, _)| *pattern == self.pattern).expect("every pattern is listed");
        // Padding is for the whole name.
        f.pad(&format!("{name}-{}k-qd{}", self.block_kib, self.depth))
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let mut parts = text.split('-');
            let name = parts.next()?;
            let (pattern, _) = PATTERNS.into_iter().find(|(_, known)| *known == name)?;
            let block_kib = parts.next()?.strip_suffix('k')?.parse().ok()?;
            let depth = parts.next()?.strip_prefix("qd")?.parse().ok()?;
            let known = (1..=BLOCK_KIB_MAX).contains(&block_kib) && (1..=DEPTH_MAX).contains(&depth);
            (parts.next().is_none() && known).then_some(Workload { pattern, block_kib, depth })
        };
        parsed().ok_or_else(|| {
            let names = PATTERNS.map(|(_, name)| name).join("|");
            format!(
                "{text:?} is not a workload; write {names}, a block size and a queue depth, as in randwrite-4k-qd16"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_what_they_say() {
        for name in ["randwrite-4k-qd1", "randread-4k-qd64", "write-128k-qd8", "mix70-4k-qd16", "fsync-4k-qd1"] {
            assert_eq!(name.parse::<Workload>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_refused_with_an_example() {
        for name in
            ["", "randwrite", "randwrite-4k", "sweep-4k-qd1", "randwrite-4-qd1", "write-4k-qd0", "read-4k-qd1-x"]
        {
            let said = name.parse::<Workload>().unwrap_err();
            assert!(said.contains("randwrite-4k-qd16"), "{said}");
        }
    }

    #[test]
    fn fio_is_told_everything() {
        let told = |name: &str| name.parse::<Workload>().unwrap().fio_arguments().join(" ");
        assert_eq!(told("fsync-4k-qd1"), "--rw=randwrite --bs=4k --iodepth=1 --fsync=1");
        assert_eq!(told("mix70-4k-qd16"), "--rw=randrw --bs=4k --iodepth=16 --rwmixread=70");
    }
}
