//! Dialling a peer: from an address to a connection on which both sides have proven themselves and said hello.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use quinn::crypto::rustls::QuicClientConfig;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::cert::CertInfo;
use super::explain::explain;
use super::hello::{Generation, Hello, Purpose, Welcome};
use super::hello_stream::{HelloError, read_message, write_message};
use super::name::PeerName;
use super::node::{Node, close, random_u128};
use super::refusal::{Refusal, RefusalCode};
use super::tls::{SERVER_NAME, Verdict};

/// A connection that the peer welcomed.
pub(super) struct DialledConnection {
    pub connection: Connection,
    /// For a Start, where we choose.
    pub send: quinn::SendStream,
    pub welcome: Welcome,
    pub certificate_not_after: OffsetDateTime,
}

/// Grows from the least to the greatest delay, with jitter so that nodes cut off together don't return together.
pub(super) struct Backoff {
    min_ms: u64,
    max_ms: u64,
    next_ms: u64,
}

impl Backoff {
    pub fn new(min_ms: u64, max_ms: u64) -> Backoff {
        Backoff { min_ms, max_ms, next_ms: 0 }
    }

    /// The next attempt is made at once.
    pub fn reset(&mut self) {
        self.next_ms = 0;
    }

    /// How long to wait before the next attempt: nothing the first time, then between half and all of a doubling time.
    pub fn delay(&mut self) -> Duration {
        let now_ms = self.next_ms;
        self.next_ms = if now_ms == 0 { self.min_ms } else { now_ms.saturating_mul(2).min(self.max_ms) };
        let jitter_ms = (random_u128() as u64) % (now_ms / 2 + 1);
        Duration::from_millis(now_ms - jitter_ms)
    }
}

/// One attempt, bounded by the handshake timeout. `attempt` picks among the addresses that a name resolves to.
pub(super) async fn dial(
    node: Arc<Node>,
    peer: PeerName,
    address: String,
    attempt: u64,
    purpose: Purpose,
    known: Generation,
) -> Result<DialledConnection, Refusal> {
    let limit = node.handshake_timeout();
    match timeout(limit, attempt_dial(&node, &peer, &address, attempt, purpose, known)).await {
        Ok(result) => result,
        Err(_) => Err(nobody_answers(&peer, &address, limit)),
    }
}

fn nobody_answers(peer: &PeerName, address: &str, limit: Duration) -> Refusal {
    let text = format!(
        "{peer} does not answer at {address} within {} ms; is it running, and does UDP reach that port from here?",
        limit.as_millis()
    );
    Refusal::new(RefusalCode::Timeout, text)
}

async fn attempt_dial(
    node: &Arc<Node>,
    peer: &PeerName,
    address: &str,
    attempt: u64,
    purpose: Purpose,
    known: Generation,
) -> Result<DialledConnection, Refusal> {
    let remote = resolve(node, peer, address, attempt).await?;
    let who = format!("{peer} at {address}");
    let connection = connect(node, peer, remote, &who).await?;
    let certificate = peer_certificate(&connection)?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| explain(&error, &who))?;
    let config = &node.config;
    let hello = Hello { versions: config.versions, name: config.name.clone(), boot: node.boot, purpose, known };
    // The peer may refuse at any point from here; its reason arrives as the end of the connection.
    let exchange = async {
        write_message(&mut send, hello.encode()).await?;
        Ok::<_, HelloError>(Welcome::decode(read_message(&mut receive).await?)?)
    };
    let welcome = match exchange.await {
        Ok(welcome) => welcome,
        Err(HelloError::Decode(error)) => {
            let refusal = Refusal::new(RefusalCode::Protocol, format!("{who} answers with garbage: {error}"));
            close(&connection, &refusal);
            return Err(refusal);
        }
        Err(_) => return Err(explain(&connection.closed().await, &who)),
    };
    if let Err(refusal) = check_welcome(node, peer, &welcome) {
        close(&connection, &refusal);
        return Err(refusal);
    }
    Ok(DialledConnection { connection, send, welcome, certificate_not_after: certificate.not_after })
}

fn check_welcome(node: &Node, peer: &PeerName, welcome: &Welcome) -> Result<(), Refusal> {
    if welcome.name != *peer {
        let text = format!("the certificate says {peer}, its holder says {}", welcome.name);
        return Err(Refusal::new(RefusalCode::WrongName, text));
    }
    let ours = node.config.versions;
    if welcome.version < ours.min || welcome.version > ours.max {
        let text = format!("{peer} settled on protocol version {}, which was not offered", welcome.version);
        return Err(Refusal::new(RefusalCode::Protocol, text));
    }
    Ok(())
}

async fn resolve(node: &Node, peer: &PeerName, address: &str, attempt: u64) -> Result<SocketAddr, Refusal> {
    let unreachable = |text| Refusal::new(RefusalCode::Unreachable, text);
    let found = tokio::net::lookup_host(address).await.map_err(|error| {
        unreachable(format!("the address {address} of {peer} does not resolve: {error}; correct it or the DNS"))
    })?;
    let ours_is_ipv4 = node.config.listen.is_ipv4();
    let usable: Vec<SocketAddr> = found.filter(|found| found.is_ipv4() || !ours_is_ipv4).collect();
    if usable.is_empty() {
        return Err(unreachable(format!(
            "the address {address} of {peer} has no IPv4 address, and this node listens on IPv4 only"
        )));
    }
    Ok(usable[(attempt % usable.len() as u64) as usize])
}

async fn connect(node: &Node, peer: &PeerName, remote: SocketAddr, who: &str) -> Result<Connection, Refusal> {
    let verdict = Verdict::default();
    let failed = |error: String| Refusal::new(RefusalCode::Other, format!("dialling {who}: {error}"));
    let tls = node.credentials().client_config(peer, verdict.clone()).map_err(|error| failed(error.to_string()))?;
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| failed(error.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(node.quic.clone());
    let connecting = node.endpoint.connect_with(config, remote, SERVER_NAME);
    let connecting = connecting.map_err(|error| failed(error.to_string()))?;
    connecting.await.map_err(|error| {
        let refusal = verdict.take().map(|(refusal, _)| refusal).unwrap_or_else(|| explain(&error, who));
        match (&error, refusal.code) {
            (quinn::ConnectionError::TransportError(_), RefusalCode::WrongName) => refusal,
            (quinn::ConnectionError::TransportError(_), code) => Refusal::new(code, format!("{who}: {}", refusal.text)),
            (quinn::ConnectionError::TimedOut, code) => Refusal::new(
                code,
                format!("{who} does not answer; is it running, and does UDP reach that port from here?"),
            ),
            _ => refusal,
        }
    })
}

/// The verified certificate of a connection's other side.
pub(super) fn peer_certificate(connection: &Connection) -> Result<CertInfo, Refusal> {
    let bad = |text: String| Refusal::new(RefusalCode::BadCertificate, text);
    let der = peer_certificate_der(connection).ok_or_else(|| bad("the peer presented no certificate".into()))?;
    CertInfo::from_der(&der).map_err(bad)
}

pub(super) fn peer_certificate_der(connection: &Connection) -> Option<rustls_pki_types::CertificateDer<'static>> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok()?;
    chain.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_starts_at_once_doubles_and_stays_within_its_bounds() {
        let mut backoff = Backoff::new(100, 5000);
        assert_eq!(backoff.delay(), Duration::ZERO);
        let mut expected_ms = 100;
        for _ in 0..12 {
            let ms = backoff.delay().as_millis() as u64;
            assert!((expected_ms / 2..=expected_ms).contains(&ms), "{ms} of {expected_ms}");
            expected_ms = (expected_ms * 2).min(5000);
        }
        backoff.reset();
        assert_eq!(backoff.delay(), Duration::ZERO);
    }
}
