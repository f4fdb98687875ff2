//! Watches: streams of events, one line each.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::body::{self, Pieces};
use super::fault::Cut;
use super::object::Object;
use super::query::Query;
use super::resource::Resource;
use super::selector::Selector;
use super::state::{Control, Inner, State};
use super::status::Failure;
use super::store::EventType;
use crate::clock;

/// How often a stream says how far it is, as the real server does.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);
/// How long before its end a stream says so once more.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Changes read at a time: a client that reads slowly does not make us keep all of them.
const BATCH: usize = 256;

/// An open watch.
struct Watch {
    inner: Arc<Inner>,
    changed: watch::Receiver<()>,
    resource: Resource,
    selector: Selector,
    allows_bookmarks: bool,
    /// Everything up to here has been sent, or did not concern this watch.
    revision: u64,
    lines: VecDeque<Bytes>,
    /// What of the test's wishes has been fulfilled.
    seen: Control,
    ends_at: Option<Instant>,
    bookmark_at: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Open,
    /// Ends in order once the lines are sent.
    Ending,
    /// Breaks off once the lines are sent.
    Breaking,
    /// The next line breaks off in its middle.
    Halving,
    Over,
}

/// The stream of a watch, which begins as the query wants it.
pub(super) fn open(inner: &Arc<Inner>, resource: Resource, query: Query) -> Pieces {
    let now = Instant::from_std(clock::now());
    let changed = inner.subscribe();
    let mut state = inner.lock();
    let control = state.controls.entry(resource).or_default();
    control.open += 1;
    let seen = *control;
    let mut watch = Watch {
        inner: Arc::clone(inner),
        changed,
        resource,
        selector: query.selector,
        allows_bookmarks: query.allows_bookmarks,
        revision: state.store.revision(),
        lines: VecDeque::new(),
        seen,
        ends_at: query.timeout.map(|timeout| now + timeout),
        bookmark_at: now,
        stage: Stage::Open,
    };
    watch.bookmark_at = watch.next_bookmark(now);
    let streams_list = query.wants_initial_events == Some(true);
    match query.revision.filter(|revision| *revision > 0) {
        Some(revision) if !streams_list => watch.resume(revision, &state),
        // Of a revision that is not reached yet, nothing is known yet.
        Some(revision) if revision > watch.revision => watch.revision = revision,
        _ => watch.begin(&state, streams_list),
    }
    drop(state);
    Box::pin(stream::unfold(watch, Watch::next))
}

/// A stream whose only event says that its revision is forgotten.
pub(super) fn gone(state: &State, query: &Query) -> Pieces {
    let asked = query.revision.unwrap_or_default();
    let line = Failure::watch_too_old(asked, state.store.revision()).as_event();
    Box::pin(stream::iter([Ok(Bytes::from(line))]))
}

impl Watch {
    fn resume(&mut self, revision: u64, state: &State) {
        self.revision = revision;
        let oldest = state.store.compacted();
        if revision < oldest {
            self.push_failure(&Failure::watch_too_old(revision, oldest));
        }
    }

    fn begin(&mut self, state: &State, streams_list: bool) {
        for object in state.store.objects(self.resource).values() {
            if self.selector.matches(object) {
                let line = event(EventType::Added, self.resource, object);
                self.lines.push_back(line);
            }
        }
        if streams_list && self.allows_bookmarks {
            self.lines
                .push_back(bookmark(self.resource, self.revision, true));
        }
    }

    fn push_failure(&mut self, failure: &Failure) {
        self.lines.push_back(failure.as_event().into());
        self.stage = Stage::Ending;
    }

    fn next_bookmark(&self, now: Instant) -> Instant {
        let regular = now + BOOKMARK_INTERVAL;
        let last = self.ends_at.and_then(|end| end.checked_sub(LAST_BOOKMARK));
        last.filter(|last| *last > now)
            .map_or(regular, |last| last.min(regular))
    }

    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            self.obey();
            if let Some(line) = self.lines.pop_front() {
                if self.stage == Stage::Halving {
                    self.stage = Stage::Breaking;
                    self.lines.clear();
                    return Some((Ok(line.slice(..line.len() / 2)), self));
                }
                return Some((Ok(line), self));
            }
            match self.stage {
                Stage::Open | Stage::Halving => {}
                Stage::Ending | Stage::Over => return None,
                Stage::Breaking => {
                    self.stage = Stage::Over;
                    let failed = body::break_off().next().await?;
                    return Some((failed, self));
                }
            }
            if self.refill() {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => changed.ok()?,
                () = sleep_until(self.bookmark_at) => self.push_bookmark(),
                () = sleep_until(self.ends_at.unwrap_or(self.bookmark_at)), if self.ends_at.is_some() => {
                    self.stage = Stage::Ending;
                }
            }
        }
    }

    fn push_bookmark(&mut self) {
        self.bookmark_at = self.next_bookmark(self.bookmark_at);
        if self.allows_bookmarks && !self.seen.is_silent {
            self.lines
                .push_back(bookmark(self.resource, self.revision, false));
        }
    }

    /// Takes up what the test has asked for since the last time.
    fn obey(&mut self) {
        let mut state = self.inner.lock();
        let control = state.controls.entry(self.resource).or_default();
        let wished = *control;
        if control.breaks_next && self.stage == Stage::Open && !self.lines.is_empty() {
            control.breaks_next = false;
            self.stage = Stage::Halving;
        }
        drop(state);
        self.seen.is_silent = wished.is_silent;
        if self.seen.cuts == wished.cuts {
            return;
        }
        self.seen.cuts = wished.cuts;
        match wished.cut {
            Some(Cut::MidObject) => {
                self.lines = VecDeque::from([bookmark(self.resource, self.revision, false)]);
                self.stage = Stage::Halving;
            }
            Some(Cut::Abort) => {
                self.lines.clear();
                self.stage = Stage::Breaking;
            }
            _ => {
                self.lines.clear();
                self.stage = Stage::Ending;
            }
        }
    }

    /// Reads the next changes; whether there are lines to send.
    fn refill(&mut self) -> bool {
        let inner = Arc::clone(&self.inner);
        // Marked as seen before it is read: what comes later wakes us again.
        self.changed.borrow_and_update();
        let state = inner.lock();
        if self.seen.is_silent {
            return false;
        }
        let oldest = state.store.compacted();
        if self.revision < oldest {
            self.push_failure(&Failure::watch_too_old(self.revision, oldest));
            return true;
        }
        let changes = state.store.changes_after(self.resource, self.revision);
        let mut count = 0;
        for change in changes.take(BATCH) {
            count += 1;
            self.revision = change.revision;
            if let Some((kind, object)) = change.seen_by(&self.selector) {
                self.lines.push_back(event(kind, self.resource, object));
            }
        }
        if count < BATCH {
            self.revision = self.revision.max(state.store.revision());
            let wished = state.controls.get(&self.resource).copied();
            let wished = wished.unwrap_or_default().bookmarks;
            if self.seen.bookmarks != wished {
                self.seen.bookmarks = wished;
                if self.allows_bookmarks {
                    self.lines
                        .push_back(bookmark(self.resource, self.revision, false));
                }
            }
        }
        drop(state);
        count == BATCH || !self.lines.is_empty()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.lock().stream_closed(self.resource);
    }
}

fn event(kind: EventType, resource: Resource, object: &Object) -> Bytes {
    let typed = object.typed(resource);
    format!("{{\"type\":\"{}\",\"object\":{typed}}}\n", kind.text()).into()
}

/// A bookmark: the kind's empty object with nothing but a revision, and the mark that the initial
/// events end here.
fn bookmark(resource: Resource, revision: u64, ends_initial_events: bool) -> Bytes {
    let mut object = resource.empty();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if ends_initial_events {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    object["kind"] = resource.kind().into();
    object["apiVersion"] = resource.api_version().into();
    object["metadata"] = metadata;
    format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into()
}
