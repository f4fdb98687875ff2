//! What the agent says of its own audits, and how it is asked for one: two small files in its state
//! directory.
//!
//! A command writes the request, with a word of its own choice; the agent takes it away, plans
//! everything again, reads the tables, repairs them, and repeats the word in its report. Files need
//! no port that others could reach, and no process id, which means nothing across containers: who may
//! write to the state directory may ask.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the report's file in the state directory.
pub const FILE_NAME: &str = "audit.json";
/// Name of the request's file in the state directory.
pub const REQUEST_NAME: &str = "audit.request";
/// The longest word of a request, in bytes.
pub const MAX_REQUEST: usize = 128;
/// Version of the shape: raised by any change that an older command would misread.
pub const VERSION: u32 = 1;

/// The agent's last audit.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct AuditReport {
    /// [`VERSION`].
    pub version: u32,
    /// The word of the request it answers, if it was asked for.
    pub request: Option<String>,
    /// When it ended, in seconds since the Unix epoch.
    pub at: u64,
    /// How long it took, in microseconds, most of them waiting between its steps.
    pub took_micros: u64,
    /// Entries that differed from the plan, by table.
    pub entries: BTreeMap<String, u64>,
    /// Entries that were written again.
    pub repaired: u64,
    /// The first few of them, in words.
    pub examples: Vec<String>,
}
