//! Who asks and what they may do, and the log that shows what was asked.

use std::collections::BTreeMap;

use super::resource::Resource;

/// Whom requests without a token are from.
pub const ANONYMOUS: &str = "system:anonymous";

/// What is done to a resource, as access rules name it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verb {
    /// One object is read.
    Get,
    /// Many are.
    List,
    /// Their changes are.
    Watch,
    /// An object is made.
    Create,
    /// Parts of an object are replaced.
    Patch,
}

impl Verb {
    /// The word in access rules.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
        }
    }
}

/// A rule of a `ClusterRole`; `*` stands for everything.
#[derive(Clone, Debug, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// Groups; the core group is the empty text.
    #[serde(default)]
    pub api_groups: Vec<String>,
    /// Plural names of resources.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Verbs.
    pub verbs: Vec<String>,
}

impl PolicyRule {
    /// A rule of these words.
    pub fn new(group: &str, resources: &[&str], verbs: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        Self {
            api_groups: vec![group.to_owned()],
            resources: owned(resources),
            verbs: owned(verbs),
        }
    }

    /// Whether it lets this be done.
    pub fn permits(&self, verb: Verb, resource: Resource) -> bool {
        let has =
            |words: &[String], wanted: &str| words.iter().any(|word| word == "*" || word == wanted);
        has(&self.api_groups, resource.group())
            && has(&self.resources, resource.plural())
            && has(&self.verbs, verb.name())
    }
}

/// What the server knows of users.
#[derive(Debug, Default)]
pub(super) struct Access {
    /// User by token. Without any token nobody is asked for one.
    pub(super) tokens: BTreeMap<String, String>,
    /// What users may do; everything, if there is no list.
    pub(super) rules: Option<Vec<PolicyRule>>,
    /// What nobody may do, whatever the rules say.
    pub(super) forbidden: Vec<(Verb, Resource)>,
}

impl Access {
    /// The user of an `Authorization` header; `None` if its token is not known.
    pub(super) fn user(&self, header: Option<&str>) -> Option<String> {
        match header {
            None => Some(ANONYMOUS.to_owned()),
            Some(_) if self.tokens.is_empty() => Some(ANONYMOUS.to_owned()),
            Some(header) => self.tokens.get(header.strip_prefix("Bearer ")?).cloned(),
        }
    }

    /// Whether a user may do this.
    pub(super) fn permits(&self, user: &str, verb: Verb, resource: Resource) -> bool {
        if self.forbidden.contains(&(verb, resource)) {
            return false;
        }
        if user == ANONYMOUS && !self.tokens.is_empty() {
            return false;
        }
        self.rules
            .as_ref()
            .is_none_or(|rules| rules.iter().any(|rule| rule.permits(verb, resource)))
    }
}

/// One request for a resource, as it was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Who asked; empty if the token was not known.
    pub user: String,
    /// What for.
    pub verb: Verb,
    /// Of what.
    pub resource: Resource,
    /// In which namespace; empty for all.
    pub namespace: String,
    /// For which object; empty for all.
    pub name: String,
    /// The query string, decoded.
    pub query: BTreeMap<String, String>,
    /// The status of the answer; 0 where the connection was left without one.
    pub status: u16,
}
