//! `farshore-demo`: runs the demo, prints its closing line, and clears up whatever happened.

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use farshore_demo::error::{DemoError, Result, io};
use farshore_demo::farshore::Farshore;
use farshore_demo::report::{Report, closing_line, line};
use farshore_demo::story::{self, Options, Stage};
use farshore_demo::{cleanup, load, machine, process, wait};

/// Set in the life inside a mount namespace of our own.
const INSIDE: &str = "FARSHORE_DEMO_INSIDE";

/// Three sites on this machine, a database on one volume, one site killed under load: nothing is lost.
#[derive(Debug, Parser)]
#[command(name = "farshore-demo", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    demo: DemoArgs,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Where farshore and farshore-replicator are
    #[arg(long, default_value = "/usr/bin", value_name = "DIR")]
    bin_dir: PathBuf,
    /// A folder on a real disk; everything is made below it, and removed
    #[arg(long, default_value = "/var/tmp", value_name = "DIR")]
    dir: PathBuf,
    /// Confirmed commits before the kill, at least
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    commits: usize,
    /// Clients of the database
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(i32).range(8..=40))]
    clients: i32,
    /// The volumes' lease
    #[arg(long, default_value_t = 4_000, value_name = "MS")]
    lease_ms: u64,
    /// How long the killed site stays away
    #[arg(long, default_value_t = 5_000, value_name = "MS")]
    outage_ms: u64,
    /// Copy the logs of everything that ran into this folder at the end
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The clients; started by the demo
    #[command(hide = true)]
    Load {
        #[arg(long)]
        dsn_file: PathBuf,
        #[arg(long)]
        ledger: PathBuf,
        #[arg(long)]
        first: i32,
        #[arg(long)]
        clients: i32,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.part {
        Some(Part::Load { dsn_file, ledger, first, clients }) => std::fs::read_to_string(&dsn_file)
            .map_err(io("read", dsn_file))
            .and_then(|dsn| load::run(&dsn, &ledger, first, clients)),
        None => demo(&cli.demo),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn demo(args: &DemoArgs) -> Result<()> {
    let dir = args.dir.canonicalize().map_err(io("find", &args.dir))?;
    machine::check(&dir)?;
    if std::env::var_os(INSIDE).is_none() {
        // In a mount namespace of our own nothing that we mount outlives us, whatever ends us.
        let program = std::env::current_exe().map_err(io("find", "this program"))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--"]).arg(program).args(std::env::args_os().skip(1));
        let error = command.env(INSIDE, "1").exec();
        return Err(io("run unshare in", "a mount namespace")(error));
    }
    let farshore = Farshore::find(&args.bin_dir)?;
    cleanup::sweep(&dir);
    let made =
        tempfile::Builder::new().prefix(cleanup::PREFIX).tempdir_in(&dir).map_err(io("create a folder in", &dir))?;
    open_to_all(made.path())?;
    let owner = made.path().join(cleanup::OWNER);
    std::fs::write(&owner, std::process::id().to_string()).map_err(io("write", owner))?;
    wait::catch_signals()?;
    let report = Report::begin();
    let mut stage = Stage::new(made.keep());
    let options = Options {
        commits: args.commits,
        clients: args.clients,
        lease: Duration::from_millis(args.lease_ms),
        outage: Duration::from_millis(args.outage_ms),
    };
    let told = catch_unwind(AssertUnwindSafe(|| story::tell(&mut stage, &farshore, &options, &report)))
        .unwrap_or_else(|_| Err(DemoError::Broken("the demo itself panicked, see above".into())));
    let tell_logs = told.is_err() && !wait::interrupted();
    wait::begin_clearing_up();
    let left = clear_up(&mut stage, &report, tell_logs, args.logs.as_deref());
    let outcome = told?;
    if !left.is_empty() {
        return Err(DemoError::Broken("the demo must leave nothing behind and end in order".into()));
    }
    line(&format!("demo: drill ok, failback ok, observer rpo {:.2} s", outcome.observer_rpo.as_secs_f64()));
    line(&closing_line(outcome.verified, outcome.lost, outcome.failover));
    Ok(())
}

/// User postgres must be able to walk through.
fn open_to_all(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(io("set the mode of", dir))
}

/// Answers what could not be cleared up.
fn clear_up(stage: &mut Stage, report: &Report, tell_logs: bool, keep: Option<&Path>) -> Vec<String> {
    if tell_logs {
        for log in stage.logs() {
            line(&format!("-- {} ends with:\n    {}", log.display(), process::tail(&log)));
        }
    }
    let began = Instant::now();
    let mut left = stage.end_all();
    report.part("ending all processes", began.elapsed(), "");
    for log in keep.into_iter().flat_map(|dir| stage.logs().into_iter().map(move |log| (dir, log))) {
        let (dir, log) = log;
        if let Some(name) = log.file_name()
            && let Err(error) = std::fs::copy(&log, dir.join(name))
        {
            line(&format!("-- {} could not be copied to {}: {error}", log.display(), dir.display()));
        }
    }
    let began = Instant::now();
    left.extend(stage.strike());
    report.part("removing all files", began.elapsed(), "");
    match left.as_slice() {
        [] => report.step("cleared up: no process, mount, loop device or file is left"),
        left => report.step(format!("cleared up, but: {}", left.join("; "))),
    }
    left
}
