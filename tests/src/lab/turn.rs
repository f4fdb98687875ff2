//! One lab at a time in a process: two would take each other's CPU, and spoil every measured stall.
//!
//! Not a guard of the mutex itself: a lab is passed around and kept, and its owner may be any thread.

use std::sync::{Condvar, Mutex, PoisonError};

/// Whether a lab exists.
static TAKEN: Mutex<bool> = Mutex::new(false);
static RELEASED: Condvar = Condvar::new();

/// The right to have a lab, until dropped.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// Waits until nobody else has it.
    #[expect(
        clippy::significant_drop_tightening,
        reason = "the guard is what waits; it is gone two lines later"
    )]
    pub(super) fn take() -> Self {
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let free = RELEASED.wait_while(taken, |taken| *taken);
        let mut free = free.unwrap_or_else(PoisonError::into_inner);
        *free = true;
        drop(free);
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        RELEASED.notify_one();
    }
}
