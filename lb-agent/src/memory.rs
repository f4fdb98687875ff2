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

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident_kib() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn what_was_freed_between_what_is_kept_is_given_back() {
        // Small pieces, since large ones go back at once; one in 64 stays.
        let mut pieces: Vec<Option<Vec<u8>>> = (0..32_768).map(|_| Some(vec![1; 2_048])).collect();
        for (index, piece) in pieces.iter_mut().enumerate() {
            if index % 64 != 0 {
                *piece = None;
            }
        }
        let before = resident_kib();
        give_back();
        let after = resident_kib();
        assert!(pieces.iter().flatten().all(|piece| piece[0] == 1));
        assert!(after + 32 * 1024 < before, "{before} KiB, then {after} KiB");
    }
}
