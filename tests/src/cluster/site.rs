//! One site: its configuration, its daemon's runs, and the command line at it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_powercut::{Disk, Lost, Mounted};
use rustix::process::Signal;
use serde_json::Value;

use super::cli::{self, Refusal};
use super::daemon::{Daemon, Launch};
use super::nbd::NbdClient;
use super::wait::{eventually, until};

/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 60;
/// Recovery of a journal on a busy machine.
const READY_PATIENCE: Duration = Duration::from_secs(60);

pub struct Site {
    pub name: String,
    pub dir: PathBuf,
    pub udp: u16,
    pub http: u16,
    /// Before the disk: it ends first.
    daemon: Mutex<Option<Daemon>>,
    launch: Mutex<Launch>,
    /// Under the data directory, where the power can be cut.
    disk: Mutex<Option<Mounted>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Site {
    pub(super) fn new(name: &str, dir: PathBuf, udp: u16, http: u16) -> Site {
        Site {
            name: name.into(),
            dir,
            udp,
            http,
            daemon: Mutex::default(),
            launch: Mutex::default(),
            disk: Mutex::default(),
        }
    }

    /// How its daemon is started from now on.
    pub fn set_launch(&self, launch: Launch) {
        *held(&self.launch) = launch;
    }

    /// Puts an empty disk under the data directory, whose power can be cut.
    pub fn put_on_disk(&self, seed: u64) -> Result<(), String> {
        std::fs::create_dir_all(self.data_dir()).map_err(|e| e.to_string())?;
        let mounted = Mounted::mount(Disk::new(seed), &self.data_dir()).map_err(|e| e.to_string())?;
        *held(&self.disk) = Some(mounted);
        Ok(())
    }

    pub fn disk<T>(&self, on: impl FnOnce(&Disk) -> T) -> T {
        on(held(&self.disk).as_ref().unwrap_or_else(|| panic!("{} is not on a disk of ours", self.name)).disk())
    }

    /// Its power goes: the daemon dies, and with it whatever its disk was not told to sync.
    pub fn cut_power(&self) -> Lost {
        self.end();
        let mut disk = held(&self.disk);
        let disk = disk.as_mut().unwrap_or_else(|| panic!("{} is not on a disk of ours", self.name));
        disk.cut().unwrap_or_else(|error| panic!("{}'s disk does not come back: {error}", self.name))
    }

    /// What is on its disk is kept for whoever looks for the reason of a failure.
    pub(super) fn save_disk(&self) {
        if let Some(mounted) = held(&self.disk).as_ref()
            && let Err(error) = mounted.disk().save(&self.dir.join("disk"))
        {
            eprintln!("{}'s disk could not be saved: {error}", self.name);
        }
    }

    pub fn config_path(&self) -> PathBuf {
        self.dir.join("replicator.toml")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn nbd_socket(&self) -> PathBuf {
        self.dir.join("run/nbd.sock")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("run/replicator.sock")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The value of the first series whose line in `/metrics` begins with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        // A daemon that has just started serves it last.
        let mut http = eventually("the metrics to be served", || TcpStream::connect(("127.0.0.1", self.http)));
        http.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("a question");
        let mut answer = String::new();
        http.read_to_string(&mut answer).expect("an answer");
        let line =
            answer.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {answer}"));
        line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The numbers behind `field` in the lines of the log that hold `text`.
    pub fn log_numbers(&self, text: &str, field: &str) -> Vec<u64> {
        let lines = self.log();
        let values = lines.lines().filter(|line| line.contains(text)).filter_map(|line| line.split_once(field));
        values.filter_map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
    }

    pub(super) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        held(&self.daemon)
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&self) {
        self.launch();
        self.wait_ready();
    }

    pub fn launch(&self) {
        let mut daemon = self.daemon();
        assert!(daemon.is_none(), "{} runs already", self.name);
        *daemon = Some(Daemon::start(&held(&self.launch), &self.config_path(), &self.log_path()));
    }

    pub fn wait_ready(&self) {
        until(&format!("{}'s daemon to be ready", self.name), READY_PATIENCE, || {
            if let Some(status) = self.daemon().as_mut().and_then(Daemon::ended) {
                panic!("{}'s daemon ended: {status}", self.name);
            }
            UnixStream::connect(self.control_socket())
        });
    }

    /// Starts a daemon that must refuse to run, and returns the last it said.
    pub fn start_refused(&self) -> String {
        let before = self.log().len();
        let mut daemon = Daemon::start(&held(&self.launch), &self.config_path(), &self.log_path());
        let status = eventually("the daemon to refuse", || daemon.ended().ok_or("it runs"));
        assert!(!status.success(), "a daemon that refuses must not end with success");
        self.log()[before..].to_string()
    }

    pub fn kill(&self) {
        self.take().kill();
    }

    pub fn stop(&self) -> ExitStatus {
        self.take().stop()
    }

    fn take(&self) -> Daemon {
        self.daemon().take().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Stops the daemon where it stands; returns when all its threads have stopped.
    #[track_caller]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.pid());
        eventually("all threads to stop", || {
            let running = std::fs::read_dir(&tasks).into_iter().flatten().flatten().any(|task| {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                // The state follows the name, which is in parentheses.
                stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('T'))
            });
            if running { Err("they run") } else { Ok(()) }
        });
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    pub fn signal(&self, signal: Signal) {
        self.daemon().as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).signal(signal);
    }

    pub fn pid(&self) -> u32 {
        self.daemon().as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).pid()
    }

    pub fn runs(&self) -> bool {
        self.daemon().is_some()
    }

    /// Ends the daemon if it runs.
    pub fn end(&self) {
        drop(self.daemon().take());
    }

    /// What the command line answers here.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Value, Refusal> {
        cli::at(&self.control_socket(), arguments)
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Value {
        self.try_run(arguments).unwrap_or_else(|refusal| panic!("at {}: {arguments:?}: {refusal:?}", self.name))
    }

    #[track_caller]
    pub fn refused(&self, arguments: &[&str]) -> Refusal {
        match self.try_run(arguments) {
            Ok(answer) => panic!("at {}: {arguments:?} was not refused: {answer:#}", self.name),
            Err(refusal) => refusal,
        }
    }

    /// As [`Site::refused`], after what may pass by itself (exit code 5: try again).
    #[track_caller]
    pub fn refused_at_last(&self, arguments: &[&str]) -> Refusal {
        eventually(&format!("{arguments:?} to be refused for good"), || match self.refused(arguments) {
            passing if passing.exit == 5 => Err(passing),
            lasting => Ok(lasting),
        })
    }

    #[track_caller]
    pub fn volume(&self, name: &str) -> Value {
        self.run(&["volume", "show", name])
    }

    /// Waits until the volume looks as it should, as seen here.
    #[track_caller]
    pub fn wait_volume(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || match self.try_run(&["volume", "show", name]) {
            Ok(volume) if good(&volume) => Ok(volume),
            Ok(volume) => Err(format!("{volume:#}")),
            Err(refusal) => Err(format!("{refusal:?}")),
        })
    }

    /// Attaches as NBD export and connects to it.
    #[track_caller]
    pub fn attach(&self, volume: &str) -> NbdClient {
        self.run(&["volume", "attach", volume, "--device", "nbd"]);
        self.connect(volume)
    }

    #[track_caller]
    pub fn connect(&self, volume: &str) -> NbdClient {
        NbdClient::connect(&self.nbd_socket(), volume).expect("an attached volume is exported")
    }
}

/// The member of a site in a volume's status.
pub fn member<'a>(volume: &'a Value, site: &str) -> &'a Value {
    let members = volume["members"].as_array().expect("a volume has members");
    members.iter().find(|m| m["site"] == site).unwrap_or_else(|| panic!("no member in {site}: {volume:#}"))
}

/// Every data member is connected, in the sync set, and has what is acked.
pub fn all_in_sync(volume: &Value) -> bool {
    let members = volume["members"].as_array().expect("a volume has members");
    members.iter().filter(|m| m["kind"] == "data").all(|m| m["in_sync_set"] == true && m["lag_records"] == 0)
        && volume["role"] == "primary"
}
