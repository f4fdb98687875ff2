//! Whether the kernel tables are what they should be, compared by what packets meet there.
//!
//! ```text
//!  source ──► objects ──► Desired ──► Picture ─┐
//!  agent's names file ──────────────► Picture ─┼─ compare ──► differences
//!  pinned maps ─────────────────────► Picture ─┘
//! ```
//!
//! A [`Picture`](picture::Picture) has no ids, offsets and generations: those depend on what was
//! there before, and two agents that did everything right may differ in them. Frontends, sets, every
//! slot of every set, flags of backends and the filters' bits may not.
//!
//! This is what `steerage verify` does, from a plan of its own. The agent's own continuous audit
//! compares word by word with the plan it has: [`plan::audit`](crate::plan::audit).

pub mod basis;
pub mod compare;
mod desired;
pub mod difference;
mod kernel;
mod named;
pub mod node;
pub mod picture;
pub mod report;
#[cfg(test)]
mod tests;
pub(crate) mod words;
