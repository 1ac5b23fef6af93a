//! What is done beside the story: a drill on a clone, and a look at the site that follows from afar.

use std::time::{Duration, Instant};

use crate::error::{DemoError, Result, io};
use crate::farshore::Drill;
use crate::filesystem;
use crate::ledger::Ledger;
use crate::machine::free_port;
use crate::postgres::Postgres;
use crate::proof::judge;
use crate::report::Report;
use crate::sites::{FAR, NAMES, NORTH, WEST};
use crate::story::{Stage, VOLUME};
use crate::wait;

/// The load runs so long before the clone is made.
const LOAD_FIRST: Duration = Duration::from_millis(1_500);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// At north, of what it has now, while west works: the database comes up on a clone and holds all that was confirmed.
pub fn drill(stage: &mut Stage, postgres: &Postgres, ledger: &mut Ledger, report: &Report) -> Result<()> {
    wait::pause(LOAD_FIRST)?;
    ledger.refresh()?;
    let confirmed = ledger.entries().clone();
    let began = Instant::now();
    let drill: Drill = stage.sites[NORTH].ask(&["drill", VOLUME, "--device", "fuse", "--keep"])?;
    stage.note_device(&drill.device, &drill.clone)?;
    report.step(format!(
        "a drill at north, while the load goes on at west: {} is {}",
        drill.clone,
        drill.device.display()
    ));
    report.part("clone and attach", began.elapsed(), "");
    let at = stage.dir.join("mnt").join("drill");
    filesystem::mount(&drill.device, &at)?;
    // On a machine of its own it would name nobody; here it names the database at west.
    let lock = at.join("pg").join("postmaster.pid");
    std::fs::remove_file(&lock).map_err(io("remove", &lock))?;
    let server = postgres.start(&at.join("pg"), free_port()?, &stage.dir.join("drill.log"))?;
    stage.pids.push(server.daemon.pid());
    // The load goes on, and so do its commits until the moment of the clone.
    let lost = judge(&confirmed, &server.contents()?).lost;
    if !lost.is_empty() {
        let said = format!("{} of {} confirmed commits are not in the drill's clone", lost.len(), confirmed.len());
        return Err(DemoError::Broken(said));
    }
    server.stop()?;
    filesystem::unmount(&at)?;
    stage.sites[NORTH].tell(&["drill", VOLUME, "--end"])?;
    let found = format!("{} confirmed commits are in it; the clone is gone", confirmed.len());
    report.part("drill", began.elapsed(), found);
    Ok(())
}

/// How much promoting the far site would give up, as the primary says it, from look to look. Answers the worst.
pub fn watch_observer(stage: &Stage, long: Duration, report: &Report) -> Result<Duration> {
    let (began, mut worst, mut records) = (Instant::now(), 0, 0);
    while began.elapsed() < long {
        wait::pause(LOOK_EVERY)?;
        let volume = stage.sites[WEST].volume(VOLUME)?;
        let far = volume.loss.iter().find(|loss| loss.site == NAMES[FAR]);
        let far = far.ok_or_else(|| DemoError::Broken("status says nothing of the far site".into()))?;
        if !far.exact {
            return Err(DemoError::Broken("the primary does not know exactly what the far site lacks".into()));
        }
        (worst, records) = (worst.max(far.promote_ms.unwrap_or(0)), records.max(far.promote_records));
    }
    report.detail(format!("far, for which nobody waits, lacked {records} records at most, the oldest {worst} ms old"));
    Ok(Duration::from_millis(worst))
}
