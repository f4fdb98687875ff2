//! `AFFINITY`: which backend a client of a service with session affinity had last, and when it last
//! opened a connection. An LRU hash: losing an entry costs a client at most its backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::{Family, MappedAddress};
use crate::hash;
use crate::id::{BackendId, Seconds, ServiceId};

/// Key of `AFFINITY`. Written by the kernel; the agent only removes.
#[derive(
    Clone,
    Copy,
    Debug,
    Eq,
    FromBytes,
    Hash,
    Immutable,
    IntoBytes,
    KnownLayout,
    Ord,
    PartialEq,
    PartialOrd,
)]
#[repr(C)]
pub struct AffinityKey {
    /// The service port's id, big-endian. All its frontends share it.
    service: [u8; 4],
    /// Mapped address of the client as it sent its packet, network order.
    client: MappedAddress,
}

impl AffinityKey {
    /// The key of `client` at `service`.
    #[must_use]
    #[inline(always)]
    pub fn new<F: Family>(service: ServiceId, client: F::Address) -> Self {
        Self {
            service: service.raw().to_be_bytes(),
            client: F::mapped(client),
        }
    }

    /// The service port.
    #[inline(always)]
    pub const fn service(&self) -> ServiceId {
        ServiceId::from_raw(u32::from_be_bytes(self.service))
    }

    /// The client's mapped address.
    #[inline(always)]
    pub const fn client(&self) -> MappedAddress {
        self.client
    }

    /// 64 bits of the key, which its value is veiled with.
    #[inline(always)]
    const fn fingerprint(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.client;
        let high = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let low = u64::from_be_bytes([i, j, k, l, m, n, o, p]);
        let [q, r, s, t] = self.service;
        let service = u64::from_be_bytes([0, 0, 0, 0, q, r, s, t]);
        hash::mix(hash::mix(high, low), service)
    }
}

/// Value of `AFFINITY`: one word, the exclusive or of this and the key's fingerprint.
///
/// ```text
///  63                                        32 31          0
/// | seconds of the last new connection         | backend id |
/// ```
///
/// So who is handed another key's value, because the element was reused under its eyes, reads an id
/// that is no member of its service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AffinityValue(pub u64);

impl AffinityValue {
    /// The value of `key` after a connection to `backend` was opened at `last`.
    #[must_use]
    #[inline(always)]
    pub const fn new(key: &AffinityKey, backend: BackendId, last: Seconds) -> Self {
        let [a, b, c, d] = last.0.to_be_bytes();
        let [e, f, g, h] = backend.raw().to_be_bytes();
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]) ^ key.fingerprint())
    }

    /// The backend, if this is the value of `key`.
    #[inline(always)]
    pub const fn backend(self, key: &AffinityKey) -> BackendId {
        BackendId::from_raw(hash::lower(self.0 ^ key.fingerprint()))
    }

    /// When the last connection was opened, if this is the value of `key`.
    #[inline(always)]
    pub const fn last(self, key: &AffinityKey) -> Seconds {
        Seconds(hash::upper(self.0 ^ key.fingerprint()))
    }

    /// Whether less than `timeout` has passed since the last connection.
    #[inline(always)]
    pub const fn is_live(self, key: &AffinityKey, now: Seconds, timeout: Seconds) -> bool {
        // Another processor may have stamped it in a second that is yet to begin here.
        now.0.saturating_sub(self.last(key).0) < timeout.0
    }
}

const _: () = assert!(size_of::<AffinityKey>() == 20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{V4, V6};

    #[test]
    fn a_value_says_what_was_written_to_its_own_key_only() {
        let backend = BackendId::new(77, 3);
        let key = AffinityKey::new::<V4>(ServiceId::new(5, 1), [10, 0, 0, 1]);
        let value = AffinityValue::new(&key, backend, Seconds(12_345));
        assert_eq!(value.backend(&key), backend);
        assert_eq!(value.last(&key), Seconds(12_345));
        for other in [
            AffinityKey::new::<V4>(ServiceId::new(5, 2), [10, 0, 0, 1]),
            AffinityKey::new::<V4>(ServiceId::new(5, 1), [10, 0, 0, 2]),
            AffinityKey::new::<V6>(ServiceId::new(5, 1), [1; 16]),
        ] {
            assert_ne!(value.backend(&other), backend);
        }
    }

    #[test]
    fn an_entry_lives_until_its_timeout_and_a_later_stamp_is_no_old_one() {
        let key = AffinityKey::new::<V4>(ServiceId::new(5, 1), [10, 0, 0, 1]);
        let value = AffinityValue::new(&key, BackendId::new(1, 0), Seconds(100));
        let timeout = Seconds(10);
        for (now, is_live) in [(99, true), (100, true), (109, true), (110, false)] {
            assert_eq!(value.is_live(&key, Seconds(now), timeout), is_live, "{now}");
        }
    }
}
