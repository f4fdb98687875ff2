//! A long-lived flow: question and answer without end, while something happens to the cluster.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    clock,
    ns::Namespace,
    traffic::{
        Transport,
        client::{PATIENCE, greeted, tcp_connect, udp_exchange, udp_socket},
    },
};

/// The pause between exchanges: a flow shall be sensitive, not a load.
const PAUSE: Duration = Duration::from_millis(2);

/// What a flow went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Everyone who answered: exactly one, unless the flow was moved.
    pub servers: BTreeSet<String>,
    /// Questions that were answered.
    pub exchanges: u64,
    /// The longest time between a question and its answer.
    pub longest_stall: Duration,
    /// Why it ended before it was stopped: a reset, a refusal, or no answer in five seconds.
    pub failure: Option<String>,
}

/// A running flow.
#[derive(Debug)]
pub struct LongFlow {
    /// Who answered first.
    pub server: String,
    exchanges: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<FlowReport>>,
}

impl LongFlow {
    /// Opens a flow from inside `ns`; an error if not even the first answer arrives.
    pub fn start(ns: &Namespace, server: SocketAddr, transport: Transport) -> Result<Self> {
        let opened = ns.run(|| Ok(Line::open(server, transport)?));
        let (mut line, name) =
            opened.with_context(|| format!("open a {transport} flow to {server}"))?;
        let exchanges = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counter, stopped, first) = (Arc::clone(&exchanges), Arc::clone(&stop), name.clone());
        let thread = thread::spawn(move || converse(&mut line, first, &counter, &stopped));
        Ok(Self {
            server: name,
            exchanges,
            stop,
            thread: Some(thread),
        })
    }

    /// Exchanges so far; a flow that lives counts on.
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself: what it met is a failure.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the flow and tells what it went through.
    pub fn stop(mut self) -> Result<FlowReport> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a flow is stopped once")?;
        thread
            .join()
            .map_err(|_panic| anyhow!("a flow's thread panicked"))
    }
}

impl Drop for LongFlow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever drops a flow does not ask how it was.
            thread.join().ok();
        }
    }
}

/// The two ends that a flow can hold on to.
enum Line {
    Tcp {
        stream: TcpStream,
        reader: BufReader<TcpStream>,
        server: String,
    },
    Udp(UdpSocket),
}

impl Line {
    fn open(server: SocketAddr, transport: Transport) -> io::Result<(Self, String)> {
        match transport {
            Transport::Tcp => {
                let stream = tcp_connect(server, None, PATIENCE)?;
                let (greeting, reader) = greeted(&stream)?;
                let server = greeting.server.clone();
                Ok((
                    Self::Tcp {
                        stream,
                        reader,
                        server,
                    },
                    greeting.server,
                ))
            }
            Transport::Udp => {
                let socket = udp_socket(server, PATIENCE)?;
                let greeting = udp_exchange(&socket, b"hello")?;
                Ok((Self::Udp(socket), greeting.server))
            }
        }
    }

    /// Asks question `number` and returns who answered.
    fn ask(&mut self, number: u64) -> io::Result<String> {
        let question = format!("question {number}\n");
        match self {
            Self::Udp(socket) => Ok(udp_exchange(socket, question.as_bytes())?.server),
            Self::Tcp {
                stream,
                reader,
                server,
            } => {
                stream.write_all(question.as_bytes())?;
                let mut answer = String::new();
                reader.read_line(&mut answer)?;
                if answer == question {
                    Ok(server.clone())
                } else {
                    let message = format!("answer {answer:?} to {question:?}");
                    Err(io::Error::new(ErrorKind::InvalidData, message))
                }
            }
        }
    }
}

fn converse(line: &mut Line, first: String, counter: &AtomicU64, stop: &AtomicBool) -> FlowReport {
    let mut report = FlowReport {
        servers: BTreeSet::from([first]),
        ..FlowReport::default()
    };
    while !stop.load(Ordering::Relaxed) {
        let asked = clock::now();
        match line.ask(report.exchanges) {
            Ok(server) => {
                report.servers.insert(server);
                report.exchanges += 1;
                counter.store(report.exchanges, Ordering::Relaxed);
            }
            Err(error) => {
                report.failure = Some(format!("exchange {}: {error}", report.exchanges));
            }
        }
        report.longest_stall = report.longest_stall.max(asked.elapsed());
        if report.failure.is_some() {
            break;
        }
        thread::park_timeout(PAUSE);
    }
    report
}
