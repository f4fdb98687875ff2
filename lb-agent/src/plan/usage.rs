//! How full the tables are by the planner's own account, which costs nothing to ask.

use super::planner::Planner;

/// Entries in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Of `FRONTENDS`.
    pub frontends: u64,
    /// Of `SERVICES`, those that wait to be reused included.
    pub services: u64,
    /// Of `BACKENDS`, likewise.
    pub backends: u64,
    /// Words of `ARENA`, those of regions that readers may still see included.
    pub arena_words: u64,
    /// Of `SOURCE_RANGES`.
    pub source_ranges: u64,
}

impl Planner {
    /// How full the tables are once all writes are applied.
    pub fn usage(&self) -> Usage {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let used = |capacity: u32, free: u32| u64::from(capacity.saturating_sub(free));
        Usage {
            frontends: count(self.frontends.published().len()),
            services: used(self.capacity.services, self.services.available()),
            backends: used(self.capacity.backends, self.backends.available()),
            arena_words: u64::from(self.capacity.arena_words)
                .saturating_sub(self.regions.free_words()),
            source_ranges: count(self.ranges.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Capacity;
    use crate::plan::ServiceView;
    use crate::plan::tests::fixture::{NODE, endpoint, service, slice};

    #[test]
    fn usage_grows_with_a_service_and_goes_with_it() {
        let mut planner = Planner::new(Capacity {
            frontends: 64,
            services: 64,
            arena_words: 4096,
            backends: 64,
            node_addresses: 64,
            source_ranges: 64,
        });
        let empty = planner.usage();
        let web = service("web", &["10.96.0.1"], &[("http", 80)]);
        let slices = [slice(
            "web-1",
            "web",
            &[("http", 8080)],
            [endpoint("10.0.0.1"), endpoint("10.0.0.2")],
        )];
        drop(planner.plan_service(&ServiceView::new(&web, &slices), &NODE));
        let full = planner.usage();
        assert_eq!(full.services - empty.services, 1);
        assert_eq!(full.backends - empty.backends, 2);
        // The port, and the address itself.
        assert_eq!(full.frontends, 2);
        assert!(full.arena_words > empty.arena_words);
        drop(planner.remove_service(&web.name));
        assert_eq!(planner.usage().frontends, 0);
    }
}
