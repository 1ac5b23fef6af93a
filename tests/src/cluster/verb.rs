//! Verbs that run beside the test, so that somebody can die under them.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::binaries::program;
use super::site::Site;
use super::wait::eventually;

/// A command line at work; ended with its owner.
pub struct Verb(Child);

impl Verb {
    /// Whether it was done.
    pub fn wait(&mut self) -> bool {
        self.0.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Site {
    /// Begins a verb here.
    pub fn begin(&self, arguments: &[&str]) -> Verb {
        let child = Command::new(program("farshore"))
            .arg("--socket")
            .arg(self.control_socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Verb(child.expect("the command line starts"))
    }

    /// Runs a verb again until it is done: what a caller does whose daemon died under it.
    #[track_caller]
    pub fn until_done(&self, arguments: &[&str]) -> Value {
        eventually(&format!("{arguments:?} to be done"), || self.try_run(arguments))
    }

    /// Runs a verb that takes something away until it is done, or there is nothing.
    #[track_caller]
    pub fn until_gone(&self, arguments: &[&str]) {
        eventually(&format!("{arguments:?} to be done"), || match self.try_run(arguments) {
            Err(refusal) if refusal.exit != 3 => Err(refusal),
            _ => Ok(()),
        });
    }
}
