//! The server over a real socket, with the fake engine behind it.

use farshore_proto::v1 as api;
use farshore_proto::v1::node_client::NodeClient;
use farshore_proto::v1::replication_client::ReplicationClient;
use farshore_proto::v1::volumes_client::VolumesClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::control::error::{OpError, OpKind};
use crate::control::fake::FakeOperations;

struct Running {
    dir: tempfile::TempDir,
    fake: Arc<FakeOperations>,
    server: ControlServer,
    channel: Channel,
}

async fn running() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/replicator.sock");
    let fake = Arc::new(FakeOperations::new("east", "n1"));
    let server = ControlServer::start(&path, fake.clone()).await.unwrap();
    let channel = connect(&path).await;
    Running { dir, fake, server, channel }
}

async fn connect(path: &Path) -> Channel {
    Endpoint::try_from(format!("unix:{}", path.display())).unwrap().connect().await.unwrap()
}

fn create_request(name: &str) -> api::CreateVolumeRequest {
    let member = |site: &str| api::MemberSpec { site: site.into(), ..Default::default() };
    api::CreateVolumeRequest {
        name: name.into(),
        size_bytes: 1 << 30,
        members: vec![member("east"), member("west"), member("north")],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_volume_lives_from_create_to_delete() {
    let r = running().await;
    let mut volumes = VolumesClient::new(r.channel.clone());
    let made = volumes.create(create_request("pg")).await.unwrap().into_inner().volume.unwrap();
    assert_eq!(made.block_size_bytes, 4096, "defaults are filled in before the engine");
    let again = volumes.create(create_request("pg")).await.unwrap().into_inner().volume.unwrap();
    assert_eq!(again.id, made.id, "creating the same again is a no-op");
    volumes.create(create_request("aa")).await.unwrap();
    let listed = volumes.list(api::ListVolumesRequest {}).await.unwrap().into_inner().volumes;
    assert_eq!(listed.iter().map(|v| v.name.as_str()).collect::<Vec<_>>(), ["aa", "pg"]);

    let attach = api::AttachVolumeRequest { volume: made.id.clone(), ..Default::default() };
    let attached = volumes.attach(attach).await.unwrap().into_inner();
    assert_eq!(attached.volume.unwrap().role(), api::Role::Primary);
    let refused = volumes.delete(api::DeleteVolumeRequest { volume: "pg".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    volumes.detach(api::DetachVolumeRequest { volume: "pg".into(), ..Default::default() }).await.unwrap();
    volumes.delete(api::DeleteVolumeRequest { volume: "pg".into() }).await.unwrap();
    let gone = volumes.get(api::GetVolumeRequest { volume: "pg".into() }).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    r.server.stop().await.unwrap();
}

#[tokio::test]
async fn errors_arrive_with_reason_and_remedy() {
    let r = running().await;
    let sent = OpError::new(OpKind::Conflict, "it changed", "look again").because("somebody else was first");
    r.fake.fail_next(sent.clone());
    let mut volumes = VolumesClient::new(r.channel.clone());
    let status = volumes.list(api::ListVolumesRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert_eq!(OpError::from_status(&status), sent);

    // A request that can't be right never reaches the engine: the planned failure is still there afterwards.
    r.fake.fail_next(sent.clone());
    let status = volumes.create(create_request("No Good")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = volumes.list(api::ListVolumesRequest {}).await.unwrap_err();
    assert_eq!(OpError::from_status(&status), sent);
}

#[tokio::test]
async fn watchers_get_reports_and_end_with_the_server() {
    let r = running().await;
    let mut node = NodeClient::new(r.channel.clone());
    let watch = api::WatchStatusRequest { volumes: vec![], interval_ms: 1 };
    let mut reports = node.watch_status(watch).await.unwrap().into_inner();
    assert!(reports.message().await.unwrap().unwrap().volumes.is_empty());
    VolumesClient::new(r.channel.clone()).create(create_request("pg")).await.unwrap();
    loop {
        let report = reports.message().await.unwrap().expect("the stream goes on while the server does");
        if report.volumes.len() == 1 {
            break;
        }
    }
    let started = std::time::Instant::now();
    r.server.stop().await.unwrap();
    assert!(started.elapsed() < STOP_GRACE, "a watcher does not hold the server up");
    while let Ok(Some(_)) = reports.message().await {}
}

#[tokio::test]
async fn watching_an_unknown_volume_ends_with_its_error() {
    let r = running().await;
    let mut node = NodeClient::new(r.channel.clone());
    let watch = api::WatchStatusRequest { volumes: vec!["nope".into()], interval_ms: 100 };
    let mut reports = node.watch_status(watch).await.unwrap().into_inner();
    assert_eq!(reports.message().await.unwrap_err().code(), Code::NotFound);
    assert!(reports.message().await.unwrap().is_none());
}

#[tokio::test]
async fn force_is_a_plan_until_it_is_confirmed() {
    let r = running().await;
    VolumesClient::new(r.channel.clone()).create(create_request("pg")).await.unwrap();
    let mut replication = ReplicationClient::new(r.channel.clone());
    let mut request =
        api::PromoteRequest { volume: "pg".into(), force: true, members: vec!["east".into()], confirm: false };
    let planned = replication.promote(request.clone()).await.unwrap().into_inner();
    assert!(planned.volume.is_none() && !planned.plan.unwrap().exact);
    assert_eq!(r.fake.volume("pg").unwrap().members.len(), 3, "a plan changes nothing");
    request.confirm = true;
    let done = replication.promote(request).await.unwrap().into_inner();
    assert!(done.volume.unwrap().lineage.starts_with("g2."));
}

#[tokio::test]
async fn health_and_reflection_answer() {
    let r = running().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(r.channel.clone());
    let services = ["Volumes", "Members", "Snapshots", "Replication", "Node"].map(|name| format!("farshore.v1.{name}"));
    for service in [&[String::new()], &services[..]].concat() {
        let request = tonic_health::pb::HealthCheckRequest { service: service.clone() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(r.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|s| s.name.as_str()).collect();
    for name in services {
        assert!(names.contains(&name.as_str()), "{names:?}");
    }
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_server() {
    let r = running().await;
    let path = r.dir.path().join("run/replicator.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["replicator.sock"], "no draft is left beside it");
    r.server.stop().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let r = running().await;
    let path = r.dir.path().join("run/replicator.sock");
    let error = ControlServer::start(&path, r.fake.clone()).await.err().expect("somebody answers there");
    assert!(matches!(error, ServerError::Busy(_)), "{error}");
    NodeClient::new(connect(&path).await).info(api::InfoRequest {}).await.expect("the first one is unharmed");

    // A listener that is dropped leaves its file behind, as a crash does.
    let stale = r.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let second = ControlServer::start(&stale, r.fake.clone()).await.unwrap();
    NodeClient::new(connect(&stale).await).info(api::InfoRequest {}).await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn an_old_server_leaves_its_successors_socket_alone() {
    let r = running().await;
    let path = r.dir.path().join("run/replicator.sock");
    std::fs::remove_file(&path).unwrap();
    let second = ControlServer::start(&path, r.fake.clone()).await.unwrap();
    r.server.stop().await.unwrap();
    NodeClient::new(connect(&path).await).info(api::InfoRequest {}).await.unwrap();
    second.stop().await.unwrap();
}

#[tokio::test]
async fn other_files_and_long_paths_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Arc::new(FakeOperations::new("east", "n1"));
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = ControlServer::start(&file, fake.clone()).await.err().expect("refused");
    assert!(matches!(error, ServerError::NotASocket(_)), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let error = ControlServer::start(&dir.path().join("x".repeat(120)), fake).await.err().expect("refused");
    assert!(matches!(error, ServerError::PathTooLong(_)), "{error}");
}
