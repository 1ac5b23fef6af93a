//! Data directories that an earlier version left behind, and the books of what is in them.
//!
//! ```text
//! fixtures/0.1.0/killed.tar.xz   east/… west/… north/…      the data directories of the sites, sparse
//! fixtures/0.1.0/killed.ledger   pg east,west 512 0=17 9=21|22
//! ```
//! A line of the books is a volume (or a copy that a fork left behind), the sites where it can be read, how many blocks it
//! has, and which stamps each may hold; 0, and whatever is not named, is a block of zeroes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::layout::{Cluster, Options};
use super::ledger::Ledger;

/// What the sites of every fixture are called.
pub const SITES: [&str; 3] = ["east", "west", "north"];

/// Small journals; scrubs run when asked.
pub fn options() -> Options {
    let more = "[store]\nscrub_interval_s = 0\n";
    Options { journal_budget: "16MiB", journal_segment: "4MiB", more, ..Options::default() }
}

/// One volume, or what is left of one, and where it can be read.
pub struct Book {
    pub name: String,
    pub sites: Vec<String>,
    pub ledger: Arc<Ledger>,
}

impl Book {
    pub fn new(name: &str, sites: &[&str], ledger: &Arc<Ledger>) -> Book {
        Book { name: name.into(), sites: sites.iter().map(|site| site.to_string()).collect(), ledger: ledger.clone() }
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.name, self.sites.join(","), self.ledger.text())
    }

    fn read(line: &str) -> Option<Book> {
        let (name, rest) = line.split_once(' ')?;
        let (sites, blocks) = rest.split_once(' ')?;
        let sites = sites.split(',').map(String::from).collect();
        Some(Book { name: name.into(), sites, ledger: Ledger::of_text(blocks)? })
    }
}

/// One fixture: its archive, and beside it its books.
pub struct Fixture {
    archive: PathBuf,
}

impl Fixture {
    pub fn new(folder: &Path, name: &str) -> Fixture {
        Fixture { archive: folder.join(format!("{name}.tar.xz")) }
    }

    /// Those of every version, oldest first.
    pub fn all(fixtures: &Path) -> Vec<Fixture> {
        let entries = |dir: &Path| {
            let found = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
            let mut paths: Vec<PathBuf> = found.map(|entry| entry.expect("an entry").path()).collect();
            paths.sort();
            paths
        };
        let files = entries(fixtures).into_iter().flat_map(|version| entries(&version));
        let archives = files.filter(|path| path.extension().is_some_and(|end| end == "xz"));
        archives.map(|archive| Fixture { archive }).collect()
    }

    pub fn name(&self) -> String {
        self.archive.display().to_string()
    }

    pub fn exists(&self) -> bool {
        self.archive.exists()
    }

    fn ledger_path(&self) -> PathBuf {
        self.archive.with_extension("").with_extension("ledger")
    }

    /// Packs the data directories of sites that don't run.
    pub fn pack(&self, cluster: &Cluster, books: &[Book]) {
        let folder = self.archive.parent().expect("a fixture lies in a folder");
        std::fs::create_dir_all(folder).expect("a folder can be made");
        assert!(cluster.sites.iter().all(|site| !site.runs()), "what is packed must not change");
        // What RocksDB told itself is of no use to anybody.
        let mut tar =
            vec!["--create", "--sparse", "--owner=0", "--group=0", "--sort=name", "--exclude=LOG*", "-I", "xz -9e"];
        let names: Vec<String> = SITES.iter().map(|site| format!("{site}/data")).collect();
        tar.extend(["--transform", "s,/data,,"]);
        self.tar(&tar, cluster.dir(), &names);
        let mut text = String::new();
        for book in books {
            let _ = writeln!(text, "{}", book.line());
        }
        std::fs::write(self.ledger_path(), text).expect("the books can be written");
    }

    /// Puts the data directories in place, of sites that were not started yet; returns the books.
    pub fn unpack(&self, cluster: &Cluster) -> Vec<Book> {
        let names: Vec<String> = SITES.iter().map(|site| site.to_string()).collect();
        self.tar(&["--extract", "--transform", "s,^\\([^/]*\\),\\1/data,", "-I", "xz"], cluster.dir(), &names);
        let path = self.ledger_path();
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let book =
            |line| Book::read(line).unwrap_or_else(|| panic!("{}: a line that can't be read: {line}", path.display()));
        text.lines().map(book).collect()
    }

    fn tar(&self, words: &[&str], folder: &Path, names: &[String]) {
        let output = Command::new("tar")
            .args(words)
            .arg("--directory")
            .arg(folder)
            .arg("--file")
            .arg(&self.archive)
            .args(names)
            .output()
            .expect("tar is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} (needs tar and xz-utils): {said}", self.name());
    }
}
