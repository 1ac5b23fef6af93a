//! The handshake: greeting and option haggling, until a device is chosen or the client leaves.
//!
//! ```text
//!  greet ─► options ─┬─ STARTTLS ─► (TLS, elsewhere) ─► options again, nothing carried over but the client's flags
//!                    ├─ GO, EXPORT_NAME ─► transmission
//!                    └─ ABORT, garbage, end of stream ─► closed
//! ```
//! Reads exactly what belongs to an option and never ahead, so bytes that a client (or someone in between) sends in
//! the clear behind STARTTLS can only break the TLS handshake, not slip into the session.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exports::Exports;
use super::request::Agreed;
use super::wire::{self, Fields};
use crate::limits::{
    NBD_NAME_BYTES_MAX, NBD_OPTION_BYTES_MAX, NBD_OPTION_SKIP_BYTES_MAX, NBD_PAYLOAD_BYTES_MAX, NBD_PREFERRED_BYTES,
};
use crate::{BlockDevice, Geometry};

/// Why a client's connection ended by our decision or its own.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("protocol: {0}")]
    Protocol(&'static str),
}

/// What this connection demands before it shows anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// A unix socket, or loopback without TLS configured.
    Open,
    /// TLS is configured and not yet spoken.
    TlsWanted,
    TlsSpoken,
}

#[derive(Debug, Clone, Copy)]
pub struct ClientFlags {
    fixed: bool,
    no_zeroes: bool,
}

pub enum Outcome {
    Transmit { name: String, device: Arc<dyn BlockDevice>, agreed: Agreed },
    StartTls,
    Left,
}

/// Sends the greeting and takes the client's flags.
pub async fn greet<S>(stream: &mut S) -> Result<ClientFlags, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut greeting = BytesMut::with_capacity(18);
    greeting.put_u64(wire::GREETING_MAGIC);
    greeting.put_u64(wire::OPTION_MAGIC);
    greeting.put_u16(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    stream.write_all(&greeting).await?;
    stream.flush().await?;
    let flags = stream.read_u32().await?;
    let known = u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES);
    if flags & !known != 0 {
        return Err(ClientError::Protocol("unknown client flags"));
    }
    Ok(ClientFlags {
        fixed: flags & u32::from(wire::FLAG_FIXED_NEWSTYLE) != 0,
        no_zeroes: flags & u32::from(wire::FLAG_NO_ZEROES) != 0,
    })
}

/// Haggles until the client has chosen, wants TLS, or leaves.
pub async fn options<S>(
    stream: &mut S,
    exports: &dyn Exports,
    security: Security,
    flags: ClientFlags,
) -> Result<Outcome, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut haggle = Haggle { stream, exports, security, structured: false, context: None };
    loop {
        let (option, length) = haggle.next_option().await?;
        if option != wire::OPT_EXPORT_NAME && !flags.fixed {
            return Err(ClientError::Protocol("an option besides EXPORT_NAME without fixed newstyle"));
        }
        if let Some(outcome) = haggle.answer(option, length, flags).await? {
            return Ok(outcome);
        }
    }
}

struct Haggle<'a, S> {
    stream: &'a mut S,
    exports: &'a dyn Exports,
    security: Security,
    structured: bool,
    /// The export for which `base:allocation` was chosen.
    context: Option<String>,
}

/// An option's data that does not parse, to be answered with ERR_INVALID.
struct Malformed;

impl<S: AsyncRead + AsyncWrite + Unpin> Haggle<'_, S> {
    async fn next_option(&mut self) -> Result<(u32, u32), ClientError> {
        let mut header = [0; wire::OPTION_HEADER_BYTES];
        self.stream.read_exact(&mut header).await?;
        let (magic, rest) = header.split_at(8);
        if *magic != wire::OPTION_MAGIC.to_be_bytes() {
            return Err(ClientError::Protocol("an option without its magic"));
        }
        let mut fields = Fields(rest);
        match (fields.u32(), fields.u32()) {
            (Some(option), Some(length)) => Ok((option, length)),
            _ => Err(ClientError::Protocol("an option cut short")),
        }
    }

    async fn answer(&mut self, option: u32, length: u32, flags: ClientFlags) -> Result<Option<Outcome>, ClientError> {
        if length > NBD_OPTION_SKIP_BYTES_MAX {
            return Err(ClientError::Protocol("an option of absurd length"));
        }
        if length > NBD_OPTION_BYTES_MAX {
            tokio::io::copy(&mut (&mut *self.stream).take(length.into()), &mut tokio::io::sink()).await?;
            return self.say(option, wire::REP_ERR_TOO_BIG, b"the option is too long").await;
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data).await?;
        if self.security == Security::TlsWanted && !matches!(option, wire::OPT_ABORT | wire::OPT_STARTTLS) {
            if option == wire::OPT_EXPORT_NAME {
                return Err(ClientError::Protocol("an export was asked for before TLS"));
            }
            return self.say(option, wire::REP_ERR_TLS_REQD, b"use STARTTLS first").await;
        }
        match option {
            wire::OPT_EXPORT_NAME => self.export_name(&data, flags).await.map(Some),
            wire::OPT_ABORT => {
                self.say(option, wire::REP_ACK, b"").await?;
                Ok(Some(Outcome::Left))
            }
            wire::OPT_LIST => self.list(&data).await,
            wire::OPT_STARTTLS => self.start_tls(&data).await,
            wire::OPT_INFO | wire::OPT_GO => self.info(option, &data).await,
            wire::OPT_STRUCTURED_REPLY if !data.is_empty() => self.invalid(option).await,
            wire::OPT_STRUCTURED_REPLY => {
                self.structured = true;
                self.say(option, wire::REP_ACK, b"").await
            }
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.meta_context(option, &data).await,
            _ => self.say(option, wire::REP_ERR_UNSUP, b"unknown option").await,
        }
    }

    async fn say(&mut self, option: u32, kind: u32, data: &[u8]) -> Result<Option<Outcome>, ClientError> {
        self.stream.write_all(&wire::option_reply(option, kind, data)).await?;
        self.stream.flush().await?;
        Ok(None)
    }

    async fn invalid(&mut self, option: u32) -> Result<Option<Outcome>, ClientError> {
        self.say(option, wire::REP_ERR_INVALID, b"the option's data does not parse").await
    }

    async fn unknown_export(&mut self, option: u32) -> Result<Option<Outcome>, ClientError> {
        self.say(option, wire::REP_ERR_UNKNOWN, b"no export of that name").await
    }

    /// The old way in, which has no way to answer an error but to hang up.
    async fn export_name(&mut self, data: &[u8], flags: ClientFlags) -> Result<Outcome, ClientError> {
        let name = std::str::from_utf8(data).map_err(|_| ClientError::Protocol("an export name that is not UTF-8"))?;
        let device = self.exports.open(name).ok_or(ClientError::Protocol("no export of that name"))?;
        let mut out = BytesMut::with_capacity(134);
        let geometry = device.geometry();
        out.put_u64(geometry.size_bytes);
        out.put_u16(self.export_flags(&geometry));
        if !flags.no_zeroes {
            out.put_bytes(0, 124);
        }
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        Ok(self.transmit(name, device))
    }

    async fn list(&mut self, data: &[u8]) -> Result<Option<Outcome>, ClientError> {
        if !data.is_empty() {
            return self.invalid(wire::OPT_LIST).await;
        }
        for name in self.exports.list() {
            let mut entry = BytesMut::with_capacity(4 + name.len());
            entry.put_u32(name.len() as u32);
            entry.put_slice(name.as_bytes());
            self.say(wire::OPT_LIST, wire::REP_SERVER, &entry).await?;
        }
        self.say(wire::OPT_LIST, wire::REP_ACK, b"").await
    }

    async fn start_tls(&mut self, data: &[u8]) -> Result<Option<Outcome>, ClientError> {
        let option = wire::OPT_STARTTLS;
        if !data.is_empty() {
            return self.invalid(option).await;
        }
        match self.security {
            Security::TlsWanted => {
                self.say(option, wire::REP_ACK, b"").await?;
                Ok(Some(Outcome::StartTls))
            }
            Security::TlsSpoken => self.say(option, wire::REP_ERR_INVALID, b"TLS is already spoken").await,
            Security::Open => self.say(option, wire::REP_ERR_UNSUP, b"TLS is not configured here").await,
        }
    }

    async fn info(&mut self, option: u32, data: &[u8]) -> Result<Option<Outcome>, ClientError> {
        let Ok((name, wants_name)) = parse_info(data) else { return self.invalid(option).await };
        let Some(device) = self.exports.open(name) else { return self.unknown_export(option).await };
        let geometry = device.geometry();

        let mut export = BytesMut::with_capacity(12);
        export.put_u16(wire::INFO_EXPORT);
        export.put_u64(geometry.size_bytes);
        export.put_u16(self.export_flags(&geometry));
        self.say(option, wire::REP_INFO, &export).await?;

        // Told to everyone: a client that did not ask may ignore it.
        let mut block = BytesMut::with_capacity(14);
        block.put_u16(wire::INFO_BLOCK_SIZE);
        block.put_u32(geometry.logical_block_bytes);
        block.put_u32(NBD_PREFERRED_BYTES);
        block.put_u32(NBD_PAYLOAD_BYTES_MAX);
        self.say(option, wire::REP_INFO, &block).await?;

        if wants_name {
            let mut own = BytesMut::with_capacity(2 + name.len());
            own.put_u16(wire::INFO_NAME);
            own.put_slice(name.as_bytes());
            self.say(option, wire::REP_INFO, &own).await?;
        }
        self.say(option, wire::REP_ACK, b"").await?;
        Ok((option == wire::OPT_GO).then(|| self.transmit(name, device)))
    }

    async fn meta_context(&mut self, option: u32, data: &[u8]) -> Result<Option<Outcome>, ClientError> {
        let setting = option == wire::OPT_SET_META_CONTEXT;
        if setting {
            self.context = None;
        }
        if !self.structured {
            return self.say(option, wire::REP_ERR_INVALID, b"negotiate structured replies first").await;
        }
        let Ok((name, selected)) = parse_contexts(data, setting) else { return self.invalid(option).await };
        if self.exports.open(name).is_none() {
            return self.unknown_export(option).await;
        }
        if selected {
            let mut context = BytesMut::with_capacity(4 + wire::BASE_ALLOCATION.len());
            context.put_u32(if setting { wire::BASE_ALLOCATION_ID } else { 0 });
            context.put_slice(wire::BASE_ALLOCATION.as_bytes());
            self.say(option, wire::REP_META_CONTEXT, &context).await?;
            if setting {
                self.context = Some(name.to_owned());
            }
        }
        self.say(option, wire::REP_ACK, b"").await
    }

    /// FLUSH and FUA are always offered; without a volatile cache they are satisfied at once. Flush covers the whole
    /// device, so several connections are safe.
    fn export_flags(&self, geometry: &Geometry) -> u16 {
        let mut flags = wire::EXPORT_HAS_FLAGS
            | wire::EXPORT_SEND_FLUSH
            | wire::EXPORT_SEND_FUA
            | wire::EXPORT_SEND_TRIM
            | wire::EXPORT_SEND_WRITE_ZEROES
            | wire::EXPORT_SEND_FAST_ZERO
            | wire::EXPORT_SEND_CACHE
            | wire::EXPORT_CAN_MULTI_CONN;
        if geometry.read_only {
            flags |= wire::EXPORT_READ_ONLY;
        }
        if self.structured {
            flags |= wire::EXPORT_SEND_DF;
        }
        flags
    }

    fn transmit(&self, name: &str, device: Arc<dyn BlockDevice>) -> Outcome {
        let base_allocation = self.context.as_deref() == Some(name);
        let agreed = Agreed { structured: self.structured, base_allocation };
        Outcome::Transmit { name: name.to_owned(), device, agreed }
    }
}

/// The export's name, and whether the client asks for it back.
fn parse_info(data: &[u8]) -> Result<(&str, bool), Malformed> {
    let mut fields = Fields(data);
    let name = fields.text(NBD_NAME_BYTES_MAX).ok_or(Malformed)?;
    let count = fields.u16().ok_or(Malformed)?;
    let mut wants_name = false;
    for _ in 0..count {
        wants_name |= fields.u16().ok_or(Malformed)? == wire::INFO_NAME;
    }
    fields.end().ok_or(Malformed)?;
    Ok((name, wants_name))
}

/// The export's name, and whether `base:allocation` is among what the client asks for.
fn parse_contexts(data: &[u8], setting: bool) -> Result<(&str, bool), Malformed> {
    let mut fields = Fields(data);
    let name = fields.text(NBD_NAME_BYTES_MAX).ok_or(Malformed)?;
    let count = fields.u32().ok_or(Malformed)?;
    // To list without a query means to list all.
    let mut selected = count == 0 && !setting;
    for _ in 0..count {
        let query = fields.text(NBD_NAME_BYTES_MAX).ok_or(Malformed)?;
        selected |= query == wire::BASE_ALLOCATION || (query == "base:" && !setting);
    }
    fields.end().ok_or(Malformed)?;
    Ok((name, selected))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn option_data_never_panics(data in prop::collection::vec(any::<u8>(), 0..128), setting in any::<bool>()) {
            let _ = parse_info(&data);
            let _ = parse_contexts(&data, setting);
        }
    }

    #[test]
    fn contexts_are_matched_whole() {
        let ask = |queries: &[&str]| {
            let mut data = BytesMut::new();
            data.put_u32(1);
            data.put_slice(b"v");
            data.put_u32(queries.len() as u32);
            for query in queries {
                data.put_u32(query.len() as u32);
                data.put_slice(query.as_bytes());
            }
            data.freeze()
        };
        let select = |queries: &[&str], setting| parse_contexts(&ask(queries), setting).map(|(_, s)| s).ok();
        assert_eq!(select(&["base:allocation"], true), Some(true));
        assert_eq!(select(&["x-other:thing", "base:allocation"], true), Some(true));
        assert_eq!(select(&["base:alloc"], true), Some(false));
        assert_eq!(select(&["base:"], true), Some(false));
        assert_eq!(select(&["base:"], false), Some(true));
        assert_eq!(select(&[], false), Some(true));
        assert_eq!(select(&[], true), Some(false));
    }
}
