//! Where the programs under test are: beside the running test's own executable, unless it was told otherwise.

use std::path::PathBuf;
use std::sync::OnceLock;

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Programs are taken from this folder from now on; once in the life of a process.
pub fn take_programs_from(folder: PathBuf) {
    assert!(FOLDER.set(folder).is_ok(), "the programs' folder was told already");
}

/// `farshore` or `farshore-replicator`, as built for the profile that this test was built for.
pub fn program(name: &str) -> PathBuf {
    if let Some(folder) = FOLDER.get() {
        return folder.join(name);
    }
    let own = std::env::current_exe().expect("a running program has a path");
    // …/release/deps/story-0123 or …/release/farshore-soak → …/release
    let folder = own.parent().expect("a program lies in a folder");
    let built = if folder.ends_with("deps") { folder.parent().expect("deps lies in another") } else { folder };
    let path = built.join(name);
    assert!(
        path.is_file(),
        "{} is missing: build the programs first, with: cargo build --release --workspace --bins",
        path.display()
    );
    path
}
