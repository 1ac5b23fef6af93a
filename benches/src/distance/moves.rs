//! How long it takes to move the primary of some volumes, planned and not.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use farshore_wan::Conditions;

use crate::snapshots::volumes::{MEMBERS, attach, create, run, until};
use crate::stage::{Journal, Stage};

const BYTES: u64 = 4 << 20;

#[derive(Debug, Default)]
pub struct Moves {
    pub failover_s: BTreeMap<usize, f64>,
    pub switchover_s: BTreeMap<usize, f64>,
}

pub fn measure(dir: &Path, counts: &[usize]) -> Result<Moves, String> {
    let mut moves = Moves::default();
    for count in counts {
        let stage = Stage::set_up(dir, Journal::MANY_VOLUMES, "", Conditions::default());
        let (east, west) = (stage.east(), &stage.sites()[1]);
        let names: Vec<String> = (0..*count).map(|number| format!("moved-{number}")).collect();
        for name in &names {
            create(east, name, BYTES, MEMBERS)?;
            attach(east, name)?;
        }
        all_in_sync(&stage, "east")?;
        east.kill();
        let lost = Instant::now();
        done(&run(west, &["failover", "--from", "east"])?, *count)?;
        moves.failover_s.insert(*count, lost.elapsed().as_secs_f64());
        east.start();
        all_in_sync(&stage, "west")?;
        let began = Instant::now();
        done(&run(west, &[&["switchover", "--to", "east"][..], &["--site", "west"]].concat())?, *count)?;
        moves.switchover_s.insert(*count, began.elapsed().as_secs_f64());
    }
    Ok(moves)
}

fn done(answer: &serde_json::Value, count: usize) -> Result<(), String> {
    let good = answer["results"].as_array().into_iter().flatten().filter(|result| result["ok"] == true).count();
    if good == count { Ok(()) } else { Err(format!("{good} of {count} volumes were moved: {answer}")) }
}

/// As the primaries see it.
fn all_in_sync(stage: &Stage, primary: &str) -> Result<(), String> {
    let site = stage.sites().iter().find(|site| site.name == primary).expect("it is one of the sites");
    until("all copies to be in sync", || {
        let listed = run(site, &["volume", "list"])?;
        let volumes = listed["volumes"].as_array().into_iter().flatten();
        let whole = |volume: &serde_json::Value| {
            let mut members = volume["members"].as_array().into_iter().flatten();
            volume["primary"]["site"] == primary
                && members.all(|m| m["in_sync_set"] == true && m["state"] == "replicating")
        };
        let behind: Vec<&str> = volumes.filter(|v| !whole(v)).filter_map(|v| v["name"].as_str()).collect();
        if behind.is_empty() { Ok(()) } else { Err(behind.join(", ")) }
    })
}
