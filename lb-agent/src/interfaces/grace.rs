//! A role that is lost for a moment is kept.
//!
//! An uplink's address or default route goes and comes back when a DHCP client renews, a network
//! service restarts or a cable is moved. Without its programs the host would answer what comes
//! meanwhile, and reset the flows. So a device keeps its role for [`GRACE`] after it has lost it. One
//! that is gone keeps nothing, and what the settings say holds at once, as does a role that is gained.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::classify::{Classified, Ground, Role};

/// How long a role is kept.
pub const GRACE: Duration = Duration::from_secs(5);

/// The roles that devices have.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grace {
    had: BTreeMap<u32, Had>,
}

/// A role, and since when there is no reason for it any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Had {
    role: Role,
    lost_at: Option<Instant>,
}

impl Grace {
    /// Begins with roles that an earlier agent gave.
    pub fn new(roles: impl IntoIterator<Item = (u32, Role)>) -> Self {
        let lost_at = None;
        let roles = roles.into_iter();
        Self {
            had: roles
                .map(|(index, role)| (index, Had { role, lost_at }))
                .collect(),
        }
    }

    /// Puts the roles that are kept at `now` in the place of those that were `found`, of all devices
    /// there are. Returns when to look again, where there is anything to look for.
    pub fn settle(
        &mut self,
        found: &mut BTreeMap<u32, Classified>,
        now: Instant,
    ) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let before = std::mem::take(&mut self.had);
        for (&index, classified) in found {
            let had = before.get(&index);
            let mut lost_at = None;
            if let Some(had) = had
                && is_loss(had.role, classified)
            {
                let since = had.lost_at.unwrap_or(now);
                let end = since + GRACE;
                if now < end {
                    lost_at = Some(since);
                    next = Some(next.map_or(end, |next| next.min(end)));
                    classified.role = had.role;
                    classified.why = "keeps its role for a moment, having lost the reason for it";
                    classified.obstacle = None;
                }
            }
            let role = classified.role;
            if role != Role::None {
                self.had.insert(index, Had { role, lost_at });
            }
        }
        next
    }
}

/// Whether a device with the role `had` has lost it by accident. A veth that is an uplink looks like a
/// workload's without its address; from one bridge to another is no loss.
fn is_loss(had: Role, found: &Classified) -> bool {
    let is_lost = match had {
        Role::None => false,
        Role::Uplink => found.role != Role::Uplink,
        Role::Workload { .. } => found.role == Role::None,
    };
    is_lost && found.ground == Ground::Nature && found.obstacle.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const WORKLOAD: Role = Role::Workload { bridge: 7 };

    fn found(role: Role) -> Classified {
        Classified {
            role,
            why: "is what it is",
            ground: Ground::Nature,
            obstacle: None,
        }
    }

    /// What device 3 is after `seconds`, having been found so.
    fn after(
        grace: &mut Grace,
        begin: Instant,
        seconds: u64,
        one: Option<Classified>,
    ) -> Option<Role> {
        let mut devices: BTreeMap<_, _> = one.into_iter().map(|one| (3, one)).collect();
        let now = begin + Duration::from_secs(seconds);
        let next = grace.settle(&mut devices, now);
        let one = devices.get(&3)?;
        assert_eq!(next.is_some(), one.why.starts_with("keeps"), "{one:?}");
        assert!(next.is_none_or(|next| next > now && next <= now + GRACE));
        Some(one.role)
    }

    #[test]
    fn a_role_is_kept_for_five_seconds_and_comes_back_meanwhile() {
        let begin = clock::instant();
        for lost in [Role::None, WORKLOAD] {
            let mut grace = Grace::new([(3, Role::Uplink)]);
            let mut at = |seconds, role| after(&mut grace, begin, seconds, Some(found(role)));
            assert_eq!(at(0, lost), Some(Role::Uplink));
            assert_eq!(at(4, lost), Some(Role::Uplink));
            assert_eq!(at(4, Role::Uplink), Some(Role::Uplink));
            // The time begins anew.
            assert_eq!(at(6, lost), Some(Role::Uplink));
            assert_eq!(at(10, lost), Some(Role::Uplink));
            assert_eq!(at(11, lost), Some(lost));
            assert_eq!(at(12, lost), Some(lost));
            assert_eq!(at(13, Role::Uplink), Some(Role::Uplink));
        }
    }

    #[test]
    fn what_is_gained_told_or_gone_counts_at_once() {
        let begin = clock::instant();
        let mut grace = Grace::default();
        let mut at = |seconds, one| after(&mut grace, begin, seconds, one);
        assert_eq!(at(0, Some(found(WORKLOAD))), Some(WORKLOAD));
        let moved = Role::Workload { bridge: 0 };
        assert_eq!(at(0, Some(found(moved))), Some(moved));
        assert_eq!(at(0, Some(found(Role::Uplink))), Some(Role::Uplink));
        let told = Classified {
            ground: Ground::Settings,
            ..found(Role::None)
        };
        assert_eq!(at(0, Some(told)), Some(Role::None));
        assert_eq!(at(0, Some(found(Role::Uplink))), Some(Role::Uplink));
        // Gone, and another device with its index.
        assert_eq!(at(0, None), None);
        assert_eq!(at(0, Some(found(Role::None))), Some(Role::None));
    }
}
