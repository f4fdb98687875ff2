//! Which differences last: an object that changed a moment ago is on its way, and tables that are
//! read while they are written are never all of one moment.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::audit::difference::Difference;
use crate::clock;
use crate::dataplane::layout::Table;

/// What a difference is about, whatever its values are.
type Place = (Table, String, Option<String>);

/// What several looks have in common.
#[derive(Debug)]
pub(super) struct Looks {
    began: Instant,
    patience: Duration,
    /// Since when each has been seen at every look.
    since: BTreeMap<Place, Instant>,
    is_clean: bool,
}

impl Looks {
    /// Between two looks.
    pub(super) const PAUSE: Duration = Duration::from_millis(250);
    /// How long a difference must have lasted to be one.
    const LASTING: Duration = Duration::from_secs(1);

    /// Looks for at most `patience`, and no less than a difference takes to count.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            began: clock::instant(),
            patience: patience.max(Self::LASTING + Self::PAUSE),
            since: BTreeMap::new(),
            is_clean: false,
        }
    }

    /// Takes in what a look has found; gives what has lasted.
    pub(super) fn take(&mut self, found: Vec<Difference>) -> Vec<Difference> {
        let now = clock::instant();
        self.take_at(found, now)
    }

    fn take_at(&mut self, found: Vec<Difference>, now: Instant) -> Vec<Difference> {
        self.is_clean = found.is_empty();
        let place = |difference: &Difference| {
            let Difference {
                table,
                about,
                service,
                ..
            } = difference;
            (*table, about.clone(), service.clone())
        };
        let before = std::mem::take(&mut self.since);
        for difference in &found {
            let place = place(difference);
            let since = before.get(&place).copied().unwrap_or(now);
            self.since.insert(place, since);
        }
        let lasts = |since: &Instant| now.duration_since(*since) >= Self::LASTING;
        found
            .into_iter()
            .filter(|difference| self.since.get(&place(difference)).is_some_and(lasts))
            .collect()
    }

    /// Whether the last look found nothing at all.
    pub(super) const fn is_clean(&self) -> bool {
        self.is_clean
    }

    /// Whether the time is up.
    pub(super) fn is_over(&self) -> bool {
        self.began.elapsed() >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::difference::Behind;

    fn difference(about: &str, kernel: &str) -> Difference {
        Difference {
            table: Table::Frontends,
            about: about.to_owned(),
            service: None,
            source: None,
            agent: None,
            kernel: Some(kernel.to_owned()),
            behind: Behind::Tables,
        }
    }

    #[test]
    fn only_what_was_seen_at_every_look_for_a_second_is_a_difference() {
        let mut looks = Looks::new(Duration::from_secs(4));
        let start = clock::instant();
        let after = |millis| start + Duration::from_millis(millis);
        let a = |value| difference("a", value);
        let b = || difference("b", "1");
        assert_eq!(looks.take_at(vec![a("1"), b()], start), []);
        assert_eq!(looks.take_at(vec![a("2")], after(600)), []);
        // What comes back has to last anew; another value at the same place is no other difference.
        assert_eq!(looks.take_at(vec![a("3"), b()], after(1200)), [a("3")]);
        assert_eq!(looks.take_at(vec![b()], after(2300)), [b()]);
        assert_eq!(looks.take_at(vec![], after(2400)), []);
        assert!(looks.is_clean());
    }

    #[test]
    fn patience_is_never_shorter_than_a_difference_takes_to_last() {
        let looks = Looks::new(Duration::ZERO);
        assert!(looks.patience > Looks::LASTING);
        assert!(!looks.is_over());
    }
}
