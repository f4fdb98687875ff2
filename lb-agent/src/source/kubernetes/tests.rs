//! The machine against scripted answers: no network, no clock.

mod faults;
mod lists;
mod random;
mod rig;
mod servers;
