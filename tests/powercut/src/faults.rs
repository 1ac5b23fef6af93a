//! What a disk is told to do wrong, beside losing what was not synced.

use std::ffi::OsStr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rustix::io::Errno;

/// The operation that a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Read,
    Write,
    /// fsync and fdatasync.
    Sync,
}

/// Every such operation on files whose name contains these letters fails, until the disk is mended.
#[derive(Debug, Clone)]
pub struct Fault {
    pub on: On,
    pub name_contains: String,
    pub errno: Errno,
}

#[derive(Debug, Default)]
pub(crate) struct Orders {
    pub(crate) faults: Vec<Fault>,
    /// Nothing may grow or be made.
    pub(crate) full: bool,
    /// The next cut drops all that it may.
    pub(crate) keep_nothing: bool,
    pub(crate) sync_delay_max: Duration,
    pub(crate) write_delay_max: Duration,
}

impl Orders {
    pub(crate) fn fails(&self, on: On, name: &OsStr) -> Option<Errno> {
        let name = name.to_string_lossy();
        self.faults.iter().find(|fault| fault.on == on && name.contains(&fault.name_contains)).map(|fault| fault.errno)
    }

    pub(crate) fn delay(&self, on: On, dice: &mut StdRng) -> Duration {
        let most = match on {
            On::Sync => self.sync_delay_max,
            On::Write => self.write_delay_max,
            On::Read => Duration::ZERO,
        };
        if most.is_zero() { most } else { most.mul_f64(dice.random_range(0.0..1.0)) }
    }
}
