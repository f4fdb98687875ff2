//! The plan compared with the tables, place by place, in steps as small as the caller likes.
//!
//! While no write is under way the planner knows every word that the tables should hold. What is
//! different was changed by somebody else, or by a fault. Backends come first and frontends last, so
//! that repairs made as they are found are sound in the planner's own order.
//!
//! * Bits of the filters may be too many, since they are never cleared; not too few.
//! * A region that is damaged is written anew at another place and the services that name it are
//!   pointed there: readers see the damage or the new region, never a mixture.
//! * Of an index that waits in quarantine, only what flows may read is compared.

use std::ops::Range;

use lb_common::id::ServiceId;
use lb_common::table::backend::BackendRecord;
use lb_common::table::filter::{
    BACKEND_FILTER_WORDS, FilterBit, NODE_PORT_WORDS, SERVICE_FILTER_WORDS,
};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};

use super::expand::PortKey;
use super::ids::Holder;
use super::planner::{AUDIENCES, BackendKey, PlannedPort, Planner};
use super::region::{SetKey, Site, fingerprint};
use crate::audit::words::{backend_name, frontend_name};
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::{DataplaneError, Write};

pub mod ranges;

/// Words of regions that one step reads at most, but for the last region: half a millisecond's.
const MOST_WORDS: usize = 65_536;

/// How far an audit is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// The element of `BACKENDS` that comes next.
    Backends(u32),
    /// The word of `BACKEND_FILTER` that comes next.
    BackendFilter(u32),
    /// The set whose region was compared last.
    Regions(Option<SetKey>),
    /// The element of `SERVICES` that comes next.
    Services(u32),
    /// The word of `SERVICE_FILTER` that comes next.
    ServiceFilter(u32),
    /// The word of `NODE_PORTS` that comes next.
    NodePorts(u32),
    /// The keys of `SOURCE_RANGES`, which [`Planner::audit_ranges`] reads.
    SourceRanges,
    /// The frontend of the plan that was compared last.
    Frontends(Option<FrontendKey>),
    /// The key of the table that was looked at last.
    Strangers(Option<FrontendKey>),
}

impl Place {
    /// Where an audit begins.
    pub const FIRST: Self = Self::Backends(1);
}

/// An entry that is not what the plan says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drift {
    /// The table it is in.
    pub table: Table,
    /// What is wrong, in words.
    pub text: String,
    /// How it is put right.
    repair: Repair,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Repair {
    Write(Write),
    /// The region of this set goes to another place.
    Relocate(SetKey),
}

/// What one step of an audit has found.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// What differs.
    pub drifts: Vec<Drift>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<Place>,
}

impl Planner {
    /// Compares at most `most` places from `at` on. Nothing may wait to be written; `is_parked` says
    /// which frontends the kernel had no room for. `keeps_strangers` says that entries of nobody's
    /// will still be there at the next step.
    pub fn audit(
        &self,
        at: Place,
        tables: &impl Inspect,
        is_parked: impl Fn(&FrontendKey) -> bool,
        keeps_strangers: bool,
        most: u32,
    ) -> Result<Step, DataplaneError> {
        let count = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(match at {
            Place::Backends(from) => {
                let end = from.saturating_add(most).min(self.capacity.backends);
                Step {
                    drifts: (from..end)
                        .filter_map(|index| self.audit_backend(index, tables.backend(index)))
                        .collect(),
                    next: Some(if end < self.capacity.backends {
                        Place::Backends(end)
                    } else {
                        Place::BackendFilter(0)
                    }),
                }
            }
            Place::BackendFilter(from) => {
                let words = from..from.saturating_add(most).min(BACKEND_FILTER_WORDS);
                Step {
                    next: Some(if words.end < BACKEND_FILTER_WORDS {
                        Place::BackendFilter(words.end)
                    } else {
                        Place::Regions(None)
                    }),
                    drifts: audit_filter(Table::BackendFilter, words, |word| {
                        self.backend_bits.word(word) & !tables.backend_filter(word)
                    }),
                }
            }
            Place::Regions(last) => self.audit_regions(last.as_ref(), tables, count),
            Place::Services(from) => {
                let end = from.saturating_add(most).min(self.capacity.services);
                Step {
                    drifts: (from..end)
                        .flat_map(|index| self.audit_service(index, tables.service(index)))
                        .collect(),
                    next: Some(if end < self.capacity.services {
                        Place::Services(end)
                    } else {
                        Place::ServiceFilter(0)
                    }),
                }
            }
            Place::ServiceFilter(from) => {
                let words = from..from.saturating_add(most).min(SERVICE_FILTER_WORDS);
                Step {
                    next: Some(if words.end < SERVICE_FILTER_WORDS {
                        Place::ServiceFilter(words.end)
                    } else {
                        Place::NodePorts(0)
                    }),
                    drifts: audit_filter(Table::ServiceFilter, words, |word| {
                        self.service_bits.word(word) & !tables.service_filter(word)
                    }),
                }
            }
            Place::NodePorts(from) => {
                let words = from..from.saturating_add(most).min(NODE_PORT_WORDS);
                Step {
                    next: Some(if words.end < NODE_PORT_WORDS {
                        Place::NodePorts(words.end)
                    } else {
                        Place::SourceRanges
                    }),
                    drifts: audit_filter(Table::NodePorts, words, |word| {
                        self.node_port_bits.word(word) & !tables.node_port_filter(word)
                    }),
                }
            }
            Place::SourceRanges => Step {
                drifts: Vec::new(),
                next: Some(Place::Frontends(None)),
            },
            Place::Frontends(last) => self.audit_frontends(last, tables, is_parked, count)?,
            Place::Strangers(last) => self.audit_strangers(last, tables, keeps_strangers, count)?,
        })
    }

    /// The writes that put right what was found; none where there is no room to do it.
    #[must_use]
    pub fn repair(&mut self, drift: &Drift) -> Vec<Write> {
        match &drift.repair {
            Repair::Write(write) => vec![write.clone()],
            Repair::Relocate(set) => self.relocate(set),
        }
    }

    fn audit_backend(&self, index: u32, found: BackendRecord) -> Option<Drift> {
        let (id, key) = match self.backends.holder(index) {
            Holder::Live(id, key) | Holder::Quarantined(id, Some(key)) => (id, key),
            // Nobody knows what it was, and only flows name it.
            Holder::Quarantined(_, None) => return None,
            Holder::Nobody => {
                let is_empty = found.protocol().is_none();
                return (!is_empty).then(|| Drift {
                    table: Table::Backends,
                    text: format!("backend {} is nobody's", record_name(&found)),
                    repair: Repair::Write(Write::ClearBackend { index }),
                });
            }
        };
        let written = self.states.get(index as usize).copied().unwrap_or_default();
        let flags = written.written;
        let record = BackendRecord::new(id, key.address, key.port, key.protocol, flags);
        (found != record).then(|| Drift {
            table: Table::Backends,
            text: format!(
                "backend {} is not there as it should be (found {})",
                backend_name(key),
                record_name(&found)
            ),
            repair: Repair::Write(Write::SetBackend { id, record }),
        })
    }

    fn audit_regions(&self, last: Option<&SetKey>, tables: &impl Inspect, count: usize) -> Step {
        let mut step = Step::default();
        let mut reached = None;
        let mut read = 0;
        for site in self.regions.after(last).take(count) {
            let words = tables.region(site.offset, site.words);
            read += words.len();
            if fingerprint(&words) != site.fingerprint {
                step.drifts.push(self.damaged(site));
            }
            reached = Some(site.key.clone());
            if read >= MOST_WORDS {
                break;
            }
        }
        step.next = Some(match reached {
            Some(key) => Place::Regions(Some(key)),
            None => Place::Services(1),
        });
        step
    }

    fn damaged(&self, site: Site<'_>) -> Drift {
        let users: Vec<_> = self
            .users(site.key)
            .map(|port| port.key.to_string())
            .collect();
        Drift {
            table: Table::Arena,
            text: format!("the backend set of {} is damaged", users.join(", ")),
            repair: Repair::Relocate(site.key.clone()),
        }
    }

    fn users(&self, set: &SetKey) -> impl Iterator<Item = &PlannedPort> {
        let ports = self.planned.values().flat_map(|planned| &planned.ports);
        ports.filter(move |port| port.sets.contains(set))
    }

    fn relocate(&mut self, set: &SetKey) -> Vec<Write> {
        let Some(offset) = self.regions.relocate(set) else {
            return Vec::new();
        };
        let words = self.region_words(set);
        let mut writes = vec![Write::WriteRegion { offset, words }];
        let ports = self.planned.values_mut();
        for port in ports.flat_map(|planned| &mut planned.ports) {
            let sets = port.sets.iter().zip(&mut port.words);
            for (audience, (of, word)) in AUDIENCES.into_iter().zip(sets) {
                if of == set {
                    *word = ServiceWord::new(offset, port.id.generation());
                    writes.push(Write::SetService {
                        index: port.id.index(),
                        audience,
                        word: *word,
                    });
                }
            }
        }
        writes
    }

    fn audit_service(&self, index: u32, found: [ServiceWord; SERVICE_WORDS]) -> Vec<Drift> {
        let (expected, whose) = match self.services.holder(index) {
            Holder::Live(id, key) => (self.words_of(id, key), key.to_string()),
            // Offset 0 is what counts: no frontend leads here.
            Holder::Quarantined(..) | Holder::Nobody => {
                let none = found.map(|word| {
                    if word.offset() == 0 {
                        word
                    } else {
                        ServiceWord::new(0, word.generation())
                    }
                });
                (none, "nobody".to_owned())
            }
        };
        let words = AUDIENCES.into_iter().zip(expected).zip(found);
        words
            .filter(|((_, expected), found)| expected != found)
            .map(|((audience, word), found)| Drift {
                table: Table::Services,
                text: format!(
                    "entry {index} of {whose} names the backend set at {} and not at {}",
                    found.offset(),
                    word.offset()
                ),
                repair: Repair::Write(Write::SetService {
                    index,
                    audience,
                    word,
                }),
            })
            .collect()
    }

    fn words_of(&self, id: ServiceId, key: &PortKey) -> [ServiceWord; SERVICE_WORDS] {
        let planned = self.planned.get(&key.name.service);
        let ports = planned.map_or(&[][..], |planned| &planned.ports);
        let port = ports.iter().find(|port| port.id == id);
        port.map_or(
            [ServiceWord::new(0, id.generation()); SERVICE_WORDS],
            |port| port.words,
        )
    }

    fn audit_frontends(
        &self,
        last: Option<FrontendKey>,
        tables: &impl Inspect,
        is_parked: impl Fn(&FrontendKey) -> bool,
        count: usize,
    ) -> Result<Step, DataplaneError> {
        let mut step = Step::default();
        let mut reached = None;
        for (key, value) in self.frontends.published_after(last.as_ref()).take(count) {
            reached = Some(*key);
            let found = tables.frontend(key)?;
            if found == Some(*value) || is_parked(key) {
                continue;
            }
            let owner = self.frontends.owner(key);
            let owner = owner.map_or_else(String::new, |owner| format!(" of {owner}"));
            let state = if found.is_some() {
                "has another value"
            } else {
                "is missing"
            };
            step.drifts.push(Drift {
                table: Table::Frontends,
                text: format!("frontend {}{owner} {state}", frontend_name(key)),
                repair: Repair::Write(Write::SetFrontend {
                    key: *key,
                    value: *value,
                }),
            });
        }
        step.next = Some(match reached {
            Some(key) => Place::Frontends(Some(key)),
            None => Place::Strangers(None),
        });
        Ok(step)
    }

    fn audit_strangers(
        &self,
        last: Option<FrontendKey>,
        tables: &impl Inspect,
        keeps_strangers: bool,
        count: usize,
    ) -> Result<Step, DataplaneError> {
        let keys = tables.frontends_after(last.as_ref(), count)?;
        let published = self.frontends.published();
        let is_stranger = |key: &&FrontendKey| !published.contains_key(*key);
        let strangers = keys.iter().filter(is_stranger);
        let drifts = strangers.map(|key| Drift {
            table: Table::Frontends,
            text: format!("frontend {} is nobody's", frontend_name(key)),
            repair: Repair::Write(Write::RemoveFrontend { key: *key }),
        });
        // A key that is removed cannot say where to go on.
        let stays = |key: &&FrontendKey| keeps_strangers || !is_stranger(key);
        let reached = keys.iter().rev().find(stays).copied().or(last);
        Ok(Step {
            drifts: drifts.collect(),
            next: (!keys.is_empty()).then_some(Place::Strangers(reached)),
        })
    }
}

/// What lacks bits among these words of a filter; `missing` says which a word lacks.
fn audit_filter(table: Table, words: Range<u32>, missing: impl Fn(u32) -> u64) -> Vec<Drift> {
    let lacking = words.map(|word| FilterBit {
        word,
        mask: missing(word),
    });
    lacking
        .filter(|bits| bits.mask != 0)
        .map(|bits| unmarked(table, bits))
        .collect()
}

fn unmarked(table: Table, bits: FilterBit) -> Drift {
    let FilterBit { word, mask } = bits;
    let write = match table {
        Table::ServiceFilter => Write::MarkService(bits),
        Table::NodePorts => Write::MarkNodePort(bits),
        _ => Write::MarkBackend(bits),
    };
    Drift {
        table,
        text: format!(
            "bits {mask:#x} of word {word} of {} are missing",
            table.name()
        ),
        repair: Repair::Write(write),
    }
}

fn record_name(record: &BackendRecord) -> String {
    record.protocol().map_or_else(
        || "nothing".to_owned(),
        |protocol| {
            let key = BackendKey {
                address: record.address(),
                port: record.port(),
                protocol,
            };
            format!(
                "{} in generation {}",
                backend_name(&key),
                record.generation()
            )
        },
    )
}
