//! What a quorum can't do without: 4 KiB to a peer over QUIC and a small answer back, with the transport's own settings
//! and through a relay of the same conditions as the replicators'.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_replicator::transport::{Congestion, Limits};
use farshore_wan::{Conditions, Link};
use quinn::{ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig, VarInt};
use rustls::RootCertStore;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::runtime::{Builder, Runtime};

use crate::histogram::Histogram;

const REQUEST_BYTES: usize = 4096;
const ANSWER_BYTES: usize = 16;
const NAME: &str = "echo";
/// The first ones open the window and find the path's MTU.
const WARM_UP: u32 = 20;
const SAMPLES_MIN: u64 = 15;
const SEED: u64 = 3;

/// One peer that echoes, its relay, and a connection to it that lasts.
pub struct Echo {
    runtime: Runtime,
    link: Link,
    client: Endpoint,
    streams: (SendStream, RecvStream),
    server: Option<std::thread::JoinHandle<()>>,
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> String {
    move |reason| format!("QUIC echo: {what}: {reason}")
}

fn single() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|e| failed("making a runtime")(&e))
}

impl Echo {
    /// Dialled through these conditions already, so that their MTU is the path's own.
    pub fn start(conditions: Conditions) -> Result<Echo, String> {
        let identity = rcgen::generate_simple_self_signed([NAME.to_string()]).map_err(|e| failed("certificate")(&e))?;
        let certificate = identity.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
        let quic = Limits::default().quic(&Congestion::default());
        let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())
            .map_err(|e| failed("certificate")(&e))?;
        config.transport_config(quic.clone());
        let (address, server) = serve(config)?;

        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(|e| failed("certificate")(&e))?;
        let mut config =
            ClientConfig::with_root_certificates(Arc::new(roots)).map_err(|e| failed("certificate")(&e))?;
        config.transport_config(quic);

        let runtime = single()?;
        // It is the server that dials nobody; its door is not used.
        let link = Link::start([([127, 0, 0, 1], 9).into(), address], conditions, SEED)
            .map_err(|e| failed("starting a relay")(&e))?;
        let door = link.door(0);
        let (client, streams) = runtime.block_on(async {
            let client = Endpoint::client(([127, 0, 0, 1], 0).into()).map_err(|e| failed("opening a port")(&e))?;
            let dialled = client.connect_with(config, door, NAME).map_err(|e| failed("dialling")(&e))?;
            let connection = dialled.await.map_err(|e| failed("connecting")(&e))?;
            let streams = connection.open_bi().await.map_err(|e| failed("opening a stream")(&e))?;
            Ok::<_, String>((client, streams))
        })?;
        Ok(Echo { runtime, link, client, streams, server: Some(server) })
    }

    /// Round trips under these conditions, one after the other, for so long and some times at least.
    pub fn measure(&mut self, conditions: Conditions, time: Duration) -> Result<Histogram, String> {
        self.link.set(conditions);
        let Echo { runtime, streams: (send, receive), .. } = self;
        runtime.block_on(async {
            let mut latencies = Histogram::default();
            for _ in 0..WARM_UP {
                round_trip(send, receive).await?;
            }
            let began = Instant::now();
            while began.elapsed() < time || latencies.count() < SAMPLES_MIN {
                latencies.add(round_trip(send, receive).await?.as_nanos() as u64, 1);
            }
            Ok(latencies)
        })
    }
}

async fn round_trip(send: &mut SendStream, receive: &mut RecvStream) -> Result<Duration, String> {
    let start = Instant::now();
    send.write_all(&[7; REQUEST_BYTES]).await.map_err(|e| failed("sending")(&e))?;
    receive.read_exact(&mut [0; ANSWER_BYTES]).await.map_err(|e| failed("receiving")(&e))?;
    Ok(start.elapsed())
}

/// A thread that echoes until its client says farewell.
fn serve(config: ServerConfig) -> Result<(SocketAddr, std::thread::JoinHandle<()>), String> {
    let runtime = single()?;
    let (endpoint, address) = runtime.block_on(async {
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).map_err(|e| failed("listening")(&e))?;
        let address = endpoint.local_addr().map_err(|e| failed("listening")(&e))?;
        Ok::<_, String>((endpoint, address))
    })?;
    let thread = std::thread::spawn(move || {
        runtime.block_on(async move {
            let Some(incoming) = endpoint.accept().await else { return };
            let Ok(connection) = incoming.await else { return };
            let Ok((mut send, mut receive)) = connection.accept_bi().await else { return };
            while receive.read_exact(&mut [0; REQUEST_BYTES]).await.is_ok() {
                if send.write_all(&[8; ANSWER_BYTES]).await.is_err() {
                    return;
                }
            }
        });
    });
    Ok((address, thread))
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.link.set(Conditions::default());
        self.client.close(VarInt::from_u32(0), b"done");
        self.runtime.block_on(self.client.wait_idle());
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_takes_a_round_trip_at_least() {
        let mut echo = Echo::start(Conditions::default()).unwrap();
        let near = echo.measure(Conditions::default(), Duration::from_millis(50)).unwrap();
        assert!(near.count() >= SAMPLES_MIN);
        let rtt = Duration::from_millis(10);
        let far = echo.measure(Conditions::of_rtt(rtt), Duration::from_millis(50)).unwrap();
        assert!(far.percentile_us(0.0).unwrap() >= 10_000.0, "{far:?}");
    }
}
