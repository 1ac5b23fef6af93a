//! The HTTP server and the text of a scrape.

use std::sync::Mutex;

use farshore_proto::v1 as api;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::latency::Latency;
use crate::telemetry::{IoReading, NodeReading, Readings, VolumeReading};

struct Source {
    ready: Mutex<Health>,
    stuck: bool,
}

impl MetricsSource for Source {
    fn readings(&self) -> BoxFuture<'_, Readings> {
        if self.stuck { std::future::pending().boxed() } else { std::future::ready(readings()).boxed() }
    }

    fn health(&self) -> Health {
        Ok(())
    }

    fn readiness(&self) -> Health {
        self.ready.lock().unwrap().clone()
    }
}

fn readings() -> Readings {
    let latency = Latency::default();
    latency.observe_us(700);
    latency.observe_us(90_000_000);
    let member = api::MemberStatus {
        site: "west".into(),
        node: "w\"1\n".into(),
        state: "catching-up".into(),
        lag_records: 388,
        lag_bytes: 12 << 20,
        lag_ms: 41_500,
        progress: 0.25,
        ..Default::default()
    };
    let loss = api::SiteLoss { site: "west".into(), exact: true, can_continue: true, ..Default::default() };
    let status = api::VolumeStatus {
        name: "pg".into(),
        role: api::Role::Primary.into(),
        state: "degraded".into(),
        epoch: "7.0000abcd".into(),
        acked_seq: 1_000,
        lease: Some(api::LeaseStatus { valid: true, remaining_ms: 3_500 }),
        members: vec![member],
        loss: vec![loss],
        conditions: vec![api::Condition { name: "member-unreachable".into(), ..Default::default() }],
        ..Default::default()
    };
    let write = IoReading { bytes_total: 8192, errors_total: 0, latency: latency.read() };
    Readings {
        node: NodeReading { site: "east".into(), node: "n1".into(), ..Default::default() },
        volumes: vec![VolumeReading { status, write, ..Default::default() }],
        peers: vec![api::Peer { site: "west".into(), node: "w1".into(), rtt_us: 11_000, ..Default::default() }],
    }
}

async fn start(ready: Health, stuck: bool) -> HttpServer {
    let source = Source { ready: Mutex::new(ready), stuck };
    HttpServer::start("127.0.0.1:0".parse().unwrap(), Arc::new(source)).await.unwrap()
}

async fn get(server: &HttpServer, path: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_scrape_holds_every_family_in_base_units() {
    let server = start(Ok(()), false).await;
    let answer = get(&server, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("content-type: application/openmetrics-text"), "{answer}");
    for line in [
        "farshore_volume_role{volume=\"pg\",role=\"primary\"} 1",
        "farshore_volume_state{volume=\"pg\",state=\"degraded\"} 1",
        "farshore_volume_epoch{volume=\"pg\"} 7",
        "farshore_volume_acked_seq{volume=\"pg\"} 1000",
        "farshore_volume_lease_remaining_seconds{volume=\"pg\"} 3.5",
        "farshore_volume_condition{volume=\"pg\",condition=\"member-unreachable\"} 1",
        "farshore_member_lag_bytes{volume=\"pg\",site=\"west\",node=\"w\\\"1\\n\"} 12582912.0",
        "farshore_member_lag_seconds{volume=\"pg\",site=\"west\",node=\"w\\\"1\\n\"} 41.5",
        "farshore_member_progress_ratio{volume=\"pg\",site=\"west\",node=\"w\\\"1\\n\"} 0.25",
        "farshore_site_loss_bytes{volume=\"pg\",site=\"west\"} 0.0",
        "farshore_site_loss_can_continue{volume=\"pg\",site=\"west\"} 1.0",
        "farshore_volume_io_bytes_total{volume=\"pg\",op=\"write\"} 8192",
        "farshore_volume_io_errors_total{volume=\"pg\",op=\"write\"} 0",
        "farshore_volume_io_seconds_sum{volume=\"pg\",op=\"write\"} 90.0007",
        "farshore_volume_io_seconds_bucket{le=\"0.001\",volume=\"pg\",op=\"write\"} 1",
        "farshore_volume_io_seconds_bucket{le=\"+Inf\",volume=\"pg\",op=\"write\"} 2",
        "farshore_volume_io_seconds_count{volume=\"pg\",op=\"write\"} 2",
        "farshore_peer_rtt_seconds{site=\"west\",node=\"w1\"} 0.011",
        "# UNIT farshore_journal_used_bytes bytes",
    ] {
        assert!(answer.lines().any(|l| l.trim_end() == line), "{line} is not in\n{answer}");
    }
    assert!(answer.trim_end().ends_with("# EOF"), "{answer}");
    let names: Vec<_> = answer.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), distinct.len(), "a family is written twice: {names:?}");
    assert!(names.iter().all(|n| n.starts_with("farshore_")), "{names:?}");
    server.stop().await;
}

#[tokio::test]
async fn readiness_says_why_not() {
    let server = start(Err("the journal is being recovered".into()), false).await;
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
    let answer = get(&server, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the journal is being recovered"), "{answer}");
    assert!(get(&server, "/nope").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_stuck_engine_fails_the_scrape_and_not_the_server() {
    let server = start(Ok(()), true).await;
    let answer = get(&server, "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("did not answer"), "{answer}");
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let server = start(Ok(()), false).await;
    let source = Arc::new(Source { ready: Mutex::new(Ok(())), stuck: false });
    let error = HttpServer::start(server.address(), source).await.err().expect("taken").to_string();
    assert!(error.contains(&server.address().to_string()) && error.contains("[http] listen"), "{error}");
}
