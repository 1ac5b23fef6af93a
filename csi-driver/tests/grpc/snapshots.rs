//! Snapshots, copies, groups, and what changed between two.

use farshore_proto::csi;
use farshore_proto::csi::volume_content_source::{SnapshotSource, Type as From, VolumeSource};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::driver::{Driver, MIB, parameters, wish};

async fn take(driver: &Driver, volume: &str, name: &str) -> Result<csi::Snapshot, Status> {
    let (source_volume_id, name) = (volume.into(), name.into());
    let request = csi::CreateSnapshotRequest { source_volume_id, name, ..Default::default() };
    let answer = driver.controller().create_snapshot(request).await?;
    Ok(answer.into_inner().snapshot.expect("a snapshot"))
}

async fn list(driver: &Driver, request: csi::ListSnapshotsRequest) -> Vec<String> {
    let answer = driver.controller().list_snapshots(request).await.unwrap().into_inner();
    answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect()
}

#[tokio::test]
async fn a_snapshot_is_taken_once() {
    let driver = Driver::start().await;
    let (one, two) = (driver.volume("a").await, driver.volume("b").await);
    let first = take(&driver, &one, "s").await.unwrap();
    assert_eq!(take(&driver, &one, "s").await.unwrap(), first);
    assert!(first.ready_to_use && first.size_bytes == 16 * MIB && first.source_volume_id == one);
    let taken = first.creation_time.unwrap();
    assert_eq!((taken.seconds, taken.nanos), (1_720_000_000, 500_000_000));
    assert_eq!(take(&driver, &two, "s").await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(take(&driver, "fake-vol-id", "t").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(take(&driver, "", "t").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(take(&driver, &one, "").await.unwrap_err().code(), Code::InvalidArgument);
    driver.fake.world().fail = Some((Code::ResourceExhausted, "the snapshots of volume a hold 6MiB"));
    let full = take(&driver, &one, "u").await.unwrap_err();
    assert!(full.code() == Code::ResourceExhausted && full.message().contains("6MiB"), "{full}");
    let long = take(&driver, &one, &"X".repeat(128)).await.unwrap();
    assert_eq!(take(&driver, &one, &"X".repeat(128)).await.unwrap(), long);
}

#[tokio::test]
async fn lists_are_narrowed_and_unknown_ones_are_empty() {
    let driver = Driver::start().await;
    let (one, two) = (driver.volume("a").await, driver.volume("b").await);
    let first = take(&driver, &one, "s1").await.unwrap().snapshot_id;
    let second = take(&driver, &two, "s2").await.unwrap().snapshot_id;
    let of = |source_volume_id: &str, snapshot_id: &str| csi::ListSnapshotsRequest {
        source_volume_id: source_volume_id.into(),
        snapshot_id: snapshot_id.into(),
        ..Default::default()
    };
    assert_eq!(list(&driver, of("", "")).await.len(), 2);
    assert_eq!(list(&driver, of(&one, "")).await, std::slice::from_ref(&first));
    assert_eq!(list(&driver, of("", &second)).await, std::slice::from_ref(&second));
    for nobody in [of("none-exist-id", ""), of("", "none-exist-id"), of(&"0".repeat(32), ""), of(&one, &second)] {
        assert!(list(&driver, nobody).await.is_empty());
    }
    let get = |snapshot_id: &str| {
        let request = csi::GetSnapshotRequest { snapshot_id: snapshot_id.into(), ..Default::default() };
        let mut controller = driver.controller();
        async move { controller.get_snapshot(request).await.map(drop).map_err(|status| status.code()) }
    };
    assert_eq!(get(&first).await, Ok(()));
    assert_eq!(get("none-exist-id").await, Err(Code::NotFound));
    assert_eq!(get("").await, Err(Code::InvalidArgument));
    for id in [first.as_str(), &first, "none-exist-id"] {
        let request = csi::DeleteSnapshotRequest { snapshot_id: id.into(), ..Default::default() };
        driver.controller().delete_snapshot(request).await.unwrap();
    }
    assert_eq!(list(&driver, of("", "")).await, [second]);
}

fn copy(name: &str, from: From, required_bytes: i64) -> csi::CreateVolumeRequest {
    let volume_content_source = Some(csi::VolumeContentSource { r#type: Some(from) });
    let capacity_range = Some(csi::CapacityRange { required_bytes, limit_bytes: 0 });
    csi::CreateVolumeRequest { volume_content_source, capacity_range, ..wish(name) }
}

#[tokio::test]
async fn copies_are_made_where_their_source_is() {
    let driver = Driver::start().await;
    let at = |node: &str| {
        let segments = parameters(&[("topology.farshore.io/site", "east"), ("topology.farshore.io/node", node)]);
        csi::Topology { segments }
    };
    let asked = |requisite: &[&str], preferred: &str| {
        let requisite = requisite.iter().map(|node| at(node)).collect();
        Some(csi::TopologyRequirement { requisite, preferred: vec![at(preferred)] })
    };
    let accessibility_requirements = asked(&["n1", "n2"], "n2");
    let made = driver.create(csi::CreateVolumeRequest { accessibility_requirements, ..wish("a") }).await.unwrap();
    assert_eq!(made.accessible_topology, [at("n2")]);
    let snapshot_id = take(&driver, &made.volume_id, "s").await.unwrap().snapshot_id;
    for (name, from) in [
        ("r", From::Snapshot(SnapshotSource { snapshot_id })),
        ("c", From::Volume(VolumeSource { volume_id: made.volume_id.clone() })),
    ] {
        // The scheduler chose a node without a copy: it has to choose another one, unless it left that to us.
        let strict = asked(&["n1"], "n1");
        let request = csi::CreateVolumeRequest { accessibility_requirements: strict, ..copy(name, from, 0) };
        let refused = driver.create(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
        assert!(refused.message().contains("east/n2"), "{refused}");
        let lenient = asked(&["n1", "n2"], "n1");
        let request = csi::CreateVolumeRequest { accessibility_requirements: lenient, ..request };
        assert_eq!(driver.create(request).await.unwrap().accessible_topology, [at("n2")]);
    }
}

#[tokio::test]
async fn copies_say_what_they_began_with() {
    let driver = Driver::start().await;
    let volume_id = driver.volume("a").await;
    let snapshot_id = take(&driver, &volume_id, "s").await.unwrap().snapshot_id;
    let restored = || From::Snapshot(SnapshotSource { snapshot_id: snapshot_id.clone() });
    let cloned = || From::Volume(VolumeSource { volume_id: volume_id.clone() });
    for (name, from) in [("r", restored()), ("c", cloned())] {
        let request = copy(name, from, 32 * MIB);
        let made = driver.create(request.clone()).await.unwrap();
        assert_eq!(made.content_source, request.volume_content_source);
        assert_eq!(made.capacity_bytes, 32 * MIB);
        assert_eq!(driver.create(request).await.unwrap(), made);
    }
    // Cut short after the first member: the same request has it made anew, of the same source.
    for (name, from) in [("r", restored()), ("c", cloned())] {
        let half = driver.fake.world().find(name).unwrap().id;
        driver.fake.world().half_made.insert(half.clone());
        let request = copy(name, from, 32 * MIB);
        let made = driver.create(request.clone()).await.unwrap();
        assert_ne!(made.volume_id, half, "it is not said to be made as it is");
        assert_eq!(made.content_source, request.volume_content_source);
        assert_eq!(driver.create(request).await.unwrap(), made);
    }
    // Without a size, the source's; with a smaller one, nothing.
    assert_eq!(driver.create(copy("d", restored(), 0)).await.unwrap().capacity_bytes, 16 * MIB);
    assert_eq!(driver.create(copy("e", cloned(), 8 * MIB)).await.unwrap_err().code(), Code::OutOfRange);
    let nobody = || "0".repeat(32);
    let gone = From::Snapshot(SnapshotSource { snapshot_id: nobody() });
    assert_eq!(driver.create(copy("f", gone, 0)).await.unwrap_err().code(), Code::NotFound);
    let gone = From::Volume(VolumeSource { volume_id: nobody() });
    assert_eq!(driver.create(copy("g", gone, 0)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_group_is_one_cut_and_stays_together() {
    let driver = Driver::start().await;
    let ids = vec![driver.volume("a").await, driver.volume("b").await];
    let create = |name: &str, source_volume_ids: &[String]| {
        let (name, source_volume_ids) = (name.to_string(), source_volume_ids.to_vec());
        let request = csi::CreateVolumeGroupSnapshotRequest { name, source_volume_ids, ..Default::default() };
        let mut groups = driver.groups();
        async move {
            let answer = groups.create_volume_group_snapshot(request).await?;
            Ok::<_, Status>(answer.into_inner().group_snapshot.expect("a group"))
        }
    };
    let group = create("g", &ids).await.unwrap();
    assert_eq!(create("g", &ids).await.unwrap(), group);
    assert!(group.ready_to_use && group.snapshots.iter().all(|s| s.group_snapshot_id == group.group_snapshot_id));
    // One call, so one cut.
    let cuts = driver.fake.world().asked.iter().filter(|asked| asked.as_str() == "snapshot g of 2").count();
    assert_eq!(cuts, 1);
    assert_eq!(create("g", &ids[..1]).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(create("h", &["fake".to_string()]).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(create("h", &[]).await.unwrap_err().code(), Code::InvalidArgument);
    let member =
        csi::DeleteSnapshotRequest { snapshot_id: group.snapshots[0].snapshot_id.clone(), ..Default::default() };
    assert_eq!(driver.controller().delete_snapshot(member).await.unwrap_err().code(), Code::InvalidArgument);
    let get = |snapshot_ids: Vec<String>| {
        let group_snapshot_id = group.group_snapshot_id.clone();
        let request = csi::GetVolumeGroupSnapshotRequest { group_snapshot_id, snapshot_ids, ..Default::default() };
        let mut groups = driver.groups();
        async move { groups.get_volume_group_snapshot(request).await.map(drop).map_err(|status| status.code()) }
    };
    let members: Vec<String> = group.snapshots.iter().map(|s| s.snapshot_id.clone()).collect();
    assert_eq!(get(members).await, Ok(()));
    assert_eq!(get(vec!["another".into()]).await, Err(Code::InvalidArgument));
    for _ in 0..2 {
        let group_snapshot_id = group.group_snapshot_id.clone();
        let request = csi::DeleteVolumeGroupSnapshotRequest { group_snapshot_id, ..Default::default() };
        driver.groups().delete_volume_group_snapshot(request).await.unwrap();
    }
    assert!(driver.fake.world().snapshots.is_empty());
    assert_eq!(get(Vec::new()).await, Err(Code::NotFound));
}

#[tokio::test]
async fn changes_come_in_messages_of_the_size_asked_for() {
    let driver = Driver::start().await;
    let (one, two) = (driver.volume("a").await, driver.volume("b").await);
    let base = take(&driver, &one, "s1").await.unwrap().snapshot_id;
    let target = take(&driver, &one, "s2").await.unwrap().snapshot_id;
    let other = take(&driver, &two, "s3").await.unwrap().snapshot_id;
    let delta = |base: &str, target: &str, starting_offset: i64, max_results: i32| {
        let (base_snapshot_id, target_snapshot_id) = (base.into(), target.into());
        let secrets = parameters(&[]);
        let request = csi::GetMetadataDeltaRequest {
            base_snapshot_id,
            target_snapshot_id,
            starting_offset,
            max_results,
            secrets,
        };
        let mut metadata = driver.metadata();
        async move {
            let mut answers = metadata.get_metadata_delta(request).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(part) = answers.next().await {
                let part = part?;
                assert_eq!(part.volume_capacity_bytes, 16 * MIB);
                assert_eq!(part.block_metadata_type(), csi::BlockMetadataType::VariableLength);
                parts.push(part.block_metadata.iter().map(|b| (b.byte_offset, b.size_bytes)).collect::<Vec<_>>());
            }
            Ok::<_, Status>(parts)
        }
    };
    // A hole is a change.
    let all = vec![(0, 4096), (8192, 4096), (65536, 8192)];
    assert_eq!(delta(&base, &target, 0, 0).await.unwrap(), std::slice::from_ref(&all));
    assert_eq!(delta(&base, &target, 0, 2).await.unwrap(), [all[..2].to_vec(), all[2..].to_vec()]);
    assert_eq!(delta(&base, &target, 12288, 0).await.unwrap(), [all[2..].to_vec()]);
    for (from, to, offset, code) in [
        (base.as_str(), target.as_str(), 16 * MIB, Code::OutOfRange),
        (&base, &target, -1, Code::OutOfRange),
        (&base, &other, 0, Code::InvalidArgument),
        (&target, &base, 0, Code::InvalidArgument),
        ("none", &target, 0, Code::NotFound),
        ("", &target, 0, Code::InvalidArgument),
    ] {
        assert_eq!(delta(from, to, offset, 0).await.unwrap_err().code(), code, "{from} {to} {offset}");
    }
    // In an image a hole is nothing.
    let request = csi::GetMetadataAllocatedRequest { snapshot_id: target.clone(), ..Default::default() };
    let mut answers = driver.metadata().get_metadata_allocated(request).await.unwrap().into_inner();
    let first = answers.next().await.unwrap().unwrap();
    assert_eq!(first.block_metadata.len(), 2);
    // A copy that is younger than the base can't tell.
    driver.fake.world().snapshots.get_mut(&base).unwrap().state = "missing".into();
    assert_eq!(delta(&base, &target, 0, 0).await.unwrap_err().code(), Code::FailedPrecondition);
}

/// What broke off, and could not be taken back: the same request again replaces it.
#[tokio::test]
async fn a_group_that_broke_off_is_cut_again() {
    let driver = Driver::start().await;
    let volumes = [driver.volume("a").await, driver.volume("b").await];
    let cut = |volumes: &[String]| {
        let request = csi::CreateVolumeGroupSnapshotRequest {
            name: "g".into(),
            source_volume_ids: volumes.to_vec(),
            ..Default::default()
        };
        let mut groups = driver.groups();
        async move { groups.create_volume_group_snapshot(request).await.map(|a| a.into_inner().group_snapshot.unwrap()) }
    };
    let first = cut(&volumes).await.unwrap();
    let unconfirmed = || driver.fake.world().snapshots.values_mut().for_each(|s| s.state = "unconfirmed".into());
    unconfirmed();
    let second = cut(&volumes).await.unwrap();
    assert!(second.ready_to_use && second.snapshots.len() == 2);
    assert_ne!(second.snapshots[0].snapshot_id, first.snapshots[0].snapshot_id);
    // Of one part nothing is left.
    driver.fake.world().snapshots.remove(&second.snapshots[0].snapshot_id);
    unconfirmed();
    let third = cut(&volumes).await.unwrap();
    assert!(third.ready_to_use && third.snapshots.len() == 2);
    assert_eq!(cut(&volumes).await.unwrap(), third, "now it is good, it stays");
    assert_eq!(cut(&volumes[..1]).await.unwrap_err().code(), Code::AlreadyExists);
    unconfirmed();
    assert_eq!(cut(&volumes[..1]).await.unwrap_err().code(), Code::AlreadyExists, "what is left is of others too");
}
