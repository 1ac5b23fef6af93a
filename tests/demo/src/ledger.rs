//! The ledger: every commit that the database confirmed, kept by its clients and off the volume.
//!
//! A client writes a line after the database's answer and before it begins its next transaction. So at a kill a client
//! has at most one commit that the database has and the ledger has not, and the ledger has none too many.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{DemoError, Result, io};

/// Which commit: the client's number and the client's own count, from 1.
pub type Key = (i32, i64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub account: i32,
    pub amount: i64,
    pub stamp: String,
}

/// The clients' side: one line a commit, each in one write.
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    pub fn append(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path).map_err(io("open", path))?;
        Ok(Self { file, path: path.into() })
    }

    pub fn confirm(&mut self, key: Key, entry: &Entry) -> Result<()> {
        let line = format!("{} {} {} {} {}\n", key.0, key.1, entry.account, entry.amount, entry.stamp);
        self.file.write_all(line.as_bytes()).map_err(io("append to", &self.path))
    }
}

/// The judge's side: everything confirmed so far, read as the file grows.
pub struct Ledger {
    file: File,
    path: PathBuf,
    /// Read, and not yet ended by a newline.
    rest: Vec<u8>,
    entries: BTreeMap<Key, Entry>,
}

impl Ledger {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).read(true).open(path).map_err(io("open", path))?;
        Ok(Self { file, path: path.into(), rest: Vec::new(), entries: BTreeMap::new() })
    }

    /// Takes in what was written since. A torn last line was never confirmed to anybody.
    pub fn refresh(&mut self) -> Result<usize> {
        self.file.read_to_end(&mut self.rest).map_err(io("read", &self.path))?;
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let fresh: Vec<u8> = self.rest.drain(..whole).collect();
        for line in String::from_utf8_lossy(&fresh).lines() {
            let bad = || DemoError::Broken(format!("{}: not a line of a ledger: {line}", self.path.display()));
            let (key, entry) = parse(line).ok_or_else(bad)?;
            if self.entries.insert(key, entry).is_some() {
                return Err(bad());
            }
        }
        Ok(self.entries.len())
    }

    pub fn entries(&self) -> &BTreeMap<Key, Entry> {
        &self.entries
    }
}

fn parse(line: &str) -> Option<(Key, Entry)> {
    let mut words = line.split(' ');
    let key = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (account, amount) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let entry = Entry { account, amount, stamp: words.next()?.into() };
    words.next().is_none().then_some((key, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(amount: i64) -> Entry {
        Entry { account: 7, amount, stamp: "00ff".into() }
    }

    #[test]
    fn what_is_written_is_read_as_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let (mut writer, mut ledger) = (Writer::append(&path).unwrap(), Ledger::open(&path).unwrap());
        writer.confirm((1, 1), &entry(10)).unwrap();
        assert_eq!(ledger.refresh().unwrap(), 1);
        writer.confirm((2, 1), &entry(20)).unwrap();
        writer.confirm((1, 2), &entry(-30)).unwrap();
        assert_eq!(ledger.refresh().unwrap(), 3);
        assert_eq!(ledger.entries()[&(1, 2)], entry(-30));
    }

    #[test]
    fn a_torn_line_is_not_confirmed_and_a_bad_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        std::fs::write(&path, "1 1 7 10 00ff\n1 2 7 1").unwrap();
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.refresh().unwrap(), 1);
        std::fs::write(&path, "1 1 7 10 00ff\nnonsense\n").unwrap();
        assert!(Ledger::open(&path).unwrap().refresh().is_err());
        std::fs::write(&path, "1 1 7 10 00ff\n1 1 7 10 00ff\n").unwrap();
        assert!(Ledger::open(&path).unwrap().refresh().is_err(), "the same commit twice");
    }
}
