//! Listening, limits and the life of a connection; the protocol itself is in `negotiate` and `transmit`.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::exports::Exports;
use super::negotiate::{ClientError, Outcome, Security, greet, options};
use super::tls::NbdTls;
use super::transmit::Transmission;
use crate::DeviceError;
use crate::limits::{NBD_CONNECTIONS_MAX, NBD_HANDSHAKE_TIMEOUT, NBD_SERVER_BYTES_MAX, NBD_STOP_TIMEOUT};

/// Where a server listens.
pub enum NbdListen {
    /// A socket that only its owner may open (mode 0600). A dead server's socket is replaced.
    Unix(PathBuf),
    /// Without TLS only on a loopback address; with it every client must show a certificate.
    Tcp { address: SocketAddr, tls: Option<NbdTls> },
}

/// A running server. Dropping it closes everything at once; [`stop`](Self::stop) lets requests finish.
pub struct NbdServer {
    stop: watch::Sender<bool>,
    accepting: Option<JoinHandle<()>>,
    address: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<NbdTls>),
}

/// What all connections share.
struct Shared {
    exports: Arc<dyn Exports>,
    bytes: Arc<Semaphore>,
    handshake_timeout: std::time::Duration,
    stop: watch::Receiver<bool>,
}

impl NbdServer {
    pub async fn start(listen: NbdListen, exports: Arc<dyn Exports>) -> Result<NbdServer, DeviceError> {
        Self::start_with(listen, exports, NBD_HANDSHAKE_TIMEOUT).await
    }

    pub(super) async fn start_with(
        listen: NbdListen,
        exports: Arc<dyn Exports>,
        handshake_timeout: std::time::Duration,
    ) -> Result<NbdServer, DeviceError> {
        let (listener, address, socket) = match listen {
            NbdListen::Unix(path) => (Listener::Unix(bind_unix(&path).await?), None, Some(path)),
            NbdListen::Tcp { address, tls: None } if !address.ip().is_loopback() => {
                return Err(DeviceError::TlsRequired { address });
            }
            NbdListen::Tcp { address, tls } => {
                let failed = |source| DeviceError::Listen { address: address.to_string(), source };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                let bound = listener.local_addr().map_err(failed)?;
                (Listener::Tcp(listener, tls), Some(bound), None)
            }
        };
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            exports,
            bytes: Arc::new(Semaphore::new(NBD_SERVER_BYTES_MAX as usize)),
            handshake_timeout,
            stop: stopped,
        });
        let accepting = Some(tokio::spawn(accept(listener, shared)));
        Ok(NbdServer { stop, accepting, address, socket })
    }

    /// The TCP address it listens on, with the port that was chosen for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Takes no more requests, answers those in flight, and closes. Connections whose requests do not finish within
    /// ten seconds (a frozen volume) are dropped; the device finishes their requests all the same.
    pub async fn stop(mut self) {
        self.remove_socket();
        self.stop.send_replace(true);
        if let Some(accepting) = self.accepting.take() {
            // An aborted or panicked acceptor has nothing left to close.
            let _ = accepting.await;
        }
    }

    /// First of all when it ends: as soon as nobody listens, the path may belong to the next server.
    fn remove_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            // A socket that stays behind is replaced by the next server.
            let _ = std::fs::remove_file(socket);
        }
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.remove_socket();
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// Binds beside the path, restricts, then renames: at no time can another user connect, and a dead socket is replaced.
pub(crate) async fn bind_unix(path: &Path) -> Result<UnixListener, DeviceError> {
    let failed = |source| DeviceError::Listen { address: path.display().to_string(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(DeviceError::SocketInUse { path: path.to_owned() });
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok(listener)
}

/// Accepts until the server stops, then waits for the connections, with limited patience.
async fn accept(listener: Listener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut stop = shared.stop.clone();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                // Over the limit: closed without a word, as nothing is defined before the greeting.
                Ok(_) if connections.len() >= NBD_CONNECTIONS_MAX => {
                    tracing::warn!(limit = NBD_CONNECTIONS_MAX, "nbd: too many connections, one was turned away");
                }
                Ok(client) => {
                    connections.spawn(client.serve(shared.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be freed.
                    tracing::warn!(%error, "nbd: accepting a connection failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(NBD_STOP_TIMEOUT, all).await.is_err() {
        tracing::warn!(left = connections.len(), "nbd: connections with unfinished requests were dropped");
    }
}

/// Until the server stops, or is dropped.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the server is gone, which is the same to everyone who waits here.
    let _ = stop.wait_for(|stop| *stop).await;
}

impl Listener {
    async fn accept(&self) -> io::Result<Client> {
        match self {
            Listener::Unix(listener) => Ok(Client::Unix(listener.accept().await?.0)),
            Listener::Tcp(listener, tls) => Ok(Client::Tcp(listener.accept().await?.0, tls.clone())),
        }
    }
}

enum Client {
    Unix(UnixStream),
    Tcp(TcpStream, Option<NbdTls>),
}

impl Client {
    async fn serve(self, shared: Arc<Shared>) {
        let served = match self {
            Client::Unix(stream) => shared.plain(stream, UnixStream::into_split).await,
            Client::Tcp(stream, tls) => match (prepare(&stream), tls) {
                (Err(error), _) => Err(error.into()),
                (Ok(()), None) => shared.plain(stream, TcpStream::into_split).await,
                (Ok(()), Some(tls)) => shared.secured(stream, &tls).await,
            },
        };
        match served {
            Ok(()) => {}
            // Clients come and go as they like.
            Err(ClientError::Io(error)) => tracing::debug!(%error, "nbd: connection ended"),
            Err(error) => tracing::warn!(%error, "nbd: connection closed"),
        }
    }
}

/// Small replies must not wait, and a client whose machine vanished must be noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

impl Shared {
    async fn plain<S, R, W>(&self, mut stream: S, split: impl FnOnce(S) -> (R, W)) -> Result<(), ClientError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let outcome = self
            .in_time(async {
                let flags = greet(&mut stream).await?;
                options(&mut stream, &*self.exports, Security::Open, flags).await
            })
            .await?;
        self.transmit(outcome, || split(stream)).await
    }

    async fn secured(&self, mut stream: TcpStream, tls: &NbdTls) -> Result<(), ClientError> {
        let negotiated = self
            .in_time(async {
                let flags = greet(&mut stream).await?;
                match options(&mut stream, &*self.exports, Security::TlsWanted, flags).await? {
                    Outcome::StartTls => {}
                    outcome => return Ok((outcome, None)),
                }
                let mut stream = tls.accept(stream).await?;
                let outcome = options(&mut stream, &*self.exports, Security::TlsSpoken, flags).await?;
                Ok((outcome, Some(stream)))
            })
            .await?;
        match negotiated {
            (outcome, Some(stream)) => self.transmit(outcome, || tokio::io::split(stream)).await,
            // Without TLS nothing can be chosen, so the client has left.
            (_, None) => Ok(()),
        }
    }

    /// A handshake has to end soon, and ends at once when the server stops.
    async fn in_time<T>(&self, handshake: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let mut stop = self.stop.clone();
        tokio::select! {
            done = timeout(self.handshake_timeout, handshake) => {
                done.unwrap_or(Err(ClientError::Protocol("the handshake took too long")))
            }
            () = stopped(&mut stop) => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        }
    }

    async fn transmit<R, W>(&self, outcome: Outcome, split: impl FnOnce() -> (R, W)) -> Result<(), ClientError>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let Outcome::Transmit { name, device, agreed } = outcome else { return Ok(()) };
        tracing::info!(export = name, "nbd: client attached");
        let (reader, writer) = split();
        let hangs_up = self.exports.is_taken_up_again(&name);
        let (server_bytes, stop) = (self.bytes.clone(), self.stop.clone());
        let transmission = Transmission { device, agreed, hangs_up, server_bytes, stop };
        let result = transmission.run(reader, writer).await;
        tracing::info!(export = name, "nbd: client detached");
        result
    }
}
