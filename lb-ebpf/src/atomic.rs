//! The atomic instructions of BPF (kernel 5.12), which `core::sync::atomic` lacks on this target.
//!
//! The intrinsics become `BPF_CMPXCHG` and `BPF_XCHG`, which are full barriers. Loads and plain
//! stores are volatile: the target has no load-acquire below kernel 6.15, so what a reader relies
//! on is checked again after the read.

/// Replaces `*word` by `new` if it is `current`; says whether it did.
///
/// # Safety
///
/// `word` points at an aligned word of a map's value.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, current: u64, new: u64) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering, atomic_cxchg};
        // SAFETY: the caller's word is valid and aligned, and only accessed atomically or volatile.
        unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                word, current, new,
            )
            .1
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = (word, current, new);
        false
    }
}

/// Adds one to `*word`.
///
/// # Safety
///
/// As for [`compare_exchange`].
#[inline(always)]
pub(crate) unsafe fn increment(word: *mut u64) {
    #[cfg(target_arch = "bpf")]
    {
        use core::intrinsics::{AtomicOrdering, atomic_xadd};
        // SAFETY: as above.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, 1) };
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = word;
}
