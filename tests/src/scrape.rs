//! Asks a server of this host one question, as plainly as can be: what comes back is every byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::clock::eventually;

/// How long a server may take to listen, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Head and body of the answer to GET; waits until somebody listens.
pub fn get(address: SocketAddr, path: &str) -> Result<(String, String)> {
    eventually(&format!("an answer at {address}"), PATIENCE, || {
        try_get(address, path)
    })
}

/// The same; `None` where nobody listens now.
pub fn try_get(address: SocketAddr, path: &str) -> Result<Option<(String, String)>> {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer));
    if asked.is_err() || answer.is_empty() {
        // It was closed between the connection and the answer.
        return Ok(None);
    }
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the head")?;
    Ok(Some((head.to_owned(), body.to_owned())))
}
