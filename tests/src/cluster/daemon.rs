//! One run of a daemon: a process that ends with its owner, whatever happens to the test.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::binaries::program;
use super::wait::until;

/// An orderly end includes a checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How a site's daemon is started.
#[derive(Debug, Clone)]
pub struct Launch {
    pub program: String,
    /// A command that becomes the daemon after it has set something up: namespaces, say.
    pub through: Vec<String>,
}

impl Default for Launch {
    fn default() -> Self {
        Launch { program: "farshore-replicator".into(), through: Vec::new() }
    }
}

pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// What it says goes to the end of `log`.
    pub fn start(launch: &Launch, config: &Path, log: &Path) -> Daemon {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("the log opens");
        let err: File = out.try_clone().expect("a file can be shared");
        // setpriv becomes the daemon; it is killed with the thread that started it, should the test be killed.
        let setpriv = ["setpriv", "--pdeathsig", "KILL", "--"].map(String::from);
        let mut words = launch.through.iter().chain(&setpriv);
        let child = Command::new(words.next().expect("there are some"))
            .args(words)
            .arg(program(&launch.program))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("setpriv (util-linux) starts the daemon");
        Daemon { child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a child can be signalled until it is waited for");
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// As a crash: nothing is said, nothing is tidied up.
    pub fn kill(mut self) {
        self.child.kill().expect("a child can be killed until it is waited for");
        self.child.wait().expect("a child can be waited for");
    }

    /// As an operator, or Kubernetes, does it.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        until("the daemon's orderly end", STOP_PATIENCE, || self.ended().ok_or("still running"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
