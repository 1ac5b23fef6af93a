//! TLS for NBD over TCP: the server's certificate, and the authorities whose clients may come in.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::negotiate::ClientError;
use crate::DeviceError;

/// TLS that always demands a client's certificate.
#[derive(Clone)]
pub struct NbdTls {
    acceptor: TlsAcceptor,
}

impl NbdTls {
    /// `client_roots` are the authorities that sign clients' certificates.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_roots: RootCertStore,
    ) -> Result<Self, DeviceError> {
        let failed = |reason: String| DeviceError::Tls { reason };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(client_roots), provider.clone())
            .build()
            .map_err(|error| failed(format!("client authorities: {error}")))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| failed(format!("server certificate: {error}")))?;
        Ok(Self::from_config(Arc::new(config)))
    }

    /// From PEM files: the authority of the clients, the server's certificate chain and its key.
    pub fn load(ca: &Path, cert: &Path, key: &Path) -> Result<Self, DeviceError> {
        let failed = |path: &Path, reason: &dyn std::fmt::Display| DeviceError::Tls {
            reason: format!("{}: {reason}", path.display()),
        };
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>, DeviceError> {
            let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let found = found.map_err(|error| failed(path, &error))?;
            if found.is_empty() { Err(failed(path, &"no certificate is in it")) } else { Ok(found) }
        };
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|error| failed(ca, &error))?;
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, &error))?;
        Self::new(certificates(cert)?, private, roots)
    }

    /// For a daemon that already has a configuration (and rotates its certificates): whatever it says of clients, one
    /// without a certificate is refused.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { acceptor: TlsAcceptor::from(config) }
    }

    pub(super) async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.acceptor.accept(stream).await?;
        if stream.get_ref().1.peer_certificates().is_none_or(|chain| chain.is_empty()) {
            return Err(ClientError::Protocol("a TLS client without a certificate"));
        }
        Ok(stream)
    }
}
