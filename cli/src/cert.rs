//! `farshore cert …`: the private CA and the nodes' certificates. The work is the transport's; here it is called and
//! shown.

use std::fmt::Write as _;

use farshore_replicator::transport::PeerName;
use farshore_replicator::transport::cert::{self, CaStep, CertError, CertInfo, Overwrite};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;

use crate::args::{CaStepArg, CertVerb, Format};
use crate::failure::{Exit, Failure};
use crate::output::{self, View};

#[derive(Debug, Serialize)]
pub struct CertificatesView {
    pub certificates: Vec<CertificateView>,
}

#[derive(Debug, Serialize)]
pub struct CertificateView {
    pub subject: String,
    pub identity: Option<String>,
    pub issuer: String,
    pub is_ca: bool,
    /// RFC 3339, UTC.
    pub not_before: String,
    pub not_after: String,
    pub days_left: i64,
    pub fingerprint: String,
}

pub fn run(format: Format, verb: CertVerb) -> Result<(), Failure> {
    let overwrite = |force| if force { Overwrite::Allow } else { Overwrite::Refuse };
    let certificates = match verb {
        CertVerb::Ca { domain, dir, days, force } => vec![cert::create_ca(&domain, &dir, days, overwrite(force))?],
        CertVerb::Issue { ca, site, node, out, days, force } => {
            let name = PeerName::new(&site, &node).map_err(|e| Failure::usage(e.to_string(), ""))?;
            vec![cert::issue(&ca, &name, &out, days, overwrite(force))?]
        }
        CertVerb::Show { path } => cert::show(&path)?,
        CertVerb::Rotate { ca, out, days } => vec![cert::rotate(&ca, &out, days)?],
        CertVerb::RotateCa { ca, step, days } => {
            let step = match step {
                CaStepArg::Begin => CaStep::Begin,
                CaStepArg::Switch => CaStep::Switch,
                CaStepArg::Finish => CaStep::Finish,
            };
            cert::rotate_ca(&ca, step, days)?
        }
    };
    let certificates = certificates.into_iter().map(Into::into).collect();
    output::print(format, &CertificatesView { certificates })
}

impl From<CertInfo> for CertificateView {
    fn from(info: CertInfo) -> Self {
        // Every time in a certificate can be written so; one that can't shows as nothing.
        let shown = |at: time::OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        CertificateView {
            not_before: shown(info.not_before),
            not_after: shown(info.not_after),
            subject: info.subject,
            identity: info.spiffe,
            issuer: info.issuer,
            is_ca: info.is_ca,
            days_left: info.days_left,
            fingerprint: info.fingerprint,
        }
    }
}

impl View for CertificatesView {
    fn table(&self) -> String {
        let mut out = String::new();
        for c in &self.certificates {
            let kind = if c.is_ca { "CA" } else { "certificate" };
            let left = if c.days_left < 0 { "expired".into() } else { format!("{} days left", c.days_left) };
            // A String never fails to be written to.
            let _ = writeln!(out, "{kind}  {}", c.identity.as_deref().unwrap_or(&c.subject));
            let _ = writeln!(out, "  issuer       {}", c.issuer);
            let _ = writeln!(out, "  valid        {} to {} ({left})", c.not_before, c.not_after);
            let _ = writeln!(out, "  fingerprint  {}", c.fingerprint);
        }
        out
    }
}

impl From<CertError> for Failure {
    fn from(error: CertError) -> Self {
        let exit = match &error {
            CertError::Exists { .. } => Exit::AlreadyExists,
            CertError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
            CertError::Name(_) | CertError::Days { .. } => Exit::Usage,
            CertError::Rotation { .. } => Exit::Refused,
            _ => Exit::Failed,
        };
        // Its texts say what to do already.
        Failure::new(exit, error.to_string(), "")
    }
}
