//! One connection in a test's hands: said what to, and when, and how to end.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, socket};

use crate::{
    ns::Namespace,
    traffic::{
        Greeting,
        client::{PATIENCE, greeted, tcp_connect},
    },
};

/// An open connection to a [`TcpServer`](crate::traffic::TcpServer).
#[derive(Debug)]
pub struct TcpLine {
    /// Who answered, and by which address it sees the client.
    pub greeting: Greeting,
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl TcpLine {
    /// Connects from inside `ns`, from `port` if one is given, though another connection to somewhere
    /// else has it too.
    pub fn open(ns: &Namespace, server: SocketAddr, port: Option<u16>) -> Result<Self> {
        let opened = ns.run(|| {
            let stream = tcp_connect(server, port, PATIENCE)?;
            let (greeting, reader) = greeted(&stream)?;
            Ok(Self {
                greeting,
                stream,
                reader,
            })
        });
        opened.with_context(|| format!("connect to {server}"))
    }

    /// Says something and hears it again, unchanged.
    pub fn echo(&mut self, words: &[u8]) -> io::Result<()> {
        self.stream.write_all(words)?;
        let mut echoed = vec![0; words.len()];
        self.reader.read_exact(&mut echoed)?;
        if echoed == words {
            Ok(())
        } else {
            let message = "the echo has other words";
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }

    /// Bytes that a segment of it may carry.
    pub fn segment_size(&self) -> Result<u32> {
        Ok(getsockopt(&self.stream, sockopt::TcpMaxSeg)?)
    }

    /// Closes it with a FIN, and waits for the server's.
    pub fn finish(mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        self.reader.read_to_end(&mut rest)?;
        Ok(())
    }

    /// Ends it with a reset.
    pub fn reset(self) -> Result<()> {
        let reset = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        Ok(setsockopt(&self.stream, sockopt::Linger, &reset)?)
    }
}

/// Opens a connection from inside `ns` by a SYN that carries `words`, where the namespace's
/// `tcp_fastopen` lets it, and hears the greeting and the words.
pub fn open_with_data(ns: &Namespace, server: SocketAddr, words: &[u8]) -> Result<Greeting> {
    let opened = ns.run(|| {
        let family = if server.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let fd = socket(family, SocketType::STREAM, None)?;
        let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
        let sent = sendto(&fd, words, fast_open, &server).context("send with the SYN")?;
        let stream = TcpStream::from(fd);
        stream.set_read_timeout(Some(PATIENCE))?;
        let (greeting, mut reader) = greeted(&stream)?;
        let mut echoed = vec![0; sent];
        reader.read_exact(&mut echoed)?;
        anyhow::ensure!(echoed == words, "other words came back");
        Ok(greeting)
    });
    opened.with_context(|| format!("open a connection to {server} with data"))
}
