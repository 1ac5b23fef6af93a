//! The signatures of `farshore_replicator::transport::cert`, for as long as that is not there. Every call refuses.

use std::path::{Path, PathBuf};

use time::OffsetDateTime;

#[derive(Debug, thiserror::Error)]
#[allow(dead_code, reason = "the transport's errors; none but one is made here")]
pub enum CertError {
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} exists already")]
    Exists { path: PathBuf },
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
}

#[derive(Debug, Clone, Copy)]
pub enum Overwrite {
    Refuse,
    Allow,
}

#[derive(Debug, Clone, Copy)]
pub enum CaStep {
    Begin,
    Switch,
    Finish,
}

#[derive(Debug, Clone)]
pub struct CertInfo {
    pub subject: String,
    pub spiffe: Option<String>,
    pub issuer: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    pub days_left: i64,
    pub fingerprint: String,
    pub is_ca: bool,
}

pub struct PeerName;

impl PeerName {
    pub fn new(_site: &str, _node: &str) -> Result<PeerName, CertError> {
        Ok(PeerName)
    }
}

fn absent<T>(path: &Path) -> Result<T, CertError> {
    Err(CertError::Unreadable { path: path.into(), reason: "certificates are not built into this version".into() })
}

pub fn create_ca(_domain: &str, dir: &Path, _days: u32, _overwrite: Overwrite) -> Result<CertInfo, CertError> {
    absent(dir)
}

pub fn issue(ca: &Path, _name: &PeerName, _out: &Path, _days: u32, _o: Overwrite) -> Result<CertInfo, CertError> {
    absent(ca)
}

pub fn rotate(ca_dir: &Path, _out_dir: &Path, _days: u32) -> Result<CertInfo, CertError> {
    absent(ca_dir)
}

pub fn rotate_ca(ca_dir: &Path, _step: CaStep, _days: u32) -> Result<Vec<CertInfo>, CertError> {
    absent(ca_dir)
}

pub fn show(path: &Path) -> Result<Vec<CertInfo>, CertError> {
    absent(path)
}
