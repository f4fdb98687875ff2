//! Bodies of answers: streams of pieces, and the ways in which they fail.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::fault::Fault;

/// The body of an answer. An error breaks the connection.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Pieces of a body, each sent on its own.
pub(super) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// A body that is there as a whole.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes in pieces.
pub(super) fn pieces(pieces: Pieces) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// What ends a body without its end.
pub(super) fn broken() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

/// The first half of a piece, then the break.
///
/// What was sent before has to leave first, so the break waits for one more turn of the connection:
/// its buffer would be lost with it.
pub(super) fn half_then_broken(piece: &Bytes) -> Pieces {
    let half = piece.slice(..piece.len() / 2);
    Box::pin(stream::iter([Ok(half)]).chain(break_off()))
}

/// The break alone, after what was sent before has left.
pub(super) fn break_off() -> Pieces {
    Box::pin(stream::once(async {
        tokio::task::yield_now().await;
        Err(broken())
    }))
}

/// A body under a fault.
pub(super) fn faulty(whole: Pieces, fault: Option<Fault>) -> Pieces {
    match fault {
        Some(Fault::Silent) => Box::pin(stream::pending()),
        Some(Fault::SlowDrip { bytes, pause }) => {
            let drops = whole.flat_map(move |piece| {
                let piece = piece.unwrap_or_default();
                let size = bytes.max(1);
                let starts = (0..piece.len()).step_by(size);
                let drops: Vec<_> = starts
                    .map(|start| Ok(piece.slice(start..piece.len().min(start + size))))
                    .collect();
                stream::iter(drops)
            });
            Box::pin(drops.then(move |drop| async move {
                tokio::time::sleep(pause).await;
                drop
            }))
        }
        Some(Fault::EndAfter(events)) => Box::pin(whole.take(events)),
        Some(Fault::CutMidObject(events)) => {
            let cut = whole
                .enumerate()
                .flat_map(move |(index, piece)| match piece {
                    Ok(piece) if index == events => half_then_broken(&piece),
                    // Never reached by the connection, which the break has ended.
                    other => Box::pin(stream::iter([other])) as Pieces,
                });
            Box::pin(cut)
        }
        _ => whole,
    }
}
