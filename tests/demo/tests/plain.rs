//! The demo's own parts without any replication, on ext4 over a loop device: that the ledger, the clients, the database
//! and the judge work, and that the judge finds what is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_demo::ledger::Ledger;
use farshore_demo::load;
use farshore_demo::machine::{self, free_port};
use farshore_demo::postgres::{Postgres, Server};
use farshore_demo::process::{Daemon, kill_pid};
use farshore_demo::proof::judge;
use farshore_demo::{cleanup, failover, filesystem, report::Report, wait};
use filesystem::PlainDevice;

const LIMIT: Duration = Duration::from_secs(120);
const IMAGE_BYTES: u64 = 512 << 20;

/// Where the device is mounted; unmounted at the end of the test, whatever its end.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        for mount in machine::mounts_below(self.0) {
            let _ = filesystem::unmount(Path::new(&mount.point));
        }
    }
}

fn clients(dir: &Path, server: &Server, first: i32) -> Daemon {
    let dsn = dir.join("dsn");
    std::fs::write(&dsn, server.dsn()).unwrap();
    let text = |path: PathBuf| path.display().to_string();
    let ledger = text(dir.join("ledger"));
    let args = ["load", "--dsn-file", &text(dsn), "--ledger", &ledger, "--first", &first.to_string(), "--clients", "8"];
    let program = Path::new(env!("CARGO_BIN_EXE_farshore-demo"));
    Daemon::start("the clients", program, None, &args.map(String::from), &dir.join("load.log")).unwrap()
}

fn wait_for(ledger: &mut Ledger, load: &mut Daemon, count: usize) {
    wait::until("commits", LIMIT, Duration::from_millis(10), || {
        load.check()?;
        let found = ledger.refresh()?;
        Ok(if found >= count { Ok(()) } else { Err(format!("{found} commits")) })
    })
    .unwrap();
}

#[test]
fn a_killed_database_keeps_its_word_and_a_lost_commit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (postgres, device) = match (Postgres::find(), machine::check(dir.path())) {
        (Ok(postgres), Ok(())) => match PlainDevice::create(&dir.path().join("image"), IMAGE_BYTES) {
            Ok(device) => (postgres, device),
            Err(why) => return println!("SKIP plain::a_killed_database: {why}"),
        },
        (Err(why), _) | (_, Err(why)) => return println!("SKIP plain::a_killed_database: {why}"),
    };
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = dir.path().join("mnt");
    let _mounted = Mounted(&at);
    filesystem::make_ext4(&device.path).unwrap();
    filesystem::touch(&device.path).unwrap();
    filesystem::mount(&device.path, &at).unwrap();
    postgres.create(&at.join("pg"), dir.path()).unwrap();
    let log = dir.path().join("postgres.log");
    let mut server = postgres.start(&at.join("pg"), free_port().unwrap(), &log).unwrap();
    server.prepare().unwrap();

    let mut ledger = Ledger::open(&dir.path().join("ledger")).unwrap();
    let mut load = clients(dir.path(), &server, 0);
    wait_for(&mut ledger, &mut load, 300);
    let pids: Vec<u32> = server.pids().into_iter().chain([load.pid()]).collect();
    assert!(pids.len() > 8, "the postmaster, its backends and the clients: {pids:?}");
    pids.iter().copied().for_each(kill_pid);
    server.daemon.reap();
    drop((load, server));

    wait::until("the file system free", LIMIT, Duration::from_millis(20), || {
        Ok(filesystem::unmount(&at).map_err(|e| e.to_string()))
    })
    .unwrap();
    failover::mount(&device.path, &at, &Report::begin()).unwrap();
    let server = postgres.start(&at.join("pg"), free_port().unwrap(), &log).unwrap();
    assert!(ledger.refresh().unwrap() >= 300);
    let found = server.contents().unwrap();
    let verdict = judge(ledger.entries(), &found);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(found.accounts.len(), load::ACCOUNTS as usize);
    server.amcheck().unwrap();
    server.commit_moment("after").unwrap();

    let mut torn = found.clone();
    torn.entries.pop_first();
    assert_eq!(judge(ledger.entries(), &torn).lost.len(), 1);

    let mut load = clients(dir.path(), &server, 1_000);
    let more = ledger.entries().len() + 50;
    wait_for(&mut ledger, &mut load, more);
    assert!(load.stop(rustix::process::Signal::TERM, LIMIT), "the clients end when they are asked to");
    ledger.refresh().unwrap();
    let verdict = judge(ledger.entries(), &server.contents().unwrap());
    assert!(verdict.is_clean() && verdict.unconfirmed <= 8, "{verdict:?}");
    let ended = [load.pid(), server.daemon.pid()];
    server.stop().unwrap();
    drop(load);
    filesystem::unmount(&at).unwrap();
    let devices = [(device.path.display().to_string(), "image".to_string())];
    assert!(cleanup::leftovers(dir.path(), &ended, &devices).contains(&devices[0].0));
    drop(device);
    assert!(machine::loops_below(dir.path()).is_empty());
    let left = cleanup::leftovers(dir.path(), &ended, &devices);
    assert!(left.len() == 1 && left[0].starts_with("folder"), "{left:?}");
    cleanup::remove(dir.path());
    assert!(cleanup::leftovers(dir.path(), &ended, &devices).is_empty());
}
