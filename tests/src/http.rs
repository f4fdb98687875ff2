//! A blocking HTTP/1.1 client, plain enough to show what is on the wire: chunks as they come, and
//! whether an answer ended or broke off.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// A connection that bytes go through both ways.
pub trait Connection: Read + Write {}

impl<T: Read + Write> Connection for T {}

/// The head of an answer, and its body as far as nobody has read it.
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers with names in lower case, in the order of the wire.
    pub headers: Vec<(String, String)>,
    connection: BufReader<Box<dyn Connection>>,
    length: Length,
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Length {
    Known(usize),
    Chunked,
}

/// Asks `path` of a server; `headers` are added to the request.
pub fn get(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    patience: Duration,
) -> Result<Answer> {
    ask(
        Box::new(connect(address, patience)?),
        "GET",
        path,
        headers,
        "",
    )
}

/// A connection whose reads and writes fail after `patience`.
pub fn connect(address: SocketAddr, patience: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    Ok(stream)
}

/// The same over TLS, if the server's certificate is by the authority of `authority_pem`.
pub fn connect_tls(
    address: SocketAddr,
    authority_pem: &str,
    patience: Duration,
) -> Result<Box<dyn Connection>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority_pem.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
    let mut stream = connect(address, patience)?;
    client.complete_io(&mut stream)?;
    Ok(Box::new(StreamOwned::new(client, stream)))
}

/// Sends a request and reads the head of its answer.
pub fn ask(
    mut connection: Box<dyn Connection>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        let line = format!("{name}: {value}\r\n");
        request += &line;
    }
    request.push_str("\r\n");
    request.push_str(body);
    connection.write_all(request.as_bytes())?;
    let mut connection = BufReader::new(connection);
    let first = line(&mut connection)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {first:?}"))?;
    let headers = read_headers(&mut connection)?;
    let find = |wanted: &str| {
        let found = headers.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    };
    let length = match find("content-length") {
        Some(length) => Length::Known(length.parse()?),
        None if find("transfer-encoding") == Some("chunked") => Length::Chunked,
        None => bail!("an answer without a length: {headers:?}"),
    };
    Ok(Answer {
        status,
        headers,
        connection,
        length,
    })
}

impl Answer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads the whole body; an error if it breaks off.
    pub fn body(mut self) -> Result<Vec<u8>> {
        if let Length::Known(length) = self.length {
            let mut body = vec![0; length];
            self.connection.read_exact(&mut body)?;
            return Ok(body);
        }
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend(chunk);
        }
        Ok(body)
    }

    /// The next chunk of a chunked body; `None` after the last. A connection that ends before is an
    /// error.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let size = line(&mut self.connection)?;
        let size = usize::from_str_radix(&size, 16).with_context(|| format!("size {size:?}"))?;
        let mut chunk = vec![0; size];
        self.connection.read_exact(&mut chunk)?;
        line(&mut self.connection)?;
        Ok((size > 0).then_some(chunk))
    }
}

fn read_headers(connection: &mut BufReader<Box<dyn Connection>>) -> Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = line(connection)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').context("a header without a colon")?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn line(connection: &mut BufReader<Box<dyn Connection>>) -> Result<String> {
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(line.trim_end().to_owned())
}
