//! Strings that repeat, kept once.

use std::collections::HashSet;
use std::sync::Arc;

/// How many strings are remembered that repeat nearby or not at all.
const NEARBY: usize = 4096;

/// Shares equal strings.
#[derive(Debug, Default)]
pub struct Interner {
    /// Names of nodes, zones and namespaces, which stand everywhere.
    strings: HashSet<Arc<str>>,
    /// Names of objects, which the next few objects may have too: there are too many of them to
    /// remember all.
    nearby: HashSet<Arc<str>>,
}

impl Interner {
    /// The shared copy of a string that is in many objects.
    pub fn get(&mut self, string: &str) -> Arc<str> {
        shared(&mut self.strings, string)
    }

    /// The shared copy of a string that may be in the next few objects: a Service and its slices
    /// have one name, a Pod is in the slices of both families.
    pub fn get_nearby(&mut self, string: &str) -> Arc<str> {
        if self.nearby.len() >= NEARBY {
            self.nearby.clear();
        }
        shared(&mut self.nearby, string)
    }

    /// Forgets the strings nobody holds any more.
    pub fn sweep(&mut self) {
        self.strings.retain(|string| Arc::strong_count(string) > 1);
        self.nearby.clear();
    }
}

fn shared(strings: &mut HashSet<Arc<str>>, string: &str) -> Arc<str> {
    if let Some(shared) = strings.get(string) {
        return Arc::clone(shared);
    }
    let shared = Arc::<str>::from(string);
    strings.insert(Arc::clone(&shared));
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_are_shared_until_nobody_holds_them() {
        let mut interner = Interner::default();
        let first = interner.get("node-a");
        assert!(Arc::ptr_eq(&first, &interner.get("node-a")));
        let other = interner.get("node-b");
        drop(first);
        interner.sweep();
        assert_eq!(interner.strings, HashSet::from([other]));
    }

    #[test]
    fn names_of_objects_are_shared_nearby_and_never_pile_up() {
        let mut interner = Interner::default();
        let first = interner.get_nearby("web-0");
        assert!(Arc::ptr_eq(&first, &interner.get_nearby("web-0")));
        for number in 0..3 * NEARBY {
            interner.get_nearby(&format!("pod-{number}"));
            assert!(interner.nearby.len() <= NEARBY);
        }
        interner.sweep();
        assert!(interner.nearby.is_empty());
    }
}
