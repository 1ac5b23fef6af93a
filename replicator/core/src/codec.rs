//! Little-endian reading and writing of hand-laid formats. A reader never panics on foreign bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{Epoch, Incarnation, LineageId, MemberId, Seq, SessionId, Tick, VolumeId};

/// Bytes that do not decode: what was being read, and why it can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{what}: needs {needed} more bytes, {left} are left")]
    Short { what: &'static str, needed: usize, left: usize },
    #[error("{what}: {found} is not a known value")]
    Unknown { what: &'static str, found: u64 },
    #[error("{what}: format version {found} is newer than the newest known ({known}); upgrade this node first")]
    Newer { what: &'static str, found: u64, known: u64 },
    #[error("{what}: checksum {found:08x} does not match {computed:08x}")]
    Checksum { what: &'static str, found: u32, computed: u32 },
    #[error("{what}: {found} exceeds the limit of {limit}")]
    Limit { what: &'static str, found: u64, limit: u64 },
    #[error("{what}: {reason}")]
    Invalid { what: &'static str, reason: &'static str },
}

/// Appends fields to a buffer.
#[derive(Default)]
pub struct Writer {
    pub out: BytesMut,
}

impl Writer {
    pub fn u8(&mut self, v: u8) {
        self.out.put_u8(v);
    }
    pub fn u16(&mut self, v: u16) {
        self.out.put_u16_le(v);
    }
    pub fn u32(&mut self, v: u32) {
        self.out.put_u32_le(v);
    }
    pub fn u64(&mut self, v: u64) {
        self.out.put_u64_le(v);
    }
    pub fn u128(&mut self, v: u128) {
        self.out.put_u128_le(v);
    }
    pub fn i64(&mut self, v: i64) {
        self.out.put_i64_le(v);
    }
    pub fn bool(&mut self, v: bool) {
        self.u8(u8::from(v));
    }
    pub fn seq(&mut self, v: Seq) {
        self.u64(v.0);
    }
    pub fn epoch(&mut self, v: Epoch) {
        self.u64(v.n);
        self.u128(v.writer);
    }
    pub fn lineage(&mut self, v: LineageId) {
        self.u64(v.generation);
        self.u128(v.uuid);
    }
    /// Length-prefixed bytes (u32).
    pub fn bytes(&mut self, v: &[u8]) {
        self.u32(v.len() as u32);
        self.out.put_slice(v);
    }
    pub fn string(&mut self, v: &str) {
        self.bytes(v.as_bytes());
    }
    pub fn option<T>(&mut self, v: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.bool(v.is_some());
        if let Some(v) = v {
            put(self, v);
        }
    }
    pub fn list<T>(&mut self, v: &[T], mut put: impl FnMut(&mut Self, &T)) {
        self.u32(v.len() as u32);
        for item in v {
            put(self, item);
        }
    }
    pub fn finish(self) -> Bytes {
        self.out.freeze()
    }
}

/// Takes fields off a buffer, in order.
pub struct Reader {
    left: Bytes,
    what: &'static str,
}

/// The longest list any message or register may hold; a longer one is refused before it is allocated.
const LIST_LEN_MAX: u64 = 65_536;

impl Reader {
    /// `what` names the thing in errors.
    pub fn new(what: &'static str, bytes: Bytes) -> Self {
        Self { left: bytes, what }
    }

    pub fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if self.left.len() < len {
            return Err(DecodeError::Short { what: self.what, needed: len, left: self.left.len() });
        }
        Ok(self.left.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let bytes = self.take(N)?;
        let mut out = [0; N];
        out.copy_from_slice(&bytes);
        Ok(out)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(self.unknown(found.into())),
        }
    }
    pub fn seq(&mut self) -> Result<Seq, DecodeError> {
        self.u64().map(Seq)
    }
    pub fn tick(&mut self) -> Result<Tick, DecodeError> {
        self.u64().map(Tick)
    }
    pub fn member(&mut self) -> Result<MemberId, DecodeError> {
        self.u16().map(MemberId)
    }
    pub fn volume(&mut self) -> Result<VolumeId, DecodeError> {
        self.u128().map(VolumeId)
    }
    pub fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        self.u128().map(Incarnation)
    }
    pub fn session(&mut self) -> Result<SessionId, DecodeError> {
        self.u128().map(SessionId)
    }
    pub fn epoch(&mut self) -> Result<Epoch, DecodeError> {
        Ok(Epoch { n: self.u64()?, writer: self.u128()? })
    }
    pub fn lineage(&mut self) -> Result<LineageId, DecodeError> {
        Ok(LineageId { generation: self.u64()?, uuid: self.u128()? })
    }
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.u32()? as usize;
        self.take(len)
    }
    pub fn string(&mut self) -> Result<String, DecodeError> {
        let what = self.what;
        String::from_utf8(self.bytes()?.to_vec())
            .map_err(|_| DecodeError::Invalid { what, reason: "text is not UTF-8" })
    }
    pub fn option<T>(
        &mut self,
        get: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        Ok(if self.bool()? { Some(get(self)?) } else { None })
    }
    pub fn list<T>(&mut self, mut get: impl FnMut(&mut Self) -> Result<T, DecodeError>) -> Result<Vec<T>, DecodeError> {
        let len = u64::from(self.u32()?);
        if len > LIST_LEN_MAX {
            return Err(DecodeError::Limit { what: self.what, found: len, limit: LIST_LEN_MAX });
        }
        let mut out = Vec::new();
        for _ in 0..len {
            out.push(get(self)?);
        }
        Ok(out)
    }
    pub fn rest(self) -> Bytes {
        self.left
    }
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }
    pub fn end(self) -> Result<(), DecodeError> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Invalid { what: self.what, reason: "bytes are left over at the end" })
        }
    }
    pub fn unknown(&self, found: u64) -> DecodeError {
        DecodeError::Unknown { what: self.what, found }
    }
}
