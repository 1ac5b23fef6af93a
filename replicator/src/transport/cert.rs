//! The private CA and the nodes' certificates: create, issue, show, rotate. `farshore cert` calls these.
//!
//! ```text
//! <ca dir>/ca.pem   trust bundle; the first certificate issues    ca.key   its key (0600)
//! <node dir>/ca.pem copy of the bundle    node.pem  certificate   node.key its key (0600)
//! ```
//! A key file may hold several keys while a rotation is under way: readers take the one that fits the certificate, so
//! a crash between the two renames leaves a pair that still loads.
//!
//! A CA is replaced in three steps, with the bundle carried to every node between them ([`CaStep`]).
//! Verification of a peer is not here: see `tls`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, string::Ia5String,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::name::{NameError, PeerName, SpiffeId, check_domain, shown};

pub const CA_CERT_FILE: &str = "ca.pem";
pub const CA_KEY_FILE: &str = "ca.key";
pub const NODE_CERT_FILE: &str = "node.pem";
pub const NODE_KEY_FILE: &str = "node.key";
/// How long a CA lasts unless told otherwise.
pub const CA_DAYS: u32 = 3650;
/// How long a node's certificate lasts unless told otherwise.
pub const NODE_DAYS: u32 = 365;
/// No certificate or key file of ours is larger; a larger one is refused before it is read.
pub const PEM_FILE_BYTES_MAX: u64 = 1 << 20;
/// Certificates start this much in the past: clocks of sites differ.
const BACKDATE: Duration = Duration::minutes(10);

#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} exists already; overwriting would make what it issued unusable, so say --force if you mean it")]
    Exists { path: PathBuf },
    #[error("{path}: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("{path} holds no key that fits {cert}; restore the matching key or issue a new certificate")]
    NoMatchingKey { path: PathBuf, cert: PathBuf },
    #[error("CA rotation in {path}: {reason}")]
    Rotation { path: PathBuf, reason: &'static str },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("days must be between 1 and {max}, not {days}")]
    Days { days: u32, max: u32 },
    #[error("generating a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// What may happen to files that are already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    Refuse,
    Allow,
}

/// Replacing a CA without cutting a connection: after each step but the last, carry `ca.pem` to every node
/// (`rotate` does it for a node's directory) and reload there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaStep {
    /// Makes the new CA and adds it to the bundle; the old one still issues.
    Begin,
    /// The new CA issues; the old one is still trusted. Now rotate every node.
    Switch,
    /// Drops the old CA and its key.
    Finish,
}

/// What one certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertInfo {
    pub subject: String,
    /// The URI in the subject alternative name, if there is one.
    pub spiffe: Option<String>,
    pub issuer: String,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// Whole days until it expires; negative when it has.
    pub days_left: i64,
    /// BLAKE3-256 of the DER, in hex.
    pub fingerprint: String,
    pub is_ca: bool,
}

impl CertInfo {
    pub fn from_der(der: &[u8]) -> Result<CertInfo, String> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| format!("not an X.509 certificate: {e}"))?;
        let not_after = cert.validity().not_after.to_datetime();
        let uri = cert.subject_alternative_name().ok().flatten().and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => Some(shown(uri)),
                _ => None,
            })
        });
        Ok(CertInfo {
            subject: shown(&cert.subject().to_string()),
            spiffe: uri,
            issuer: shown(&cert.issuer().to_string()),
            not_before: cert.validity().not_before.to_datetime(),
            not_after,
            days_left: (not_after - OffsetDateTime::now_utc()).whole_days(),
            fingerprint: blake3::hash(der).to_hex().to_string(),
            is_ca: cert.is_ca(),
        })
    }

    /// The trust domain that a CA of ours carries as `spiffe://<domain>`.
    pub fn ca_domain(&self) -> Option<&str> {
        self.spiffe.as_deref()?.strip_prefix("spiffe://").filter(|domain| check_domain(domain).is_ok())
    }
}

/// Makes a private CA for `domain` in `dir`, which is created where missing.
pub fn create_ca(domain: &str, dir: &Path, days: u32, overwrite: Overwrite) -> Result<CertInfo, CertError> {
    check_domain(domain)?;
    check_days(days)?;
    let (cert_path, key_path) = (dir.join(CA_CERT_FILE), dir.join(CA_KEY_FILE));
    refuse_existing(&[&cert_path, &key_path], overwrite)?;
    let (cert, key) = generate_ca(domain, days)?;
    make_private_dir(dir)?;
    write_private(&key_path, &key)?;
    write_public(&cert_path, &cert)?;
    first_info(&cert_path)
}

/// Issues a certificate for a node into `out_dir`, with the trust bundle beside it.
pub fn issue(
    ca_dir: &Path,
    name: &PeerName,
    out_dir: &Path,
    days: u32,
    overwrite: Overwrite,
) -> Result<CertInfo, CertError> {
    check_days(days)?;
    let not_before = OffsetDateTime::now_utc() - BACKDATE;
    let not_after = OffsetDateTime::now_utc() + Duration::days(days.into());
    issue_between(ca_dir, name, out_dir, not_before, not_after, overwrite)
}

/// [`issue`] with explicit validity.
pub(super) fn issue_between(
    ca_dir: &Path,
    name: &PeerName,
    out_dir: &Path,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    overwrite: Overwrite,
) -> Result<CertInfo, CertError> {
    let paths = [CA_CERT_FILE, NODE_CERT_FILE, NODE_KEY_FILE].map(|file| out_dir.join(file));
    refuse_existing(&[&paths[0], &paths[1], &paths[2]], overwrite)?;
    make_private_dir(out_dir)?;
    replace_node_files(ca_dir, name, out_dir, not_before, not_after)?;
    first_info(&out_dir.join(NODE_CERT_FILE))
}

/// Renews the certificate in `out_dir` for the identity that it carries: new key, new certificate, current bundle.
/// Running daemons keep their connections and take the new files at `reload`.
pub fn rotate(ca_dir: &Path, out_dir: &Path, days: u32) -> Result<CertInfo, CertError> {
    check_days(days)?;
    let path = out_dir.join(NODE_CERT_FILE);
    let spiffe = first_info(&path)?.spiffe.unwrap_or_default();
    let id: SpiffeId = spiffe.parse()?;
    let not_before = OffsetDateTime::now_utc() - BACKDATE;
    replace_node_files(ca_dir, &id.name, out_dir, not_before, OffsetDateTime::now_utc() + Duration::days(days.into()))?;
    first_info(&path)
}

/// One step of replacing the CA in `ca_dir`. Returns the bundle afterwards, the issuing certificate first.
pub fn rotate_ca(ca_dir: &Path, step: CaStep, days: u32) -> Result<Vec<CertInfo>, CertError> {
    check_days(days)?;
    let (cert_path, key_path) = (ca_dir.join(CA_CERT_FILE), ca_dir.join(CA_KEY_FILE));
    let refused = |reason| CertError::Rotation { path: ca_dir.to_owned(), reason };
    let bundle = read_certificates(&cert_path)?;
    let blocks = certificate_blocks(&read_text(&cert_path)?);
    match (step, &blocks[..]) {
        (CaStep::Begin, [old]) => {
            let info = first_info(&cert_path)?;
            let domain = info.ca_domain().ok_or_else(|| refused("the CA carries no trust domain"))?;
            let (cert, key) = generate_ca(domain, days)?;
            write_private(&key_path, &format!("{}{key}", read_text(&key_path)?))?;
            write_public(&cert_path, &format!("{old}{cert}"))?;
        }
        (CaStep::Switch, [old, new]) if bundle.len() == 2 => {
            matching_key(&key_path, &cert_path, &bundle[1])?;
            write_public(&cert_path, &format!("{new}{old}"))?;
        }
        (CaStep::Finish, [new, _]) if bundle.len() == 2 => {
            let key = matching_key(&key_path, &cert_path, &bundle[0])?;
            write_public(&cert_path, new)?;
            write_private(&key_path, &key.serialize_pem())?;
        }
        (CaStep::Begin, _) => return Err(refused("one is under way already: switch, or finish it")),
        (_, _) => return Err(refused("none is under way: begin one")),
    }
    show(&cert_path)
}

/// Every certificate in a PEM file, in order.
pub fn show(path: &Path) -> Result<Vec<CertInfo>, CertError> {
    let unreadable = |reason| CertError::Unreadable { path: path.to_owned(), reason };
    read_certificates(path)?.iter().map(|der| CertInfo::from_der(der).map_err(unreadable)).collect()
}

/// The certificates of a PEM file; at least one.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertError> {
    let unreadable = |reason| CertError::Unreadable { path: path.to_owned(), reason };
    let text = read_text(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let certificates = certificates.map_err(|e| unreadable(format!("not PEM: {e}")))?;
    if certificates.is_empty() {
        return Err(unreadable("holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// The private keys of a PEM file.
pub(super) fn read_keys(path: &Path) -> Result<Vec<PrivateKeyDer<'static>>, CertError> {
    let text = read_text(path)?;
    let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(text.as_bytes()).collect();
    keys.map_err(|e| CertError::Unreadable { path: path.to_owned(), reason: format!("not PEM: {e}") })
}

fn check_days(days: u32) -> Result<(), CertError> {
    const DAYS_MAX: u32 = 36_500;
    if (1..=DAYS_MAX).contains(&days) { Ok(()) } else { Err(CertError::Days { days, max: DAYS_MAX }) }
}

/// A CA's certificate and key in PEM. The name ends in random digits: two CAs of one domain must be told apart in
/// error messages.
fn generate_ca(domain: &str, days: u32) -> Result<(String, String), CertError> {
    let key = KeyPair::generate()?;
    let suffix = &blake3::hash(&key.subject_public_key_info()).to_hex()[..8];
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Farshore CA {domain} {suffix}"));
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - BACKDATE;
    params.not_after = OffsetDateTime::now_utc() + Duration::days(days.into());
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn replace_node_files(
    ca_dir: &Path,
    name: &PeerName,
    out_dir: &Path,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Result<(), CertError> {
    let ca_path = ca_dir.join(CA_CERT_FILE);
    let bundle = read_certificates(&ca_path)?;
    let unreadable = |reason| CertError::Unreadable { path: ca_path.clone(), reason };
    let info = CertInfo::from_der(&bundle[0]).map_err(unreadable)?;
    let domain = info.ca_domain().ok_or_else(|| unreadable("is not a Farshore CA: no trust domain in it".into()))?;
    let ca_key = matching_key(&ca_dir.join(CA_KEY_FILE), &ca_path, &bundle[0])?;
    let issuer = Issuer::from_ca_cert_der(&bundle[0], ca_key)?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&name.to_string());
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(name.spiffe(domain))?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = not_before;
    params.not_after = not_after.min(info.not_after);
    let cert = params.signed_by(&key, &issuer)?;

    // Bundle first (a superset never hurts), then both keys, then the certificate, then the new key alone.
    let key_path = out_dir.join(NODE_KEY_FILE);
    write_public(&out_dir.join(CA_CERT_FILE), &read_text(&ca_path)?)?;
    if key_path.exists() {
        write_private(&key_path, &format!("{}{}", key.serialize_pem(), read_text(&key_path)?))?;
    } else {
        write_private(&key_path, &key.serialize_pem())?;
    }
    write_public(&out_dir.join(NODE_CERT_FILE), &cert.pem())?;
    write_private(&key_path, &key.serialize_pem())
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// The key in `key_path` whose public half is in `cert`.
fn matching_key(key_path: &Path, cert_path: &Path, cert: &CertificateDer<'_>) -> Result<KeyPair, CertError> {
    let unreadable = |reason: String| CertError::Unreadable { path: cert_path.to_owned(), reason };
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|e| unreadable(e.to_string()))?;
    for key in read_keys(key_path)? {
        let Ok(pair) = KeyPair::try_from(&key) else { continue };
        if pair.subject_public_key_info() == parsed.public_key().raw {
            return Ok(pair);
        }
    }
    Err(CertError::NoMatchingKey { path: key_path.to_owned(), cert: cert_path.to_owned() })
}

fn first_info(path: &Path) -> Result<CertInfo, CertError> {
    Ok(show(path)?.swap_remove(0))
}

/// The certificates of a bundle, each as the PEM text that it is, so that reordering a bundle re-encodes nothing.
fn certificate_blocks(text: &str) -> Vec<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    text.split_inclusive(END).filter_map(|part| part.find(BEGIN).map(|at| format!("{}\n", &part[at..]))).collect()
}

fn read_text(path: &Path) -> Result<String, CertError> {
    let failed = |source| CertError::Io { operation: "reading", path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > PEM_FILE_BYTES_MAX {
        let reason = format!("is {length} bytes long; no certificate or key file of ours exceeds {PEM_FILE_BYTES_MAX}");
        return Err(CertError::Unreadable { path: path.to_owned(), reason });
    }
    fs::read_to_string(path).map_err(failed)
}

fn refuse_existing(paths: &[&Path], overwrite: Overwrite) -> Result<(), CertError> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) if overwrite == Overwrite::Refuse => Err(CertError::Exists { path: (*path).to_owned() }),
        _ => Ok(()),
    }
}

fn make_private_dir(dir: &Path) -> Result<(), CertError> {
    let failed = |source| CertError::Io { operation: "creating", path: dir.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)
}

fn write_private(path: &Path, text: &str) -> Result<(), CertError> {
    replace_file(path, text, 0o600)
}

fn write_public(path: &Path, text: &str) -> Result<(), CertError> {
    replace_file(path, text, 0o644)
}

/// Old content or new content, never a mixture, also after a power cut.
fn replace_file(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let failed = |operation| move |source| CertError::Io { operation, path: path.to_owned(), source };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replacing")(error)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let mut file = options.open(&new).map_err(failed("creating"))?;
    file.write_all(text.as_bytes()).map_err(failed("writing"))?;
    file.sync_all().map_err(failed("syncing"))?;
    fs::rename(&new, path).map_err(failed("renaming"))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("syncing the folder of"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name() -> PeerName {
        PeerName::new("east", "n1").unwrap()
    }

    #[test]
    fn an_issued_certificate_says_who_it_is_for_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let (ca_dir, node_dir) = (dir.path().join("ca"), dir.path().join("n1"));
        let ca = create_ca("storage.example", &ca_dir, CA_DAYS, Overwrite::Refuse).unwrap();
        assert!(ca.is_ca);
        assert_eq!(ca.ca_domain(), Some("storage.example"));
        let node = issue(&ca_dir, &name(), &node_dir, 30, Overwrite::Refuse).unwrap();
        assert_eq!(node.spiffe.as_deref(), Some("spiffe://storage.example/site/east/node/n1"));
        assert_eq!(node.issuer, ca.subject);
        assert!(!node.is_ca);
        assert!((29..=30).contains(&node.days_left), "{}", node.days_left);
        for key in [ca_dir.join(CA_KEY_FILE), node_dir.join(NODE_KEY_FILE)] {
            assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten_without_being_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (ca_dir, node_dir) = (dir.path().join("ca"), dir.path().join("n1"));
        create_ca("d", &ca_dir, 10, Overwrite::Refuse).unwrap();
        let before = fs::read(ca_dir.join(CA_KEY_FILE)).unwrap();
        assert!(matches!(create_ca("d", &ca_dir, 10, Overwrite::Refuse), Err(CertError::Exists { .. })));
        assert_eq!(fs::read(ca_dir.join(CA_KEY_FILE)).unwrap(), before);
        issue(&ca_dir, &name(), &node_dir, 10, Overwrite::Refuse).unwrap();
        assert!(matches!(issue(&ca_dir, &name(), &node_dir, 10, Overwrite::Refuse), Err(CertError::Exists { .. })));
        issue(&ca_dir, &name(), &node_dir, 10, Overwrite::Allow).unwrap();
    }

    #[test]
    fn rotation_keeps_the_identity_and_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let (ca_dir, node_dir) = (dir.path().join("ca"), dir.path().join("n1"));
        create_ca("d", &ca_dir, 100, Overwrite::Refuse).unwrap();
        let old = issue(&ca_dir, &name(), &node_dir, 10, Overwrite::Refuse).unwrap();
        let old_key = fs::read(node_dir.join(NODE_KEY_FILE)).unwrap();
        let new = rotate(&ca_dir, &node_dir, 50).unwrap();
        assert_eq!(new.spiffe, old.spiffe);
        assert_ne!(new.fingerprint, old.fingerprint);
        assert_ne!(fs::read(node_dir.join(NODE_KEY_FILE)).unwrap(), old_key);
        assert_eq!(read_keys(&node_dir.join(NODE_KEY_FILE)).unwrap().len(), 1);
    }

    #[test]
    fn a_ca_is_replaced_in_three_steps_and_in_no_other_order() {
        let dir = tempfile::tempdir().unwrap();
        let (ca_dir, node_dir) = (dir.path().join("ca"), dir.path().join("n1"));
        let old = create_ca("d", &ca_dir, 100, Overwrite::Refuse).unwrap();
        assert!(rotate_ca(&ca_dir, CaStep::Switch, 100).is_err());
        let bundle = rotate_ca(&ca_dir, CaStep::Begin, 100).unwrap();
        assert_eq!(bundle[0], old);
        assert!(rotate_ca(&ca_dir, CaStep::Begin, 100).is_err());
        let node = issue(&ca_dir, &name(), &node_dir, 10, Overwrite::Refuse).unwrap();
        assert_eq!(node.issuer, old.subject);
        let bundle = rotate_ca(&ca_dir, CaStep::Switch, 100).unwrap();
        assert_eq!(bundle[1].fingerprint, old.fingerprint);
        let node = rotate(&ca_dir, &node_dir, 10).unwrap();
        assert_eq!(node.issuer, bundle[0].subject);
        let left = rotate_ca(&ca_dir, CaStep::Finish, 100).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].subject, node.issuer);
        assert_eq!(rotate(&ca_dir, &node_dir, 10).unwrap().issuer, node.issuer);
    }

    #[test]
    fn garbage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        for bytes in [
            &b""[..],
            b"\xff\xfe\x00",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            b"-----BEGIN CERTIFICATE-----\nAAAA",
        ] {
            fs::write(&path, bytes).unwrap();
            assert!(show(&path).is_err());
        }
        assert!(CertInfo::from_der(&[0x30, 0x82, 0xff, 0xff, 1, 2]).is_err());
    }
}
