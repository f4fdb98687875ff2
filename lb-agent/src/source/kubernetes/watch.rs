//! One kind's list and watch.
//!
//! ```text
//!            ┌──────────── the version is too old, or refused again and again ─────────┐
//!            ▼                                                                         │
//!  Waiting ─► Asked ─► Initial (streaming list) ── bookmark: that was all ─► Watching ──┤
//!     ▲         │  └─► Page ─► Page … ─► last page ─► Asked for a watch ──────┘  ▲      │
//!     │         └────► Refused (an answer that is an error, until its end)       │      │
//!     └─────────────── anything fails, or ends: go on from the last version ─────┴──────┘
//! ```

use super::backoff::Jitter;
use super::decode::{self, Decoder, Line, Status};
use super::failure::{Failure, Heard};
use super::request::{Form, Request};
use super::split::{Items, Lines};
use super::{Time, Timing};
use crate::model::event::Kind;

/// Refusals of a watch in a row after which its version is given up.
const MAX_REFUSALS: u32 = 3;
/// Streams in a row that said nothing, after which their version is given up: it may be one that
/// the server, put back to an older state, will reach years from now.
const MAX_SILENT: u32 = 2;
/// How much of an error is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

#[derive(Debug)]
enum Phase {
    /// Nothing is asked until then.
    Waiting { until: Time },
    /// Asked, and not answered.
    Asked { since: Time },
    /// Answered with an error, whose body is read.
    Refused {
        code: u16,
        retry_after: Option<u64>,
        body: Vec<u8>,
        since: Time,
    },
    /// A list arrives.
    Page { items: Items, heard: Time },
    /// The objects of a streaming list arrive.
    Initial { lines: Lines, heard: Time },
    /// Changes arrive.
    Watching {
        lines: Lines,
        opened: Time,
        heard: Time,
        /// Whether it is sure that the server accepted the version.
        is_confirmed: bool,
    },
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and most combinations occur"
)]
#[derive(Debug)]
pub(super) struct Watch {
    kind: Kind,
    decoder: Decoder,
    phase: Phase,
    form: Form,
    /// From where to go on; without one everything is listed.
    version: Option<String>,
    /// Where the next page begins.
    token: Option<String>,
    /// Whether the server has streaming lists, as far as is known.
    has_streams: bool,
    has_field_selector: bool,
    /// Whether pages expired, so that the list is asked for in one piece.
    is_whole: bool,
    /// Whether a new list must be announced.
    is_restart_due: bool,
    /// Whether a part of a list has been read.
    is_partial: bool,
    /// Whether nothing can have been missed: the list is complete, and nothing has failed since.
    is_sure: bool,
    /// Requests in a row that failed.
    failures: u32,
    refusals: u32,
    silences: u32,
}

impl Watch {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            decoder: Decoder::new(kind),
            phase: Phase::Waiting { until: Time::ZERO },
            form: Form::Whole,
            version: None,
            token: None,
            has_streams: true,
            has_field_selector: true,
            is_whole: false,
            is_restart_due: true,
            is_partial: false,
            is_sure: false,
            failures: 0,
            refusals: 0,
            silences: 0,
        }
    }

    pub(super) const fn is_sure(&self) -> bool {
        self.is_sure
    }

    /// Whether a request is under way that was last heard from before `time`.
    pub(super) fn is_quiet_since(&self, time: Time) -> bool {
        matches!(self.phase, Phase::Watching { heard, .. } if heard < time)
    }

    /// Whether a new list begins, once.
    pub(super) fn take_restart(&mut self) -> bool {
        std::mem::take(&mut self.is_restart_due)
    }

    /// When to tick at the latest.
    pub(super) fn due(&self, timing: &Timing) -> Time {
        match &self.phase {
            Phase::Waiting { until } => *until,
            Phase::Asked { since } | Phase::Refused { since, .. } => *since + timing.answer,
            Phase::Page { heard, .. } => *heard + timing.answer,
            Phase::Initial { heard, .. } => *heard + timing.initial,
            Phase::Watching {
                opened,
                is_confirmed: false,
                ..
            } => *opened + timing.confirm,
            Phase::Watching { heard, .. } => *heard + timing.idle,
        }
    }

    /// The next request, if it is time.
    pub(super) fn request(
        &mut self,
        now: Time,
        timing: &Timing,
        jitter: &mut Jitter,
    ) -> Option<Request> {
        if !matches!(self.phase, Phase::Waiting { until } if until <= now) {
            return None;
        }
        let end = jitter.between(timing.stream, timing.stream * 2);
        self.form = match (&self.version, &self.token) {
            (Some(version), _) => Form::Watch {
                version: version.clone(),
                end,
            },
            (None, Some(token)) => Form::Page {
                token: Some(token.clone()),
            },
            (None, None) if self.has_streams => Form::Stream { end },
            (None, None) if self.is_whole => Form::Whole,
            (None, None) => Form::Page { token: None },
        };
        self.phase = Phase::Asked { since: now };
        Some(Request {
            kind: self.kind,
            form: self.form.clone(),
            has_field_selector: self.has_field_selector,
        })
    }

    /// The head of an answer: its status, and after how many seconds to ask again.
    pub(super) fn head(&mut self, code: u16, retry_after: Option<u64>, now: Time) -> Heard {
        if !matches!(self.phase, Phase::Asked { .. }) {
            return Heard::default();
        }
        if code != 200 {
            self.phase = Phase::Refused {
                code,
                retry_after,
                body: Vec::new(),
                since: now,
            };
            return Heard::default();
        }
        self.phase = match self.form {
            Form::Page { .. } | Form::Whole => Phase::Page {
                items: Items::default(),
                heard: now,
            },
            Form::Stream { .. } => Phase::Initial {
                lines: Lines::default(),
                heard: now,
            },
            Form::Watch { .. } => Phase::Watching {
                lines: Lines::default(),
                opened: now,
                heard: now,
                is_confirmed: false,
            },
        };
        Heard {
            // A watch may still be refused, in its first line.
            is_working: !matches!(self.form, Form::Watch { .. }),
            ..Heard::default()
        }
    }

    /// A piece of a body.
    pub(super) fn chunk(&mut self, bytes: &[u8], now: Time) -> Heard {
        let decoder = &mut self.decoder;
        let mut found = Vec::new();
        let result = match &mut self.phase {
            Phase::Waiting { .. } | Phase::Asked { .. } => return Heard::default(),
            Phase::Refused { body, .. } => {
                let room = MAX_ERROR_BYTES.saturating_sub(body.len());
                body.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                return Heard::default();
            }
            Phase::Page { items, heard } => {
                *heard = now;
                self.is_partial = true;
                let mut objects = Vec::new();
                let result = items.push(bytes, &mut |item| objects.extend(decoder.item(item)));
                return Heard {
                    objects,
                    failure: result.err().map(|_| Failure::Broken),
                    ..Heard::default()
                };
            }
            Phase::Initial { lines, heard } => {
                *heard = now;
                self.is_partial = true;
                lines.push(bytes, &mut |line| found.push(decoder.line(line)))
            }
            Phase::Watching { lines, heard, .. } => {
                *heard = now;
                self.silences = 0;
                lines.push(bytes, &mut |line| found.push(decoder.line(line)))
            }
        };
        let mut heard = Heard::default();
        for line in found {
            self.line(line, &mut heard, now);
            if heard.failure.is_some() {
                return heard;
            }
        }
        if result.is_err() {
            heard.failure = Some(Failure::Broken);
        }
        heard
    }

    fn line(&mut self, line: Option<Line>, heard: &mut Heard, now: Time) {
        let is_initial = matches!(self.phase, Phase::Initial { .. });
        match line {
            None => heard.failure = Some(Failure::Broken),
            Some(Line::Error(status)) => heard.failure = Some(Failure::Status(status)),
            Some(Line::Object { object, version }) => {
                heard.objects.push(object);
                if !is_initial {
                    self.advance(version);
                    heard.is_working |= self.confirm();
                }
            }
            Some(Line::Bookmark { version, ends_list }) if is_initial => {
                if let (true, Phase::Initial { lines, .. }) = (ends_list, &mut self.phase) {
                    self.phase = Phase::Watching {
                        lines: std::mem::take(lines),
                        opened: now,
                        heard: now,
                        is_confirmed: true,
                    };
                    self.advance(version);
                    self.complete();
                    heard.is_complete = true;
                }
            }
            Some(Line::Bookmark { version, .. }) => {
                heard.bookmarks += 1;
                self.advance(version);
                heard.is_working |= self.confirm();
            }
        }
    }

    /// The end of a body, without an error of the connection's.
    pub(super) fn end(&mut self, now: Time) -> Heard {
        let phase = std::mem::replace(&mut self.phase, Phase::Waiting { until: now });
        match phase {
            Phase::Waiting { until } => {
                self.phase = Phase::Waiting { until };
                Heard::default()
            }
            Phase::Refused {
                code,
                retry_after,
                body,
                ..
            } => {
                let mut status = Status::parse(code, &body);
                status.ask_after(retry_after);
                Heard::failed(Failure::Status(status))
            }
            Phase::Page { items, .. } => {
                let envelope = items.finish().ok();
                let Some(page) = envelope.and_then(|it| decode::envelope(&it)) else {
                    return Heard::failed(Failure::Broken);
                };
                self.token = page.token;
                if self.token.is_some() {
                    return Heard::default();
                }
                self.version = page.version;
                self.complete();
                Heard {
                    is_complete: true,
                    ..Heard::default()
                }
            }
            Phase::Watching { lines, opened, .. } if lines.is_at_rest() => {
                let life = now.saturating_sub(opened);
                self.lived(life);
                Heard::failed(Failure::Ended(life < STEADY))
            }
            Phase::Watching { opened, .. } => {
                self.lived(now.saturating_sub(opened));
                Heard::failed(Failure::Broken)
            }
            Phase::Asked { .. } | Phase::Initial { .. } => Heard::failed(Failure::Broken),
        }
    }

    /// Looks at the time.
    pub(super) fn tick(&mut self, now: Time, timing: &Timing) -> Heard {
        if now < self.due(timing) {
            return Heard::default();
        }
        match &mut self.phase {
            Phase::Waiting { .. } => Heard::default(),
            Phase::Asked { .. } => Heard::failed(Failure::Silent(true)),
            Phase::Refused { .. } => self.end(now),
            Phase::Page { .. } => Heard::failed(Failure::Silent(false)),
            // A server that does not know streaming lists sends all objects and never says so.
            Phase::Initial { .. } => {
                self.has_streams = false;
                Heard::failed(Failure::Unsupported)
            }
            Phase::Watching {
                is_confirmed: false,
                ..
            } => Heard {
                is_working: self.confirm(),
                ..Heard::default()
            },
            Phase::Watching { .. } => {
                self.silences += 1;
                Heard::failed(Failure::Silent(false))
            }
        }
    }

    /// Takes note of a failure, which decides what is asked next. True if it counts.
    pub(super) fn failed(&mut self, failure: &Failure, now: Time) -> bool {
        if let Phase::Watching { opened, .. } = self.phase {
            self.lived(now.saturating_sub(opened));
        }
        self.is_sure = false;
        let was_list = self.version.is_none();
        match failure {
            Failure::Status(status) if status.is_expired() => {
                self.is_whole = self.token.is_some();
                self.restart();
            }
            Failure::Status(status) if matches!(status.code, 400 | 422) && was_list => {
                self.restart();
                if self.falls_back() {
                    return false;
                }
            }
            Failure::Status(status) if !matches!(status.code, 401 | 403 | 429) => {
                if !was_list {
                    self.refusals += 1;
                } else if status.code < 500 {
                    self.restart();
                }
            }
            _ => {}
        }
        if self.refusals >= MAX_REFUSALS || self.silences >= MAX_SILENT {
            self.restart();
        }
        // Pages that have arrived stay good; a streaming list begins anew.
        if was_list && self.is_partial && self.token.is_none() {
            self.restart();
        }
        if matches!(failure, Failure::Unsupported | Failure::Ended(false)) {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        true
    }

    /// How many requests in a row have failed.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// Asks again at `until`.
    pub(super) fn wait(&mut self, until: Time) {
        self.phase = Phase::Waiting { until };
    }

    /// The server has no such API: as if the list were empty.
    pub(super) const fn absent(&mut self) {
        self.is_sure = true;
        self.is_partial = false;
    }

    /// Lists anew; what was held stays until that list is complete.
    fn restart(&mut self) {
        self.version = None;
        self.token = None;
        self.refusals = 0;
        self.silences = 0;
        self.is_sure = false;
        self.is_partial = false;
        self.is_restart_due = true;
    }

    /// Does without what the server may not have. False if there is nothing left to do without.
    fn falls_back(&mut self) -> bool {
        if matches!(self.form, Form::Stream { .. }) {
            return std::mem::take(&mut self.has_streams);
        }
        self.kind == Kind::Service && std::mem::take(&mut self.has_field_selector)
    }

    fn complete(&mut self) {
        self.is_sure = true;
        self.is_partial = false;
        self.is_whole = false;
        self.decoder.sweep();
    }

    /// A bookmark or an object without a version does not move us.
    fn advance(&mut self, version: Option<String>) {
        if version.as_ref().is_some_and(|it| !it.is_empty()) {
            self.version = version;
        }
    }

    /// The server accepted the version: nothing was missed. True the first time.
    const fn confirm(&mut self) -> bool {
        if let Phase::Watching { is_confirmed, .. } = &mut self.phase {
            self.is_sure = true;
            self.refusals = 0;
            return !std::mem::replace(is_confirmed, true);
        }
        false
    }

    /// A watch that went on for a while ends a row of failures; one that ends at once does not,
    /// however it began.
    fn lived(&mut self, time: Time) {
        if time >= STEADY {
            self.failures = 0;
        }
    }
}

/// How long a watch must last to count as one that works.
const STEADY: Time = Time::from_secs(5);
