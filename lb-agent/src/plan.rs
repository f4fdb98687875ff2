//! From what the objects say to what the kernel tables hold.

pub mod names;
