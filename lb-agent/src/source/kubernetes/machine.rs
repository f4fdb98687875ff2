//! Everything that is decided about the API server, without a connection and without a clock:
//! answers and the time go in, requests and model events come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::backoff::Jitter;
use super::failure::{Failure, Heard};
use super::holdings::Holdings;
use super::problem::{ApiProblem, Saying, Sayings};
use super::request::Request;
use super::servers::{Servers, Url};
use super::watch::Watch;
use super::{Fault, Time, Timing};
use crate::model::event::{Event, Kind};
use crate::source::report::Problem;

/// The longest a server may make us wait.
const LONGEST_RETRY_AFTER: u64 = 120;
/// What a live stream must have said lately not to be suspected with the server it is on.
const LATELY: Time = Time::from_secs(30);

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Input<'a> {
    /// Time passed.
    Tick,
    /// The head of an answer: HTTP status, and its `Retry-After` in seconds.
    Head(Kind, u16, Option<u64>),
    /// A piece of the answer's body.
    Chunk(Kind, &'a [u8]),
    /// The answer is over.
    End(Kind),
    /// The connection failed.
    Fault(Kind, Fault),
}

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Ask a server; the answer to an earlier request of the kind is no longer wanted.
    Ask(Url, Request),
    /// Give up the request of the kind.
    Drop(Kind),
    /// Read the credentials for a server again before the next request.
    Renew(Url),
    /// Keep the addresses of the API servers for the next start, and which of all works.
    Remember(Vec<Url>, Url),
    /// Tell the operator.
    Say(Saying),
}

/// What an input leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Output {
    /// For the model.
    pub events: Vec<Event>,
    /// For the shell, in this order.
    pub actions: Vec<Action>,
}

/// What the watches of a kind have met so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Full lists that began.
    pub relists: u64,
    /// Bookmarks of watches.
    pub bookmarks: u64,
    /// Requests that failed, each counted once; watches that the server ends in time do not count.
    pub errors: u64,
}

/// The state of all watches.
#[derive(Debug)]
pub struct Machine {
    node_name: String,
    timing: Timing,
    jitter: Jitter,
    servers: Servers,
    /// Whether servers the cluster names may be asked: not where the settings name one without TLS.
    may_learn: bool,
    watches: BTreeMap<Kind, Watch>,
    /// Where the request of a kind went.
    asked: BTreeMap<Kind, Url>,
    /// Complete lists the model has not been told of.
    untold: BTreeSet<Kind>,
    listed: BTreeMap<Kind, Time>,
    heard: Option<Time>,
    holdings: Holdings,
    problems: BTreeMap<Kind, ApiProblem>,
    node_problem: Option<ApiProblem>,
    sayings: Sayings,
    /// Whether a problem was said that is not known to be over.
    is_troubled: bool,
    absent: bool,
    /// The server that answered last.
    working: Option<Url>,
    remembered: Option<(Vec<Url>, Url)>,
    learnt: Vec<Url>,
    tallies: BTreeMap<Kind, Tally>,
}

impl Machine {
    /// A machine for the agent of a Node, with nothing asked yet.
    pub fn new(
        node_name: &str,
        servers: Servers,
        may_learn: bool,
        timing: Timing,
        seed: u64,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            timing,
            jitter: Jitter::new(seed),
            servers,
            may_learn,
            watches: Kind::ALL.map(|kind| (kind, Watch::new(kind))).into(),
            asked: BTreeMap::new(),
            untold: BTreeSet::new(),
            listed: BTreeMap::new(),
            heard: None,
            holdings: Holdings::default(),
            problems: BTreeMap::new(),
            node_problem: None,
            sayings: Sayings::default(),
            is_troubled: false,
            absent: false,
            working: None,
            remembered: None,
            learnt: Vec::new(),
            tallies: BTreeMap::new(),
        }
    }

    /// When to tick at the latest.
    pub fn due(&self) -> Time {
        let due = self.watches.values().map(|watch| watch.due(&self.timing));
        due.min().unwrap_or(Time::MAX)
    }

    /// Path and query of a request.
    pub fn target(&self, request: &Request) -> String {
        request.target(&self.node_name)
    }

    /// The server that answered last; `None` if none ever did.
    pub const fn working(&self) -> Option<&Url> {
        self.working.as_ref()
    }

    /// The server that is asked now.
    pub const fn server(&self) -> &Url {
        self.servers.current()
    }

    /// When an object last came.
    pub const fn heard(&self) -> Option<Time> {
        self.heard
    }

    /// When Services and `EndpointSlices` were last listed as a whole.
    pub fn listed(&self) -> Option<Time> {
        let service = self.listed.get(&Kind::Service)?;
        let slice = self.listed.get(&Kind::EndpointSlice)?;
        Some(*service.max(slice))
    }

    /// What the watches have met.
    pub const fn tallies(&self) -> &BTreeMap<Kind, Tally> {
        &self.tallies
    }

    /// What is wrong between us and the server now.
    pub fn problems(&self) -> Vec<ApiProblem> {
        let mut problems: Vec<_> = self.problems.values().cloned().collect();
        problems.extend(self.node_problem.clone());
        problems.sort();
        problems.dedup();
        problems
    }

    /// Whether what is wrong with objects has changed since the last call.
    pub const fn take_object_news(&mut self) -> bool {
        std::mem::replace(&mut self.holdings.has_new_notes, false)
    }

    /// What is wrong with objects.
    pub fn object_problems(&self) -> Vec<Problem> {
        self.holdings.problems()
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Time) -> Output {
        let mut output = Output::default();
        match input {
            Input::Tick => {
                for kind in Kind::ALL {
                    self.with(kind, now, &mut output, |watch, timing| {
                        watch.tick(now, timing)
                    });
                }
            }
            Input::Head(kind, code, retry_after) => {
                self.with(kind, now, &mut output, |watch, _| {
                    watch.head(code, retry_after, now)
                });
            }
            Input::Chunk(kind, bytes) => {
                self.with(kind, now, &mut output, |watch, _| watch.chunk(bytes, now));
            }
            Input::End(kind) => self.with(kind, now, &mut output, |watch, _| watch.end(now)),
            Input::Fault(kind, fault) => self.with(kind, now, &mut output, |_, _| Heard {
                failure: Some(Failure::Fault(fault)),
                ..Heard::default()
            }),
        }
        self.tell_listed(&mut output);
        self.check_node(now, &mut output);
        self.remember(&mut output);
        self.ask(now, &mut output);
        output
    }

    /// Lets a watch take something in, and does what comes of it.
    fn with(
        &mut self,
        kind: Kind,
        now: Time,
        output: &mut Output,
        take: impl FnOnce(&mut Watch, &Timing) -> Heard,
    ) {
        let Some(watch) = self.watches.get_mut(&kind) else {
            return;
        };
        let heard = take(watch, &self.timing);
        if !heard.objects.is_empty() {
            self.heard = Some(now);
        }
        self.tallies.entry(kind).or_default().bookmarks += heard.bookmarks;
        for object in heard.objects {
            if self.holdings.take(kind, object, &mut output.events) {
                self.learnt = self.holdings.servers();
            }
        }
        if heard.is_complete {
            self.complete(kind, now, output);
        }
        if heard.is_working || heard.is_complete {
            self.works(kind, output);
        }
        if let Some(failure) = heard.failure {
            self.failed(kind, &failure, now, output);
        }
    }

    fn complete(&mut self, kind: Kind, now: Time, output: &mut Output) {
        if self.holdings.complete(kind, &mut output.events) {
            self.learnt = self.holdings.servers();
        }
        self.listed.insert(kind, now);
        self.untold.insert(kind);
        if kind == Kind::ServiceCidr {
            self.absent = false;
        }
    }

    /// Tells the model of complete lists. Those of Services and `EndpointSlices` wait until nothing
    /// can have been missed of either: the model then deletes what is gone, and a Service whose
    /// slices are not known would look like one without endpoints.
    fn tell_listed(&mut self, output: &mut Output) {
        let pair = [Kind::Service, Kind::EndpointSlice];
        let is_sure = |kind| self.watches.get(kind).is_some_and(Watch::is_sure);
        let is_pair_sure = pair.iter().all(is_sure);
        self.untold.retain(|kind| {
            let is_told = is_pair_sure || !pair.contains(kind);
            if is_told {
                output.events.push(Event::Listed(*kind));
            }
            !is_told
        });
    }

    fn works(&mut self, kind: Kind, output: &mut Output) {
        self.working = self.asked.get(&kind).cloned();
        self.problems.remove(&kind);
        if self.problems.is_empty()
            && std::mem::take(&mut self.is_troubled)
            && let Some(server) = &self.working
        {
            let server = Arc::clone(server);
            output
                .actions
                .push(Action::Say(Saying::Recovered { server }));
        }
    }

    fn failed(&mut self, kind: Kind, failure: &Failure, now: Time, output: &mut Output) {
        let Some(watch) = self.watches.get_mut(&kind) else {
            return;
        };
        let counts = watch.failed(failure, now);
        let failures = watch.failures();
        output.actions.push(Action::Drop(kind));
        let server = self.asked.get(&kind).unwrap_or(self.servers.current());
        let server = Arc::clone(server);
        if matches!(failure, Failure::Status(status) if status.code == 404)
            && kind == Kind::ServiceCidr
        {
            return self.without_cidrs(now, output);
        }
        let mut delay = Time::ZERO;
        if counts {
            self.tallies.entry(kind).or_default().errors += 1;
            let is_moving = self.rotate(failure, failures, &server, now, output);
            let rounds = u32::try_from(self.servers.count())
                .unwrap_or(u32::MAX)
                .max(1);
            delay = if is_moving && failures <= rounds {
                self.jitter
                    .between(Time::ZERO, self.timing.backoff.first / 2)
            } else {
                let turn = failures.div_ceil(rounds);
                self.timing.backoff.delay(turn, &mut self.jitter)
            };
            if let Failure::Status(status) = failure
                && let Some(seconds) = status.retry_after_seconds()
            {
                let asked = Time::from_secs(seconds.min(LONGEST_RETRY_AFTER));
                let spread = asked / 4 + self.timing.backoff.first;
                delay = delay.max(self.jitter.between(asked, asked + spread));
            }
            if let Some(problem) = failure.problem(kind, failures, &server) {
                self.trouble(kind, problem, now, output);
            }
        }
        if let Some(watch) = self.watches.get_mut(&kind) {
            watch.wait(now + delay);
        }
    }

    /// Goes to the next server if this one is at fault. True if there is another.
    fn rotate(
        &mut self,
        failure: &Failure,
        failures: u32,
        server: &Url,
        now: Time,
        output: &mut Output,
    ) -> bool {
        let (is_at_fault, is_renewed) = failure.fault(failures);
        if is_renewed {
            output.actions.push(Action::Renew(Arc::clone(server)));
        }
        if !is_at_fault {
            return false;
        }
        self.servers.failed(server);
        let has_moved = self.servers.current() != server;
        if has_moved {
            self.suspect(server, now, output);
        }
        has_moved
    }

    /// The streams on a server that others found to be gone would stay silent for a while: they go
    /// on elsewhere now.
    fn suspect(&mut self, server: &Url, now: Time, output: &mut Output) {
        let lately = now.saturating_sub(LATELY);
        for (kind, watch) in &mut self.watches {
            if self.asked.get(kind) == Some(server) && watch.is_quiet_since(lately) {
                output.actions.push(Action::Drop(*kind));
                watch.wait(now);
            }
        }
    }

    /// The server has no `ServiceCIDR`s: the agent goes on without, and looks again later.
    fn without_cidrs(&mut self, now: Time, output: &mut Output) {
        let kind = Kind::ServiceCidr;
        if let Some(watch) = self.watches.get_mut(&kind) {
            watch.absent();
            watch.wait(now + self.timing.absent);
        }
        self.works(kind, output);
        if !self.absent {
            self.complete(kind, now, output);
            self.absent = true;
            output.actions.push(Action::Say(Saying::Absent(kind)));
        }
    }

    fn trouble(&mut self, kind: Kind, problem: ApiProblem, now: Time, output: &mut Output) {
        if self.sayings.is_due(&problem, now) {
            output
                .actions
                .push(Action::Say(Saying::Problem(problem.clone())));
            self.is_troubled = true;
        }
        self.problems.insert(kind, problem);
    }

    /// A node of another name runs on, without its zone and addresses.
    fn check_node(&mut self, now: Time, output: &mut Output) {
        if !self.listed.contains_key(&Kind::Node) {
            return;
        }
        if self.holdings.has_node() {
            self.node_problem = None;
            return;
        }
        let problem = ApiProblem::NodeMissing {
            name: self.node_name.clone(),
        };
        if self.sayings.is_due(&problem, now) {
            output
                .actions
                .push(Action::Say(Saying::Problem(problem.clone())));
        }
        self.node_problem = Some(problem);
    }

    /// Keeps the servers' addresses, once they are other ones. A cluster that says it has none is
    /// not believed.
    fn remember(&mut self, output: &mut Output) {
        let Some(working) = &self.working else {
            return;
        };
        if !self.may_learn || self.learnt.is_empty() {
            return;
        }
        let now = (self.learnt.clone(), Arc::clone(working));
        if self.remembered.as_ref() != Some(&now) {
            self.servers.learn(now.0.clone());
            output
                .actions
                .push(Action::Remember(now.0.clone(), Arc::clone(&now.1)));
            self.remembered = Some(now);
        }
    }

    /// Asks what is due. A list that begins anew is announced, so that nothing is taken for gone
    /// because it has not been named yet.
    fn ask(&mut self, now: Time, output: &mut Output) {
        for (kind, watch) in &mut self.watches {
            if watch.take_restart() {
                self.untold.remove(kind);
                self.tallies.entry(*kind).or_default().relists += 1;
                self.holdings.restart(*kind);
                output.events.push(Event::Restarted(*kind));
            }
            if let Some(request) = watch.request(now, &self.timing, &mut self.jitter) {
                let server = Arc::clone(self.servers.current());
                self.asked.insert(*kind, Arc::clone(&server));
                output.actions.push(Action::Ask(server, request));
            }
        }
    }
}
