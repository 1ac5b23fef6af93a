//! The repository's tracked files.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scrub::scrub;

/// A text file and its path from the repository's root, with `/` between the parts.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Tests that stand in a file of their own.
    pub fn is_test(&self) -> bool {
        let name = self.file_name();
        name == "tests.rs"
            || name.ends_with("_tests.rs")
            || self.path.split('/').rev().skip(1).any(|dir| dir == "tests")
    }

    /// The code alone: comments and literals are blanks, lines stay where they are.
    pub fn code(&self) -> String {
        scrub(&self.text)
    }
}

/// The repository that this package stands in.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this package is two folders below the root").to_path_buf()
}

/// Every file that is tracked, or would be with the next `git add`. Files that are not text are left out.
pub fn all(root: &Path) -> io::Result<Vec<Source>> {
    let mut found = Vec::new();
    for path in listed(root)? {
        match std::fs::read(root.join(&path)) {
            Ok(bytes) => {
                if let Ok(text) = String::from_utf8(bytes) {
                    found.push(Source { path, text });
                }
            }
            // Deleted and not yet committed, or a link to nowhere.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("{path}: {e}"))),
        }
    }
    Ok(found)
}

fn listed(root: &Path) -> io::Result<Vec<String>> {
    let git = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    match git {
        Ok(out) if out.status.success() => {
            let names = String::from_utf8_lossy(&out.stdout).into_owned();
            Ok(names.split('\0').filter(|name| !name.is_empty()).map(String::from).collect())
        }
        // An unpacked archive, or a machine without git.
        _ => {
            let mut names = Vec::new();
            walk(root, "", &mut names)?;
            Ok(names)
        }
    }
}

fn walk(root: &Path, under: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(under))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if under.is_empty() { name.clone() } else { format!("{under}/{name}") };
        let kind = entry.file_type()?;
        if kind.is_dir() && name != ".git" && name != "target" {
            walk(root, &path, names)?;
        } else if kind.is_file() {
            names.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_holds_this_file_and_nothing_that_is_ignored() {
        let names = listed(&root()).unwrap();
        assert!(names.iter().any(|n| n == "tests/architecture/src/sources.rs"), "{names:?}");
        assert!(!names.iter().any(|n| n.starts_with("target/")));
    }

    #[test]
    fn without_git_the_folders_are_walked() {
        let mut names = Vec::new();
        walk(&root(), "", &mut names).unwrap();
        assert!(names.iter().any(|n| n == "tests/architecture/src/sources.rs"));
        assert!(!names.iter().any(|n| n.starts_with(".git/")));
    }

    #[test]
    fn test_files_are_told_by_name_or_folder() {
        for path in ["a/tests/b.rs", "a/b_tests.rs", "a/tests.rs", "tests/sim/src/x.rs"] {
            assert!(Source::new(path, "").is_test(), "{path}");
        }
        assert!(!Source::new("replicator/src/journal/scan.rs", "").is_test());
    }
}
