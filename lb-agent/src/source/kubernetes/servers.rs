//! Which API server to ask: the one that works, and the next one when it does not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::endpoint::EndpointSlice;
use crate::model::name::ObjectName;

/// The base of a server's addresses, such as `https://10.0.0.1:6443`.
pub type Url = Arc<str>;

/// The servers there are.
///
/// Those of the settings come first. Behind them come the endpoints of Service
/// `default/kubernetes`, which need neither a Service address nor a name to be found. The Service
/// address itself, which the environment of a pod names, comes last: it works only where somebody
/// has programmed it.
#[derive(Clone, Debug)]
pub struct Servers {
    configured: Vec<Url>,
    known: Vec<Url>,
    environment: Option<Url>,
    current: Url,
}

impl Servers {
    /// Servers of the settings, those known from before, the one of the environment, and the one
    /// that worked last: it is asked first. `None` if there are none at all.
    pub fn new(
        configured: Vec<Url>,
        known: Vec<Url>,
        environment: Option<Url>,
        last: Option<&Url>,
    ) -> Option<Self> {
        let mut all = configured.iter().chain(&known).chain(&environment);
        let first = Arc::clone(all.next()?);
        let mut servers = Self {
            configured,
            known,
            environment,
            current: first,
        };
        if let Some(last) = last.filter(|last| servers.all().any(|server| server == *last)) {
            servers.current = Arc::clone(last);
        }
        Some(servers)
    }

    /// The server to ask.
    pub const fn current(&self) -> &Url {
        &self.current
    }

    /// How many there are to try.
    pub fn count(&self) -> usize {
        self.all().count()
    }

    /// The server does not work: the next one's turn, if nobody else has given it that yet.
    pub fn failed(&mut self, server: &Url) {
        if *server != self.current {
            return;
        }
        let all: Vec<_> = self.all().collect();
        let place = all.iter().position(|it| *it == server);
        let next = place.map_or(0, |place| (place + 1) % all.len());
        if let Some(next) = all.get(next) {
            self.current = Arc::clone(next);
        }
    }

    /// Replaces what is known from the cluster. The current server stays the current one until it
    /// fails, also when it is no longer among them.
    pub fn learn(&mut self, known: Vec<Url>) {
        self.known = known;
    }

    fn all(&self) -> impl Iterator<Item = &Url> {
        let others = self.known.iter().chain(&self.environment);
        let others = others.filter(|it| !self.configured.contains(it));
        self.configured.iter().chain(others)
    }
}

/// The servers that the slices of `default/kubernetes` name.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    slices: BTreeMap<ObjectName, Vec<Url>>,
}

impl Endpoints {
    /// Whether a slice is one of theirs.
    pub(super) fn concerns(slice: &EndpointSlice) -> bool {
        *slice.service.namespace == *"default" && *slice.service.name == *"kubernetes"
    }

    /// A slice is there. True if the servers are others now.
    pub(super) fn apply(&mut self, slice: &EndpointSlice) -> bool {
        let port = slice
            .ports
            .iter()
            .find(|port| port.name == "https")
            .or_else(|| slice.ports.first());
        let Some(port) = port.map(|port| port.port) else {
            return self.remove(&slice.name);
        };
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let servers: Vec<Url> = ready
            .map(|endpoint| match endpoint.address {
                IpAddr::V4(address) => format!("https://{address}:{port}").into(),
                IpAddr::V6(address) => format!("https://[{address}]:{port}").into(),
            })
            .collect();
        self.slices.insert(slice.name.clone(), servers.clone()) != Some(servers)
    }

    /// A slice is gone. True if it was one of theirs.
    pub(super) fn remove(&mut self, name: &ObjectName) -> bool {
        self.slices.remove(name).is_some()
    }

    /// Only these slices are left.
    pub(super) fn retain(&mut self, is_left: impl Fn(&ObjectName) -> bool) {
        self.slices.retain(|name, _| is_left(name));
    }

    /// All servers, each once.
    pub(super) fn servers(&self) -> Vec<Url> {
        let mut servers: Vec<Url> = self.slices.values().flatten().cloned().collect();
        servers.sort();
        servers.dedup();
        servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(names: &[&str]) -> Vec<Url> {
        names.iter().map(|&name| name.into()).collect()
    }

    /// The servers in the order in which they are tried.
    fn order(servers: &mut Servers, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                let current = Arc::clone(servers.current());
                servers.failed(&current);
                current.to_string()
            })
            .collect()
    }

    #[test]
    fn servers_take_turns_as_they_fail_those_of_the_settings_first() {
        let mut servers =
            Servers::new(urls(&["a", "b"]), urls(&["b", "c"]), Some("e".into()), None).unwrap();
        assert_eq!(servers.count(), 4);
        assert_eq!(order(&mut servers, 5), ["a", "b", "c", "e", "a"]);
    }

    #[test]
    fn the_server_that_worked_last_is_asked_first() {
        let known = urls(&["c", "d"]);
        let mut servers =
            Servers::new(urls(&["a"]), known.clone(), None, Some(&"d".into())).unwrap();
        assert_eq!(order(&mut servers, 3), ["d", "a", "c"]);
        let servers = Servers::new(urls(&["a"]), known, None, Some(&"gone".into())).unwrap();
        assert_eq!(**servers.current(), *"a");
        assert!(Servers::new(vec![], vec![], None, None).is_none());
    }

    #[test]
    fn several_failures_of_one_server_are_one_turn() {
        let mut servers = Servers::new(urls(&["a", "b", "c"]), vec![], None, None).unwrap();
        for _ in 0..4 {
            servers.failed(&"a".into());
        }
        assert_eq!(**servers.current(), *"b");
    }

    #[test]
    fn a_working_server_that_is_no_longer_known_stays_until_it_fails() {
        let mut servers =
            Servers::new(urls(&["a"]), urls(&["b"]), None, Some(&"b".into())).unwrap();
        servers.learn(urls(&["c"]));
        assert_eq!(order(&mut servers, 4), ["b", "a", "c", "a"]);
    }
}
