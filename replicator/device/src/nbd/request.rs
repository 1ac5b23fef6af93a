//! What a client asks for, once it is known to be allowed: the one place where requests are judged.

use super::wire::{self, Header};
use crate::limits::NBD_PAYLOAD_BYTES_MAX;
use crate::{Geometry, IoError};

/// A request that may go to the device. Write payloads are read after this judgement, not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Read { offset: u64, length: u32 },
    Write { offset: u64, length: u32, fua: bool },
    Flush,
    Trim { offset: u64, length: u32, fua: bool },
    Cache,
    WriteZeroes { offset: u64, length: u32, unmap: bool, fua: bool },
    BlockStatus { offset: u64, length: u32, one: bool },
}

/// An error on the wire, and the words beside it where the reply has room for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
}

impl Refusal {
    fn new(code: u32, message: &str) -> Self {
        Self { code, message: message.to_owned() }
    }
}

impl From<IoError> for Refusal {
    /// The device's errors in the protocol's words; total.
    fn from(error: IoError) -> Self {
        let code = match &error {
            IoError::OutOfRange | IoError::Misaligned => wire::EINVAL,
            IoError::Fenced(_) => wire::ESHUTDOWN,
            IoError::NoSpace => wire::ENOSPC,
            IoError::ReadOnly => wire::EPERM,
            IoError::Corrupt | IoError::Io(_) => wire::EIO,
        };
        Refusal { code, message: error.to_string() }
    }
}

/// What was negotiated and changes what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    pub structured: bool,
    pub base_allocation: bool,
}

/// Judges a request by the document and the device's geometry. DISC never comes here.
pub fn judge(header: &Header, geometry: &Geometry, agreed: Agreed) -> Result<Request, Refusal> {
    let Header { offset, length, flags, .. } = *header;
    let allowed = match header.command {
        wire::CMD_READ if agreed.structured => wire::CMD_FLAG_DF,
        wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
        wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
        _ => 0,
    };
    // FUA is accepted on every command and means something only on those that write.
    if flags & !(allowed | wire::CMD_FLAG_FUA) != 0 {
        return Err(Refusal::new(wire::EINVAL, "unknown or unnegotiated command flags"));
    }
    let fua = flags & wire::CMD_FLAG_FUA != 0;
    match header.command {
        wire::CMD_READ => {
            payload_fits(length)?;
            ranged(geometry.check(offset, length.into()), wire::EINVAL, length)?;
            Ok(Request::Read { offset, length })
        }
        wire::CMD_WRITE => {
            payload_fits(length)?;
            ranged(geometry.check_change(offset, length.into()), wire::ENOSPC, length)?;
            Ok(Request::Write { offset, length, fua })
        }
        wire::CMD_FLUSH if offset != 0 || length != 0 => {
            Err(Refusal::new(wire::EINVAL, "flush takes neither offset nor length"))
        }
        wire::CMD_FLUSH => Ok(Request::Flush),
        wire::CMD_TRIM => {
            ranged(geometry.check_change(offset, length.into()), wire::EINVAL, length)?;
            Ok(Request::Trim { offset, length, fua })
        }
        wire::CMD_CACHE => {
            ranged(geometry.check(offset, length.into()), wire::EINVAL, length)?;
            Ok(Request::Cache)
        }
        wire::CMD_WRITE_ZEROES => {
            ranged(geometry.check_change(offset, length.into()), wire::ENOSPC, length)?;
            // Zeroes are a record without payload, so they are always as fast as FAST_ZERO asks.
            Ok(Request::WriteZeroes { offset, length, unmap: flags & wire::CMD_FLAG_NO_HOLE == 0, fua })
        }
        wire::CMD_BLOCK_STATUS if !agreed.base_allocation => {
            Err(Refusal::new(wire::EINVAL, "no metadata context was negotiated"))
        }
        wire::CMD_BLOCK_STATUS => {
            ranged(geometry.check(offset, length.into()), wire::EINVAL, length)?;
            Ok(Request::BlockStatus { offset, length, one: flags & wire::CMD_FLAG_REQ_ONE != 0 })
        }
        _ => Err(Refusal::new(wire::EINVAL, "unknown command")),
    }
}

fn payload_fits(length: u32) -> Result<(), Refusal> {
    if length > NBD_PAYLOAD_BYTES_MAX {
        return Err(Refusal::new(wire::EOVERFLOW, "longer than the maximum payload of 32 MiB"));
    }
    Ok(())
}

/// `past_end` is what the document wants for this command when the range leaves the device.
fn ranged<T>(checked: Result<T, IoError>, past_end: u32, length: u32) -> Result<(), Refusal> {
    match checked {
        Ok(_) if length == 0 => Err(Refusal::new(wire::EINVAL, "a length of zero")),
        Ok(_) => Ok(()),
        Err(error) => {
            let code = if error == IoError::OutOfRange { past_end } else { Refusal::from(error.clone()).code };
            Err(Refusal { code, message: error.to_string() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEOMETRY: Geometry =
        Geometry { size_bytes: 1 << 30, logical_block_bytes: 4096, volatile_cache: true, read_only: false };

    fn ask(command: u16, flags: u16, offset: u64, length: u32) -> Header {
        Header { flags, command, cookie: 7, offset, length }
    }

    #[test]
    fn refusals_carry_the_code_of_the_document() {
        let all = Agreed { structured: true, base_allocation: true };
        let end = GEOMETRY.size_bytes;
        let cases = [
            ("read past the end", ask(0, 0, end, 4096), all, wire::EINVAL),
            ("write past the end", ask(1, 0, end - 4096, 8192), all, wire::ENOSPC),
            ("offset that overflows", ask(1, 0, u64::MAX - 4095, 4096), all, wire::ENOSPC),
            ("trim past the end", ask(4, 0, end, 4096), all, wire::EINVAL),
            ("zeroes past the end", ask(6, 0, end, 4096), all, wire::ENOSPC),
            ("misaligned offset", ask(0, 0, 512, 4096), all, wire::EINVAL),
            ("misaligned length", ask(1, 0, 0, 512), all, wire::EINVAL),
            ("read of 33 MiB", ask(0, 0, 0, 33 << 20), all, wire::EOVERFLOW),
            ("write of 4 GiB", ask(1, 0, 0, u32::MAX), all, wire::EOVERFLOW),
            ("nothing", ask(0, 0, 0, 0), all, wire::EINVAL),
            ("unknown command", ask(99, 0, 0, 4096), all, wire::EINVAL),
            ("resize", ask(8, 0, 0, 4096), all, wire::EINVAL),
            ("unknown flag", ask(1, 1 << 12, 0, 4096), all, wire::EINVAL),
            ("df on a write", ask(1, wire::CMD_FLAG_DF, 0, 4096), all, wire::EINVAL),
            ("df unnegotiated", ask(0, wire::CMD_FLAG_DF, 0, 4096), Agreed::default(), wire::EINVAL),
            ("flush with a range", ask(3, 0, 4096, 4096), all, wire::EINVAL),
            ("status unnegotiated", ask(7, 0, 0, 4096), Agreed::default(), wire::EINVAL),
        ];
        for (name, header, agreed, code) in cases {
            assert_eq!(judge(&header, &GEOMETRY, agreed).map_err(|refusal| refusal.code), Err(code), "{name}");
        }
    }

    #[test]
    fn a_read_only_device_refuses_every_change() {
        let geometry = Geometry { read_only: true, ..GEOMETRY };
        for command in [wire::CMD_WRITE, wire::CMD_TRIM, wire::CMD_WRITE_ZEROES] {
            let refused = judge(&ask(command, 0, 0, 4096), &geometry, Agreed::default());
            assert_eq!(refused.map_err(|refusal| refusal.code), Err(wire::EPERM));
        }
        assert!(judge(&ask(wire::CMD_READ, 0, 0, 4096), &geometry, Agreed::default()).is_ok());
    }

    #[test]
    fn fua_is_accepted_everywhere() {
        let all = Agreed { structured: true, base_allocation: true };
        for command in 0..8 {
            if command == wire::CMD_DISC {
                continue;
            }
            let length = if command == wire::CMD_FLUSH { 0 } else { 4096 };
            assert!(judge(&ask(command, wire::CMD_FLAG_FUA, 0, length), &GEOMETRY, all).is_ok(), "command {command}");
        }
    }
}
