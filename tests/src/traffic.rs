//! Real traffic: servers in pods that say who they are, and clients that notice everything.
//!
//! A server's first words are its name and the address it believes its client has, so one
//! connection tells which backend was chosen *and* whether the client's address survived.

use std::{fmt, net::SocketAddr, str::FromStr};

use anyhow::{Context as _, Error};

mod client;
mod flood;
mod flow;
mod line;
mod load;
mod ping;
pub mod sctp;
mod server;
mod whole;

pub use self::{
    client::{
        Spread, UdpClient, ask_udp, bulk_echo, connect_once, connect_once_from, refusal, spread,
    },
    flood::{DISTINCT, flood},
    flow::{FlowReport, LongFlow},
    line::{TcpLine, open_with_data},
    load::{Load, LoadReport},
    ping::{Pong, ping},
    server::{TcpServer, UdpServer},
    whole::ask_udp_whole,
};

/// The protocols that the lab's servers speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection; the server greets, then echoes.
    Tcp,
    /// One question, one answer that begins with the greeting.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// How a server introduces itself: `<name> <client's address>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The server's name.
    pub server: String,
    /// The client's address as the server sees it.
    pub client: SocketAddr,
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.server, self.client)
    }
}

impl FromStr for Greeting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (server, client) = text
            .trim_end()
            .split_once(' ')
            .with_context(|| format!("no greeting: {text:?}"))?;
        let client = client
            .parse()
            .with_context(|| format!("no address: {client:?}"))?;
        Ok(Self {
            server: server.to_owned(),
            client,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_read_back_from_its_text() {
        let greeting = Greeting {
            server: "web-1".into(),
            client: "[fd00::1]:80".parse().expect("valid"),
        };
        assert_eq!(
            format!("{greeting}\n")
                .parse::<Greeting>()
                .expect("its own text"),
            greeting
        );
    }
}
