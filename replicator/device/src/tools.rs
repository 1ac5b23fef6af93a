//! For tests: real clients, found where the system keeps them, or a named skip.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

/// No client needs longer for what the tests ask, however busy the machine is.
const TOOL_TIMEOUT: Duration = Duration::from_secs(180);

/// The absolute path of a tool.
pub fn find(tool: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(tool))
        .find(|path| path.exists())
}

/// Says aloud that a test did not run, and why.
pub fn skip(test: &str, missing: &str) {
    eprintln!("SKIP {test}: {missing} is missing");
}

/// Returns from the test, aloud, unless all the named tools or paths exist. Evaluates to the tools' paths.
macro_rules! need {
    ($test:literal, $($tool:literal),+) => {
        [$({
            let found = if $tool.starts_with('/') {
                Some(std::path::PathBuf::from($tool)).filter(|path| path.exists())
            } else {
                $crate::tools::find($tool)
            };
            match found {
                Some(path) => path,
                None => {
                    $crate::tools::skip($test, $tool);
                    return;
                }
            }
        }),+]
    };
}
pub(crate) use need;

/// Runs a tool to its end; what it said, if it succeeded. Killed, by its own handle, when it takes too long.
pub async fn run(tool: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(tool);
    command.args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true);
    let said = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    match tokio::time::timeout(TOOL_TIMEOUT, command.output()).await {
        Err(_) => Err(format!("{} {arguments:?} took too long", tool.display())),
        Ok(Err(error)) => Err(format!("{}: {error}", tool.display())),
        Ok(Ok(output)) if output.status.success() => Ok(said(&output)),
        Ok(Ok(output)) => Err(format!("{} {arguments:?}: {}\n{}", tool.display(), output.status, said(&output))),
    }
}
