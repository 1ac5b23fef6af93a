//! The client's side of the negotiation: one export by its name, simple replies, nothing else.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits::NBD_OPTION_BYTES_MAX;
use crate::nbd::wire;

/// What the server says of its export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Export {
    pub size_bytes: u64,
    /// Of the transmission: what it can do.
    pub flags: u16,
}

/// Returns once the server is ready for requests.
pub async fn choose<S>(stream: &mut S, export: &str) -> io::Result<Export>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if stream.read_u64().await? != wire::GREETING_MAGIC || stream.read_u64().await? != wire::OPTION_MAGIC {
        return Err(broken("no NBD server listens there"));
    }
    let flags = stream.read_u16().await?;
    let wanted = wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES;
    if flags & wanted != wanted {
        return Err(broken("the server lacks the fixed newstyle handshake"));
    }
    let name = export.as_bytes();
    let mut hello = BytesMut::with_capacity(26 + name.len());
    hello.put_u32(wanted.into());
    hello.put_u64(wire::OPTION_MAGIC);
    hello.put_u32(wire::OPT_GO);
    hello.put_u32(name.len() as u32 + 6);
    hello.put_u32(name.len() as u32);
    hello.put_slice(name);
    hello.put_u16(0);
    stream.write_all(&hello).await?;
    stream.flush().await?;
    let mut told = None;
    loop {
        let (kind, data) = option_reply(stream).await?;
        match kind {
            wire::REP_ACK => return told.ok_or_else(|| broken("the server did not tell the export's size")),
            wire::REP_INFO => {
                let mut fields = wire::Fields(&data);
                if fields.u16() == Some(wire::INFO_EXPORT)
                    && let (Some(high), Some(low), Some(flags)) = (fields.u32(), fields.u32(), fields.u16())
                {
                    told = Some(Export { size_bytes: u64::from(high) << 32 | u64::from(low), flags });
                }
            }
            wire::REP_ERR_UNKNOWN => {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the server does not have this session's export"));
            }
            _ => return Err(broken(&format!("the server refused the export: {}", String::from_utf8_lossy(&data)))),
        }
    }
}

async fn option_reply<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(u32, Vec<u8>)> {
    if stream.read_u64().await? != wire::OPTION_REPLY_MAGIC || stream.read_u32().await? != wire::OPT_GO {
        return Err(broken("an option's reply without its magic"));
    }
    let (kind, length) = (stream.read_u32().await?, stream.read_u32().await?);
    if length > NBD_OPTION_BYTES_MAX {
        return Err(broken("an option's reply of absurd length"));
    }
    let mut data = vec![0; length as usize];
    stream.read_exact(&mut data).await?;
    Ok((kind, data))
}

pub fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
