//! Processes: short ones that are waited for, and long ones whose pid is recorded so that they, and only they, are ended.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{DemoError, Result, io};
use crate::wait;

const POLL: Duration = Duration::from_millis(3);
const REAP_LIMIT: Duration = Duration::from_secs(10);
/// How much of a log is shown when its process is in trouble.
const TAIL_LINES: usize = 15;

/// What a command that ended well printed.
pub struct Output {
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end. Its failure is an error with what it printed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    let (status, output) = run_any(command, limit)?;
    if status.success() {
        return Ok(output);
    }
    let said = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    Err(failed(command, format!("{status}: {}", last_lines(said, TAIL_LINES))))
}

/// The same where the exit status is an answer too.
pub fn run_any(command: &mut Command, limit: Duration) -> Result<(ExitStatus, Output)> {
    let scratch = || tempfile::tempfile().map_err(io("create a temporary file in", std::env::temp_dir()));
    let (mut stdout, mut stderr) = (scratch()?, scratch()?);
    let clone = |file: &File| file.try_clone().map_err(io("share a temporary file in", std::env::temp_dir()));
    command.stdin(Stdio::null()).stdout(clone(&stdout)?).stderr(clone(&stderr)?);
    let mut child = spawn(command)?;
    let began = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((status, Output { stdout: text(&mut stdout), stderr: text(&mut stderr) })),
            Ok(None) if began.elapsed() < limit && !wait::interrupted() => std::thread::sleep(POLL),
            Ok(None) => {
                let _ = child.kill();
                reap(&mut child);
                let why = format!("not done after {} s: {}", limit.as_secs(), last_lines(&text(&mut stderr), 3));
                return Err(if wait::interrupted() { DemoError::Interrupted } else { failed(command, why) });
            }
            Err(e) => return Err(failed(command, e.to_string())),
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let _ = file.rewind().and_then(|()| file.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A killed process that hangs in a device's driver is left to the kernel, so that the rest can be cleared up.
fn reap(child: &mut Child) {
    let began = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && began.elapsed() < REAP_LIMIT {
        std::thread::sleep(POLL);
    }
}

/// In a process group of its own: Ctrl-C is for the demo alone, which then ends its children in order.
fn spawn(command: &mut Command) -> Result<Child> {
    command.process_group(0).spawn().map_err(|e| failed(command, e.to_string()))
}

fn failed(command: &Command, why: String) -> DemoError {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let shown: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    DemoError::Command { command: shown.join(" "), why }
}

pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n    ")
}

/// The end of a log, for people.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    if text.trim().is_empty() { "(nothing)".into() } else { last_lines(&text, TAIL_LINES) }
}

/// A daemon of ours, or one that we drive. It dies with the demo, whatever the demo dies of.
#[derive(Debug)]
pub struct Daemon {
    pub name: String,
    pub log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `program`; its output is appended to `log`.
    pub fn start(name: &str, program: &Path, user: Option<&str>, args: &[String], log: &Path) -> Result<Self> {
        // setpriv becomes the program, so the pid is the program's.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = user {
            command.args(["--reuid", user, "--regid", user, "--init-groups"]);
        }
        command.arg("--").arg(program).args(args).current_dir("/");
        let file = File::options().create(true).append(true).open(log).map_err(io("open", log))?;
        let twin = file.try_clone().map_err(io("share", log))?;
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        Ok(Self { name: name.into(), log: log.into(), child: spawn(&mut command)? })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its log when it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(e) => Err(self.ended(&e.to_string())),
        }
    }

    fn ended(&self, how: &str) -> DemoError {
        let why = format!("ended by itself ({how}). Its log ends with:\n    {}", tail(&self.log));
        DemoError::Command { command: self.name.clone(), why }
    }

    /// To a process that has not been waited for, so the pid is still its own.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGKILL, now. What it leaves behind is the point of the demo.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
    }

    /// After [`Daemon::kill`]: until the kernel has let go of it.
    pub fn reap(&mut self) {
        reap(&mut self.child);
    }

    /// Asks it to end, and makes it end when it has not within `limit`. True when it ended by itself.
    pub fn stop(&mut self, ask: Signal, limit: Duration) -> bool {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(ask);
        }
        let began = Instant::now();
        while began.elapsed() < limit {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(POLL);
        }
        self.kill();
        self.reap();
        false
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// Whether the process is there; a zombie is not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The pids of a process' direct children.
pub fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The processes whose working directory is `dir` or lies below it, in whatever mount namespace.
pub fn working_below(dir: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))).collect()
}

/// SIGKILL to a pid that was recorded; gone already is fine.
pub fn kill_pid(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_what_was_printed() {
        let told = run(Command::new("sh").args(["-c", "echo too bad >&2; exit 3"]), Duration::from_secs(60));
        let told = told.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(told.contains("too bad") && told.contains('3'), "{told}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let told = run(Command::new("sleep").arg("600"), Duration::from_millis(50));
        assert!(told.err().map(|e| e.to_string()).unwrap_or_default().contains("not done"));
    }

    #[test]
    fn a_daemon_has_its_own_pid_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon =
            Daemon::start("sleep", Path::new("sleep"), None, &["600".into()], &dir.path().join("log")).unwrap();
        let exe = format!("/proc/{}/comm", daemon.pid());
        let became = || Ok(if fs::read_to_string(&exe).unwrap() == "sleep\n" { Ok(()) } else { Err("not yet".into()) });
        wait::until("exec", Duration::from_secs(60), POLL, became).unwrap();
        daemon.check().unwrap();
        assert!(is_alive(daemon.pid()));
        assert!(daemon.stop(Signal::TERM, Duration::from_secs(60)));
        assert!(daemon.check().unwrap_err().to_string().contains("ended by itself"));
        assert!(!is_alive(daemon.pid()));
    }
}
