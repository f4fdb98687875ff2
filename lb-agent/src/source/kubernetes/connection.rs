//! Connections to API servers: one client each, kept while it works.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::Client;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use tokio::sync::OnceCell;
use tower::{BoxError, ServiceExt as _};

use super::access::Access;
use super::metrics::ApiMetrics;
use super::servers::Url;
use super::{Fault, Time};
use crate::clock;

/// When the kernel asks a silent peer whether it lives, how often, and how many times: half a
/// minute until a server that lost its power is given up.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
const AGENT: &str = concat!("steerage/", env!("CARGO_PKG_VERSION"));

/// A part of what comes back.
#[derive(Debug)]
pub(super) enum Piece {
    /// HTTP status, and `Retry-After` in seconds.
    Head(u16, Option<u64>),
    Chunk(Vec<u8>),
    End,
    Fault(Fault),
}

#[derive(Debug)]
pub(super) struct Connections {
    access: Access,
    connect: Time,
    metrics: ApiMetrics,
    /// A cell is filled by whoever asks first, while the others wait for it.
    clients: Mutex<BTreeMap<Url, Arc<OnceCell<Opened>>>>,
}

/// A client, which has nothing to print.
struct Opened(Client);

impl std::fmt::Debug for Opened {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Opened")
    }
}

impl Connections {
    pub(super) const fn new(access: Access, connect: Time, metrics: ApiMetrics) -> Self {
        Self {
            access,
            connect,
            metrics,
            clients: Mutex::new(BTreeMap::new()),
        }
    }

    /// Forgets the client, and with it what it knows of credentials.
    pub(super) fn renew(&self, server: &Url) {
        self.clients().remove(server);
    }

    /// Asks, and streams what comes back.
    pub(super) fn get(self: Arc<Self>, server: Url, target: String) -> BoxStream<'static, Piece> {
        let answer = async move { self.send(&server, Method::GET, &target, Vec::new()).await };
        stream::once(answer)
            .flat_map(|answer| match answer {
                Ok(response) => pieces(response),
                Err(fault) => stream::once(std::future::ready(Piece::Fault(fault))).boxed(),
            })
            .boxed()
    }

    /// Sends a body of JSON; what comes back is the status alone.
    pub(super) async fn send(
        &self,
        server: &Url,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Fault> {
        let began = clock::instant();
        let result = self.request(server, method.clone(), target, body).await;
        let status = result.as_ref().ok().map(|answer| answer.status().as_u16());
        self.metrics.asked(server, &method, status, began.elapsed());
        result
    }

    async fn request(
        &self,
        server: &Url,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Response<Body>, Fault> {
        let client = self.client(server).await?;
        let content = if method == Method::PATCH {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, content)
            .header(USER_AGENT, AGENT)
            .body(Body::from(body))
            .map_err(|error| Fault::Unreachable(error.to_string()))?;
        client.send(request).await.map_err(|error| fault(&error))
    }

    async fn client(&self, server: &Url) -> Result<Client, Fault> {
        let cell = Arc::clone(self.clients().entry(Arc::clone(server)).or_default());
        let opened = cell.get_or_try_init(async || self.open(server).await.map(Opened));
        match opened.await {
            Ok(Opened(client)) => Ok(client.clone()),
            Err(error) => {
                let error: &(dyn Error + 'static) = error.as_ref();
                Err(Fault::Credentials(chain(error)))
            }
        }
    }

    /// Never held while waiting.
    fn clients(&self) -> MutexGuard<'_, BTreeMap<Url, Arc<OnceCell<Opened>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client without retries and logs of its own: both are ours.
    async fn open(&self, server: &Url) -> Result<Client, BoxError> {
        let config = self.access.config(server).await?;
        let connect = self.connect;
        let make = move || -> Result<Client, kube::Error> {
            let mut http = HttpConnector::new();
            http.enforce_http(false);
            http.set_nodelay(true);
            http.set_connect_timeout(Some(connect));
            let (idle, interval, retries) = KEEPALIVE;
            http.set_keepalive(Some(idle));
            http.set_keepalive_interval(Some(interval));
            http.set_keepalive_retries(Some(retries));
            let https = config.rustls_https_connector_with_connector(http)?;
            let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build(https)
                .map_err(BoxError::from);
            let builder = ClientBuilder::new(http, config.default_namespace.as_str())
                .with_layer(&config.base_uri_layer())
                .with_layer(&config.extra_headers_layer()?);
            Ok(match config.auth_layer()? {
                Some(auth) => builder.with_layer(&auth).build(),
                None => builder.build(),
            })
        };
        // A kubeconfig may name a program that gets the credentials.
        Ok(tokio::task::spawn_blocking(make).await??)
    }
}

fn pieces(response: Response<Body>) -> BoxStream<'static, Piece> {
    let (head, body) = response.into_parts();
    let retry_after = head
        .headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let head = Piece::Head(head.status.as_u16(), retry_after);
    let chunks = body.into_data_stream().map(|chunk| match chunk {
        Ok(bytes) => Piece::Chunk(bytes.to_vec()),
        Err(_) => Piece::Fault(Fault::Cut),
    });
    let end = std::future::ready(Piece::End);
    stream::once(std::future::ready(head))
        .chain(chunks)
        .chain(stream::once(end))
        .boxed()
}

/// What kind of failure it is, by what caused it: TLS reports its errors as invalid data.
fn fault(error: &kube::Error) -> Fault {
    let is_auth = matches!(error, kube::Error::Auth(_));
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if is_auth || current.is::<kube::client::AuthError>() {
            return Fault::Credentials(chain(current));
        }
        if let Some(system) = current.downcast_ref::<io::Error>() {
            let system = innermost(system);
            return if system.kind() == io::ErrorKind::InvalidData {
                Fault::Certificate(chain(system))
            } else {
                Fault::Unreachable(chain(system))
            };
        }
        cause = current.source();
    }
    Fault::Unreachable(chain(error))
}

/// The connector wraps errors of the system and of TLS in others of the same type.
fn innermost(mut error: &io::Error) -> &io::Error {
    while let Some(inner) = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<io::Error>())
    {
        error = inner;
    }
    error
}

/// An error and what caused it, without what is said twice.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        let more = current.to_string();
        if !text.contains(&more) {
            // Writing to a string cannot fail.
            write!(text, ": {more}").unwrap_or_default();
        }
        cause = current.source();
    }
    text
}
