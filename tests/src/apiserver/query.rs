//! The options of lists and watches, read and validated as the API server does.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::selector::Selector;
use super::status::Failure;

/// How exactly a revision is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Match {
    NotOlderThan,
    Exact,
}

/// Options of a list or watch.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) is_watch: bool,
    pub(super) selector: Selector,
    /// `None`: not given, which means the newest.
    pub(super) revision: Option<u64>,
    pub(super) revision_match: Option<Match>,
    /// 0: all at once.
    pub(super) limit: usize,
    pub(super) next: Option<Continue>,
    pub(super) allows_bookmarks: bool,
    pub(super) wants_initial_events: Option<bool>,
    pub(super) timeout: Option<Duration>,
}

/// What a `continue` token says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Continue {
    /// The revision of the first page; `None` once that is forgotten and the client goes on anyhow.
    pub(super) revision: Option<u64>,
    /// Where the next page begins, and whether that object itself is left out.
    pub(super) start: String,
}

impl Continue {
    /// The token for the page after the object at `path`.
    pub(super) fn after(path: &str, revision: Option<u64>) -> String {
        let revision = revision.map_or_else(|| json!(-1), |revision| json!(revision));
        // Written by hand: the order of the keys is part of what the real server sends.
        let start = Value::from(format!("/{path}\0"));
        let text = format!(r#"{{"v":"meta.k8s.io/v1","rv":{revision},"start":{start}}}"#);
        URL_SAFE_NO_PAD.encode(text)
    }

    /// The token with which a client goes on after its own has expired.
    pub(super) fn renewed(&self) -> String {
        let start = Value::from(self.start.clone());
        let text = format!(r#"{{"v":"meta.k8s.io/v1","rv":-1,"start":{start}}}"#);
        URL_SAFE_NO_PAD.encode(text)
    }

    fn parse(token: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let value: Value = serde_json::from_slice(&bytes).ok()?;
        let start = value.get("start")?.as_str()?.trim_start_matches('/');
        Some(Self {
            revision: value.get("rv")?.as_u64(),
            start: start.to_owned(),
        })
    }
}

/// The pairs of a query string, decoded.
pub(super) fn pairs(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|it| it.unwrap_or(b'?'));
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).unwrap_or(b'?')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Query {
    /// Reads the options below a namespace, if the path has one.
    pub(super) fn parse(
        query: &str,
        namespace: Option<&str>,
        streams_lists: bool,
    ) -> Result<Self, Failure> {
        let pairs = pairs(query);
        let text = |name: &str| pairs.get(name).map_or("", String::as_str);
        let flag = |name: &str| matches!(text(name), "true" | "1");
        let is_watch = flag("watch");
        let selector = Selector::parse(namespace, text("labelSelector"), text("fieldSelector"))
            .map_err(|part| {
                Failure::bad_request(&format!("unable to parse requirement: {part}"))
            })?;
        let revision = match text("resourceVersion") {
            "" => None,
            number => {
                let malformed = || Failure::malformed_revision(number);
                Some(number.parse().ok().ok_or_else(malformed)?)
            }
        };
        let next = match text("continue") {
            "" => None,
            token => Some(
                Continue::parse(token)
                    .ok_or_else(|| Failure::bad_request("continue key is not valid"))?,
            ),
        };
        let wants_initial_events = pairs
            .contains_key("sendInitialEvents")
            .then(|| flag("sendInitialEvents"));
        let query = Self {
            is_watch,
            selector,
            revision,
            revision_match: match text("resourceVersionMatch") {
                "NotOlderThan" => Some(Match::NotOlderThan),
                "Exact" => Some(Match::Exact),
                "" => None,
                _ => return Err(Failure::bad_request("unknown resourceVersionMatch")),
            },
            limit: text("limit").parse().unwrap_or(0),
            next,
            allows_bookmarks: flag("allowWatchBookmarks"),
            wants_initial_events,
            timeout: text("timeoutSeconds").parse().ok().map(Duration::from_secs),
        };
        query.validate(streams_lists)?;
        Ok(query)
    }

    fn validate(&self, streams_lists: bool) -> Result<(), Failure> {
        let refuse = |field, message: &str| Err(Failure::invalid_option(field, message));
        if !self.is_watch {
            return match (self.wants_initial_events, self.revision_match) {
                (Some(_), _) => refuse(
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for list",
                ),
                (None, Some(_)) if self.revision.is_none() => refuse(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ),
                _ => Ok(()),
            };
        }
        match (self.wants_initial_events, self.revision_match) {
            (Some(_), Some(Match::NotOlderThan)) if streams_lists => Ok(()),
            (Some(_), Some(Match::NotOlderThan)) => refuse(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            ),
            (Some(_), _) => refuse(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (None, Some(_)) => refuse(
                "resourceVersionMatch",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            (None, None) => Ok(()),
        }
    }
}
