//! A control server with the fake engine, and the command line at it.
// Each program of tests uses some of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use farshore_replicator::control::ControlServer;
use farshore_replicator::control::fake::FakeOperations;
use serde_json::Value;

pub struct Site {
    socket: PathBuf,
    // Dropped in this order: server, its runtime, its directory.
    _server: ControlServer,
    _runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

/// One with the volumes pg and wal.
pub fn site() -> Site {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("replicator.sock");
    let fake = Arc::new(FakeOperations::new("east", "n1"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(ControlServer::start(&socket, fake)).unwrap();
    let site = Site { socket, _server: server, _runtime: runtime, dir };
    for name in ["pg", "wal"] {
        site.ok(&[
            "volume",
            "create",
            name,
            "--size",
            "1GiB",
            "--members",
            "east,west,north",
            "--quorum",
            "all-remotes",
        ]);
    }
    site
}

impl Site {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        command.env("FARSHORE_SOCKET", &self.socket).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut with = args.to_vec();
        with.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&with)).unwrap()
    }

    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Compares with a file in `tests/golden`; FARSHORE_BLESS=1 writes it anew.
pub fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, kept, "{name} looks different; FARSHORE_BLESS=1 takes it over");
}
