//! The arguments of `farshore snapshot schedule …`. The texts here are what `--help` shows.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::values;

#[derive(Debug, Subcommand)]
pub enum ScheduleVerb {
    /// Have the volume's primary make a snapshot at an interval, and delete those it made when their time is over
    ///
    /// For example: farshore snapshot schedule create pg hourly --every 1h --keep 24
    Create(ScheduleArgs),
    /// The schedules of these volumes, or of all
    #[command(alias = "ls")]
    List {
        #[arg(value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// One schedule, in full: what it made last, what is next, what it could not delete
    Show {
        volume: String,
        #[arg(value_name = "SCHEDULE")]
        name: String,
    },
    /// Make no more of them; those that were made stay until you delete them
    #[command(alias = "rm")]
    Delete {
        volume: String,
        #[arg(value_name = "SCHEDULE")]
        name: String,
        /// Do it; without it nothing happens
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub struct ScheduleArgs {
    pub volume: String,
    /// 1 to 32 of a-z, 0-9 and -
    #[arg(value_name = "SCHEDULE")]
    pub name: String,
    /// From one snapshot to the next; the first is made at once
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub every: Duration,
    /// How many are kept; older ones are deleted, unless somebody holds them
    #[arg(long, value_name = "NUMBER", required_unless_present = "keep_for")]
    pub keep: Option<u32>,
    /// How long each is kept; the newest is kept in any case
    #[arg(long, value_parser = values::duration, value_name = "DURATION")]
    pub keep_for: Option<Duration>,
    /// What the snapshots are called, with {time} and perhaps {schedule} in it
    #[arg(long, value_name = "PATTERN", default_value = "{schedule}-{time}")]
    pub pattern: String,
    /// Kept with each snapshot
    #[arg(long = "label", value_parser = values::label, value_name = "KEY=VALUE")]
    pub labels: Vec<(String, String)>,
}
