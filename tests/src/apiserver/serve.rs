//! The server's thread: it listens, accepts and answers until the server is dropped.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc as ack};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::answer::answer;
use super::state::Inner;

/// What the test wants of the listener.
pub(super) enum Command {
    /// Stop listening and drop every connection; says when that is done.
    Close(ack::Sender<()>),
    /// Listen again, at the same address.
    Open(ack::Sender<io::Result<()>>),
}

/// Serves until nobody can send commands any more. The first listener's address, or why there is
/// none, is sent to `ready`.
pub(super) fn run(
    inner: Arc<Inner>,
    address: SocketAddr,
    commands: mpsc::UnboundedReceiver<Command>,
    ready: &ack::Sender<io::Result<SocketAddr>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            // The test that started us has given up when nobody listens.
            if ready.send(Ok(address)).is_ok() {
                serve(inner, listener, address, commands).await;
            }
            Ok(())
        }),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        // As above.
        drop(ready.send(Err(error)));
    }
}

async fn serve(
    inner: Arc<Inner>,
    listener: TcpListener,
    address: SocketAddr,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Close(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    if done.send(()).is_err() {
                        return;
                    }
                }
                Some(Command::Open(done)) => {
                    let opened = TcpListener::bind(address).await;
                    let result = opened.map(|opened| listener = Some(opened));
                    if done.send(result).is_err() {
                        return;
                    }
                }
            },
            accepted = accept(listener.as_ref()) => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(Arc::clone(&inner), stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The next connection; never one while nobody listens.
async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn connection(inner: Arc<Inner>, stream: TcpStream) {
    // An event is one small write, and nothing follows it that would push it out.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let tls = inner.lock().tls.clone();
    match tls {
        None => converse(inner, stream).await,
        Some(config) => {
            // A client that does not trust us hangs up here.
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                converse(inner, stream).await;
            }
        }
    }
}

async fn converse(inner: Arc<Inner>, stream: impl AsyncRead + AsyncWrite + Unpin + Send) {
    let service = service_fn(|request| {
        let inner = Arc::clone(&inner);
        async move { Ok::<_, Infallible>(answer(inner, request).await) }
    });
    let conversation = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Clients hang up as they like, and cuts end as errors by intention.
    drop(conversation.await);
}
