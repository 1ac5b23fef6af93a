//! The demo from beginning to end. What must be undone at the end is on the [`Stage`], whatever happens in between.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::RngExt;
use rustix::process::Signal;

use crate::cleanup;
use crate::error::{DemoError, Result, io};
use crate::failover::{self, kill_all, take_over};
use crate::farshore::Farshore;
use crate::filesystem;
use crate::ledger::Ledger;
use crate::machine::{free_port, mounts_below};
use crate::neighbour::Neighbour;
use crate::postgres::{Postgres, Server};
use crate::process::Daemon;
use crate::proof::{Verdict, judge};
use crate::rehearsal;
use crate::report::{Report, bytes};
use crate::sites::{self, EAST, FAR, NAMES, NORTH, Site, VOTERS, WEST};
use crate::wait;

pub const VOLUME: &str = "orders";
const VOLUME_SIZE: &str = "2GiB";
/// Two more users, with their primaries in the sites that stay: (volume, site).
const NEIGHBOURS: [(&str, usize); 2] = [("billing", WEST), ("metrics", NORTH)];
const NEIGHBOUR_SIZE: &str = "64MiB";
const NEIGHBOUR_BLOCKS: usize = 4096;
/// No neighbour may wait longer than this for one write while a site that is not its primary's is lost.
const PAUSE_MAX: Duration = Duration::from_secs(5);

const LOAD_LIMIT: Duration = Duration::from_secs(100);
const SYNC_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);
/// What a returning site may receive beyond twice what it missed: headers, keep-alives, the neighbours' writes.
const RETURN_SLACK_BYTES: u64 = 32 << 20;

/// What the user may choose.
#[derive(Debug, Clone)]
pub struct Options {
    pub commits: usize,
    pub clients: i32,
    pub lease: Duration,
    /// How long the new primary works on while the old site is away.
    pub outage: Duration,
}

/// Everything that was set up and must be gone at the end.
pub struct Stage {
    pub dir: PathBuf,
    pub sites: Vec<Site>,
    server: Option<Server>,
    load: Option<Daemon>,
    neighbours: Vec<Neighbour>,
    /// Every process that was ever started.
    pub pids: Vec<u32>,
    /// Every loop device that a volume was, with the volume's name.
    devices: Vec<(String, String)>,
}

/// What the closing line says.
pub struct Outcome {
    pub verified: usize,
    pub lost: usize,
    pub failover: Duration,
    /// The oldest write that the far site lacked, while west worked.
    pub observer_rpo: Duration,
}

impl Stage {
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            sites: Vec::new(),
            server: None,
            load: None,
            neighbours: Vec::new(),
            pids: Vec::new(),
            devices: Vec::new(),
        }
    }

    pub fn note_device(&mut self, device: &Path, volume: &str) -> Result<()> {
        let device = device.display().to_string();
        cleanup::record(&self.dir, &device, volume)?;
        self.devices.push((device, volume.into()));
        Ok(())
    }

    /// Ends every process. Answers which of them had to be killed.
    pub fn end_all(&mut self) -> Vec<String> {
        self.neighbours.iter().for_each(Neighbour::stop);
        self.load = None;
        if let Some(mut server) = self.server.take() {
            server.daemon.stop(Signal::INT, STOP_LIMIT);
        }
        self.neighbours.clear();
        for mount in mounts_below(&self.dir.join("mnt")) {
            let _ = filesystem::unmount(Path::new(&mount.point));
        }
        // All at once: none of them needs the others to end.
        self.sites.iter().for_each(Site::ask_to_end);
        self.sites.iter_mut().filter_map(|site| site.stop().err()).collect()
    }

    /// Removes everything, once all processes have ended. Answers what is still there.
    pub fn strike(&mut self) -> Vec<String> {
        cleanup::release(&self.dir);
        cleanup::remove(&self.dir);
        cleanup::leftovers(&self.dir, &self.pids, &self.devices)
    }

    /// Of everything that ran.
    pub fn logs(&self) -> Vec<PathBuf> {
        let sites = self.sites.iter().map(|site| site.log.clone());
        let others = ["postgres.log", "load.log"].map(|name| self.dir.join(name));
        sites.chain(others).filter(|log| log.exists()).collect()
    }
}

pub fn tell(stage: &mut Stage, farshore: &Farshore, options: &Options, report: &Report) -> Result<Outcome> {
    let postgres = Postgres::find()?;
    build(stage, farshore, options, report)?;
    let device = attach(stage, EAST, VOLUME)?;
    let mut ledger = Ledger::open(&stage.dir.join("ledger"))?;
    begin_database(stage, &postgres, &device, report)?;
    begin_neighbours(stage, report)?;

    run_load(stage, options, 0, report)?;
    let commits = wait_for_load(stage, &mut ledger, options.commits, report)?;
    let before = Before::of(stage)?;
    let killed = kill_east(stage, report)?;
    let failed = take_over(&mut stage.sites[WEST], NAMES[EAST], VOLUME, killed, options.lease)?;
    report.step("west is the primary");
    stage.note_device(&failed.device, VOLUME)?;
    failed.tell(report);
    let at_kill = ledger.refresh()?;
    report.detail(format!("{at_kill} commits were confirmed, {} of them in the last moments", at_kill - commits));

    resume_database(stage, &postgres, &failed.device, WEST, report)?;
    report.part("kill to first commit", killed.elapsed(), "confirmed by PostgreSQL at west");
    verify(stage, &mut ledger, report)?;
    report.step(format!("RPO 0: all of the {at_kill} commits that were confirmed before the kill are there"));
    check_neighbours(stage, killed, report)?;
    clear_east(stage);

    run_load(stage, options, 1_000, report)?;
    rehearsal::drill(stage, &postgres, &mut ledger, report)?;
    let observer_rpo = outage(stage, options, &mut ledger, report)?;
    bring_east_back(stage, &before, report)?;
    switch_back(stage, &postgres, report)?;
    let verdict = verify(stage, &mut ledger, report)?;
    end(stage, report)?;
    Ok(Outcome { verified: verdict.verified, lost: verdict.lost.len(), failover: failed.total, observer_rpo })
}

/// Three sites that acknowledge, a far one that follows, and three volumes.
fn build(stage: &mut Stage, farshore: &Farshore, options: &Options, report: &Report) -> Result<()> {
    stage.sites = sites::set_up(&stage.dir, farshore)?;
    for site in &mut stage.sites {
        site.start()?;
        stage.pids.extend(site.pid());
    }
    for site in &mut stage.sites {
        site.wait_connected()?;
    }
    let pids: Vec<String> = stage.sites.iter().filter_map(|s| Some(format!("{} {}", s.name, s.pid()?))).collect();
    report.step(format!("the sites are up and know each other by certificate: {}", pids.join(", ")));
    let lease = format!("{}ms", options.lease.as_millis());
    let all = [(VOLUME, EAST, VOLUME_SIZE)].into_iter().chain(NEIGHBOURS.map(|(name, at)| (name, at, NEIGHBOUR_SIZE)));
    for (name, at, size) in all {
        // The first member's site is the first primary's.
        let mut members = VOTERS.to_vec();
        members.swap(0, at);
        let (site, members) = (&stage.sites[at], members.join(","));
        let mut wanted = vec!["volume", "create", name, "--size", size, "--members", &members, "--lease", &lease];
        let mut follows = "";
        if name == VOLUME {
            wanted.extend(["--observer", NAMES[FAR]]);
            follows = ", one that follows in far";
        }
        site.tell(&wanted)?;
        report.step(format!("volume {name}: {size}, a copy in each of three sites{follows}, primary in {}", site.name));
    }
    Ok(())
}

fn attach(stage: &mut Stage, site: usize, volume: &str) -> Result<PathBuf> {
    let device = stage.sites[site].attach(volume)?;
    stage.note_device(&device, volume)?;
    Ok(device)
}

fn mount_point(stage: &Stage, site: usize) -> PathBuf {
    stage.dir.join("mnt").join(NAMES[site])
}

fn begin_database(stage: &mut Stage, postgres: &Postgres, device: &Path, report: &Report) -> Result<()> {
    let at = mount_point(stage, EAST);
    filesystem::make_ext4(device)?;
    filesystem::mount(device, &at)?;
    report.step(format!("ext4 on {} at {}", device.display(), at.display()));
    postgres.create(&at.join("pg"), &stage.dir)?;
    let server = postgres.start(&at.join("pg"), free_port()?, &stage.dir.join("postgres.log"))?;
    stage.pids.push(server.daemon.pid());
    server.prepare()?;
    report.step(format!("{} on it: checksums, fsync, full_page_writes, synchronous_commit", postgres.version()?));
    stage.server = Some(server);
    Ok(())
}

fn begin_neighbours(stage: &mut Stage, report: &Report) -> Result<()> {
    for (name, at) in NEIGHBOURS {
        let device = attach(stage, at, name)?;
        stage.neighbours.push(Neighbour::start(name, &device, NEIGHBOUR_BLOCKS)?);
        report.step(format!("{name} is written and verified at {}, {}", NAMES[at], device.display()));
    }
    Ok(())
}

/// Clients with numbers of their own, in a process of their own.
fn run_load(stage: &mut Stage, options: &Options, first: i32, report: &Report) -> Result<()> {
    let dsn = stage.dir.join("dsn");
    fs::write(&dsn, running(stage)?.dsn()).map_err(io("write", &dsn))?;
    fs::set_permissions(&dsn, fs::Permissions::from_mode(0o600)).map_err(io("set the mode of", &dsn))?;
    let program = std::env::current_exe().map_err(io("find", "this program"))?;
    let text = |path: &Path| path.display().to_string();
    let mut args: Vec<String> = ["load", "--dsn-file"].map(String::from).to_vec();
    args.extend([text(&dsn), "--ledger".into(), text(&stage.dir.join("ledger"))]);
    args.extend(["--first".into(), first.to_string(), "--clients".into(), options.clients.to_string()]);
    let load = Daemon::start("the clients", &program, None, &args, &stage.dir.join("load.log"))?;
    stage.pids.push(load.pid());
    report.step(format!("{} clients begin, in process {}", options.clients, load.pid()));
    stage.load = Some(load);
    Ok(())
}

fn running(stage: &Stage) -> Result<&Server> {
    stage.server.as_ref().ok_or_else(|| DemoError::Broken("the database does not run".into()))
}

/// Until enough is confirmed, and then for a random while under full load.
fn wait_for_load(stage: &mut Stage, ledger: &mut Ledger, wanted: usize, report: &Report) -> Result<usize> {
    let began = Instant::now();
    wait::until(&format!("{wanted} confirmed commits"), LOAD_LIMIT, POLL, || {
        check_all(stage)?;
        let count = ledger.refresh()?;
        Ok(if count >= wanted { Ok(()) } else { Err(format!("{count} commits")) })
    })?;
    wait::pause(Duration::from_millis(rand::rng().random_range(0..3_000)))?;
    check_all(stage)?;
    let count = ledger.refresh()?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    report.step(format!("{count} commits confirmed, {rate:.0}/s; the load goes on"));
    Ok(count)
}

fn check_all(stage: &mut Stage) -> Result<()> {
    stage.sites.iter_mut().try_for_each(Site::check)?;
    stage.load.as_mut().map_or(Ok(()), Daemon::check)?;
    stage.server.as_mut().map_or(Ok(()), |server| server.daemon.check())?;
    stage.neighbours.iter().try_for_each(|neighbour| neighbour.window().map(drop))
}

/// What was known just before the kill.
struct Before {
    acked_seq: u64,
    exchanged_bytes: u64,
}

impl Before {
    fn of(stage: &Stage) -> Result<Self> {
        Ok(Self { acked_seq: stage.sites[EAST].volume(VOLUME)?.acked_seq, exchanged_bytes: exchanged(stage)? })
    }
}

/// What west and north have sent each other so far. Every record of every volume passes between them, so what it grows by
/// is what a third site misses, acknowledgements and all.
fn exchanged(stage: &Stage) -> Result<u64> {
    let peers = stage.sites[WEST].peers()?.peers;
    Ok(peers.iter().filter(|p| p.site == NAMES[NORTH]).map(|p| p.sent_bytes + p.received_bytes).sum())
}

/// The site's replicator (which is its device process too), its database and the clients.
fn kill_east(stage: &mut Stage, report: &Report) -> Result<Instant> {
    let status = stage.sites[EAST].volume(VOLUME)?;
    for loss in status.loss.iter().filter(|loss| loss.site == NAMES[EAST]) {
        let kind = if loss.exact { "exactly" } else { "at least" };
        report.detail(format!("before: {} ({kind} {} records, {})", loss.text, loss.records, bytes(loss.bytes)));
    }
    let mut pids: Vec<u32> = stage.sites[EAST].pid().into_iter().collect();
    pids.extend(running(stage)?.pids());
    pids.extend(stage.load.as_ref().map(Daemon::pid));
    stage.neighbours.iter().for_each(Neighbour::mark);
    let killed = kill_all(&pids);
    report.step(format!("SIGKILL to all of east: pids {pids:?}"));
    stage.load = None;
    stage.server = None;
    stage.sites[EAST].bury();
    Ok(killed)
}

/// What a reboot of the dead machine would have cleared: mounts and loop devices without a daemon.
fn clear_east(stage: &Stage) {
    cleanup::release(&mount_point(stage, EAST));
    cleanup::release(&stage.sites[EAST].dir);
}

fn resume_database(stage: &mut Stage, postgres: &Postgres, device: &Path, site: usize, report: &Report) -> Result<()> {
    let at = mount_point(stage, site);
    failover::mount(device, &at, report)?;
    let began = Instant::now();
    let server = postgres.start(&at.join("pg"), free_port()?, &stage.dir.join("postgres.log"))?;
    stage.pids.push(server.daemon.pid());
    report.part("database start", began.elapsed(), "PostgreSQL's own recovery included");
    server.commit_moment(NAMES[site])?;
    stage.server = Some(server);
    Ok(())
}

/// Every confirmed commit, one by one, and the database's own checks.
fn verify(stage: &Stage, ledger: &mut Ledger, report: &Report) -> Result<Verdict> {
    let began = Instant::now();
    ledger.refresh()?;
    let server = running(stage)?;
    let verdict = judge(ledger.entries(), &server.contents()?);
    if !verdict.is_clean() {
        let (lost, wrong) = (verdict.lost.len(), verdict.wrong.first().cloned().unwrap_or_default());
        let first: Vec<_> = verdict.lost.iter().take(5).collect();
        return Err(DemoError::Broken(format!(
            "{} commits verified, {lost} LOST (client, number: {first:?}) {wrong}",
            verdict.verified
        )));
    }
    report.part("ledger", began.elapsed(), format!("{} commits verified, lost 0", verdict.verified));
    if verdict.unconfirmed > 0 {
        report.detail(format!("{} more were made and not yet confirmed when the kill came", verdict.unconfirmed));
    }
    let began = Instant::now();
    server.amcheck()?;
    report.part("pg_amcheck", began.elapsed(), "clean");
    Ok(verdict)
}

fn check_neighbours(stage: &Stage, killed: Instant, report: &Report) -> Result<()> {
    let since = killed.elapsed().as_secs_f64();
    for neighbour in &stage.neighbours {
        let window = neighbour.window()?;
        let pause = window.longest_pause;
        if pause > PAUSE_MAX || window.writes == 0 {
            let said = format!("{} stood still for {:.1} s when east was lost", neighbour.name, pause.as_secs_f64());
            return Err(DemoError::Broken(said));
        }
        let (writes, pause) = (window.writes, pause.as_millis());
        report.detail(format!("{}: {writes} writes in these {since:.1} s, longest pause {pause} ms", neighbour.name));
    }
    Ok(())
}

/// West works while east is away. Answers how far behind the far site was, at most.
fn outage(stage: &mut Stage, options: &Options, ledger: &mut Ledger, report: &Report) -> Result<Duration> {
    let before = ledger.refresh()?;
    let rpo = rehearsal::watch_observer(stage, options.outage, report)?;
    check_all(stage)?;
    let load = stage.load.as_mut().ok_or_else(|| DemoError::Broken("the clients do not run".into()))?;
    if !load.stop(Signal::TERM, STOP_LIMIT) {
        return Err(DemoError::Broken("the clients did not end".into()));
    }
    stage.load = None;
    let made = ledger.refresh()? - before;
    if made == 0 {
        return Err(DemoError::Broken("no commit was confirmed at west".into()));
    }
    report.step(format!("{made} commits at west while east was away"));
    Ok(rpo)
}

/// East returns with what it had.
fn bring_east_back(stage: &mut Stage, before: &Before, report: &Report) -> Result<()> {
    let acked_seq = stage.sites[WEST].volume(VOLUME)?.acked_seq;
    let missed_bytes = exchanged(stage)?.saturating_sub(before.exchanged_bytes);
    let began = Instant::now();
    stage.sites[EAST].start()?;
    stage.pids.extend(stage.sites[EAST].pid());
    let missed = acked_seq.saturating_sub(before.acked_seq);
    report.step(format!("east is back; meanwhile {missed} records of {VOLUME} were acknowledged"));
    report.detail(format!("west and north sent each other {} while it was away", bytes(missed_bytes)));
    let names: Vec<&str> = std::iter::once(VOLUME).chain(NEIGHBOURS.map(|(name, _)| name)).collect();
    for name in &names {
        let at = NEIGHBOURS.iter().find(|(n, _)| n == name).map_or(WEST, |(_, at)| *at);
        wait::until(&format!("east in the sync set of {name}"), SYNC_LIMIT, POLL, || {
            check_all(stage)?;
            let volume = stage.sites[at].volume(name)?;
            let Some(member) = volume.member(NAMES[EAST]) else { return Ok(Err("no longer a member".into())) };
            let whole = member.connected && member.in_sync_set && member.lag_records <= 64;
            let said = format!("{} {}, {} records behind", member.state, member.reason, member.lag_records);
            Ok(if whole { Ok(()) } else { Err(said) })
        })?;
    }
    let received: u64 = stage.sites[EAST].peers()?.peers.iter().map(|peer| peer.received_bytes).sum();
    let whole: u64 = stage.sites[WEST].status()?.volumes.iter().map(|volume| volume.allocated_bytes).sum();
    report.part("catch-up", began.elapsed(), "all three volumes, the start of the replicator included");
    report.detail(format!("received {}; full copies would have been {}", bytes(received), bytes(whole)));
    if received > 2 * missed_bytes + RETURN_SLACK_BYTES {
        let said = format!("east missed about {} and received {}", bytes(missed_bytes), bytes(received));
        return Err(DemoError::Broken(said));
    }
    Ok(())
}

/// The planned way back: nothing is killed, nothing is lost.
fn switch_back(stage: &mut Stage, postgres: &Postgres, report: &Report) -> Result<()> {
    if let Some(server) = stage.server.take() {
        server.stop()?;
    }
    filesystem::unmount(&mount_point(stage, WEST))?;
    report.step("the database is stopped at west; going back");
    let began = Instant::now();
    stage.sites[WEST].tell(&["failback", VOLUME, "--to", NAMES[EAST]])?;
    report.part("failback", began.elapsed(), "");
    let device = attach(stage, EAST, VOLUME)?;
    filesystem::touch(&device)?;
    report.part("failback to first write", began.elapsed(), format!("at east, {}", device.display()));
    resume_database(stage, postgres, &device, EAST, report)
}

/// The neighbours' last word, and everything closed in order.
fn end(stage: &mut Stage, report: &Report) -> Result<()> {
    for neighbour in std::mem::take(&mut stage.neighbours) {
        let name = neighbour.name.clone();
        let blocks = neighbour.finish()?;
        report.step(format!("{name}: {blocks} blocks hold what was last written to them"));
    }
    if let Some(server) = stage.server.take() {
        server.stop()?;
    }
    filesystem::unmount(&mount_point(stage, EAST))?;
    stage.sites[EAST].detach(VOLUME)?;
    for (name, at) in NEIGHBOURS {
        stage.sites[at].detach(name)?;
    }
    report.step("everything is closed");
    Ok(())
}
