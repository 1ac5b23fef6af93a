//! Running the system's programs: mount, mkfs and their kin.

use std::process::{Output, Stdio};

use tokio::process::Command;
use tonic::Status;

/// Of what a program complains, as much is passed on.
const COMPLAINT_CHARS_MAX: usize = 400;

/// Runs it to its end, whatever its exit code. Arguments are never shown: mount options may be secret.
pub async fn run(name: &str, arguments: &[&str]) -> Result<Output, Status> {
    let mut command = Command::new(name);
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null());
    command
        .output()
        .await
        .map_err(|error| Status::internal(format!("{name} could not be started ({error}): is it installed?")))
}

/// As [`run`]; anything but success is an error that says what it was about.
pub async fn succeed(name: &str, arguments: &[&str], about: &str) -> Result<String, Status> {
    let output = run(name, arguments).await?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Status::internal(format!("{about}: {name} failed: {}", complaint(&output)))),
    }
}

/// What it said, in one line.
pub fn complaint(output: &Output) -> String {
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let said = String::from_utf8_lossy(said);
    let line: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line: String = line.join("; ").chars().take(COMPLAINT_CHARS_MAX).collect();
    if line.is_empty() { output.status.to_string() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[tokio::test]
    async fn failures_say_who_failed_at_what() {
        let failed = succeed("sh", &["-c", "echo a >&2; echo b >&2; exit 3"], "trying").await.unwrap_err();
        assert_eq!((failed.code(), failed.message()), (Code::Internal, "trying: sh failed: a; b"));
        assert_eq!(succeed("sh", &["-c", "echo good"], "trying").await.unwrap(), "good\n");
        let missing = run("no-such-program-here", &[]).await.unwrap_err();
        assert!(missing.message().contains("is it installed?"));
    }
}
