//! Shipments between replicators in one process: what need not be sent is not, what was spoilt on its way is found out,
//! and a peer of an older version is understood.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use farshore_core::ids::VolumeId;

use super::rpc::{PackedRun, RunKind};
use super::transcript::stage::Stage;
use super::transcript::story::{attach, create, fill, write};
use crate::device::BlockDevice;
use crate::telemetry::ResyncReading;

/// A node of this name speaks only version 1 of the protocol.
pub const OLDER_NODE: &str = "older";

type Volumes = Mutex<BTreeSet<VolumeId>>;

/// Volumes of which the next page is spoilt between its arrival and the disk.
static SPOILT: Volumes = Mutex::new(BTreeSet::new());
/// Volumes of which images are taken as they are.
static UNPROVEN: Volumes = Mutex::new(BTreeSet::new());

fn of<T>(volumes: &Volumes, work: impl FnOnce(&mut BTreeSet<VolumeId>) -> T) -> T {
    work(&mut volumes.lock().unwrap_or_else(PoisonError::into_inner))
}

fn to_spoil<T>(work: impl FnOnce(&mut BTreeSet<VolumeId>) -> T) -> T {
    of(&SPOILT, work)
}

/// Is the comparison at the end left out?
pub fn unproven(volume: VolumeId) -> bool {
    of(&UNPROVEN, |volumes| volumes.contains(&volume))
}

/// A bit of the page's first block is turned, if that was asked for.
pub fn spoilt(volume: VolumeId, mut runs: Vec<(PackedRun, Bytes)>) -> Vec<(PackedRun, Bytes)> {
    let data = runs.iter_mut().find(|(run, _)| run.kind == RunKind::Data);
    if let Some((_, data)) = data
        && to_spoil(|volumes| volumes.remove(&volume))
    {
        let mut bytes = data.to_vec();
        bytes[100] ^= 4;
        *data = bytes.into();
    }
    runs
}

fn counts(stage: &Stage, site: &str) -> ResyncReading {
    stage.at(site, |node| async move { node.shared.ship_counts.read() })
}

/// West is away until only an image helps; what it is sent then has blocks of zeroes, some that it has, and others.
fn begun(nodes: [&'static str; 3]) -> Stage {
    let mut stage = Stage::lay_out_as(nodes);
    ["east", "west", "north"].into_iter().for_each(|site| stage.start(site));
    stage.connected();
    stage.at("east", |node| async move { node.create(create(nodes)).await }).expect("a volume");
    attach(&stage, "east");
    write(&stage, "east", 0, b'A');
    write(&stage, "east", 9, b'B');
    fill(&stage, "east");
    stage.in_sync("east");
    stage.applied("west");
    stage.stop("west");
    write(&stage, "east", 0, b'C');
    for block in 9..12 {
        write(&stage, "east", block, 0);
    }
    // The same as before: that west has it already is found out by comparing alone.
    fill(&stage, "east");
    stage.in_sync_but_one("east");
    stage.applied("east");
    stage
}

fn shipped(stage: &mut Stage) {
    stage.start("west");
    stage.connected();
    stage.in_sync("east");
    stage.same_everywhere();
}

#[test]
fn what_is_zero_or_there_already_is_not_sent() {
    let mut stage = begun(["n1"; 3]);
    shipped(&mut stage);
    let (east, west) = (counts(&stage, "east"), counts(&stage, "west"));
    assert_eq!(east.zero_bytes_total, 3 * 4096, "{east:?}");
    assert_eq!(east.same_bytes_total, 1 << 20, "{east:?}");
    assert_eq!((east.sent_bytes_total, west.received_bytes_total), (4096, 4096), "{east:?}");
    assert!(east.packed_bytes_total < 200, "a block of one letter: {east:?}");
    assert_eq!((west.mismatches_total, east.mismatches_total), (0, 0));
}

#[test]
fn an_image_that_was_spoilt_on_its_way_is_never_shown() {
    let mut stage = begun(["n1"; 3]);
    let volume = stage.volume("east").id;
    to_spoil(|volumes| volumes.insert(volume));
    shipped(&mut stage);
    assert!(!to_spoil(|volumes| volumes.contains(&volume)), "a page was spoilt");
    let west = counts(&stage, "west");
    assert_eq!(west.mismatches_total, 1, "{west:?}");
    assert_eq!(west.received_bytes_total, 2 * 4096, "it came anew: {west:?}");
}

/// The test above can fail: it is the comparison alone that finds it.
#[test]
fn without_the_comparison_the_spoilt_image_would_be_shown() {
    let mut stage = begun(["n1"; 3]);
    let volume = stage.volume("east").id;
    to_spoil(|volumes| volumes.insert(volume));
    of(&UNPROVEN, |volumes| volumes.insert(volume));
    stage.start("west");
    stage.connected();
    stage.in_sync("east");
    stage.applied("west");
    stage.applied("east");
    let block = |site| {
        let read = move |node: std::sync::Arc<super::Node>| async move { node.shared.store.read(volume, 0, 4096) };
        stage.at(site, read).expect("it can be read")
    };
    assert_eq!(counts(&stage, "west").mismatches_total, 0);
    assert!(block("east") != block("west"), "it was spoilt, and nobody looked");
}

#[test]
fn an_older_source_and_an_older_target_are_understood() {
    for nodes in [[OLDER_NODE, "n1", "n1"], ["n1", OLDER_NODE, "n1"]] {
        let mut stage = begun(nodes);
        shipped(&mut stage);
        let east = counts(&stage, "east");
        assert_eq!(east.sent_bytes_total, (4 << 12) + (1 << 20), "pages as they are: {east:?}");
        let letter = stage.on("east", |_, volume| async move { volume.block.read(0, 4096).await }).expect("a read");
        assert_eq!(letter[0], b'C');
    }
}
