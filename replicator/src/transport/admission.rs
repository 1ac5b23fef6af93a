//! Connections that others dial to us: who may set one up, who they prove to be, and whether they are peers.
//!
//! Everything before the certificate is checked is a stranger's, so it is bounded: in number, in number per address,
//! in time, and under load by a round trip that shows that the address is real. What a stranger sends changes nothing
//! but a line in the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Incoming, ValidationTokenConfig};
use tokio::time::timeout;

use super::config::{
    INCOMING_BYTES_MAX, INCOMING_MAX, RETRY_FROM, UNAUTHENTICATED_MAX, UNAUTHENTICATED_PER_ADDRESS_MAX,
};
use super::dial::{peer_certificate, peer_certificate_der};
use super::endpoint::Registry;
use super::explain::explain;
use super::hello::{Hello, Purpose};
use super::hello_stream::{HelloError, read_message};
use super::name::PeerName;
use super::node::{Node, Peer, close};
use super::peer::{Caller, Candidate};
use super::refusal::{Refusal, RefusalCode};
use super::tls::{Credentials, CredentialsError, Verdict};

/// How many strangers are being heard, and from where.
#[derive(Default)]
struct Strangers {
    by_address: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A stranger's place; free again when dropped.
struct Place {
    strangers: Arc<Strangers>,
    address: IpAddr,
}

impl Strangers {
    fn count(&self) -> usize {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let mut places = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let here = places.get(&address).copied().unwrap_or(0);
        if here >= UNAUTHENTICATED_PER_ADDRESS_MAX || places.values().sum::<usize>() >= UNAUTHENTICATED_MAX {
            return None;
        }
        places.insert(address, here + 1);
        Some(Place { strangers: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.strangers.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = places.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                places.remove(&self.address);
            }
        }
    }
}

/// How a connection that someone dials is served. The endpoint's own copy serves retries only: each connection gets one
/// with a verdict of its own.
pub(super) fn server_config(
    credentials: &Arc<Credentials>,
    quic: &Arc<quinn::TransportConfig>,
    verdict: Verdict,
) -> Result<quinn::ServerConfig, CredentialsError> {
    let tls = credentials.server_config(verdict)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(|error| CredentialsError::Tls(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut no_tokens = ValidationTokenConfig::default();
    no_tokens.sent(0);
    config
        .transport_config(quic.clone())
        .validation_token_config(no_tokens)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size_total(INCOMING_BYTES_MAX)
        // A pod that moves keeps its connection.
        .migration(true);
    Ok(config)
}

/// Takes what comes in until the endpoint closes.
pub(super) async fn accept_loop(node: Arc<Node>, registry: Arc<Registry>) {
    let strangers = Arc::new(Strangers::default());
    while let Some(incoming) = node.endpoint.accept().await {
        if strangers.count() >= RETRY_FROM && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only if the connection may not be retried, which was just asked.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = strangers.admit(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        let (node, registry) = (node.clone(), registry.clone());
        tokio::spawn(async move {
            admit(&node, &registry, incoming).await;
            drop(place);
        });
    }
    if !*node.stopping.borrow() {
        tracing::error!(node = %node.name(), "the UDP socket failed; no peer can connect until the daemon restarts");
    }
}

async fn admit(node: &Arc<Node>, registry: &Registry, incoming: Incoming) {
    let address = incoming.remote_address();
    let verdict = Verdict::default();
    let limit = node.handshake_timeout();
    let proven = timeout(limit, prove(node, incoming, &verdict)).await;
    let (connection, name) = match proven {
        Ok(Ok(proven)) => proven,
        Ok(Err(refusal)) => {
            let refusal = match verdict.take() {
                // Unproven, so it only goes where the operator looks for the reason.
                Some((refusal, Some(claimed))) => {
                    if let Some(peer) = registry.peer(&claimed).filter(|peer| !peer.is_connected()) {
                        peer.set_last_error(&refusal);
                    }
                    refusal
                }
                Some((refusal, None)) => refusal,
                None => refusal,
            };
            return node.refused_as(&address.ip().to_string(), &refusal);
        }
        Err(_) => return tracing::debug!(%address, "a handshake was begun and not finished"),
    };
    match timeout(limit, introduce(node, registry, &connection, &name)).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => {
            close(&connection, &refusal);
            match registry.peer(&name) {
                Some(peer) => node.refused(&peer, &refusal),
                None => node.refused_as(&name.to_string(), &refusal),
            }
        }
        Err(_) => close(&connection, &Refusal::new(RefusalCode::Timeout, "no hello came")),
    }
}

/// The TLS handshake: a connection, and whose it is.
async fn prove(node: &Node, incoming: Incoming, verdict: &Verdict) -> Result<(Connection, PeerName), Refusal> {
    let address = incoming.remote_address();
    let credentials = node.credentials();
    let other = |error: String| Refusal::new(RefusalCode::Other, format!("answering {address}: {error}"));
    let config = server_config(&credentials, &node.quic, verdict.clone()).map_err(|error| other(error.to_string()))?;
    let who = address.to_string();
    let connecting = incoming.accept_with(Arc::new(config)).map_err(|error| explain(&error, &who))?;
    let connection = connecting.await.map_err(|error| explain(&error, &who))?;
    let named = peer_certificate_der(&connection)
        .ok_or_else(|| Refusal::new(RefusalCode::BadCertificate, format!("{who} presented no certificate")))
        .and_then(|der| credentials.identity(&der));
    match named {
        Ok(name) => Ok((connection, name)),
        Err(refusal) => {
            close(&connection, &refusal);
            Err(refusal)
        }
    }
}

/// Hears the Hello of a proven node, and hands it to the peer's task if it is one.
async fn introduce(
    node: &Arc<Node>,
    registry: &Registry,
    connection: &Connection,
    name: &PeerName,
) -> Result<(), Refusal> {
    let us = node.name();
    if name == us {
        let text = format!("{us} was dialled by a node with the same name: two nodes must not share a certificate");
        return Err(Refusal::new(RefusalCode::WrongName, text));
    }
    let Some(peer) = registry.peer(name) else {
        let text = format!("{us} has no peer {name} configured; add it to the peers of {us}");
        return Err(Refusal::new(RefusalCode::UnknownPeer, text));
    };
    let who = name.to_string();
    let (send, mut receive) = connection.accept_bi().await.map_err(|error| explain(&error, &who))?;
    let hello = match read_message(&mut receive).await {
        Ok(bytes) => Hello::decode(bytes).map_err(|error| protocol(&who, &error))?,
        Err(HelloError::Decode(error)) => return Err(protocol(&who, &error)),
        Err(_) => return Err(explain(&connection.closed().await, &who)),
    };
    if hello.name != *name {
        let text = format!("the certificate says {name}, its holder says {}", hello.name);
        return Err(Refusal::new(RefusalCode::WrongName, text));
    }
    let version = node.config.versions.agree(us, hello.versions, name)?;
    let certificate_not_after = peer_certificate(connection)?.not_after;
    let caller = Caller { connection: connection.clone(), boot: hello.boot, version, certificate_not_after };
    let candidate = match hello.purpose {
        Purpose::Main => Candidate::Main { caller, known: hello.known, send, receive },
        Purpose::Bulk => Candidate::Bulk { caller, known: hello.known, send },
    };
    offer(registry, &peer, candidate)
}

fn offer(registry: &Registry, peer: &Peer, candidate: Candidate) -> Result<(), Refusal> {
    registry
        .offer(&peer.name, candidate)
        .map_err(|()| Refusal::new(RefusalCode::Busy, "too many connections wait for this peer; trying again"))
}

fn protocol(who: &str, error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Protocol, format!("{who} said no proper hello: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_bounded_per_address_and_in_all() {
        let strangers = Arc::new(Strangers::default());
        let one: IpAddr = [10, 0, 0, 1].into();
        let mut places: Vec<Place> =
            (0..UNAUTHENTICATED_PER_ADDRESS_MAX).filter_map(|_| strangers.admit(one)).collect();
        assert_eq!(places.len(), UNAUTHENTICATED_PER_ADDRESS_MAX);
        assert!(strangers.admit(one).is_none());
        for last in 2..250 {
            places.extend(strangers.admit([10, 0, 0, last].into()));
        }
        assert_eq!(strangers.count(), UNAUTHENTICATED_MAX);
        places.clear();
        assert_eq!(strangers.count(), 0);
        assert!(strangers.by_address.lock().unwrap().is_empty());
    }
}
