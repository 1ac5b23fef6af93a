//! What the replicators are made to do, so that as much as possible of what they can say is said.

use bytes::Bytes;
use farshore_core::api::Promotion;
use farshore_proto::v1 as api;

use super::line::Line;
use super::stage::{SITES, Stage, eventually};
use crate::device::BlockDevice;
use crate::transport::tap;

const BLOCK: u64 = 4096;
/// Behind the blocks that are looked at.
const FILLED_AT: u64 = 1 << 20;
/// More than the journals hold.
const FILLED_MEBIBYTES: usize = 24;

pub fn write(stage: &Stage, site: &str, block: u64, letter: u8) {
    let data = Bytes::from(vec![letter; BLOCK as usize]);
    stage.on(site, |_, volume| async move { volume.block.write(block * BLOCK, data, false).await }).expect("a write");
}

/// So much that the journals can't serve one that is behind any more.
pub fn fill(stage: &Stage, site: &str) {
    let data = Bytes::from(vec![b'Z'; 1 << 20]);
    for _ in 0..FILLED_MEBIBYTES {
        let data = data.clone();
        stage.on(site, |_, volume| async move { volume.block.write(FILLED_AT, data, false).await }).expect("a write");
    }
}

fn read(stage: &Stage, site: &str, block: u64) -> Bytes {
    stage.on(site, |_, volume| async move { volume.block.read(block * BLOCK, BLOCK as u32).await }).expect("a read")
}

pub fn attach(stage: &Stage, site: &str) {
    stage.verb("an attachment", site, |node, volume| async move {
        let request = api::AttachVolumeRequest { device: api::DeviceKind::Nbd.into(), ..Default::default() };
        node.attach(&volume, &request).await
    });
}

fn detach(stage: &Stage, site: &str) {
    stage.verb("a detachment", site, |node, volume| async move {
        node.detach(&volume, &api::DetachVolumeRequest::default()).await
    });
}

pub fn create(nodes: [&str; 3]) -> api::CreateVolumeRequest {
    let member = |(site, node): (&str, &str)| api::MemberSpec {
        site: site.into(),
        node: node.into(),
        kind: api::MemberKind::Data.into(),
        votes: 1,
    };
    let policy = api::Policy { quorum: "majority".into(), lease_ms: 1000, ..Default::default() };
    api::CreateVolumeRequest {
        name: "pg".into(),
        size_bytes: 2 << 20,
        block_size_bytes: 4096,
        members: SITES.into_iter().zip(nodes).map(member).collect(),
        policy: Some(policy),
        ..Default::default()
    }
}

/// Everything that the three said to each other.
pub fn tell() -> Vec<Line> {
    drop(tap::take());
    let mut stage = Stage::lay_out();
    SITES.iter().for_each(|site| stage.start(site));
    stage.connected();
    stage.at("east", |node| async move { node.create(create([tap::TAPPED_NODE; 3])).await }).expect("a volume");
    first_writes(&mut stage);
    a_failover_to_one_that_is_behind(&mut stage);
    a_disk_is_lost(&mut stage);
    blocks_rot(&mut stage);
    a_fork(&mut stage);
    stage.verb("a deletion", "north", |node, volume| async move { node.delete(&volume).await });
    SITES.iter().for_each(|site| stage.stop(site));
    tap::take().into_iter().map(Line::of).collect()
}

fn first_writes(stage: &mut Stage) {
    attach(stage, "east");
    write(stage, "east", 0, b'A');
    write(stage, "east", 1, b'B');
    stage.on("east", |_, volume| async move {
        volume.block.discard(BLOCK, BLOCK).await.expect("a discard");
        volume.block.write_zeroes(2 * BLOCK, BLOCK, true, true).await.expect("zeroes");
        volume.block.flush().await.expect("a flush");
    });
    // Catch-up from the journal, of one that was away.
    stage.stop("west");
    write(stage, "east", 3, b'C');
    stage.start("west");
    stage.connected();
    stage.in_sync("east");
    stage.same_everywhere();
}

fn a_failover_to_one_that_is_behind(stage: &mut Stage) {
    stage.stop("west");
    write(stage, "east", 4, b'D');
    stage.in_sync_but_one("east");
    stage.stop("east");
    stage.start("west");
    stage.connected();
    stage.verb(
        "a takeover",
        "west",
        |node, volume| async move { node.promote_here(&volume, Promotion::Takeover).await },
    );
    attach(stage, "west");
    assert_eq!(read(stage, "west", 4), vec![b'D'; BLOCK as usize]);
    stage.start("east");
    stage.connected();
    fill(stage, "west");
    detach(stage, "west");
    stage.in_sync("west");
}

fn a_disk_is_lost(stage: &mut Stage) {
    // An orderly end makes the stores complete: the journals have nothing left to say.
    for site in SITES {
        stage.applied(site);
    }
    SITES.iter().for_each(|site| stage.stop(site));
    stage.wipe("north");
    SITES.iter().for_each(|site| stage.start(site));
    stage.connected();
    stage.verb("a promotion", "west", |node, volume| async move { node.promote_here(&volume, Promotion::Verb).await });
    stage.verb("a replacement", "west", |node, volume| async move {
        let request = api::ReplaceMemberRequest { volume: "pg".into(), site: "north".into(), ..Default::default() };
        node.replace_member(&volume, &request).await
    });
    stage.in_sync("west");
    stage.same_everywhere();
}

fn blocks_rot(stage: &mut Stage) {
    stage.applied("east");
    stage.stop("east");
    stage.rot("east");
    stage.start("east");
    stage.connected();
    stage.in_sync("west");
    stage.verb("a switchover", "west", |node, volume| async move {
        let request = api::SwitchoverRequest { volume: "pg".into(), to_site: "east".into(), ..Default::default() };
        node.switch_over(&volume, &request).await
    });
    attach(stage, "east");
    for (block, letter) in [(0, b'A'), (3, b'C')] {
        assert_eq!(read(stage, "east", block), vec![letter; BLOCK as usize], "repaired from a peer");
    }
    for at in [0, FILLED_AT] {
        let all = stage.on("east", |_, volume| async move { volume.block.read(at, FILLED_AT as u32).await });
        let all = all.expect("repaired from a peer");
        assert!(at == 0 || all.iter().all(|byte| *byte == b'Z'));
    }
}

fn a_fork(stage: &mut Stage) {
    stage.in_sync("east");
    stage.stop("west");
    write(stage, "east", 5, b'E');
    stage.in_sync_but_one("east");
    stage.stop("north");
    // Only east ever has it.
    let volume = stage.volume("east");
    stage.spawn("east", async move { drop(volume.block.write(6 * BLOCK, vec![b'F'; 4096].into(), false).await) });
    eventually("the write to be in the journal", || {
        let status = stage.status("east");
        if status.durable > status.acked { Ok(()) } else { Err(status.durable) }
    });
    stage.stop("east");
    stage.start("north");
    stage.start("west");
    stage.connected();
    stage.verb("a forced promotion", "north", |node, volume| async move {
        let members = vec!["north".to_string(), "west".to_string()];
        let request = api::PromoteRequest { volume: "pg".into(), force: true, members, confirm: true };
        node.force(&volume, &request).await
    });
    eventually("the forced lineage to have a holder", || {
        let status = stage.status("north");
        if status.role == "primary" { Ok(()) } else { Err(status.role) }
    });
    attach(stage, "north");
    write(stage, "north", 6, b'G');
    fill(stage, "north");
    detach(stage, "north");
    stage.start("east");
    stage.connected();
    eventually("east to know that its history lost", || {
        let status = stage.status("east");
        if status.state == "diverged" { Ok(()) } else { Err(status.state) }
    });
    stage.verb("the lost history to be discarded", "north", |node, volume| async move {
        let request =
            api::ResyncRequest { volume: "pg".into(), site: "east".into(), discard: true, ..Default::default() };
        node.discard_and_resync(&volume, &request).await
    });
    stage.in_sync("north");
    stage.same_everywhere();
}
