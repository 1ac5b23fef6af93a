//! What the daemon tells of itself: `/metrics`, `/healthz`, `/readyz`, and the log.
//!
//! Here: what is read at scrape time ([`MetricsSource`], which the engine implements), how it is named and written
//! ([`families`]), the HTTP server, the log's set-up.
//! Not here: counting. Whoever does the work counts it; nothing is kept here between scrapes.

pub mod families;
pub mod http;
pub mod log;
pub mod readings;

pub use http::{HttpError, HttpServer};
pub use readings::{
    Health, IoReading, JournalReading, MetricsSource, NodeReading, Readings, ResyncReading, StoreReading, VolumeReading,
};
