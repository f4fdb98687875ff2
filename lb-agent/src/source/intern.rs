//! Strings that repeat, kept once.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Shares equal strings: the names of nodes and zones stand in every endpoint.
#[derive(Debug, Default)]
pub struct Interner {
    strings: BTreeSet<Arc<str>>,
}

impl Interner {
    /// The shared copy of a string.
    pub fn get(&mut self, string: &str) -> Arc<str> {
        if let Some(shared) = self.strings.get(string) {
            return Arc::clone(shared);
        }
        let shared = Arc::<str>::from(string);
        self.strings.insert(Arc::clone(&shared));
        shared
    }

    /// Forgets the strings nobody holds any more.
    pub fn sweep(&mut self) {
        self.strings.retain(|string| Arc::strong_count(string) > 1);
    }
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
        assert_eq!(interner.strings, BTreeSet::from([other]));
    }
}
