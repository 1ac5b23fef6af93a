//! The handshake's messages on their stream: each behind its length.

use bytes::{BufMut, Bytes, BytesMut};
use farshore_core::codec::DecodeError;

/// No handshake message is longer; a longer one is refused before it is read.
pub const HELLO_BYTES_MAX: usize = 4096;

/// Why the handshake stream gave no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the handshake stream broke off: {0}")]
    Read(#[from] quinn::ReadExactError),
    #[error("the handshake stream broke off: {0}")]
    Write(#[from] quinn::WriteError),
}

pub(super) async fn write_message(stream: &mut quinn::SendStream, body: Bytes) -> Result<(), HelloError> {
    assert!(body.len() <= HELLO_BYTES_MAX, "our own handshake message is {} bytes long", body.len());
    #[cfg(test)]
    super::tap::handshake(&body);
    let mut prefix = BytesMut::with_capacity(4);
    prefix.put_u32_le(body.len() as u32);
    stream.write_all_chunks(&mut [prefix.freeze(), body]).await?;
    Ok(())
}

pub(super) async fn read_message(stream: &mut quinn::RecvStream) -> Result<Bytes, HelloError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = u32::from_le_bytes(prefix);
    if length as usize > HELLO_BYTES_MAX {
        let limit = HELLO_BYTES_MAX as u64;
        return Err(DecodeError::Limit { what: "handshake message", found: length.into(), limit }.into());
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(body.into())
}
