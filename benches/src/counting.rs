//! An allocator that counts what each part of this process asks for. RocksDB is C++ and has its own: not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Whom a thread works for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Whoever has not said.
    Others,
    Primary,
    Secondaries,
}

const PARTS: usize = 3;
static CALLS: [AtomicU64; PARTS] = [const { AtomicU64::new(0) }; PARTS];
static BYTES: [AtomicU64; PARTS] = [const { AtomicU64::new(0) }; PARTS];

thread_local! {
    static PART: Cell<Part> = const { Cell::new(Part::Others) };
}

/// From now on, what this thread asks for counts there.
pub fn this_thread_is_of(part: Part) {
    PART.set(part);
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub calls: u64,
    pub bytes: u64,
}

impl Count {
    pub fn so_far(part: Part) -> Count {
        let read = |counters: &[AtomicU64; PARTS]| counters[part as usize].load(Ordering::Relaxed);
        Count { calls: read(&CALLS), bytes: read(&BYTES) }
    }

    pub fn since(self, before: Count) -> Count {
        Count { calls: self.calls - before.calls, bytes: self.bytes - before.bytes }
    }
}

fn count(bytes: usize) {
    // A thread that ends has no part any more.
    let part = PART.try_with(Cell::get).unwrap_or(Part::Others) as usize;
    CALLS[part].fetch_add(1, Ordering::Relaxed);
    BYTES[part].fetch_add(bytes as u64, Ordering::Relaxed);
}

/// The system's, counted. Growing counts as asking again.
pub struct Counting;

// SAFETY: every call goes to the system's allocator as it is; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: the caller's promises are the system allocator's conditions.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: the caller's promises are the system allocator's conditions.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    // SAFETY: the caller's promises are the system allocator's conditions; the block came from it.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    // SAFETY: the caller's promises are the system allocator's conditions; the block came from it.
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, bytes) }
    }
}
