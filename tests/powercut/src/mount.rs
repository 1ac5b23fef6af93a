//! The disk as a file system: what the kernel asks, put to the disk.
//!
//! Every open file is served without the page cache, so that each write comes here at once and each read is true.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, Session, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};
use rustix::mount::UnmountFlags;

use super::disk::{Disk, Inode, Kind, Lost, State};
use super::faults::On;
use super::file::FileState;
use super::names::Names;

/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;
const NO_HANDLE: FileHandle = FileHandle(0);
/// So that a slow sync does not hold up the others.
const THREADS: usize = 4;
const BLOCK_BYTES: u32 = 4096;
/// What the file system claims to have: 64 GiB.
const BLOCKS: u64 = 16 << 20;

/// A disk, mounted; unmounted with the value.
pub struct Mounted {
    disk: Arc<Disk>,
    at: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Needs /dev/fuse and the right to mount.
    pub fn mount(disk: Disk, at: &Path) -> io::Result<Mounted> {
        let mut mounted = Mounted { disk: Arc::new(disk), at: at.to_path_buf(), session: None };
        mounted.up()?;
        Ok(mounted)
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Cuts the power and mounts what is left. Whoever has files open must have been killed before.
    pub fn cut(&mut self) -> io::Result<Lost> {
        self.down();
        let lost = self.disk.cut();
        self.up()?;
        Ok(lost)
    }

    fn up(&mut self) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powercut".into()), MountOption::Subtype("farshore".into())];
        config.n_threads = Some(THREADS);
        let view = View { life: self.disk.life(), disk: self.disk.clone() };
        self.session = Some(Session::new(view, &self.at, &config)?.spawn()?);
        Ok(())
    }

    fn down(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Lazily, for somebody may look at it just now; the session's threads end with the last of them.
        let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        drop(session);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.down();
    }
}

/// The disk as it is between two cuts.
struct View {
    disk: Arc<Disk>,
    life: u64,
}

type Answer<T> = Result<T, rustix::io::Errno>;

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn done(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn entry(reply: ReplyEntry, answer: Answer<FileAttr>) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(errno(error)),
    }
}

fn attr_of(number: u64, inode: &Inode) -> FileAttr {
    let (kind, size) = match &inode.kind {
        Kind::File(file) => (FileType::RegularFile, file.len_bytes()),
        Kind::Dir(_) => (FileType::Directory, 0),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: inode.modified,
        mtime: inode.modified,
        ctime: inode.modified,
        crtime: inode.modified,
        kind,
        perm: inode.mode,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

impl View {
    fn state(&self) -> Answer<MutexGuard<'_, State>> {
        self.disk.of_life(self.life)
    }

    fn attr(&self, number: u64) -> Answer<FileAttr> {
        Ok(attr_of(number, self.state()?.inode(number)?))
    }

    fn make(&self, parent: u64, name: &OsStr, kind: Kind, mode: u32) -> Answer<FileAttr> {
        let mut state = self.state()?;
        let number = state.make(parent, name, kind, (mode & 0o7777) as u16)?;
        Ok(attr_of(number, state.inode(number)?))
    }

    fn open_flags(&self, number: u64, flags: i32) -> Answer<FopenFlags> {
        let mut state = self.state()?;
        state.open(number)?;
        if OFlags::from_bits_retain(flags as u32).contains(OFlags::TRUNC) {
            state.set_len(number, 0)?;
        }
        Ok(FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES)
    }

    fn write(&self, number: u64, offset: u64, data: &[u8], flags: OpenFlags) -> Answer<u32> {
        self.wait(On::Write)?;
        self.state()?.write(number, offset, data)?;
        let flags = OFlags::from_bits_retain(flags.0 as u32);
        if flags.intersects(OFlags::DSYNC | OFlags::SYNC) {
            self.sync(number)?;
        }
        Ok(data.len() as u32)
    }

    fn read(&self, number: u64, offset: u64, size: u32) -> Answer<Vec<u8>> {
        let mut state = self.state()?;
        state.check(On::Read, number)?;
        Ok(state.inode(number)?.file()?.read(offset, size as usize))
    }

    fn sync(&self, number: u64) -> Answer<()> {
        self.wait(On::Sync)?;
        self.state()?.sync(number)
    }

    /// Without holding the disk.
    fn wait(&self, on: On) -> Answer<()> {
        let delay = self.state()?.delay(on);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        Ok(())
    }

    fn allocate(&self, number: u64, offset: u64, length: u64, mode: i32) -> Answer<()> {
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        let mut state = self.state()?;
        let end = offset + length;
        let len_bytes = state.inode(number)?.file()?.len_bytes();
        let grows = !mode.contains(FallocateFlags::KEEP_SIZE) && end > len_bytes;
        if mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            state.inode(number)?.file()?.zero(offset, length.min(len_bytes.saturating_sub(offset)));
        } else if !mode.difference(FallocateFlags::KEEP_SIZE).is_empty() {
            return Err(rustix::io::Errno::OPNOTSUPP);
        } else if state.orders.full && end > len_bytes {
            return Err(rustix::io::Errno::NOSPC);
        }
        if grows { state.set_len(number, end) } else { Ok(()) }
    }
}

impl Filesystem for View {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.state().and_then(|mut state| state.lookup(parent.0, name));
        entry(reply, found.and_then(|number| self.attr(number)));
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Length and mode; owners and times are taken for done.
    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = || {
            let mut state = self.state()?;
            if let Some(size) = size {
                state.set_len(ino.0, size)?;
            }
            let inode = state.inode(ino.0)?;
            inode.mode = mode.map_or(inode.mode, |mode| (mode & 0o7777) as u16);
            Ok(attr_of(ino.0, inode))
        };
        match set() {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        entry(reply, self.make(parent.0, name, Kind::Dir(Names::default()), mode & !umask));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.state().and_then(|mut state| state.remove(parent.0, name, false)));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.state().and_then(|mut state| state.remove(parent.0, name, true)));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != newparent || flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EXDEV);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        done(reply, self.state().and_then(|mut state| state.rename(parent.0, name, newname, replace)));
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.open_flags(ino.0, flags.0) {
            Ok(open) => reply.opened(NO_HANDLE, open),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = self.make(parent.0, name, Kind::File(FileState::default()), mode & !umask);
        match made.and_then(|attr| Ok((attr, self.open_flags(attr.ino.0, flags)?))) {
            Ok((attr, open)) => reply.created(&TTL, &attr, Generation(0), NO_HANDLE, open),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(ino.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write(ino.0, offset, data, flags) {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Closing a file settles nothing.
    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Ok(mut state) = self.state() {
            state.release(ino.0);
        }
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.sync(ino.0));
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let list = || {
            let mut state = self.state()?;
            let named: Vec<_> = state.inode(ino.0)?.dir()?.all().map(|(name, number)| (name.clone(), number)).collect();
            let kinds = named.into_iter().map(|(name, number)| {
                let dir = matches!(state.inode(number), Ok(Inode { kind: Kind::Dir(_), .. }));
                (name, number, if dir { FileType::Directory } else { FileType::RegularFile })
            });
            Ok(kinds.collect::<Vec<_>>())
        };
        match list() {
            Ok(names) => {
                let own = [(".".into(), ino.0, FileType::Directory), ("..".into(), ino.0, FileType::Directory)];
                let all = own.into_iter().chain(names).enumerate().skip(offset as usize);
                for (at, (name, number, kind)) in all {
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let waited = self.wait(On::Sync);
        done(reply, waited.and_then(|()| self.state()?.sync_dir(ino.0)));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let full = self.state().is_ok_and(|state| state.orders.full);
        let free = if full { 0 } else { BLOCKS };
        reply.statfs(BLOCKS, free, free, 1 << 20, 1 << 20, BLOCK_BYTES, 255, BLOCK_BYTES);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        done(reply, self.allocate(ino.0, offset, length, mode));
    }
}
