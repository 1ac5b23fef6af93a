//! Publishing is attaching, unpublishing is fencing.

use farshore_proto::csi;
use farshore_proto::csi::volume_capability::access_mode::Mode;
use farshore_proto::v1 as api;
use tonic::{Code, Status};

use crate::driver::{Driver, mounted, raw, writer};
use crate::fake::Fake;

async fn publish(driver: &Driver, volume_id: &str, node_id: &str, readonly: bool) -> Result<String, Status> {
    let request = csi::ControllerPublishVolumeRequest {
        volume_id: volume_id.into(),
        node_id: node_id.into(),
        volume_capability: Some(writer()),
        readonly,
        ..Default::default()
    };
    let answer = driver.controller().controller_publish_volume(request).await?;
    Ok(answer.into_inner().publish_context["session"].clone())
}

async fn unpublish(driver: &Driver, volume_id: &str, node_id: &str) -> Result<(), Code> {
    let (volume_id, node_id) = (volume_id.into(), node_id.into());
    let request = csi::ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
    driver.controller().controller_unpublish_volume(request).await.map(drop).map_err(|status| status.code())
}

fn session(driver: &Driver, id: &str) -> Option<String> {
    driver.fake.world().find(id).unwrap().attached.map(|attached| attached.session)
}

#[tokio::test]
async fn one_node_and_one_session() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let first = publish(&driver, &id, "east/n1", false).await.unwrap();
    assert_eq!(session(&driver, &id), Some(first.clone()));
    // Repeated, and asked by another process of ours: the same.
    assert_eq!(publish(&driver, &id, "east/n1", false).await.unwrap(), first);
    let attaches = driver.fake.world().asked.iter().filter(|asked| asked.starts_with("attach")).count();
    assert_eq!(attaches, 1);
    let elsewhere = publish(&driver, &id, "east/n2", false).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(elsewhere.message().contains("published on east/n1"), "{elsewhere}");
    assert_eq!(publish(&driver, &id, "east/n1", true).await.unwrap_err().code(), Code::AlreadyExists);
    unpublish(&driver, &id, "east/n1").await.unwrap();
    assert_eq!(session(&driver, &id), None);
    // Also where the node is dead, or somebody still has the device open.
    assert_eq!(driver.fake.world().asked.last().unwrap(), "detach ended by force");
    let read_only = publish(&driver, &id, "east/n2", true).await.unwrap();
    assert_eq!(publish(&driver, &id, "east/n2", true).await.unwrap(), read_only);
    assert_eq!(publish(&driver, &id, "east/n2", false).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_late_unpublish_ends_nobody_elses_session() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    publish(&driver, &id, "east/n1", false).await.unwrap();
    unpublish(&driver, &id, "east/n1").await.unwrap();
    let second = publish(&driver, &id, "east/n2", false).await.unwrap();
    for node in ["east/n1", "west/w1", "nobody"] {
        unpublish(&driver, &id, node).await.unwrap();
        assert_eq!(session(&driver, &id), Some(second.clone()), "{node}");
    }
    // Without a node: from all of this cluster's.
    unpublish(&driver, &id, "").await.unwrap();
    assert_eq!(session(&driver, &id), None);
    unpublish(&driver, &id, "east/n2").await.unwrap();
    for gone in ["fake-vol-id", &"0".repeat(32)] {
        unpublish(&driver, gone, "east/n1").await.unwrap();
    }
    assert_eq!(unpublish(&driver, "", "east/n1").await, Err(Code::InvalidArgument));
}

#[tokio::test]
async fn who_has_not_heard_does_not_say_that_it_is_done() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    // Nor where it knows of another node: that may be over, too.
    for publish_first in [false, true] {
        if publish_first {
            publish(&driver, &id, "east/n2", false).await.unwrap();
        }
        driver.fake.world().unheard = true;
        assert_eq!(unpublish(&driver, &id, "east/n1").await, Err(Code::Unavailable));
        driver.fake.world().unheard = false;
        assert_eq!(unpublish(&driver, &id, "east/n1").await, Ok(()));
    }
    assert!(session(&driver, &id).is_some(), "the other node keeps it");
}

#[tokio::test]
async fn another_clusters_attachment_is_not_ours_to_end() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let (site, node, session_there) = ("west".to_string(), "w1".to_string(), "ab".repeat(16));
    driver.fake.world().change(&id, |v| {
        v.primary_site = "west".into();
        v.attached = Some(api::Attachment { site, node, session: session_there, ..Default::default() });
    });
    unpublish(&driver, &id, "").await.unwrap();
    assert!(session(&driver, &id).is_some());
    assert_eq!(publish(&driver, &id, "east/n1", false).await.unwrap_err().code(), Code::FailedPrecondition);
    driver.fake.world().change(&id, |v| v.attached = None);
    let elsewhere = publish(&driver, &id, "east/n1", false).await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::FailedPrecondition);
    assert!(elsewhere.message().contains("farshore switchover"), "{elsewhere}");
}

#[tokio::test]
async fn what_is_attached_by_hand_stays_so() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    let (site, node, by_hand) = ("east".to_string(), "n1".to_string(), "ab".repeat(16));
    driver.fake.world().change(&id, |v| {
        v.attached = Some(api::Attachment { site, node, session: by_hand, ..Default::default() });
    });
    let status = publish(&driver, &id, "east/n1", false).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("by hand"), "{status}");
}

#[tokio::test]
async fn strangers_are_not_found() {
    let driver = Driver::start().await;
    let id = driver.volume("pvc-1").await;
    for (volume, node, code) in [
        ("", "east/n1", Code::InvalidArgument),
        (id.as_str(), "", Code::InvalidArgument),
        ("fake-vol-id", "east/n1", Code::NotFound),
        (&"0".repeat(32), "east/n1", Code::NotFound),
        (&id, "fake-node-id", Code::NotFound),
        (&id, "east/n9", Code::NotFound),
        (&id, "west/w1", Code::NotFound),
    ] {
        assert_eq!(publish(&driver, volume, node, false).await.unwrap_err().code(), code, "{volume} {node}");
    }
    for capability in [None, Some(raw(Mode::MultiNodeSingleWriter)), Some(mounted("zfs", Mode::SingleNodeWriter))] {
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: id.clone(),
            node_id: "east/n1".into(),
            volume_capability: capability,
            ..Default::default()
        };
        let status = driver.controller().controller_publish_volume(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    assert_eq!(session(&driver, &id), None);
}

#[tokio::test]
async fn a_full_node_takes_no_more() {
    let driver = Driver::before(Fake::default(), &["--max-volumes-per-node", "1"]).await;
    driver.serve_replicator().await;
    let (one, two) = (driver.volume("a").await, driver.volume("b").await);
    publish(&driver, &one, "east/n1", false).await.unwrap();
    assert_eq!(publish(&driver, &two, "east/n1", false).await.unwrap_err().code(), Code::ResourceExhausted);
    publish(&driver, &one, "east/n1", false).await.unwrap();
    publish(&driver, &two, "east/n2", false).await.unwrap();
    let info = driver.node().node_get_info(csi::NodeGetInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.node_id.as_str(), info.max_volumes_per_node), ("east/n1", 1));
    assert_eq!(info.accessible_topology.unwrap().segments["topology.farshore.io/node"], "n1");
}

/// A kubelet that was slow, or a call that was stopped on its way: the volume has been taken from the node meanwhile.
#[tokio::test]
async fn a_stage_that_comes_late_takes_nothing_back() {
    let driver = Driver::start().await;
    let id = driver.volume("a").await;
    let stage = |session: &str| {
        let request = csi::NodeStageVolumeRequest {
            volume_id: id.clone(),
            publish_context: [("session".to_string(), session.to_string())].into(),
            staging_target_path: driver.path("stage"),
            volume_capability: Some(raw(Mode::SingleNodeWriter)),
            ..Default::default()
        };
        let mut node = driver.node();
        async move { node.node_stage_volume(request).await.unwrap_err() }
    };
    let opened = || driver.fake.world().asked.iter().filter(|asked| asked.ends_with("opened")).count();
    let first = publish(&driver, &id, "east/n1", false).await.unwrap();
    // Its device is none: the fake has no folder for it. So far it comes, and the session stays.
    assert_ne!(stage(&first).await.code(), Code::FailedPrecondition);
    assert_eq!(opened(), 1);
    let refused = |status: Status, how: &str| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains(how), "{status}");
    };
    unpublish(&driver, &id, "east/n1").await.unwrap();
    refused(stage(&first).await, "not published here");
    publish(&driver, &id, "east/n2", false).await.unwrap();
    refused(stage(&first).await, "published on east/n2");
    unpublish(&driver, &id, "east/n2").await.unwrap();
    publish(&driver, &id, "east/n1", false).await.unwrap();
    refused(stage(&first).await, "for another session");
    assert_eq!(opened(), 1, "nobody was asked to attach it");
}
