//! The disk: files and directories by number, what a sync settles, what a cut takes.
//!
//! A name is settled by a sync of its directory alone, the strictest reading of POSIX: the sync of a new file does not
//! settle its name. Numbers are never used twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::io::Errno;

use super::faults::{Fault, On, Orders};
use super::file::FileState;
use super::names::Names;

pub(crate) const ROOT: u64 = 1;

#[derive(Debug)]
pub(crate) enum Kind {
    File(FileState),
    Dir(Names),
}

#[derive(Debug)]
pub(crate) struct Inode {
    /// As it was last called; faults are aimed by it.
    pub(crate) name: OsString,
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    pub(crate) modified: SystemTime,
    opened: u64,
}

impl Inode {
    pub(crate) fn file(&mut self) -> Result<&mut FileState, Errno> {
        match &mut self.kind {
            Kind::File(file) => Ok(file),
            Kind::Dir(_) => Err(Errno::ISDIR),
        }
    }

    pub(crate) fn dir(&mut self) -> Result<&mut Names, Errno> {
        match &mut self.kind {
            Kind::Dir(names) => Ok(names),
            Kind::File(_) => Err(Errno::NOTDIR),
        }
    }
}

/// What a cut took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Writes and changes of length that did not reach the disk, or in part only.
    pub changes: usize,
    pub names: usize,
}

pub struct Disk {
    state: Mutex<State>,
}

pub(crate) struct State {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    /// Counts the cuts: who still asks for an earlier life gets an error.
    life: u64,
    dice: StdRng,
    pub(crate) orders: Orders,
}

impl Disk {
    /// An empty disk. Everything that chance decides comes from the seed and the order of requests.
    pub fn new(seed: u64) -> Disk {
        let root = Inode {
            name: OsString::new(),
            kind: Kind::Dir(Names::default()),
            mode: 0o755,
            modified: SystemTime::now(),
            opened: 0,
        };
        let state = State {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            life: 0,
            dice: StdRng::seed_from_u64(seed),
            orders: Orders::default(),
        };
        Disk { state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn life(&self) -> u64 {
        self.state().life
    }

    pub(crate) fn of_life(&self, life: u64) -> Result<MutexGuard<'_, State>, Errno> {
        let state = self.state();
        if state.life == life { Ok(state) } else { Err(Errno::IO) }
    }

    /// From now on such operations fail.
    pub fn fail(&self, fault: Fault) {
        self.state().orders.faults.push(fault);
    }

    /// While full, nothing grows and nothing new can be made: ENOSPC.
    pub fn fill(&self, full: bool) {
        self.state().orders.full = full;
    }

    /// The next cut leaves nothing to chance: whatever no sync covered is dropped.
    pub fn keep_nothing(&self) {
        self.state().orders.keep_nothing = true;
    }

    /// Every sync, and every write, takes up to so long.
    pub fn delay(&self, sync_max: Duration, write_max: Duration) {
        let mut state = self.state();
        state.orders.sync_delay_max = sync_max;
        state.orders.write_delay_max = write_max;
    }

    /// No more faults, no delay, room again.
    pub fn mend(&self) {
        self.state().orders = Orders::default();
    }

    /// The power goes and comes back: whatever no sync covered is dropped, kept or torn. Orders are forgotten.
    pub fn cut(&self) -> Lost {
        let mut state = self.state();
        let State { inodes, dice, life, orders, .. } = &mut *state;
        *life += 1;
        let keep_nothing = std::mem::take(orders).keep_nothing;
        let mut lost = Lost::default();
        for inode in inodes.values_mut() {
            inode.opened = 0;
            match &mut inode.kind {
                Kind::File(file) => lost.changes += file.cut(dice, keep_nothing),
                Kind::Dir(names) => lost.names += names.cut(dice, keep_nothing),
            }
        }
        state.collect();
        lost
    }

    /// Files with changes that no sync has covered.
    pub fn unsynced_files(&self) -> usize {
        let state = self.state();
        let open = |inode: &&Inode| matches!(&inode.kind, Kind::File(file) if !file.is_synced());
        state.inodes.values().filter(open).count()
    }

    /// Bytes that are held in memory for what readers see.
    pub fn held_bytes(&self) -> u64 {
        let state = self.state();
        let pages = |inode: &Inode| if let Kind::File(file) = &inode.kind { file.pages() } else { 0 };
        state.inodes.values().map(pages).sum::<usize>() as u64 * 4096
    }

    /// Copies everything that readers see into a directory, to be looked at later.
    pub fn save(&self, to: &Path) -> io::Result<()> {
        self.state().save(ROOT, to)
    }
}

impl State {
    pub(crate) fn inode(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::STALE)
    }

    pub(crate) fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<u64, Errno> {
        self.inode(parent)?.dir()?.get(name).ok_or(Errno::NOENT)
    }

    pub(crate) fn make(&mut self, parent: u64, name: &OsStr, kind: Kind, mode: u16) -> Result<u64, Errno> {
        if self.orders.full {
            return Err(Errno::NOSPC);
        }
        let number = self.next;
        let names = self.inode(parent)?.dir()?;
        if names.get(name).is_some() {
            return Err(Errno::EXIST);
        }
        names.add(name, number);
        let inode = Inode { name: name.into(), kind, mode, modified: SystemTime::now(), opened: 0 };
        self.inodes.insert(number, inode);
        self.next += 1;
        Ok(number)
    }

    pub(crate) fn remove(&mut self, parent: u64, name: &OsStr, dir: bool) -> Result<(), Errno> {
        let number = self.lookup(parent, name)?;
        match &self.inode(number)?.kind {
            Kind::Dir(_) if !dir => return Err(Errno::ISDIR),
            Kind::File(_) if dir => return Err(Errno::NOTDIR),
            Kind::Dir(names) if !names.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.inode(parent)?.dir()?.remove(name);
        Ok(())
    }

    /// Within one directory; nobody here needs more.
    pub(crate) fn rename(&mut self, dir: u64, from: &OsStr, to: &OsStr, replace: bool) -> Result<(), Errno> {
        let number = self.lookup(dir, from)?;
        if let Ok(other) = self.lookup(dir, to) {
            if !replace {
                return Err(Errno::EXIST);
            }
            if matches!(self.inode(other)?.kind, Kind::Dir(_)) {
                return Err(Errno::ISDIR);
            }
        }
        self.inode(dir)?.dir()?.rename(from, to, number);
        self.inode(number)?.name = to.into();
        Ok(())
    }

    pub(crate) fn open(&mut self, number: u64) -> Result<(), Errno> {
        self.inode(number)?.opened += 1;
        Ok(())
    }

    pub(crate) fn release(&mut self, number: u64) {
        if let Ok(inode) = self.inode(number) {
            inode.opened = inode.opened.saturating_sub(1);
        }
        self.collect();
    }

    pub(crate) fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.check(On::Write, number)?;
        let end = offset + data.len() as u64;
        self.check_room(number, end)?;
        let inode = self.inode(number)?;
        inode.modified = SystemTime::now();
        inode.file()?.write(offset, data);
        Ok(())
    }

    pub(crate) fn set_len(&mut self, number: u64, len_bytes: u64) -> Result<(), Errno> {
        self.check_room(number, len_bytes)?;
        let inode = self.inode(number)?;
        inode.modified = SystemTime::now();
        inode.file()?.set_len(len_bytes);
        Ok(())
    }

    fn check_room(&mut self, number: u64, end: u64) -> Result<(), Errno> {
        let full = self.orders.full;
        if full && end > self.inode(number)?.file()?.len_bytes() { Err(Errno::NOSPC) } else { Ok(()) }
    }

    pub(crate) fn check(&mut self, on: On, number: u64) -> Result<(), Errno> {
        let name = self.inode(number)?.name.clone();
        self.orders.fails(on, &name).map_or(Ok(()), Err)
    }

    pub(crate) fn delay(&mut self, on: On) -> Duration {
        self.orders.delay(on, &mut self.dice)
    }

    pub(crate) fn sync(&mut self, number: u64) -> Result<(), Errno> {
        let ordered = self.check(On::Sync, number);
        let State { inodes, dice, .. } = self;
        let file = inodes.get_mut(&number).ok_or(Errno::STALE)?.file()?;
        match ordered {
            Ok(()) => file.sync(),
            Err(_) => file.fail_sync(dice),
        }
        ordered
    }

    pub(crate) fn sync_dir(&mut self, number: u64) -> Result<(), Errno> {
        self.check(On::Sync, number)?;
        self.inode(number)?.dir()?.sync();
        self.collect();
        Ok(())
    }

    /// Lets go of what nobody has open and no name leads to, after a cut neither.
    fn collect(&mut self) {
        let mut kept = BTreeSet::from([ROOT]);
        let mut ways: Vec<u64> = vec![ROOT];
        ways.extend(self.inodes.iter().filter(|(_, inode)| inode.opened > 0).map(|(number, _)| *number));
        kept.extend(&ways);
        while let Some(number) = ways.pop() {
            let Some(Inode { kind: Kind::Dir(names), .. }) = self.inodes.get(&number) else { continue };
            ways.extend(names.reachable().filter(|found| kept.insert(*found)));
        }
        self.inodes.retain(|number, _| kept.contains(number));
    }

    fn save(&mut self, dir: u64, to: &Path) -> io::Result<()> {
        std::fs::create_dir_all(to)?;
        let names: Vec<(OsString, u64)> = self.inode(dir)?.dir()?.all().map(|(n, i)| (n.clone(), i)).collect();
        for (name, number) in names {
            match &self.inode(number)?.kind {
                Kind::Dir(_) => self.save(number, &to.join(name))?,
                Kind::File(file) => std::fs::write(to.join(name), file.read(0, usize::MAX))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &Disk, name: &str) -> u64 {
        disk.state().make(ROOT, name.as_ref(), Kind::File(FileState::default()), 0o644).unwrap()
    }

    #[test]
    fn a_file_needs_its_own_sync_and_its_directorys() {
        let survivors = |sync_file: bool, sync_dir: bool| {
            let survives = |seed: &u64| {
                let disk = Disk::new(*seed);
                let number = file(&disk, "a");
                disk.state().write(number, 0, &[7; 1000]).unwrap();
                if sync_file {
                    disk.state().sync(number).unwrap();
                }
                if sync_dir {
                    disk.state().sync_dir(ROOT).unwrap();
                }
                disk.cut();
                let found = disk.state().lookup(ROOT, "a".as_ref());
                found.is_ok_and(|n| disk.state().inode(n).unwrap().file().unwrap().read(0, 2000) == [7; 1000])
            };
            (0..100).filter(survives).count()
        };
        assert_eq!(survivors(true, true), 100);
        for (sync_file, sync_dir) in [(true, false), (false, true), (false, false)] {
            let count = survivors(sync_file, sync_dir);
            assert!(count > 0 && count < 100, "{sync_file} {sync_dir}: {count}");
        }
    }

    #[test]
    fn what_no_name_leads_to_is_let_go() {
        let disk = Disk::new(1);
        let number = file(&disk, "a");
        disk.state().open(number).unwrap();
        disk.state().sync_dir(ROOT).unwrap();
        disk.state().remove(ROOT, "a".as_ref(), false).unwrap();
        disk.state().release(number);
        assert!(disk.state().inode(number).is_ok(), "a cut may bring it back");
        disk.state().sync_dir(ROOT).unwrap();
        assert!(disk.state().inode(number).is_err());
    }

    #[test]
    fn an_earlier_life_is_refused() {
        let disk = Disk::new(1);
        let life = disk.life();
        disk.cut();
        assert!(disk.of_life(life).is_err() && disk.of_life(disk.life()).is_ok());
    }
}
