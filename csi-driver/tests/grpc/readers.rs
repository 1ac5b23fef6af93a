//! Volumes that many nodes read and none writes (ReadOnlyMany).

use std::collections::BTreeMap;

use farshore_proto::csi;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::csi::volume_content_source::{Type as From, VolumeSource};
use tonic::{Code, Status};

use crate::driver::{Driver, MIB, mounted, raw, wish, writer};

fn many() -> csi::VolumeCapability {
    mounted("", Mode::MultiNodeReaderOnly)
}

/// Of that volume, for many to read.
pub fn reading(name: &str, volume_id: &str) -> csi::CreateVolumeRequest {
    let from = From::Volume(VolumeSource { volume_id: volume_id.into() });
    let volume_content_source = Some(csi::VolumeContentSource { r#type: Some(from) });
    csi::CreateVolumeRequest { volume_content_source, volume_capabilities: vec![many()], ..wish(name) }
}

async fn publish(
    driver: &Driver,
    volume_id: &str,
    node_id: &str,
    capability: csi::VolumeCapability,
    readonly: bool,
) -> Result<BTreeMap<String, String>, Status> {
    let (volume_id, node_id, volume_capability) = (volume_id.into(), node_id.into(), Some(capability));
    let request =
        csi::ControllerPublishVolumeRequest { volume_id, node_id, volume_capability, readonly, ..Default::default() };
    Ok(driver.controller().controller_publish_volume(request).await?.into_inner().publish_context)
}

async fn unpublish(driver: &Driver, volume_id: &str, node_id: &str) -> Result<(), Status> {
    let (volume_id, node_id) = (volume_id.into(), node_id.into());
    let request = csi::ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
    driver.controller().controller_unpublish_volume(request).await.map(drop)
}

/// As both calls that tell it say.
async fn published(driver: &Driver, volume_id: &str) -> Vec<String> {
    let request = csi::ControllerGetVolumeRequest { volume_id: volume_id.into() };
    let got = driver.controller().controller_get_volume(request).await.unwrap().into_inner();
    let request = csi::ListVolumesRequest::default();
    let listed = driver.controller().list_volumes(request).await.unwrap().into_inner().entries;
    let entry = listed.into_iter().find(|entry| entry.volume.as_ref().unwrap().volume_id == volume_id).unwrap();
    let nodes = got.status.unwrap().published_node_ids;
    assert_eq!(entry.status.unwrap().published_node_ids, nodes);
    nodes
}

#[tokio::test]
async fn only_what_begins_with_something_is_made_to_be_read() {
    let driver = Driver::start().await;
    let source = driver.volume("a").await;
    let request = reading("r", &source);
    let made = driver.create(request.clone()).await.unwrap();
    assert_eq!((made.content_source.clone(), made.capacity_bytes), (request.volume_content_source.clone(), 16 * MIB));
    assert!(driver.fake.world().find("r").unwrap().read_only);
    assert_eq!(driver.create(request.clone()).await.unwrap(), made);
    let otherwise = csi::CreateVolumeRequest { volume_capabilities: vec![writer()], ..request.clone() };
    assert_eq!(driver.create(otherwise).await.unwrap_err().code(), Code::AlreadyExists);
    for (what, refused) in [
        ("dataSource", csi::CreateVolumeRequest { volume_content_source: None, ..reading("e", &source) }),
        ("not both", csi::CreateVolumeRequest { volume_capabilities: vec![many(), writer()], ..reading("m", &source) }),
    ] {
        let status = driver.create(refused).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(what), "{status}");
    }
    // With one that reads on one node it is not at odds.
    let both = vec![many(), mounted("", Mode::SingleNodeReaderOnly)];
    driver.create(csi::CreateVolumeRequest { volume_capabilities: both, ..reading("b", &source) }).await.unwrap();
    let capacity_range = Some(csi::CapacityRange { required_bytes: 32 * MIB, limit_bytes: 0 });
    let request =
        csi::ControllerExpandVolumeRequest { volume_id: made.volume_id, capacity_range, ..Default::default() };
    let status = driver.controller().controller_expand_volume(request).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("keeps its size"), "{status}");
}

#[tokio::test]
async fn two_nodes_have_it_and_one_leaves() {
    let driver = Driver::start().await;
    let source = driver.volume("a").await;
    let id = driver.create(reading("r", &source)).await.unwrap().volume_id;
    // Kubernetes says readonly only where the claim does.
    let first = publish(&driver, &id, "east/n1", many(), false).await.unwrap();
    let second = publish(&driver, &id, "east/n2", many(), true).await.unwrap();
    assert_eq!((first["readonly"].as_str(), second["readonly"].as_str()), ("true", "true"));
    assert_ne!(first["session"], second["session"]);
    assert_eq!(publish(&driver, &id, "east/n1", many(), false).await.unwrap(), first);
    assert_eq!(published(&driver, &id).await, ["east/n1", "east/n2"]);
    let request = csi::DeleteVolumeRequest { volume_id: id.clone(), ..Default::default() };
    let refused = driver.controller().delete_volume(request.clone()).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("east/n1"), "{refused}");

    unpublish(&driver, &id, "east/n1").await.unwrap();
    unpublish(&driver, &id, "east/n1").await.unwrap();
    assert_eq!(published(&driver, &id).await, ["east/n2"]);
    assert_eq!(publish(&driver, &id, "east/n2", many(), false).await.unwrap(), second);
    // A node that does not answer may still have it.
    driver.fake.world().unheard = true;
    assert_eq!(unpublish(&driver, &id, "east/n2").await.unwrap_err().code(), Code::Unavailable);
    driver.fake.world().unheard = false;
    // Where it is led does not matter.
    driver.fake.world().change(&id, |v| v.primary_site = "west".into());
    publish(&driver, &id, "east/n1", many(), false).await.unwrap();
    driver.fake.world().change(&id, |v| v.primary_site = "east".into());
    // From all nodes of this cluster.
    unpublish(&driver, &id, "").await.unwrap();
    assert!(published(&driver, &id).await.is_empty());
    driver.controller().delete_volume(request).await.unwrap();
}

#[tokio::test]
async fn what_is_written_is_not_for_many_and_what_is_read_is_not_written() {
    let driver = Driver::start().await;
    let written = driver.volume("a").await;
    let read = driver.create(reading("r", &written)).await.unwrap().volume_id;
    for (id, capability, what) in [
        (&written, many(), "dataSource"),
        (&read, writer(), "never written"),
        (&read, raw(Mode::SingleNodeMultiWriter), "never written"),
    ] {
        let status = publish(&driver, id, "east/n1", capability.clone(), false).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(what), "{status}");
        let volume_capabilities = vec![capability];
        let request =
            csi::ValidateVolumeCapabilitiesRequest { volume_id: id.clone(), volume_capabilities, ..Default::default() };
        let judged = driver.controller().validate_volume_capabilities(request).await.unwrap().into_inner();
        assert!(judged.confirmed.is_none() && judged.message.contains(what), "{judged:?}");
    }
    let volume_capabilities = vec![many()];
    let request =
        csi::ValidateVolumeCapabilitiesRequest { volume_id: read.clone(), volume_capabilities, ..Default::default() };
    let judged = driver.controller().validate_volume_capabilities(request).await.unwrap().into_inner();
    assert!(judged.confirmed.is_some(), "{judged:?}");
    publish(&driver, &read, "east/n1", writer(), true).await.unwrap();
    // What is written stays on one node, also for who only reads.
    publish(&driver, &written, "east/n1", writer(), true).await.unwrap();
    let status = publish(&driver, &written, "east/n2", writer(), true).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
}
