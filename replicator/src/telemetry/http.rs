//! `/metrics`, `/healthz` and `/readyz` on one address. Read-only and without secrets, but without authentication.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::families;
use super::readings::{Health, MetricsSource};

/// A scrape that takes longer tells its scraper that something is stuck.
pub const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
/// Scrapes at once. Prometheus needs one, a replica of it two.
const SCRAPES_MAX: usize = 4;
const STOP_GRACE: Duration = Duration::from_secs(2);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("listening on {listen} for /metrics: {source}; free the port or change [http] listen")]
    Bind { listen: SocketAddr, source: io::Error },
}

/// A running server. Dropping it stops it.
pub struct HttpServer {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

#[derive(Clone)]
struct Shared {
    source: Arc<dyn MetricsSource>,
    scrapes: Arc<Semaphore>,
}

impl HttpServer {
    /// May be started before the engine is ready; `/readyz` says so until it is.
    pub async fn start(listen: SocketAddr, source: Arc<dyn MetricsSource>) -> Result<HttpServer, HttpError> {
        let bound = |source| HttpError::Bind { listen, source };
        let listener = TcpListener::bind(listen).await.map_err(bound)?;
        let address = listener.local_addr().map_err(bound)?;
        let (stop, stopped) = oneshot::channel();
        let shared = Shared { source, scrapes: Arc::new(Semaphore::new(SCRAPES_MAX)) };
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(shared);
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            // An error means that the handle was dropped, which asks for the same.
            let _ = stopped.await;
        });
        let task = tokio::spawn(async move { serving.await });
        tracing::info!(%address, "metrics are served");
        Ok(HttpServer { address, stop, task })
    }

    /// Where it listens; differs from what was asked for when that had port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub async fn stop(self) {
        let HttpServer { stop, mut task, .. } = self;
        let _ = stop.send(());
        // A client that keeps its connection open is cut off; nothing that it waits for is lost.
        if tokio::time::timeout(STOP_GRACE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let Ok(_permit) = shared.scrapes.try_acquire() else {
        return refused("too many scrapes at once; try again".into());
    };
    match tokio::time::timeout(SCRAPE_TIMEOUT, shared.source.readings()).await {
        Err(_) => refused(format!("the engine did not answer within {} s", SCRAPE_TIMEOUT.as_secs())),
        Ok(readings) => match families::encode(readings) {
            Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n").into_response(),
        },
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    answer(shared.source.health())
}

async fn readyz(State(shared): State<Shared>) -> Response {
    answer(shared.source.readiness())
}

fn answer(health: Health) -> Response {
    match health {
        Ok(()) => "ok\n".into_response(),
        Err(why) => refused(why),
    }
}

fn refused(why: String) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
