//! Calls that meet each other, callers that hang up, and a replicator that is not there.

use std::sync::Arc;

use farshore_proto::csi;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::driver::{Driver, wish, writer};
use crate::fake::Fake;

/// Until so many calls have reached the replicator.
async fn asked(driver: &Driver, count: usize) {
    while driver.fake.world().asked.len() < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_at_once_on_one_volume_are_one_and_a_come_again() {
    let driver = Driver::start().await;
    let gate = Arc::new(Semaphore::new(0));
    driver.fake.world().gate = Some(gate.clone());
    let mut controller = driver.controller();
    let first = tokio::spawn(async move { controller.create_volume(wish("pvc-1")).await });
    asked(&driver, 1).await;
    let status = driver.create(wish("pvc-1")).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    // Others have nothing to do with it.
    let mut controller = driver.controller();
    let other = tokio::spawn(async move { controller.create_volume(wish("pvc-2")).await });
    asked(&driver, 2).await;
    gate.add_permits(2);
    first.await.unwrap().unwrap();
    other.await.unwrap().unwrap();
    driver.fake.world().gate = None;
    driver.create(wish("pvc-1")).await.unwrap();
    assert_eq!(driver.fake.world().volumes.len(), 2);
}

#[tokio::test]
async fn a_caller_that_hangs_up_finds_it_done() {
    let driver = Driver::start().await;
    let gate = Arc::new(Semaphore::new(0));
    driver.fake.world().gate = Some(gate.clone());
    let mut controller = driver.controller();
    let call = tokio::spawn(async move { controller.create_volume(wish("pvc-1")).await });
    asked(&driver, 1).await;
    call.abort();
    let _ = call.await;
    assert_eq!(driver.create(wish("pvc-1")).await.unwrap_err().code(), Code::Aborted);
    driver.fake.world().gate = None;
    gate.add_permits(1);
    let made = loop {
        match driver.create(wish("pvc-1")).await {
            Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    let world = driver.fake.world();
    assert_eq!(world.volumes.keys().collect::<Vec<_>>(), [&made.volume_id]);
}

#[tokio::test]
async fn a_driver_that_dies_half_way_is_none_the_worse() {
    let mut driver = Driver::start().await;
    let gate = Arc::new(Semaphore::new(0));
    driver.fake.world().gate = Some(gate.clone());
    let mut controller = driver.controller();
    let call = tokio::spawn(async move { controller.create_volume(wish("pvc-1")).await });
    asked(&driver, 1).await;
    driver.restart().await;
    let _ = call.await;
    driver.fake.world().gate = None;
    gate.add_permits(1);
    driver.create(wish("pvc-1")).await.unwrap();
    assert_eq!(driver.fake.world().volumes.len(), 1);
}

#[tokio::test]
async fn without_a_replicator_it_says_so_and_then_goes_on() {
    let driver = Driver::before(Fake::default(), &[]).await;
    let probe = || async {
        let answer = driver.identity().probe(csi::ProbeRequest {}).await.expect("it answers");
        answer.into_inner().ready
    };
    assert_eq!(probe().await, Some(false));
    let status = driver.create(wish("pvc-1")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("replicator of this node did not answer"), "{status}");
    // What it is called does not depend on anybody.
    let info = driver.identity().get_plugin_info(csi::GetPluginInfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.name, "csi.farshore.io");
    driver.serve_replicator().await;
    assert_eq!(probe().await, Some(true));
    driver.create(wish("pvc-1")).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_not_the_replicators_is_refused() {
    let driver = Driver::before(Fake::default(), &["--node-id", "east/n7"]).await;
    driver.serve_replicator().await;
    let status = driver.node().node_get_info(csi::NodeGetInfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("east/n7") && status.message().contains("east/n1"), "{status}");
}

#[tokio::test]
async fn two_hundred_at_once_leave_nothing_behind() {
    let driver = Driver::start().await;
    let mut lives = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mut controller = driver.controller();
        lives.spawn(async move {
            let made = controller.create_volume(wish(&format!("pvc-{number}"))).await?.into_inner();
            let volume_id = made.volume.expect("a volume").volume_id;
            let node_id = format!("east/n{}", number % 2 + 1);
            let publish = csi::ControllerPublishVolumeRequest {
                volume_id: volume_id.clone(),
                node_id: node_id.clone(),
                volume_capability: Some(writer()),
                ..Default::default()
            };
            controller.controller_publish_volume(publish).await?;
            let unpublish =
                csi::ControllerUnpublishVolumeRequest { volume_id: volume_id.clone(), node_id, ..Default::default() };
            controller.controller_unpublish_volume(unpublish).await?;
            controller.delete_volume(csi::DeleteVolumeRequest { volume_id, ..Default::default() }).await
        });
    }
    for life in lives.join_all().await {
        life.unwrap();
    }
    assert!(driver.fake.world().volumes.is_empty());
    assert_eq!(driver.fake.world().asked.len(), 200 * 4);
}
