//! How often the agent compares the tables with its plan, and what it does about differences.

use std::time::Duration;

/// The continuous audit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Audit {
    /// Time between the end of one pass and the beginning of the next.
    pub interval: Duration,
    /// Whether what differs is written again; else it is only told.
    pub repair: bool,
}

impl Default for Audit {
    /// Every five minutes, with repairs: the tables are nobody else's to write.
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(5),
            repair: true,
        }
    }
}
