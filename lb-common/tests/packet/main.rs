//! Packets through the parser, the rewrite and the answers, against packets that etherparse helped
//! to build: what comes out must be, byte for byte, what would have been built in the first place.

#[path = "../../../tests/src/packets.rs"]
pub mod packets;

#[cfg(test)]
mod answer;
#[cfg(test)]
mod corpus;
#[cfg(test)]
mod given;
#[cfg(test)]
mod onward;
#[cfg(test)]
mod parse;
#[cfg(test)]
mod rewrite;
