//! One run from begin to end.

use std::path::Path;
use std::time::{Duration, Instant};

use farshore_tests::cluster::take_programs_from;
use farshore_wan::Conditions;

use crate::allocations::{self, Allocations};
use crate::distance::{self, figures::DistanceFigures};
use crate::fio;
use crate::limits::Limits;
use crate::machine::{self, Machine};
use crate::matrix::{self, MEMBERS, Matrix};
use crate::plan::{Options, Plan, Section};
use crate::readme;
use crate::reference::{self, ReadReference};
use crate::report::{self, Sections};
use crate::results::Details;
use crate::snapshots::figures::SnapshotFigures;
use crate::snapshots::{self, part};
use crate::stage::{Device, Durability, Journal, Stage};
use crate::targets;
use crate::wan::{self, Scale, Scenario, WanFigures};

/// Three copies of two volumes, the raw file, and what is under way.
const COPIES: u64 = 7;
/// One way, in milliseconds: what the emulator adds is measured at these.
const RELAY_DELAYS_MS: [f64; 3] = [0.0, 2.5, 25.0];

pub fn run(options: &Options) -> Result<(), String> {
    let (began, plan) = (Instant::now(), Plan::of(options));
    machine::check(&options.dir, COPIES * plan.volume_bytes)?;
    if let Some(folder) = &options.bin_dir {
        take_programs_from(folder.clone());
    }
    let machine = Machine::here(&options.dir);
    let mut run = Run { options, plan, limits: Limits::default() };
    run.measure_limits()?;
    let (Matrix { rows, written, skipped }, reads) = run.measure_devices()?;
    let wan = run.measure_wan()?;
    let allocations = run.count_allocations()?;
    let snapshots = run.measure_snapshots()?;
    let distance = run.measure_distance()?;
    let Run { plan, limits, .. } = run;
    let targets = targets::judge(&rows, &written, &limits, reads.as_ref(), &wan);
    let command = std::env::args().skip(1).fold("farshore-bench".to_string(), |all, word| all + " " + &word);
    let details = Details {
        machine,
        command: std::env::var("FARSHORE_BENCH_COMMAND").unwrap_or(command),
        seconds_per_row: plan.seconds,
        volume_bytes: plan.volume_bytes,
        took_s: began.elapsed().as_secs_f64(),
        limits,
        written,
        reads,
        wan,
        allocations,
        targets,
        skipped,
    };
    let of_snapshots = snapshots.as_ref().map(part::judge).unwrap_or_default();
    let of_distance = distance.as_ref().map(distance::part::judge).unwrap_or_default();
    println!("\n{}", targets::table(&[&details.targets[..], &of_snapshots, &of_distance].concat()));
    let took_s = details.took_s;
    if let Some(dir) = &options.out {
        report::write(dir, &rows, details, &Sections { snapshots, distance })?;
        println!("written: {}", dir.display());
    }
    if let Some(readme) = &options.readme {
        readme::update(readme, &rows)?;
        println!("written: the table in {}", readme.display());
    }
    println!("bench: {} rows in {took_s:.0} s", rows.len());
    Ok(())
}

struct Run<'o> {
    options: &'o Options,
    plan: Plan,
    limits: Limits,
}

impl Run<'_> {
    fn short(&self) -> Duration {
        Duration::from_secs(if self.plan.quick { 1 } else { 3 })
    }

    /// Before anything else runs.
    fn measure_limits(&mut self) -> Result<(), String> {
        let (dir, time) = (&self.options.dir, self.short());
        self.limits.measure_appends(dir, time)?;
        self.limits.measure_relay(&RELAY_DELAYS_MS, time)?;
        println!(
            "append and fdatasync p50: {:.0} µs by three at once, {:.0} µs alone; the emulator adds {} µs",
            self.limits.append_p50_us,
            self.limits.append_alone_p50_us,
            self.limits.relay_added_p50_us.iter().map(|(_, us)| format!("{us:.0}")).collect::<Vec<_>>().join("/"),
        );
        Ok(())
    }

    fn measure_devices(&mut self) -> Result<(Matrix, Option<ReadReference>), String> {
        let wants_reads = self.plan.sections.contains(&Section::Reads);
        if self.plan.cases.is_empty() && !wants_reads {
            return Ok(Default::default());
        }
        let raw = tempfile::Builder::new().prefix("farshore-raw-").tempdir_in(&self.options.dir);
        let raw = raw.map_err(|e| format!("making a folder for the raw file: {e}"))?;
        let file = raw.path().join("disk");
        let disk = fio::written_file(&file, self.plan.volume_bytes)?;
        self.limits.measure_disk(&disk, &self.plan.disk_workloads(), self.plan.seconds.min(4))?;

        let journal = Journal::for_volumes_of(self.plan.volume_bytes);
        let mut stage =
            Stage::set_up(&self.options.dir, journal, &self.options.transport.join("\n"), Conditions::default());
        matrix::prepare(&self.plan, &mut stage)?;
        let time = self.short();
        let measured = matrix::run(&self.plan, &mut stage, &mut self.limits, time, |line| println!("{line}"))?;
        let reads = if wants_reads { Some(self.compare_reads(&mut stage, &file)?) } else { None };
        Ok((measured, reads))
    }

    fn compare_reads(&self, stage: &mut Stage, file: &Path) -> Result<ReadReference, String> {
        let volume = matrix::volume(Durability::Write);
        if !self.plan.durabilities().contains(&Durability::Write) {
            stage.create(&volume, self.plan.volume_bytes, MEMBERS, "majority", Durability::Write);
            stage.fill(&volume)?;
        }
        let ours = stage.attach(&volume, Device::Nbd);
        let socket = file.with_extension("sock");
        let reads = reference::compare(&ours, file, socket, self.plan.seconds.min(5))?;
        println!("{}: {:.2} × qemu-nbd on the same disk", reference::WORKLOAD, reads.ratio);
        Ok(reads)
    }

    fn count_allocations(&self) -> Result<Vec<Allocations>, String> {
        if !self.plan.sections.contains(&Section::Allocations) {
            return Ok(Vec::new());
        }
        let counted = allocations::measure(&self.options.dir, self.plan.seconds.min(4))?;
        println!("{}", allocations::text(&counted));
        Ok(counted)
    }

    fn measure_snapshots(&self) -> Result<Option<SnapshotFigures>, String> {
        if !self.plan.sections.contains(&Section::Snapshots) {
            return Ok(None);
        }
        let scale = if self.plan.quick { snapshots::measure::QUICK } else { snapshots::measure::FULL };
        snapshots::measure::measure(&self.options.dir, scale, |line| println!("{line}")).map(Some)
    }

    fn measure_distance(&self) -> Result<Option<DistanceFigures>, String> {
        if !self.plan.sections.contains(&Section::Distance) {
            return Ok(None);
        }
        let scale = if self.plan.quick { distance::measure::QUICK } else { distance::measure::FULL };
        distance::measure::measure(&self.options.dir, scale, |line| println!("{line}")).map(Some)
    }

    fn measure_wan(&self) -> Result<Vec<WanFigures>, String> {
        if !self.plan.sections.contains(&Section::Wan) {
            return Ok(Vec::new());
        }
        let (scenarios, scale): (&[Scenario], _) = if self.plan.quick {
            (&wan::QUICK, Scale { seconds: 3, foreground_bytes: 128 << 20, bulk_bytes: 160 << 20 })
        } else {
            (&wan::FULL, Scale { seconds: 12, foreground_bytes: 256 << 20, bulk_bytes: 768 << 20 })
        };
        let scale = Scale {
            seconds: self.options.seconds.unwrap_or(scale.seconds),
            bulk_bytes: self.options.size.map_or(scale.bulk_bytes, |mib| mib << 20),
            ..scale
        };
        let given: Vec<Scenario> = self.options.loss.iter().map(|percent| Scenario::of_loss(percent / 100.0)).collect();
        let scenarios = if given.is_empty() { scenarios } else { &given };
        scenarios
            .iter()
            .map(|scenario| {
                let figures = wan::measure(&self.options.dir, &self.options.transport, *scenario, scale)?;
                println!(
                    "RTT {} ms, loss {} %, {}: records {:.0} Mbit/s ({:.1} % resent), bulk {:.0} ({:.1} %), 4k p50 {:.1} ms, {:.1} beside bulk",
                    figures.rtt_ms,
                    figures.loss * 100.0,
                    figures.transport,
                    figures.records.mbit_s,
                    figures.records.resent * 100.0,
                    figures.bulk.mbit_s,
                    figures.bulk.resent * 100.0,
                    figures.foreground_alone_p50_us / 1e3,
                    figures.foreground_beside_bulk_p50_us / 1e3,
                );
                Ok(figures)
            })
            .collect()
    }
}
