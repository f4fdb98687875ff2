//! Listening and answering: a server lives as long as its address is wanted, and tries again where
//! the address cannot be had. kube-proxy may hold it while both run.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::sleep;

use super::proxy_health::Answer;
use super::report::{Reporter, Subject};

/// How soon an address is tried again: kube-proxy's period.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;

/// Which packets an IPv6 socket takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Families {
    /// With `[::]` those of IPv4 too, where the host has it so.
    AsTheHost,
    /// IPv6 only, so that IPv4 may have a socket of its own.
    Own,
}

/// Listens at `address`.
pub(super) fn listen(address: SocketAddr, families: Families) -> io::Result<TcpListener> {
    let socket = match address.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    if families == Families::Own && address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What a refusal means to the operator.
pub(super) fn refusal(what: &str, address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "another process has it (kube-proxy?)",
        io::ErrorKind::AddrNotAvailable => "this host does not have the address",
        io::ErrorKind::PermissionDenied => "the agent may not use ports below 1024",
        _ => "the system refuses",
    };
    format!(
        "cannot listen on {address} for {what}: {hint}: {error}; trying again every {} s",
        RETRY.as_secs()
    )
}

/// Serves `router` wherever `address` says, until the sender is gone.
pub(super) async fn keep(
    subject: Subject,
    what: &'static str,
    mut address: watch::Receiver<Option<SocketAddr>>,
    router: Router,
    reporter: Reporter,
) {
    loop {
        let wanted = *address.borrow_and_update();
        let Some(wanted) = wanted else {
            reporter.clear(&subject);
            if address.changed().await.is_err() {
                return;
            }
            continue;
        };
        match listen(wanted, Families::AsTheHost) {
            Ok(listener) => {
                reporter.clear(&subject);
                tracing::info!(address = %wanted, "serving {what}");
                let serving = axum::serve(listener, router.clone());
                tokio::select! {
                    changed = address.changed() => if changed.is_err() { return },
                    // It ends by no error of a connection's.
                    ended = serving => if let Err(error) = ended {
                        reporter.set(&subject, refusal(what, wanted, &error));
                        sleep(RETRY).await;
                    },
                }
            }
            Err(error) => {
                reporter.set(&subject, refusal(what, wanted, &error));
                tokio::select! {
                    changed = address.changed() => if changed.is_err() { return },
                    () = sleep(RETRY) => {}
                }
            }
        }
    }
}

/// A response of JSON with kube-proxy's headers.
pub(super) fn json(answer: Answer) -> Response {
    respond(answer.status, "application/json", answer.body)
}

/// A response with a type that browsers are to believe.
pub(super) fn respond(status: u16, content_type: &'static str, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        HeaderName::from_static("x-content-type-options"),
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// What there is at every other path.
pub(super) async fn not_found() -> Response {
    respond(
        404,
        "text/plain; charset=utf-8",
        "404 page not found\n".to_owned(),
    )
}
