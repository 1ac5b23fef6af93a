//! Calls of the command line.

use std::fmt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::binaries::program;

/// How a command was refused: its exit code and the lines for the user.
#[derive(Clone)]
pub struct Refusal {
    pub exit: i32,
    pub text: String,
}

impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}: {}", self.exit, self.text)
    }
}

impl Refusal {
    /// A refusal must name its object, say why, and name a way out.
    #[track_caller]
    pub fn says(&self, exit: i32, words: &[&str]) -> &Self {
        assert_eq!(self.exit, exit, "the exit code of: {}", self.text);
        for word in words {
            assert!(self.text.contains(word), "a refusal that does not say {word:?}: {}", self.text);
        }
        assert!(self.text.contains("do:") || exit == 2, "a refusal without a way out: {}", self.text);
        self
    }
}

/// Runs `farshore` with these arguments alone.
pub fn farshore(arguments: &[&str]) -> Result<String, Refusal> {
    let output = Command::new(program("farshore")).args(arguments).output().expect("the command line starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_string();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let mut said = text(&output.stderr);
    // Several volumes at once: the reasons stand in the answer.
    if !output.stdout.is_empty() {
        said = format!("{said}\n{}", text(&output.stdout));
    }
    Err(Refusal { exit: output.status.code().unwrap_or(-1), text: said })
}

/// Runs `farshore` at a daemon's socket and reads its answer.
pub(super) fn at(socket: &Path, arguments: &[&str]) -> Result<Value, Refusal> {
    let socket = socket.to_str().expect("our own paths are text");
    let mut all = vec!["--socket", socket, "-o", "json"];
    all.extend(arguments);
    farshore(&all).map(|answer| {
        serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{arguments:?} answered no JSON ({error}): {answer}"))
    })
}
