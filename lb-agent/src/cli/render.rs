//! Printers: pure functions from a view to text. What is a table for people is here, what is JSON
//! is the view itself.

pub mod backends;
pub mod explain;
pub mod flows;
pub mod interfaces;
pub mod maglev;
pub mod maps;
pub mod services;
pub mod status;
pub mod style;
pub mod table;
pub mod units;
pub mod verify;
