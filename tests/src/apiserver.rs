//! A Kubernetes API server inside the test: lists, watches, bookmarks, paging and streaming lists
//! as a real one sends them, and every way of failing on demand.
//!
//! It runs on a thread of its own, so tests may be asynchronous or not, and agents may be processes.
//! What it knows is what tests [`apply`](ApiServer::apply) and [`delete`](ApiServer::delete), or what
//! a recording of a real server replays. `tests/tests/scenario_apiserver.rs` asks it what the real
//! one was asked and compares the answers, so that it cannot drift from it.
//!
//! Left out, since no node agent needs it: discovery, other verbs and resources, protobuf, HTTP/2,
//! client certificates.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc as ack};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::clock;

pub mod access;
mod answer;
mod body;
pub mod fault;
mod list;
mod object;
mod query;
pub mod resource;
mod route;
mod selector;
mod serve;
mod state;
mod status;
mod store;
mod tls;
mod watch;
mod write;

pub use access::{PolicyRule, Request, Verb};
pub use fault::{Cut, Fault, Rule};
pub use resource::Resource;

use serve::Command;
use state::{Control, Inner};
use tls::Identity;

/// How long the server's thread may take to do what it is told.
const PROMPTNESS: Duration = Duration::from_secs(10);

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    inner: Arc<Inner>,
    address: SocketAddr,
    authority_pem: Option<String>,
    /// `None` only while it is being dropped.
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// A server on a free port of the loopback address, over plain HTTP.
    pub fn start() -> Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), None)
    }

    /// The same over TLS, with an authority of its own.
    pub fn start_tls() -> Result<Self> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let identity = Identity::generate(address)?;
        Self::start_at(SocketAddr::from((address, 0)), Some(&identity))
    }

    fn start_at(address: SocketAddr, identity: Option<&Identity>) -> Result<Self> {
        let inner = Arc::new(Inner::new(identity.map(|it| Arc::clone(&it.config))));
        let (commands, receiver) = mpsc::unbounded_channel();
        let (ready, is_ready) = ack::channel();
        let thread = thread::Builder::new().name("apiserver".to_owned()).spawn({
            let inner = Arc::clone(&inner);
            move || serve::run(inner, address, receiver, &ready)
        })?;
        let address = is_ready
            .recv_timeout(PROMPTNESS)
            .context("the API server's thread says nothing")?
            .with_context(|| format!("listen at {address}"))?;
        Ok(Self {
            inner,
            address,
            authority_pem: identity.map(|it| it.authority_pem.clone()),
            commands: Some(commands),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        let scheme = if self.authority_pem.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate of its authority, of a server over TLS.
    pub fn authority_pem(&self) -> Option<&str> {
        self.authority_pem.as_deref()
    }

    /// A kubeconfig for it, in JSON, which is YAML; with a bearer token, if there is one.
    pub fn kubeconfig(&self, token: Option<&str>) -> Value {
        let mut cluster = json!({ "server": self.url() });
        if let Some(pem) = &self.authority_pem {
            cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
        }
        let user = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": "test", "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        })
    }

    /// Creates or replaces an object; its kind says where. The revision it got.
    pub fn apply(&self, object: &Value) -> Result<u64> {
        let resource = Resource::of(object).context("an object of a kind that is served")?;
        self.inner.change(|state| {
            let object = state.store.with_identity(resource, object)?;
            state.store.put(resource, &object, None)
        })
    }

    /// Deletes an object; `namespace` is empty for what is not namespaced.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Result<u64> {
        let removed = self
            .inner
            .change(|state| state.store.remove(resource, (namespace, name), None))?;
        removed.with_context(|| format!("{} {namespace}/{name} is not there", resource.kind()))
    }

    /// Writes the state of an object just as a real server had it, at its own revision, which has to
    /// be later than all before.
    pub fn restore(&self, resource: Resource, object: &Value, revision: u64) -> Result<()> {
        let put = |state: &mut state::State| state.store.put(resource, object, Some(revision));
        self.inner.change(put).map(drop)
    }

    /// Deletes an object at a revision of a real server.
    pub fn restore_deletion(
        &self,
        resource: Resource,
        (namespace, name): (&str, &str),
        revision: u64,
    ) -> Result<()> {
        let removed = self.inner.change(|state| {
            let place = (namespace, name);
            state.store.remove(resource, place, Some(revision))
        })?;
        let what = || format!("{} {namespace}/{name} is not there", resource.kind());
        removed.with_context(what).map(drop)
    }

    /// Moves on to a revision that something else than the objects served here has reached.
    pub fn advance(&self, revision: u64) {
        self.inner.change(|state| state.store.advance(revision));
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.inner.lock().store.revision()
    }

    /// The objects now, as lists have them.
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let objects = self.inner.lock().store.objects(resource);
        objects.values().map(|object| object.value()).collect()
    }

    /// Forgets everything before the newest revision: lists and watches of older ones are gone.
    pub fn compact(&self) {
        self.inner.change(|state| {
            let newest = state.store.revision();
            state.store.compact(newest);
        });
    }

    /// Whether watches may begin with the list; older servers refuse that.
    pub fn stream_lists(&self, streams_lists: bool) {
        self.inner
            .change(|state| state.streams_lists = streams_lists);
    }

    /// Knows nothing of a resource, as an older server.
    pub fn forget_resource(&self, resource: Resource) {
        self.inner.change(|state| state.unknown.insert(resource));
    }

    /// From now on only these tokens are accepted, each for its user.
    pub fn accept_tokens(&self, tokens: &[(&str, &str)]) {
        let tokens = tokens.iter();
        let tokens = tokens.map(|&(token, user)| (token.to_owned(), user.to_owned()));
        self.inner
            .change(|state| state.access.tokens = tokens.collect());
    }

    /// From now on users may do what these rules say, and nothing else.
    pub fn permit_only(&self, rules: Vec<PolicyRule>) {
        self.inner.change(|state| state.access.rules = Some(rules));
    }

    /// From now on nobody may do this.
    pub fn forbid(&self, verb: Verb, resource: Resource) {
        self.inner
            .change(|state| state.access.forbidden.push((verb, resource)));
    }

    /// Takes back every [`forbid`](Self::forbid).
    pub fn forbid_nothing(&self) {
        self.inner.change(|state| state.access.forbidden.clear());
    }

    /// What was asked for, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.lock().log.clone()
    }

    /// Forgets what was asked for.
    pub fn forget_requests(&self) {
        self.inner.change(|state| state.log.clear());
    }

    /// Lets requests fail; the first rule that meets one counts.
    pub fn inject(&self, rule: Rule) {
        self.inner.change(|state| state.faults.push(rule));
    }

    /// Takes every rule back. What a fault has done to an open stream stays done.
    pub fn inject_nothing(&self) {
        self.inner.change(|state| state.faults.clear());
    }

    /// Cuts every open stream of a resource.
    pub fn cut(&self, resource: Resource, cut: Cut) {
        self.control(resource, |control| {
            control.cuts += 1;
            control.cut = Some(cut);
        });
    }

    /// The next event of a resource breaks off in its middle, on the stream that sends it first.
    pub fn break_next_event(&self, resource: Resource) {
        self.control(resource, |control| control.breaks_next = true);
    }

    /// Open streams of a resource send nothing any more, and later ones neither, until this is taken
    /// back; then they send what they held back.
    pub fn silence(&self, resource: Resource, is_silent: bool) {
        self.control(resource, |control| control.is_silent = is_silent);
    }

    /// Sends a bookmark on every stream of a resource that allows them.
    pub fn send_bookmarks(&self, resource: Resource) {
        self.control(resource, |control| control.bookmarks += 1);
    }

    /// How many streams of a resource are open.
    pub fn open_streams(&self, resource: Resource) -> usize {
        let control = self.inner.lock().controls.get(&resource).copied();
        control.map_or(0, |control| control.open)
    }

    /// Waits until `count` streams of a resource are open.
    pub fn await_streams(&self, resource: Resource, count: usize, within: Duration) -> Result<()> {
        let what = format!("{count} watches of {}", resource.plural());
        clock::eventually(&what, within, || {
            Ok((self.open_streams(resource) == count).then_some(()))
        })
    }

    fn control(&self, resource: Resource, change: impl FnOnce(&mut Control)) {
        self.inner
            .change(|state| change(state.controls.entry(resource).or_default()));
    }

    /// Stops listening and drops all connections: new ones are refused once this returns.
    pub fn close(&self) -> Result<()> {
        let (done, is_done) = ack::channel();
        self.command(Command::Close(done))?;
        is_done
            .recv_timeout(PROMPTNESS)
            .context("the API server does not close")
    }

    /// Listens again, on the same port.
    pub fn reopen(&self) -> Result<()> {
        let (done, is_done) = ack::channel::<io::Result<()>>();
        self.command(Command::Open(done))?;
        is_done
            .recv_timeout(PROMPTNESS)
            .context("the API server does not open")?
            .with_context(|| format!("listen at {} again", self.address))
    }

    /// New connections meet a certificate by an authority that nobody was told of: the one whose
    /// certificate is returned.
    pub fn change_authority(&self) -> Result<String> {
        if self.authority_pem.is_none() {
            bail!("this server speaks plain HTTP");
        }
        let identity = Identity::generate(self.address.ip())?;
        self.inner.change(|state| state.tls = Some(identity.config));
        Ok(identity.authority_pem)
    }

    fn command(&self, command: Command) -> Result<()> {
        let commands = self.commands.as_ref().context("the server has ended")?;
        commands
            .send(command)
            .ok()
            .context("the API server's thread has ended")
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and its test has failed by silence.
            drop(thread.join());
        }
    }
}
