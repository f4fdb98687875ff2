//! What Steerage is tested and shown with: a lab of network namespaces, real traffic, real agents, built
//! packets.

pub mod bench;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod given;
pub mod host;
pub mod lab;
pub mod leak;
pub mod machine;
pub mod ns;
pub mod packets;
pub mod privilege;
pub mod probe;
pub mod prog;
pub mod prometheus;
pub mod scenario;
pub mod scrape;
pub mod spec;
pub mod tables;
pub mod traffic;
