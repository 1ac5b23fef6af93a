//! The disk through the kernel: what programs do with files, and what a cut leaves of it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use farshore_powercut::{Disk, Fault, Mounted, On, SECTOR_BYTES};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// Runs a story on a disk of its own, where disks can be mounted.
fn on_a_disk(test: &str, seed: u64, story: impl FnOnce(&mut Mounted, &Path)) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    match Mounted::mount(Disk::new(seed), dir.path()) {
        Ok(mut mounted) => story(&mut mounted, dir.path()),
        Err(why) => println!("SKIP {test}: no FUSE file system can be mounted here: {why}"),
    }
}

fn direct(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT);
    options.open(path).expect("O_DIRECT is taken")
}

/// A page of memory on a page's boundary.
fn page(fill: u8, use_it: impl FnOnce(&mut [u8])) {
    let mut raw = vec![fill; 8192];
    let start = raw.as_ptr().align_offset(4096);
    use_it(&mut raw[start..start + 4096]);
}

#[test]
fn what_was_synced_is_there_after_every_cut() {
    on_a_disk("what_was_synced_is_there_after_every_cut", 7, |mounted, at| {
        fs::create_dir(at.join("d")).unwrap();
        File::open(at).unwrap().sync_all().unwrap();
        let path = at.join("d/log");
        File::create(&path).unwrap().sync_all().unwrap();
        File::open(at.join("d")).unwrap().sync_all().unwrap();
        for round in 0..20 {
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            use std::io::Write;
            (&file).write_all(&[round; 700]).unwrap();
            file.sync_data().unwrap();
            (&file).write_all(&[0xee; 300]).unwrap();
            drop(file);
            mounted.cut().unwrap();
            let bytes = fs::read(&path).unwrap();
            let synced = (u64::from(round) + 1) * 700;
            assert!(bytes.len() as u64 >= synced);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(synced).unwrap();
            file.sync_all().unwrap();
            let expected: Vec<u8> = (0..=round).flat_map(|r| [r; 700]).collect();
            assert_eq!(fs::read(&path).unwrap(), expected);
        }
    });
}

#[test]
fn direct_writes_are_not_synced_either() {
    on_a_disk("direct_writes_are_not_synced_either", 1, |mounted, at| {
        let path = at.join("segment");
        let file = direct(&path);
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
        page(1, |page| file.write_all_at(page, 8192).unwrap());
        file.sync_all().unwrap();
        File::open(at).unwrap().sync_all().unwrap();
        drop(file);
        let mut counts = Vec::new();
        for _ in 0..40 {
            let file = direct(&path);
            page(2, |page| file.write_all_at(page, 8192).unwrap());
            page(0, |page| {
                file.read_exact_at(page, 8192).unwrap();
                assert!(page.iter().all(|b| *b == 2), "what was written is read until the power goes");
            });
            drop(file);
            mounted.cut().unwrap();
            let file = direct(&path);
            page(0, |page| {
                file.read_exact_at(page, 8192).unwrap();
                counts.push(page.chunks(SECTOR_BYTES).filter(|sector| sector[0] == 2).count());
            });
            page(1, |page| file.write_all_at(page, 8192).unwrap());
            file.sync_data().unwrap();
            assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        }
        assert!(counts.contains(&0) && counts.contains(&8) && counts.iter().any(|n| (1..8).contains(n)), "{counts:?}");
    });
}

#[test]
fn a_rename_needs_the_directorys_sync_and_is_never_halved() {
    on_a_disk("a_rename_needs_the_directorys_sync_and_is_never_halved", 3, |mounted, at| {
        let mut found = Vec::new();
        for _ in 0..30 {
            fs::write(at.join("now"), b"old").unwrap();
            File::open(at.join("now")).unwrap().sync_all().unwrap();
            File::open(at).unwrap().sync_all().unwrap();
            fs::write(at.join("new"), b"new").unwrap();
            File::open(at.join("new")).unwrap().sync_all().unwrap();
            fs::rename(at.join("new"), at.join("now")).unwrap();
            mounted.cut().unwrap();
            found.push(fs::read(at.join("now")).expect("one or the other, never none"));
            let _ = fs::remove_file(at.join("new"));
        }
        assert!(
            found.contains(&b"old".to_vec()) && found.contains(&b"new".to_vec()) && found.iter().all(|b| b.len() == 3)
        );
    });
}

#[test]
fn it_fails_fills_up_and_slows_down_when_told() {
    on_a_disk("it_fails_fills_up_and_slows_down_when_told", 5, |mounted, at| {
        let disk = mounted.disk();
        let file = File::create(at.join("segment-0001")).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        disk.fail(Fault { on: On::Sync, name_contains: "segment-".into(), errno: Errno::IO });
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
        File::create(at.join("other")).unwrap().sync_all().unwrap();
        disk.mend();
        file.sync_data().unwrap();
        disk.fill(true);
        assert_eq!(file.write_all_at(&[1; 4096], 4096).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!(File::create(at.join("more")).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        file.write_all_at(&[2; 4096], 0).unwrap();
        disk.mend();
        file.write_all_at(&[1; 4096], 4096).unwrap();
        disk.delay(Duration::from_millis(200), Duration::ZERO);
        let began = Instant::now();
        (0..8).for_each(|_| file.sync_data().unwrap());
        assert!(began.elapsed() > Duration::from_millis(100), "eight syncs of up to 200 ms each");
    });
}
