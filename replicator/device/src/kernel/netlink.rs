//! Generic netlink, as far as nbd.ko needs it (linux/genetlink.h, linux/nbd-netlink.h).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use bytes::{Buf, BufMut};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

pub const CONNECT: u8 = 1;
pub const DISCONNECT: u8 = 2;
pub const RECONFIGURE: u8 = 3;

pub const ATTR_INDEX: u16 = 1;
pub const ATTR_SIZE_BYTES: u16 = 2;
pub const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
pub const ATTR_TIMEOUT: u16 = 4;
pub const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
pub const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
pub const ATTR_BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

const HEADER_BYTES: usize = 16;
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The attributes of a message. Numbers are the machine's own, and everything begins at a multiple of four.
#[derive(Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, data: &[u8]) -> Attributes {
        self.0.put_u16_ne(4 + data.len() as u16);
        self.0.put_u16_ne(kind);
        self.0.put_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn u32(self, kind: u16, number: u32) -> Attributes {
        self.put(kind, &number.to_ne_bytes())
    }

    pub fn u64(self, kind: u16, number: u64) -> Attributes {
        self.put(kind, &number.to_ne_bytes())
    }

    pub fn text(self, kind: u16, text: &str) -> Attributes {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// One connection. The kernel takes a reference of its own.
    pub fn socket(self, socket: BorrowedFd<'_>) -> Attributes {
        let descriptor = Attributes::default().u32(SOCK_FD, socket.as_raw_fd() as u32);
        let item = Attributes::default().put(SOCK_ITEM | NLA_F_NESTED, &descriptor.0);
        self.put(ATTR_SOCKETS | NLA_F_NESTED, &item.0)
    }
}

/// The data of the first attribute of that kind. None also when what is there does not parse.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let mut head = attributes;
        let (length, kind) = (usize::from(head.get_u16_ne()), head.get_u16_ne());
        let data = attributes.get(4..length)?;
        if kind & NLA_TYPE_MASK == wanted {
            return Some(data);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

pub fn find_u32(attributes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_ne_bytes(find(attributes, wanted)?.try_into().ok()?))
}

fn message(kind: u16, command: u8, attributes: &Attributes) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + 4 + attributes.0.len());
    out.put_u32_ne((HEADER_BYTES + 4 + attributes.0.len()) as u32);
    out.put_u16_ne(kind);
    out.put_u16_ne(NLM_F_REQUEST | NLM_F_ACK);
    // Sequence number and sender: one question is under way at a time.
    out.put_u64_ne(0);
    out.put_u8(command);
    // Both families are of version 1.
    out.put_u8(1);
    out.put_u16_ne(0);
    out.put_slice(&attributes.0);
    out
}

/// The attributes of the answer in a datagram, if it has one, and the result if it came with it.
fn read(mut datagram: &[u8], answer: &mut Vec<u8>) -> Option<io::Result<()>> {
    while datagram.len() >= HEADER_BYTES {
        let mut head = datagram;
        let (length, kind) = (head.get_u32_ne() as usize, head.get_u16_ne());
        let Some(body) = datagram.get(HEADER_BYTES..length) else { break };
        if kind == NLMSG_ERROR {
            let Some(code) = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) else { break };
            return Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) });
        }
        *answer = body.get(4..).unwrap_or_default().to_vec();
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// nbd.ko's end of generic netlink.
pub struct NbdFamily {
    socket: OwnedFd,
    id: u16,
}

impl NbdFamily {
    /// Fails with NotFound where the module is not loaded.
    pub fn open() -> io::Result<NbdFamily> {
        let protocol = Some(netlink::GENERIC);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut family = NbdFamily { socket, id: GENL_ID_CTRL };
        let named = Attributes::default().text(CTRL_ATTR_FAMILY_NAME, "nbd");
        let answer = family.ask(CTRL_CMD_GETFAMILY, &named)?;
        let id = find(&answer, CTRL_ATTR_FAMILY_ID).and_then(|data| data.try_into().ok());
        family.id = u16::from_ne_bytes(id.ok_or_else(|| io::Error::other("netlink did not tell the family of nbd"))?);
        Ok(family)
    }

    /// The attributes of what the kernel answers, which may be none.
    pub fn ask(&self, command: u8, attributes: &Attributes) -> io::Result<Vec<u8>> {
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&self.socket, &message(self.id, command, attributes), SendFlags::empty(), &kernel)?;
        let mut answer = Vec::new();
        let mut datagram = vec![0; ANSWER_BYTES_MAX];
        loop {
            let (got, _) = rustix::net::recv(&self.socket, &mut datagram[..], RecvFlags::empty())?;
            match read(&datagram[..got], &mut answer) {
                Some(Ok(())) => return Ok(answer),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_put_is_found() {
        let all = Attributes::default().text(ATTR_BACKEND_IDENTIFIER, "pg@7").u32(ATTR_INDEX, 3).u64(ATTR_TIMEOUT, 9);
        assert_eq!(all.0.len() % 4, 0);
        assert_eq!(find_u32(&all.0, ATTR_INDEX), Some(3));
        assert_eq!(find(&all.0, ATTR_BACKEND_IDENTIFIER), Some(&b"pg@7\0"[..]));
        assert_eq!(find_u32(&all.0, ATTR_TIMEOUT), None, "not of that length");
        assert_eq!(find(&all.0, ATTR_SIZE_BYTES), None);
    }

    #[test]
    fn an_answer_and_its_result_are_told_apart() {
        let mut answer = Vec::new();
        let said = message(0x1c, CONNECT, &Attributes::default().u32(ATTR_INDEX, 5));
        assert!(read(&said, &mut answer).is_none());
        assert_eq!(find_u32(&answer, ATTR_INDEX), Some(5));
        for (code, good) in [(0i32, true), (-28, false)] {
            let mut error = vec![];
            error.put_u32_ne(20);
            error.put_u16_ne(NLMSG_ERROR);
            error.put_bytes(0, 10);
            error.put_i32_ne(code);
            assert_eq!(read(&error, &mut answer).expect("a result").is_ok(), good);
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = find_u32(&bytes, ATTR_INDEX);
            let _ = read(&bytes, &mut Vec::new());
        }
    }
}
