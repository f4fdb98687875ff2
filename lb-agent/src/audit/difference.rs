//! A difference, in the words of whoever has to do something about it.

use serde::Serialize;

use crate::dataplane::layout::Table;

/// Which step is behind.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Behind {
    /// The kernel tables are not what the agent says they are.
    Kernel,
    /// The agent has not made of the objects what they ask for.
    Agent,
    /// Neither.
    Both,
    /// Without a living agent: the kernel tables are not what the objects ask for.
    Tables,
}

impl Behind {
    /// The word for it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Agent => "agent",
            Self::Both => "agent, kernel",
            Self::Tables => "tables",
        }
    }
}

/// Something that is not the same on all sides. A side that has nothing of it is `None`.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Difference {
    /// The table it is in.
    pub table: Table,
    /// What is different: an address and port, a backend, a device.
    pub about: String,
    /// The service port it belongs to, where there is one.
    pub service: Option<String>,
    /// What the objects ask for.
    pub source: Option<String>,
    /// What the agent says; meaningless without a living agent.
    pub agent: Option<String>,
    /// What the kernel has.
    pub kernel: Option<String>,
    /// Which step is behind.
    pub behind: Behind,
}
