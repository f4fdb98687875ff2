//! What Steerage is tested and shown with: a lab of network namespaces, real traffic, real agents, built
//! packets.

pub mod apiserver;
pub mod bench;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod demo;
pub mod dice;
pub mod follower;
pub mod given;
pub mod host;
pub mod http;
pub mod lab;
pub mod leak;
pub mod lone_agent;
pub mod machine;
pub mod matrix;
pub mod nft;
pub mod ns;
pub mod objects;
pub mod observer;
pub mod oracle;
pub mod outside;
pub mod packets;
pub mod privilege;
pub mod probe;
pub mod prog;
pub mod prometheus;
pub mod recording;
pub mod replica;
pub mod scenario;
pub mod scrape;
pub mod sequence;
pub mod spec;
pub mod tables;
pub mod traffic;
