//! Throughput and company on a lossy long link.

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct WanFigures {}
