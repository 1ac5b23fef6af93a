//! A UDP socket that takes and gives trains of datagrams.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

pub(crate) use quinn_udp::EcnCodepoint;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt;

/// The largest train that the kernel hands over.
const TRAIN_BYTES_MAX: usize = 64 << 10;
/// Room for a burst of a sender with a large window; else the emulator would lose what it was not told to lose.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;

/// Datagrams of one size, but for a shorter last one, that travel together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Train<'a> {
    pub bytes: &'a [u8],
    pub stride: usize,
    pub ecn: Option<EcnCodepoint>,
}

impl<'a> Train<'a> {
    pub fn datagrams(self) -> impl Iterator<Item = Train<'a>> {
        self.bytes.chunks(self.stride.max(1)).map(move |bytes| Train { bytes, stride: bytes.len(), ecn: self.ecn })
    }

    /// The bytes of its longest datagram.
    pub fn largest(self) -> usize {
        self.stride.min(self.bytes.len())
    }

    pub fn count(self) -> usize {
        self.bytes.len().div_ceil(self.stride.max(1))
    }
}

pub(crate) struct Port {
    socket: UdpSocket,
    state: UdpSocketState,
    pub address: SocketAddr,
}

impl Port {
    /// On loopback, at a port that the system chooses.
    pub fn bind() -> io::Result<Port> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        // With the capability beyond the system's limit, else up to it.
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
        }
        let state = UdpSocketState::new((&socket).into())?;
        let address = socket.local_addr()?;
        Ok(Port { socket, state, address })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns how many trains have come; they are in the buffers.
    pub fn receive(&self, buffers: &mut Buffers) -> usize {
        let mut slices: Vec<IoSliceMut<'_>> = buffers.bytes.chunks_mut(TRAIN_BYTES_MAX).map(IoSliceMut::new).collect();
        self.state.recv((&self.socket).into(), &mut slices, &mut buffers.meta).unwrap_or(0)
    }

    /// What the kernel does not take is lost, as at a full network card.
    pub fn send(&self, destination: SocketAddr, train: Train<'_>) {
        let per_send = self.state.max_gso_segments().clamp(1, TRAIN_BYTES_MAX / train.stride.max(1)) * train.stride;
        for contents in train.bytes.chunks(per_send.max(1)) {
            let segment_size = (contents.len() > train.stride).then_some(train.stride);
            let transmit = Transmit { destination, ecn: train.ecn, contents, segment_size, src_ip: None };
            let _ = self.state.send((&self.socket).into(), &transmit);
        }
    }
}

/// Where datagrams are received, for all ports of a thread.
pub(crate) struct Buffers {
    bytes: Vec<u8>,
    meta: Vec<RecvMeta>,
}

impl Buffers {
    pub fn new() -> Buffers {
        Buffers { bytes: vec![0; TRAIN_BYTES_MAX * BATCH_SIZE], meta: vec![RecvMeta::default(); BATCH_SIZE] }
    }

    pub fn trains_max(&self) -> usize {
        BATCH_SIZE
    }

    /// The first so many trains, with their sources.
    pub fn trains(&self, count: usize) -> impl Iterator<Item = (SocketAddr, Train<'_>)> {
        let received = self.bytes.chunks(TRAIN_BYTES_MAX).zip(&self.meta).take(count);
        received.map(|(bytes, meta)| {
            let train = Train { bytes: &bytes[..meta.len], stride: meta.stride.max(1), ecn: meta.ecn };
            (meta.addr, train)
        })
    }
}
