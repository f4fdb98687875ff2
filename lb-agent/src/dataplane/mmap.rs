//! Kernel arrays mapped into this process: reading or writing a word is a load or a store, and a
//! store of one aligned word is what publishes new state.
//!
//! A mapped word is an [`AtomicU64`]: kernel programs read and write the same memory by plain and
//! by atomic accesses of 64 bits, all aligned, so every access on either side is single-copy
//! atomic.

#![expect(unsafe_code, reason = "mmap(2) gives a raw pointer")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Loads only.
    Read,
    /// Loads and stores.
    ReadWrite,
}

/// Where a mapping begins and how long it is; unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only accessed through
// `AtomicU64`, which may be used from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as above: shared access is by atomics only.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(map: BorrowedFd<'_>, words: usize, access: Access) -> io::Result<Self> {
        let bytes = words
            .checked_mul(size_of::<u64>())
            .filter(|&bytes| bytes > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use. The
        // kernel refuses a length beyond the map's size.
        let base = unsafe { mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, map, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, words })
    }

    const fn words(&self) -> &[AtomicU64] {
        // SAFETY: `base` is the page-aligned start of `words` initialised words that stay mapped
        // until `self` is dropped, which the returned lifetime forbids. `AtomicU64` has the size
        // and, on 64-bit machines, the alignment of `u64` and allows others to change it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and nobody holds a reference any more.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(result.is_ok(), "a range that is mapped can be unmapped");
    }
}

/// A mapped array that may be written.
#[derive(Debug)]
pub struct MappedWords(Mapping);

impl MappedWords {
    /// Maps the first `words` words of `map`, an array made with `BPF_F_MMAPABLE`.
    pub fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        Mapping::new(map, words, Access::ReadWrite).map(Self)
    }

    /// All of it.
    pub const fn words(&self) -> &[AtomicU64] {
        self.0.words()
    }
}

/// A mapped array that may only be read: a store would end the process, so there is none.
#[derive(Debug)]
pub struct MappedReader(Mapping);

impl MappedReader {
    /// Maps the first `words` words of `map`, an array made with `BPF_F_MMAPABLE`.
    pub fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        Mapping::new(map, words, Access::Read).map(Self)
    }

    /// Number of words.
    pub const fn len(&self) -> usize {
        self.0.words
    }

    /// Whether there is no word; never, since the kernel has no empty array.
    pub const fn is_empty(&self) -> bool {
        self.0.words == 0
    }

    /// The word at `index`, `None` beyond the end.
    pub fn get(&self, index: usize) -> Option<u64> {
        self.0
            .words()
            .get(index)
            .map(|word| word.load(Ordering::Relaxed))
    }

    /// A copy of all words, each read once.
    pub fn copy(&self) -> Vec<u64> {
        self.0
            .words()
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect()
    }
}

const _: () = assert!(align_of::<AtomicU64>() == align_of::<u64>());
