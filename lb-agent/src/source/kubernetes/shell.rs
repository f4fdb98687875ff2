//! Around the machine: sends what it asks, feeds it what comes back and the time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::access::{Access, AccessError};
use super::connection::{Connections, Piece};
use super::events::{EventReceiver, Gravity, Note, Outbox, Regarding};
use super::known::{self, Known};
use super::machine::{Action, Input, Machine, Output, Tally};
use super::metrics::ApiMetrics;
use super::problem::{ApiProblem, Saying};
use super::servers::{Servers, Url};
use super::{KubernetesOptions, Time};
use crate::clock;
use crate::model::event::{Event, Kind};
use crate::source::report::{ApiReport, SourceReport};

/// Events that may wait for the agent before no more is read from the servers.
const MAX_WAITING: usize = 1024;
/// The least time between two reports that differ in nothing but times.
const REPORT_INTERVAL: Time = Time::from_secs(1);
/// How long sending an Event may take.
const EVENT_TIMEOUT: Time = Time::from_secs(10);

/// Watches the API server and sends what there is, then what changes, until nobody receives.
///
/// Only what is wrong at the start ends it: after that it asks for as long as it takes.
pub async fn run(
    options: KubernetesOptions,
    events: mpsc::Sender<Vec<Event>>,
    reports: watch::Sender<SourceReport>,
    notes: EventReceiver,
) -> Result<(), AccessError> {
    let access = Access::load(options.api.clone()).await?;
    let known = Known::read(&options.state_dir);
    let may_learn = access.may_learn();
    let learnt = if may_learn {
        known.servers()
    } else {
        Vec::new()
    };
    let servers = Servers::new(
        access.configured(),
        learnt,
        access.environment(),
        known.last().as_ref(),
    );
    let servers = servers.ok_or(AccessError::NoServer)?;
    let machine = Machine::new(
        &options.node_name,
        servers,
        may_learn,
        options.timing,
        options.seed,
    );
    let connections = Connections::new(access, options.timing.connect, options.metrics.clone());
    let shell = Shell {
        machine,
        connections: Arc::new(connections),
        streams: Streams::default(),
        outbox: Outbox::new(&options.node_name),
        sending: None,
        node_name: options.node_name,
        state_dir: options.state_dir,
        looks_on: options.looks_on,
        start: Instant::from_std(clock::instant()),
        waiting: Vec::new(),
        unkept: None,
        metrics: options.metrics,
        tallied: BTreeMap::new(),
        reports,
        reported: Time::ZERO,
        is_report_due: true,
    };
    shell.serve(events, notes).await;
    Ok(())
}

struct Shell {
    machine: Machine,
    connections: Arc<Connections>,
    streams: Streams,
    outbox: Outbox,
    /// The Event that is being sent.
    sending: Option<BoxFuture<'static, Option<u16>>>,
    node_name: String,
    state_dir: PathBuf,
    looks_on: bool,
    start: Instant,
    /// Events for the agent.
    waiting: Vec<Event>,
    unkept: Option<ApiProblem>,
    metrics: ApiMetrics,
    /// What of the machine's tallies is counted.
    tallied: BTreeMap<Kind, Tally>,
    reports: watch::Sender<SourceReport>,
    reported: Time,
    is_report_due: bool,
}

impl Shell {
    async fn serve(mut self, events: mpsc::Sender<Vec<Event>>, mut notes: EventReceiver) {
        let mut has_notes = true;
        self.tick();
        loop {
            self.report();
            let due = self.due();
            tokio::select! {
                biased;
                permit = events.reserve(), if !self.waiting.is_empty() => match permit {
                    Ok(permit) => permit.send(std::mem::take(&mut self.waiting)),
                    Err(_) => return,
                },
                // What has arrived comes before the time: it is not silent, only we were busy.
                (kind, piece) = self.streams.next(), if self.waiting.len() < MAX_WAITING => {
                    self.take(kind, &piece);
                }
                () = events.closed() => return,
                status = sent(&mut self.sending), if self.sending.is_some() => {
                    self.sending = None;
                    self.outbox.answered(status, self.now());
                }
                note = notes.recv(), if has_notes && self.outbox.has_room() => match note {
                    Some(note) => self.outbox.offer(note, self.now()),
                    None => has_notes = false,
                },
                () = sleep_until(due), if self.waiting.len() < MAX_WAITING => self.tick(),
            }
        }
    }

    fn now(&self) -> Time {
        Instant::from_std(clock::instant()).saturating_duration_since(self.start)
    }

    fn due(&self) -> Instant {
        let mut due = self.machine.due();
        if let Some(outbox) = self.outbox.due() {
            due = due.min(outbox);
        }
        if self.is_report_due {
            due = due.min(self.reported + REPORT_INTERVAL);
        }
        // Far enough where nothing is due, and near enough for the sum to exist.
        self.start + due.min(self.now() + Time::from_hours(1))
    }

    fn tick(&mut self) {
        let now = self.now();
        if self.machine.due() <= now {
            let output = self.machine.handle(Input::Tick, now);
            self.carry_out(output);
        }
        if self.sending.is_none()
            && let Some(post) = self.outbox.next(now, clock::unix_micros())
        {
            let connections = Arc::clone(&self.connections);
            let server = Arc::clone(self.machine.server());
            let body = post.body.to_string().into_bytes();
            self.sending = Some(Box::pin(async move {
                let send = connections.send(&server, post.method, &post.target, body);
                let answer = timeout(EVENT_TIMEOUT, send).await.ok()?.ok()?;
                Some(answer.status().as_u16())
            }));
        }
    }

    fn take(&mut self, kind: Kind, piece: &Piece) {
        let now = self.now();
        let output = match piece {
            Piece::Head(code, retry_after) => {
                let head = Input::Head(kind, *code, *retry_after);
                self.machine.handle(head, now)
            }
            Piece::Chunk(bytes) => self.machine.handle(Input::Chunk(kind, bytes), now),
            Piece::End => self.machine.handle(Input::End(kind), now),
            Piece::Fault(fault) => self.machine.handle(Input::Fault(kind, fault.clone()), now),
        };
        self.carry_out(output);
    }

    fn carry_out(&mut self, output: Output) {
        self.waiting.extend(output.events);
        self.is_report_due = true;
        for action in output.actions {
            match action {
                Action::Ask(server, request) => {
                    let target = self.machine.target(&request);
                    tracing::debug!(%server, target, "asking");
                    let stream = Arc::clone(&self.connections).get(server, target);
                    self.streams.open(request.kind, stream);
                }
                Action::Drop(kind) => self.streams.close(kind),
                Action::Renew(server) => self.connections.renew(&server),
                Action::Remember(servers, last) => self.remember(&servers, &last),
                Action::Say(saying) => {
                    self.say(saying);
                    self.reported = Time::ZERO;
                }
            }
        }
    }

    fn remember(&mut self, servers: &[Url], last: &Url) {
        if self.looks_on {
            return;
        }
        let result = Known::new(servers, last).write(&self.state_dir);
        self.unkept = result.err().map(|error| ApiProblem::Unkept {
            path: known::path(&self.state_dir),
            message: error.to_string(),
        });
        if let Some(problem) = &self.unkept {
            tracing::warn!("{problem}");
        }
    }

    fn say(&mut self, saying: Saying) {
        match saying {
            Saying::Problem(problem) => {
                tracing::warn!("{problem}");
                if self.looks_on {
                    return;
                }
                let note = Note {
                    gravity: Gravity::Warning,
                    regarding: Regarding::node(&self.node_name),
                    reason: problem.reason(),
                    action: "Watch",
                    text: problem.to_string(),
                };
                self.outbox.offer(note, self.now());
            }
            Saying::Recovered { server } => tracing::info!(%server, "the API server answers"),
            Saying::Absent(kind) => tracing::info!(
                "the API server has no {} objects: the agent goes on without",
                kind.name()
            ),
        }
    }

    /// Says how it is, at once where something else is wrong.
    fn report(&mut self) {
        let now = self.now();
        let is_time =
            now.saturating_sub(self.reported) >= REPORT_INTERVAL || self.reported == Time::ZERO;
        if !self.is_report_due || !is_time {
            return;
        }
        self.is_report_due = false;
        self.reported = now.max(Time::from_nanos(1));
        let wall = clock::unix_seconds();
        let at = |time: Time| wall.saturating_sub(now.saturating_sub(time).as_secs());
        let mut problems = self.machine.problems();
        problems.extend(self.unkept.clone());
        let server = self.machine.working().unwrap_or(self.machine.server());
        self.metrics.uses(server);
        self.metrics.tally(&self.tallied, self.machine.tallies());
        self.tallied.clone_from(self.machine.tallies());
        if let Some(heard) = self.machine.heard() {
            let ago = now.saturating_sub(heard).as_secs_f64();
            self.metrics.heard(clock::moment().unix.as_secs_f64() - ago);
        }
        let api = ApiReport {
            server: server.to_string(),
            last_event_at: self.machine.heard().map(at),
            last_list_at: self.machine.listed().map(at),
            problems,
        };
        let has_object_news = self.machine.take_object_news();
        self.reports.send_if_modified(|report| {
            let is_new = has_object_news || report.api.as_ref() != Some(&api);
            if has_object_news {
                report.problems = self.machine.object_problems();
            }
            report.api = Some(api);
            is_new
        });
    }
}

/// The status of an Event's request; never where there is none.
async fn sent(sending: &mut Option<BoxFuture<'static, Option<u16>>>) -> Option<u16> {
    match sending {
        Some(sending) => sending.await,
        None => std::future::pending().await,
    }
}

/// The answers that are arriving, one of a kind.
#[derive(Default)]
struct Streams {
    open: BTreeMap<Kind, BoxStream<'static, Piece>>,
    /// Whose turn it is: a kind that floods must not keep the others waiting.
    turn: usize,
}

impl Streams {
    fn open(&mut self, kind: Kind, stream: BoxStream<'static, Piece>) {
        self.open.insert(kind, stream);
    }

    fn close(&mut self, kind: Kind) {
        self.open.remove(&kind);
    }

    /// The next piece of any; never where there is none.
    async fn next(&mut self) -> (Kind, Piece) {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Kind, Piece)> {
        for step in 0..Kind::ALL.len() {
            let place = (self.turn + step) % Kind::ALL.len();
            let kind = Kind::ALL[place];
            let Some(stream) = self.open.get_mut(&kind) else {
                continue;
            };
            match Pin::new(stream).poll_next(context) {
                Poll::Ready(Some(piece)) => {
                    self.turn = place + 1;
                    return Poll::Ready((kind, piece));
                }
                Poll::Ready(None) => self.close(kind),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}
