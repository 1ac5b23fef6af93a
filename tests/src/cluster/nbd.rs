//! A small NBD client by the protocol document: one connection, one request at a time, nothing cached.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const FLAGS: u32 = 3;
const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_FLUSH: u16 = 3;
const CMD_TRIM: u16 = 4;
/// A device that waits for a quorum answers late; one that never answers is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub enum NbdError {
    /// The connection broke: what was asked may have happened.
    Broken(io::Error),
    /// The device answered with this errno: it may have happened too.
    Failed(u32),
    /// The server does not know the export.
    NoExport(String),
}

impl From<io::Error> for NbdError {
    fn from(error: io::Error) -> Self {
        NbdError::Broken(error)
    }
}

#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    cookie: u64,
    pub size_bytes: u64,
}

impl NbdClient {
    pub fn connect(socket: &Path, export: &str) -> Result<NbdClient, NbdError> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        assert_eq!(be64(&greeting[..8]), NBDMAGIC, "the server's greeting");
        assert_eq!(be64(&greeting[8..16]), IHAVEOPT, "the server's greeting");
        let mut hello = FLAGS.to_be_bytes().to_vec();
        hello.extend(IHAVEOPT.to_be_bytes());
        hello.extend(OPT_GO.to_be_bytes());
        hello.extend((export.len() as u32 + 6).to_be_bytes());
        hello.extend((export.len() as u32).to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0_u16.to_be_bytes());
        stream.write_all(&hello)?;
        let mut size_bytes = 0;
        loop {
            let mut header = [0; 20];
            stream.read_exact(&mut header)?;
            assert_eq!(be64(&header[..8]), OPTION_REPLY, "the reply to an option");
            let (kind, length) = (be32(&header[12..16]), be32(&header[16..20]));
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            match kind {
                REP_ACK => return Ok(NbdClient { stream, cookie: 0, size_bytes }),
                // The first information is the export's: type, size, flags.
                REP_INFO if data.len() == 12 && data[..2] == [0, 0] => size_bytes = be64(&data[2..10]),
                REP_INFO => {}
                _ => return Err(NbdError::NoExport(String::from_utf8_lossy(&data).into_owned())),
            }
        }
    }

    fn ask(&mut self, command: u16, offset: u64, length: u32, payload: &[u8]) -> Result<(), NbdError> {
        self.cookie += 1;
        let mut request = Vec::with_capacity(28 + payload.len());
        request.extend(REQUEST.to_be_bytes());
        request.extend(0_u16.to_be_bytes());
        request.extend(command.to_be_bytes());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(length.to_be_bytes());
        request.extend(payload);
        self.stream.write_all(&request)?;
        let mut reply = [0; 16];
        self.stream.read_exact(&mut reply)?;
        assert_eq!(be32(&reply[..4]), SIMPLE_REPLY, "the reply to a request");
        assert_eq!(be64(&reply[8..16]), self.cookie, "the reply to another request");
        match be32(&reply[4..8]) {
            0 => Ok(()),
            errno => Err(NbdError::Failed(errno)),
        }
    }

    pub fn read(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, NbdError> {
        self.ask(CMD_READ, offset, length as u32, &[])?;
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data)?;
        Ok(data)
    }

    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), NbdError> {
        self.ask(CMD_WRITE, offset, data.len() as u32, data)
    }

    pub fn flush(&mut self) -> Result<(), NbdError> {
        self.ask(CMD_FLUSH, 0, 0, &[])
    }

    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), NbdError> {
        self.ask(CMD_TRIM, offset, length, &[])
    }
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn be64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}
