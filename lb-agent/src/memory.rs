//! Memory of the agent itself.

/// Gives what is free back to the system.
///
/// glibc keeps what was freed, per thread: what reading the tables took at a start would stay beside
/// what reading the objects takes, and a node that runs an agent has better uses for it. Takes some
/// milliseconds; for moments after which much is free. Other libraries keep little.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn give_back() {
    // SAFETY: it takes the allocator's own locks and no pointer; it may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// Gives what is free back to the system; here nothing is kept that is worth it.
#[cfg(not(target_env = "gnu"))]
pub const fn give_back() {}
