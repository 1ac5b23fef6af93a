//! TLS 1.3 both ways: our credentials, and the verdict on a peer's certificate.
//!
//! A certificate is judged in this order: is it signed by a CA that we trust and valid now (webpki), is its identity a
//! SPIFFE id of our trust domain, and, where we dialled a named peer, is it that peer. Whether a proven peer is
//! configured here is decided after the handshake, in `admission`. There are no host names anywhere, and no session
//! resumption: every connection proves its certificate anew.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::cert::{self, CertError, CertInfo};
use super::name::{PeerName, SpiffeId};
use super::refusal::{Refusal, RefusalCode};

/// Raised when the shape of the handshake itself changes; protocol versions are negotiated after it.
pub const ALPN: &[u8] = b"farshore/1";
/// What goes where TLS wants a host name. Never looked at.
pub const SERVER_NAME: &str = "farshore";

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error(transparent)]
    Cert(#[from] CertError),
    #[error("{path}: {reason}")]
    Unusable { path: String, reason: String },
    #[error("{path} is for {found}, but this node is {expected}; issue its own with `farshore cert issue`")]
    WrongIdentity { path: String, found: String, expected: PeerName },
    #[error("{path} is not accepted by its own trust bundle: {refusal}")]
    NotTrusted { path: String, refusal: String },
    #[error("setting up TLS: {0}")]
    Tls(String),
}

/// What this node proves itself with, and whom it believes.
pub(super) struct Credentials {
    pub name: PeerName,
    pub domain: String,
    pub info: CertInfo,
    roots: Arc<RootCertStore>,
    /// The CAs that we trust, for messages.
    trusted: String,
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    /// Derived from the private key, so that it survives a restart: recognises connections of an earlier run.
    pub reset_key: [u8; 32],
}

impl Credentials {
    pub fn load(name: &PeerName, ca: &Path, cert: &Path, key: &Path) -> Result<Credentials, CredentialsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |path: &Path, reason: String| CredentialsError::Unusable { path: shown_path(path), reason };
        let mut roots = RootCertStore::empty();
        let mut subjects = Vec::new();
        for der in cert::read_certificates(ca)? {
            subjects.push(CertInfo::from_der(&der).map_err(|reason| unusable(ca, reason))?.subject);
            roots.add(der).map_err(|e| unusable(ca, e.to_string()))?;
        }
        let chain = cert::read_certificates(cert)?;
        let info = CertInfo::from_der(&chain[0]).map_err(|reason| unusable(cert, reason))?;
        let (key, reset_key) = load_key(&provider, chain.clone(), cert, key)?;
        let id: SpiffeId = info
            .spiffe
            .as_deref()
            .unwrap_or("")
            .parse()
            .map_err(|e: super::name::NameError| unusable(cert, e.to_string()))?;
        if id.name != *name {
            let found = id.name.to_string();
            return Err(CredentialsError::WrongIdentity { path: shown_path(cert), found, expected: name.clone() });
        }
        let credentials = Credentials {
            name: name.clone(),
            domain: id.domain,
            info,
            roots: Arc::new(roots),
            trusted: subjects.join(" and "),
            key: Arc::new(key),
            provider,
            reset_key,
        };
        credentials.check_own(cert, &chain)?;
        Ok(credentials)
    }

    /// A pair of files from two CAs is a mistake found here rather than at every peer. Expiry is only a warning: the
    /// daemon must come up to serve what is local, and a renewed certificate is taken at reload.
    fn check_own(&self, path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), CredentialsError> {
        match self.judge_chain(&chain[0], &chain[1..], UnixTime::now()) {
            Ok(()) => Ok(()),
            Err(refusal) if matches!(refusal.code, RefusalCode::Expired | RefusalCode::NotYetValid) => {
                tracing::warn!(certificate = %path.display(), "peers will refuse our certificate: {}", refusal.text);
                Ok(())
            }
            Err(refusal) => Err(CredentialsError::NotTrusted { path: shown_path(path), refusal: refusal.to_string() }),
        }
    }

    /// The chain alone: trust and time.
    fn judge_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let verdict = ParsedCertificate::try_from(end_entity).and_then(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
        });
        verdict.map_err(|error| self.explain_chain(end_entity, &error))
    }

    fn explain_chain(&self, end_entity: &CertificateDer<'_>, error: &rustls::Error) -> Refusal {
        use CertificateError as E;
        let info = CertInfo::from_der(end_entity).ok();
        let whose = info.as_ref().and_then(|info| info.spiffe.clone()).unwrap_or_else(|| "an unnamed node".into());
        let rustls::Error::InvalidCertificate(error) = error else {
            return Refusal::new(RefusalCode::BadCertificate, format!("certificate of {whose}: {error}"));
        };
        match (error, info) {
            (E::UnknownIssuer | E::BadSignature, Some(info)) => Refusal::new(
                RefusalCode::WrongCa,
                format!(
                    "certificate of {whose} is signed by CA {}, but {} trusts {}; issue one from the common CA with \
                     `farshore cert issue`",
                    info.issuer, self.name, self.trusted
                ),
            ),
            (E::Expired | E::ExpiredContext { .. }, Some(info)) => Refusal::new(
                RefusalCode::Expired,
                format!(
                    "certificate of {whose} expired at {}; renew it with `farshore cert rotate`, and check the clock \
                     of {}",
                    info.not_after, self.name
                ),
            ),
            (E::NotValidYet | E::NotValidYetContext { .. }, Some(info)) => Refusal::new(
                RefusalCode::NotYetValid,
                format!(
                    "certificate of {whose} is valid from {} only; is the clock of {}, or of the machine that issued \
                     it, wrong?",
                    info.not_before, self.name
                ),
            ),
            (error, _) => Refusal::new(
                RefusalCode::BadCertificate,
                format!("certificate of {whose} is not usable: {error}; issue one with `farshore cert issue`"),
            ),
        }
    }

    /// Who a certificate proves its holder to be, or why it does not.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        expected: Option<&PeerName>,
    ) -> Result<PeerName, Refusal> {
        self.judge_chain(end_entity, intermediates, now)?;
        let name = self.identity(end_entity)?;
        match expected {
            Some(expected) if *expected != name => Err(Refusal::new(
                RefusalCode::WrongName,
                format!("{} dialled {expected}, but {name} answered; correct the address of {expected}", self.name),
            )),
            _ => Ok(name),
        }
    }

    /// The name in a certificate whose chain has been verified.
    pub fn identity(&self, end_entity: &CertificateDer<'_>) -> Result<PeerName, Refusal> {
        let bad = |text| Refusal::new(RefusalCode::BadCertificate, text);
        let info = CertInfo::from_der(end_entity).map_err(bad)?;
        let uri = info.spiffe.ok_or_else(|| bad(format!("certificate of {} carries no SPIFFE id", info.subject)))?;
        let id: SpiffeId = uri.parse().map_err(|e: super::name::NameError| bad(e.to_string()))?;
        if id.domain != self.domain {
            let text = format!(
                "{uri} is of trust domain {}, but {} is of {}; nodes of one installation share one domain",
                id.domain, self.name, self.domain
            );
            return Err(Refusal::new(RefusalCode::WrongDomain, text));
        }
        Ok(id.name)
    }

    /// TLS for one connection that someone dials to us. `verdict` receives the reason if we refuse.
    pub fn server_config(self: &Arc<Self>, verdict: Verdict) -> Result<rustls::ServerConfig, CredentialsError> {
        let tls = |e: rustls::Error| CredentialsError::Tls(e.to_string());
        let webpki = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(|e| CredentialsError::Tls(e.to_string()))?;
        let judge = Arc::new(Judge { credentials: self.clone(), webpki, expected: None, verdict });
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(judge)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// TLS for one connection that we dial to `expected`.
    pub fn client_config(
        self: &Arc<Self>,
        expected: &PeerName,
        verdict: Verdict,
    ) -> Result<rustls::ClientConfig, CredentialsError> {
        let webpki = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(|e| CredentialsError::Tls(e.to_string()))?;
        let judge = Arc::new(Judge { credentials: self.clone(), webpki, expected: Some(expected.clone()), verdict });
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| CredentialsError::Tls(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(judge)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.key.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        Ok(config)
    }
}

fn shown_path(path: &Path) -> String {
    path.display().to_string()
}

/// The key of `key` that fits the chain, and the reset key derived from it.
fn load_key(
    provider: &CryptoProvider,
    chain: Vec<CertificateDer<'static>>,
    cert: &Path,
    key: &Path,
) -> Result<(CertifiedKey, [u8; 32]), CredentialsError> {
    for der in cert::read_keys(key)? {
        let reset_key = blake3::derive_key("farshore transport 1: stateless reset", der.secret_der());
        let Ok(signing) = provider.key_provider.load_private_key(der) else { continue };
        let certified = CertifiedKey::new(chain.clone(), signing);
        if certified.keys_match().is_ok() {
            return Ok((certified, reset_key));
        }
    }
    Err(CertError::NoMatchingKey { path: key.to_owned(), cert: cert.to_owned() }.into())
}

/// A verifier's reason, and the name that the refused certificate claims, unproven.
type Refused = (Refusal, Option<PeerName>);

/// Carries a verifier's reason out of the TLS library, which would keep only an alert number.
#[derive(Clone, Default, Debug)]
pub(super) struct Verdict(Arc<Mutex<Option<Refused>>>);

impl Verdict {
    pub fn take(&self) -> Option<Refused> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps the reason and returns it as the error whose text goes into the CONNECTION_CLOSE frame.
    fn refuse(&self, refusal: Refusal, end_entity: &CertificateDer<'_>) -> rustls::Error {
        let error = rustls::Error::General(String::from_utf8_lossy(&refusal.on_wire()).into_owned());
        let spiffe = CertInfo::from_der(end_entity).ok().and_then(|info| info.spiffe);
        let claimed = spiffe.and_then(|uri| uri.parse::<SpiffeId>().ok()).map(|id| id.name);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((refusal, claimed));
        error
    }
}

/// Judges the certificate of one connection's other side.
struct Judge {
    credentials: Arc<Credentials>,
    /// For signatures of the handshake; the chain is judged by `credentials`.
    webpki: Arc<dyn ClientCertVerifier>,
    expected: Option<PeerName>,
    verdict: Verdict,
}

impl std::fmt::Debug for Judge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judge").field("expected", &self.expected).finish_non_exhaustive()
    }
}

impl Judge {
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        match self.credentials.judge(end_entity, intermediates, now, self.expected.as_ref()) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(self.verdict.refuse(refusal, end_entity)),
        }
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a node has one certificate, and must present it even if it is the wrong one, to be told why.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        // The chain above is checked for a server's purpose; a client's purpose is webpki's to check as well.
        self.webpki.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};

    use super::*;
    use crate::transport::cert::{Overwrite, create_ca, issue, issue_between};

    struct Place {
        dir: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let place = Place { dir: tempfile::tempdir().unwrap() };
            create_ca("d", &place.dir.path().join("ca"), 100, Overwrite::Refuse).unwrap();
            place
        }

        fn issue(&self, node: &str) -> Result<Credentials, CredentialsError> {
            let name = PeerName::new("east", node).unwrap();
            let out = self.dir.path().join(node);
            issue(&self.dir.path().join("ca"), &name, &out, 10, Overwrite::Refuse).unwrap();
            self.load(node)
        }

        fn load(&self, node: &str) -> Result<Credentials, CredentialsError> {
            let name = PeerName::new("east", node).unwrap();
            let out = self.dir.path().join(node);
            Credentials::load(&name, &out.join("ca.pem"), &out.join("node.pem"), &out.join("node.key"))
        }
    }

    #[test]
    fn peers_of_one_ca_believe_each_other_and_strangers_are_told_why_not() {
        let (home, foreign) = (Place::new(), Place::new());
        let (a, b) = (home.issue("a").unwrap(), home.issue("b").unwrap());
        let x = foreign.issue("b").unwrap();
        let now = UnixTime::now();
        assert_eq!(a.judge(&b.key.cert[0], &[], now, None).unwrap(), b.name);
        let refusal = a.judge(&b.key.cert[0], &[], now, Some(&PeerName::new("east", "c").unwrap())).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::WrongName);
        let refusal = a.judge(&x.key.cert[0], &[], now, None).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::WrongCa);
        assert!(refusal.text.contains(&a.trusted) && refusal.text.contains(&x.info.issuer), "{refusal}");
    }

    #[test]
    fn expiry_and_a_wrong_clock_are_told_apart() {
        let home = Place::new();
        let a = home.issue("a").unwrap();
        let now = OffsetDateTime::now_utc();
        let name = PeerName::new("east", "b").unwrap();
        for (from, to, code) in [(-20, -10, RefusalCode::Expired), (10, 20, RefusalCode::NotYetValid)] {
            let out = home.dir.path().join("b");
            let (from, to) = (now + Duration::days(from), now + Duration::days(to));
            issue_between(&home.dir.path().join("ca"), &name, &out, from, to, Overwrite::Allow).unwrap();
            let b = home.load("b").unwrap();
            assert_eq!(a.judge(&b.key.cert[0], &[], UnixTime::now(), None).unwrap_err().code, code);
        }
    }

    #[test]
    fn another_nodes_files_or_a_mixture_are_refused_at_load() {
        let home = Place::new();
        home.issue("a").unwrap();
        home.issue("b").unwrap();
        let path = |node: &str, file: &str| home.dir.path().join(node).join(file);
        let a = PeerName::new("east", "a").unwrap();
        let wrong = Credentials::load(&a, &path("b", "ca.pem"), &path("b", "node.pem"), &path("b", "node.key"));
        assert!(matches!(wrong, Err(CredentialsError::WrongIdentity { .. })));
        let mixed = Credentials::load(&a, &path("a", "ca.pem"), &path("a", "node.pem"), &path("b", "node.key"));
        assert!(matches!(mixed, Err(CredentialsError::Cert(CertError::NoMatchingKey { .. }))));
        let foreign = Place::new();
        let bundle = foreign.dir.path().join("ca").join("ca.pem");
        let untrusted = Credentials::load(&a, &bundle, &path("a", "node.pem"), &path("a", "node.key"));
        assert!(matches!(untrusted, Err(CredentialsError::NotTrusted { .. })));
    }

    #[test]
    fn damaged_certificates_are_refused_and_never_panic() {
        let home = Place::new();
        let (a, b) = (home.issue("a").unwrap(), home.issue("b").unwrap());
        let whole = b.key.cert[0].to_vec();
        let refused = |bytes: Vec<u8>| {
            let der = CertificateDer::from(bytes);
            let verdict = Verdict::default();
            if let Err(refusal) = a.judge(&der, &[], UnixTime::now(), None) {
                verdict.refuse(refusal, &der);
            }
            verdict.take().is_some()
        };
        assert!(!refused(whole.clone()), "whole, it is accepted");
        for at in 0..whole.len() {
            assert!(refused(whole[..at].to_vec()), "cut at {at}");
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                assert!(refused(bytes), "byte {at} flipped by {flip:#x}");
            }
        }
    }

    #[test]
    fn a_key_file_in_the_middle_of_a_rotation_still_loads() {
        let home = Place::new();
        home.issue("a").unwrap();
        home.issue("b").unwrap();
        let key = |node: &str| std::fs::read_to_string(home.dir.path().join(node).join("node.key")).unwrap();
        std::fs::write(home.dir.path().join("a").join("node.key"), format!("{}{}", key("b"), key("a"))).unwrap();
        home.load("a").unwrap();
    }
}
