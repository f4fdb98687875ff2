//! What is wrong with the objects a source has read, one clear line each.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::kubernetes::problem::ApiProblem;
use crate::model::endpoint::MAX_WEIGHT;
use crate::model::event::Kind;
use crate::model::name::ObjectName;

/// What is wrong. Each says what the agent does about it, or what the operator can.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
pub enum Detail {
    /// The text is neither YAML nor JSON, or a field is of another type.
    #[error("{message}; what the file held before stays")]
    Malformed {
        /// What the parser said.
        message: String,
    },
    /// A document that does not say what it is.
    #[error("missing; a Kubernetes object has apiVersion and kind")]
    MissingType,
    /// An object without a name.
    #[error("missing; an object needs a name")]
    MissingName,
    /// Not an IP address; it is ignored.
    #[error("\"{value}\" is not an IP address; ignored")]
    InvalidAddress {
        /// What it says.
        value: String,
    },
    /// Not a network; it is ignored.
    #[error("\"{value}\" is not a network such as 10.0.0.0/8; ignored")]
    InvalidNetwork {
        /// What it says.
        value: String,
    },
    /// An address of the other family; it is ignored.
    #[error("{value} is not an {family} address; ignored")]
    WrongFamily {
        /// The address.
        value: String,
        /// `IPv4` or `IPv6`.
        family: String,
    },
    /// Not a port; it is ignored.
    #[error("{value} is not a port (1 to 65535); ignored")]
    InvalidPort {
        /// What it says.
        value: i32,
    },
    /// A word the field does not know; the fallback is used.
    #[error("\"{value}\" is none of {known}; {consequence}")]
    UnknownValue {
        /// What it says.
        value: String,
        /// What it may say.
        known: &'static str,
        /// What the agent does.
        consequence: &'static str,
    },
    /// A session affinity timeout out of range.
    #[error("{value} is not a timeout (1 to 86400 seconds); {default} is used")]
    InvalidTimeout {
        /// What it says.
        value: i32,
        /// What is used.
        default: u32,
    },
    /// A weight that is none.
    #[error("\"{value}\" is not a weight (0 to {MAX_WEIGHT}); {default} is used")]
    InvalidWeight {
        /// What it says.
        value: String,
        /// What is used.
        default: u16,
    },
    /// Two ports of one name and protocol; endpoints could not tell them apart.
    #[error("another port before it has the same name and protocol; ignored")]
    DuplicatePort,
    /// A Service that nobody has given an address.
    #[error("missing; set the address by hand, nothing allocates one; the Service is ignored")]
    MissingClusterIp,
    /// A slice of no Service.
    #[error("missing; it names the Service the slice belongs to; the slice is ignored")]
    MissingServiceName,
    /// More endpoints than a slice may have.
    #[error("{count} endpoints, at most {limit} are accepted; split the slice")]
    TooManyEndpoints {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The same object twice.
    #[error("defined in {winner} already; this one is ignored")]
    Duplicate {
        /// The file that counts.
        winner: Arc<str>,
    },
    /// A file too large to be read.
    #[error("larger than {limit_mib} MiB and not read; what it held before stays; split it")]
    TooLarge {
        /// The limit, in MiB.
        limit_mib: u64,
    },
    /// A file or directory that cannot be read.
    #[error("cannot be read ({message}); what it held before stays")]
    Unreadable {
        /// What the system said.
        message: String,
    },
    /// The kernel does not say what changes.
    #[error("cannot be watched ({message}); it is read every {seconds} s instead")]
    Unwatched {
        /// What the system said.
        message: String,
        /// How often it is read.
        seconds: u64,
    },
    /// More of the same.
    #[error("{count} more problems")]
    More {
        /// How many.
        count: usize,
    },
}

/// A problem of one object: which field and what.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct FieldProblem {
    /// Path of the field, such as `spec.ports[0].port`; empty for the object as a whole.
    pub field: String,
    /// What is wrong with it.
    pub detail: Detail,
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(formatter, "{}: ", self.field)?;
        }
        write!(formatter, "{}", self.detail)
    }
}

impl FieldProblem {
    /// A problem of this field.
    pub fn new(field: impl Into<String>, detail: Detail) -> Self {
        Self {
            field: field.into(),
            detail,
        }
    }
}

/// A problem and where it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Problem {
    /// The file's name in its directory, or the directory's path.
    pub file: Arc<str>,
    /// Document in the file and line in the file, both from 1.
    pub position: Option<Position>,
    /// Kind and name, such as `Service default/web`, where it is known.
    pub object: Option<String>,
    /// The field and what is wrong with it.
    pub problem: FieldProblem,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The document's number, from 1; documents of comments only do not count.
    pub document: usize,
    /// The line of the problem where the parser knows it, else the document's first; from 1.
    pub line: u64,
}

impl Problem {
    /// The object it is about, if that is of a kind that is watched.
    pub fn subject(&self) -> Option<(Kind, ObjectName)> {
        let (kind, name) = self.object.as_deref()?.split_once(' ')?;
        let kind = Kind::ALL.into_iter().find(|it| it.name() == kind)?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        let name = ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        };
        Some((kind, name))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(Position { document, line }) = self.position {
            write!(formatter, ":{line}: document {document}")?;
        }
        if let Some(object) = &self.object {
            write!(formatter, ": {object}")?;
        }
        write!(formatter, ": {}", self.problem)
    }
}

/// All that is wrong at present.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceReport {
    /// Sorted by file and position.
    pub problems: Vec<Problem>,
    /// How the API server is, where it is the source.
    pub api: Option<ApiReport>,
}

/// How the API server is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ApiReport {
    /// The server that is asked.
    pub server: String,
    /// When an object last came, in seconds since the Unix epoch.
    pub last_event_at: Option<u64>,
    /// When Services and `EndpointSlices` were last listed as a whole, likewise.
    pub last_list_at: Option<u64>,
    /// What stands between us and it. The source logs these itself, since they come and go.
    pub problems: Vec<ApiProblem>,
}

/// Remembers what was said, so that the same problem is said once while it lasts.
#[derive(Debug, Default)]
pub struct Reporter {
    said: BTreeSet<Problem>,
}

impl Reporter {
    /// The problems that were not there the last time. One that goes and comes back is new.
    pub fn fresh(&mut self, report: &SourceReport) -> Vec<Problem> {
        let now: BTreeSet<_> = report.problems.iter().cloned().collect();
        let fresh = now.difference(&self.said).cloned().collect();
        self.said = now;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: u64) -> Problem {
        Problem {
            file: "web.yaml".into(),
            position: Some(Position { document: 2, line }),
            object: Some("Service default/web".into()),
            problem: FieldProblem::new("spec.ports[0].port", Detail::InvalidPort { value: 0 }),
        }
    }

    #[test]
    fn a_problem_is_one_line_that_says_where_what_and_what_happens() {
        assert_eq!(
            problem(12).to_string(),
            "web.yaml:12: document 2: Service default/web: spec.ports[0].port: \
             0 is not a port (1 to 65535); ignored"
        );
        let unreadable = Problem {
            position: None,
            object: None,
            problem: FieldProblem::new("", Detail::TooLarge { limit_mib: 64 }),
            ..problem(1)
        };
        assert_eq!(
            unreadable.to_string(),
            "web.yaml: larger than 64 MiB and not read; what it held before stays; split it"
        );
    }

    #[test]
    fn a_problem_is_said_once_and_again_when_it_comes_back() {
        let mut reporter = Reporter::default();
        let report = SourceReport {
            problems: vec![problem(1), problem(2)],
            api: None,
        };
        assert_eq!(reporter.fresh(&report), report.problems);
        assert_eq!(reporter.fresh(&report), []);
        assert_eq!(
            reporter.fresh(&SourceReport {
                problems: vec![problem(2)],
                api: None,
            }),
            []
        );
        assert_eq!(reporter.fresh(&report), [problem(1)]);
    }
}
