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

/// Keeps what is large and short-lived, such as a file's text, out of the heap, where it would leave
/// holes between what stays. To be called before any other thread runs.
///
/// glibc raises its own limit with each such block that is freed, unless it is told one.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a function of the C library")]
pub fn keep_apart() {
    const LARGE: libc::c_int = 64 << 10;
    const ARENAS: libc::c_int = 2;
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, LARGE),
        (libc::M_TRIM_THRESHOLD, 2 * LARGE),
        // One for the loop and one for what runs beside it.
        (libc::M_ARENA_MAX, ARENAS),
    ] {
        // SAFETY: it takes numbers and the allocator's own lock; it may be called at any time.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Keeps what is large apart; here nothing needs to be said.
#[cfg(not(target_env = "gnu"))]
pub const fn keep_apart() {}

/// Gives what is free back to the system; here nothing is kept that is worth it.
#[cfg(not(target_env = "gnu"))]
pub const fn give_back() {}
