//! What every small file of hand-laid bytes begins and ends with: what it is, its format's version, and a CRC-32 over all
//! of it.

use bytes::{BufMut, Bytes};

use crate::codec::{DecodeError, Reader, Writer};

const CRC_BYTES: usize = 4;

/// One kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Sealed {
    pub magic: &'static [u8],
    /// The version that is written; those before it are read.
    pub format: u16,
    /// Its name in errors.
    pub what: &'static str,
}

impl Sealed {
    pub fn seal(&self, body: impl FnOnce(&mut Writer)) -> Bytes {
        let mut w = Writer::default();
        w.out.put_slice(self.magic);
        w.u16(self.format);
        body(&mut w);
        let crc = crc32fast::hash(&w.out);
        w.u32(crc);
        w.finish()
    }

    /// The body.
    pub fn open(&self, mut bytes: Bytes) -> Result<Reader, DecodeError> {
        let what = self.what;
        let Some(end) = bytes.len().checked_sub(CRC_BYTES) else {
            return Err(DecodeError::Short { what, needed: CRC_BYTES, left: bytes.len() });
        };
        let crc = bytes.split_off(end);
        let (found, computed) = (u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]), crc32fast::hash(&bytes));
        if found != computed {
            return Err(DecodeError::Checksum { what, found, computed });
        }
        let mut r = Reader::new(what, bytes);
        if r.take(self.magic.len())? != self.magic {
            return Err(DecodeError::Invalid { what, reason: "it does not begin as one" });
        }
        let format = r.u16()?;
        if format > self.format {
            return Err(DecodeError::Newer { what, found: format.into(), known: self.format.into() });
        }
        Ok(r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Sealed = Sealed { magic: b"test", format: 2, what: "test's file" };

    #[test]
    fn what_was_sealed_is_opened_and_nothing_else() {
        let bytes = KIND.seal(|w| w.u64(7));
        let mut body = KIND.open(bytes.clone()).unwrap();
        assert_eq!((body.u64(), body.end()), (Ok(7), Ok(())));
        for at in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(matches!(KIND.open(bad.into()), Err(DecodeError::Checksum { .. })), "byte {at}");
            assert!(KIND.open(bytes.slice(..at)).is_err(), "length {at}");
        }
        let other = Sealed { magic: b"tset", ..KIND };
        assert!(matches!(other.open(bytes.clone()), Err(DecodeError::Invalid { .. })));
        let older = Sealed { format: 1, ..KIND };
        assert!(matches!(older.open(bytes), Err(DecodeError::Newer { found: 2, known: 1, .. })));
        assert!(KIND.open(older.seal(|_| ())).is_ok(), "one of an earlier version");
    }
}
