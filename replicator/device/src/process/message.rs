//! What a replicator and a device process say to each other: one line of JSON each, over a unix socket of root's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Geometry;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Question {
    List,
    Open(Wanted),
    Grow { name: String, session: String, size_bytes: u64 },
    Close { name: String, session: String, force: bool },
}

/// A device that shall be there. One that is there already for the same session stays as it is; one of another session
/// is ended first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The volume's.
    pub name: String,
    pub session: String,
    /// Where the replicator serves NBD now, and under which name.
    pub socket: PathBuf,
    pub export: String,
    pub size_bytes: u64,
    pub logical_block_bytes: u32,
    pub volatile_cache: bool,
    pub read_only: bool,
}

impl Wanted {
    pub fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes,
            logical_block_bytes: self.logical_block_bytes,
            volatile_cache: self.volatile_cache,
            read_only: self.read_only,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    Devices {
        devices: Vec<HeldDevice>,
    },
    Opened {
        path: PathBuf,
    },
    Done,
    /// Closed, or never opened here.
    NotHeld,
    /// What is wrong, and what to do about it.
    Refused {
        reason: String,
    },
}

/// A device as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldDevice {
    pub name: String,
    pub session: String,
    pub path: PathBuf,
    pub size_bytes: u64,
    /// Whether its replicator serves it at the moment.
    pub connected: bool,
    /// Requests without an answer.
    pub waiting: usize,
}
