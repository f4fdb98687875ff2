//! One file for each kind of hook.

pub(crate) mod tc;
pub(crate) mod xdp;
