//! What was aimed at, and what was reached.

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
pub struct Target {
    pub what: String,
    pub aim: String,
    pub reached: String,
    pub met: bool,
}
