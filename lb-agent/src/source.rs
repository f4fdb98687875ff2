//! Where the agent's Kubernetes objects come from.
//!
//! Every source turns Kubernetes objects into model values by [`convert`], and says what changed
//! as batches of [`crate::model::event::Event`]. It begins with a full list of each kind.

pub mod convert;
pub mod directory;
pub mod intern;
pub mod kubernetes;
pub mod report;
