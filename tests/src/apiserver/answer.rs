//! One request, answered.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE,
    HeaderMap, HeaderName, RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde_json::Value;

use super::access::{Request, Verb};
use super::body::{self, Body, Pieces};
use super::fault::{self, Fault};
use super::query::{self, Query};
use super::resource::Resource;
use super::route::Route;
use super::state::{Inner, State};
use super::status::{Failure, FailureBody};
use super::{list, watch, write};

/// From this size on the real server compresses answers, if the client takes that.
const COMPRESSED_FROM: usize = 128 * 1024;

/// What an answer is made of, before faults befall it.
enum Content {
    Text(StatusCode, String),
    Stream(Pieces),
    Failure(Failure),
}

/// Answers a request; every request gets an answer, but for those that a fault leaves without.
pub(super) async fn answer(inner: Arc<Inner>, request: hyper::Request<Incoming>) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let text = parts.uri.query().unwrap_or_default();
    let pairs = query::pairs(text);
    let is_watch = pairs
        .get("watch")
        .is_some_and(|value| matches!(value.as_str(), "true" | "1"));
    let route = Route::of(&parts.method, parts.uri.path(), is_watch);
    let Route::Resource {
        verb,
        resource,
        namespace,
        name,
    } = route
    else {
        return respond(&inner, plain(&route), None, false);
    };
    let written = match verb {
        Verb::Create | Verb::Patch => match incoming.collect().await {
            Ok(collected) => serde_json::from_slice(&collected.to_bytes()).unwrap_or_default(),
            // The client has gone; nobody reads the answer.
            Err(_) => Value::Null,
        },
        Verb::Get | Verb::List | Verb::Watch => Value::Null,
    };
    let mut asked = Request {
        user: String::new(),
        verb,
        resource,
        namespace,
        name,
        query: pairs,
        status: 0,
    };
    let (content, fault) = decide(&inner, &mut asked, &parts.headers, (text, &written));
    asked.status = match &content {
        _ if fault == Some(Fault::Hang) => 0,
        Content::Text(code, _) => code.as_u16(),
        Content::Stream(_) => StatusCode::OK.as_u16(),
        Content::Failure(failure) => failure.code.as_u16(),
    };
    inner.change(|state| state.log.push(asked));
    if fault == Some(Fault::Hang) {
        std::future::pending::<()>().await;
    }
    let accepts_gzip = header(&parts.headers, &ACCEPT_ENCODING)
        .is_some_and(|encodings| encodings.contains("gzip"));
    respond(&inner, content, fault, accepts_gzip)
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn plain(route: &Route) -> Content {
    match route {
        Route::Version => {
            let version =
                r#"{"major":"1","minor":"36","gitVersion":"v1.36.0","platform":"linux/amd64"}"#;
            Content::Text(StatusCode::OK, version.to_owned())
        }
        Route::Health => Content::Text(StatusCode::OK, "ok".to_owned()),
        Route::Nothing | Route::Resource { .. } => Content::Failure(Failure::no_such_path()),
    }
}

/// What to answer, and which fault befalls it.
fn decide(
    inner: &Arc<Inner>,
    asked: &mut Request,
    headers: &HeaderMap,
    (query, written): (&str, &Value),
) -> (Content, Option<Fault>) {
    let fault = fault::next(&mut inner.lock().faults, asked.verb, asked.resource);
    if let Some(failure) = fault.and_then(Fault::failure) {
        return (Content::Failure(failure), None);
    }
    let content = permitted(inner, asked, headers)
        .and_then(|()| perform(inner, asked, (query, written), fault))
        .unwrap_or_else(Content::Failure);
    // A request that is refused anyway is not delayed or cut as well.
    let fault = fault.filter(|_| !matches!(content, Content::Failure(_)));
    (content, fault)
}

fn permitted(inner: &Inner, asked: &mut Request, headers: &HeaderMap) -> Result<(), Failure> {
    let state = inner.lock();
    let user = state
        .access
        .user(header(headers, &AUTHORIZATION))
        .ok_or_else(Failure::unauthorized)?;
    let is_permitted = state.access.permits(&user, asked.verb, asked.resource);
    let is_unknown = state.unknown.contains(&asked.resource);
    drop(state);
    asked.user = user;
    if !is_permitted {
        let (verb, namespace) = (asked.verb.name(), &asked.namespace);
        return Err(Failure::forbidden(
            &asked.user,
            verb,
            asked.resource,
            namespace,
        ));
    }
    if is_unknown {
        return Err(Failure::no_such_path());
    }
    let takes_json = header(headers, &ACCEPT).is_none_or(|types| {
        ["json", "*/*", "application/*"]
            .iter()
            .any(|it| types.contains(it))
    });
    takes_json.then_some(()).ok_or_else(Failure::not_acceptable)
}

fn perform(
    inner: &Arc<Inner>,
    asked: &Request,
    (query, written): (&str, &Value),
    fault: Option<Fault>,
) -> Result<Content, Failure> {
    let resource = asked.resource;
    let namespace = Some(asked.namespace.as_str()).filter(|it| !it.is_empty());
    match asked.verb {
        Verb::Get => get(&inner.lock(), asked),
        Verb::List => {
            let streams_lists = inner.lock().streams_lists;
            let query = Query::parse(query, namespace, streams_lists)?;
            let text = list::list(&inner.lock().store, resource, &query)?;
            Ok(Content::Text(StatusCode::OK, text))
        }
        Verb::Watch => {
            let streams_lists = inner.lock().streams_lists;
            let query = Query::parse(query, namespace, streams_lists)?;
            if fault == Some(Fault::GoneInStream) {
                return Ok(Content::Stream(watch::gone(&inner.lock(), &query)));
            }
            Ok(Content::Stream(watch::open(inner, resource, query)))
        }
        Verb::Create => {
            let text = inner.change(|state| write::create(&mut state.store, asked, written))?;
            Ok(Content::Text(StatusCode::CREATED, text))
        }
        Verb::Patch => {
            let text = inner.change(|state| write::patch(&mut state.store, asked, written))?;
            Ok(Content::Text(StatusCode::OK, text))
        }
    }
}

fn get(state: &State, asked: &Request) -> Result<Content, Failure> {
    let (resource, name): (Resource, &str) = (asked.resource, &asked.name);
    let object = state.store.object(resource, &asked.namespace, name);
    let object = object.ok_or_else(|| Failure::not_found(resource, name))?;
    Ok(Content::Text(StatusCode::OK, object.typed(resource) + "\n"))
}

fn respond(
    inner: &Inner,
    content: Content,
    fault: Option<Fault>,
    accepts_gzip: bool,
) -> Response<Body> {
    let number = inner.change(|state| {
        state.answers += 1;
        state.answers
    });
    let mut response = Response::builder()
        .header("audit-id", format!("00000000-0000-4000-8000-{number:012x}"))
        .header(CACHE_CONTROL, "no-cache, private");
    let mut media_type = "application/json";
    let body = match content {
        Content::Stream(pieces) => body::pieces(body::faulty(pieces, fault)),
        Content::Text(code, text) => {
            response = response.status(code);
            if text == "ok" {
                media_type = "text/plain; charset=utf-8";
            }
            let mut bytes = Bytes::from(text);
            if accepts_gzip && bytes.len() >= COMPRESSED_FROM {
                bytes = compressed(&bytes);
                response = response
                    .header(CONTENT_ENCODING, "gzip")
                    .header(VARY, "Accept-Encoding");
            }
            match fault {
                // A list is one object: any cut is in its middle, and it has no events to end after.
                Some(Fault::CutMidObject(_)) => body::pieces(body::half_then_broken(&bytes)),
                Some(Fault::Silent | Fault::SlowDrip { .. }) => {
                    let whole: Pieces = Box::pin(stream::iter([Ok(bytes)]));
                    body::pieces(body::faulty(whole, fault))
                }
                _ => body::whole(bytes),
            }
        }
        Content::Failure(failure) => {
            response = response.status(failure.code);
            if let Some(seconds) = failure.retry_after_seconds {
                response = response.header(RETRY_AFTER, seconds);
            }
            match failure.body {
                FailureBody::Status(status) => body::whole(format!("{status}\n")),
                FailureBody::Text(text) => {
                    media_type = "text/plain; charset=utf-8";
                    response = response.header(X_CONTENT_TYPE_OPTIONS, "nosniff");
                    body::whole(text)
                }
            }
        }
    };
    response
        .header(CONTENT_TYPE, media_type)
        .body(body)
        .expect("every header is plain text")
}

fn compressed(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("a vector takes every byte").into()
}
