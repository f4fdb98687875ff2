//! `SERVICES`: service index → where its backend sets are, one word for each audience.

/// Words an entry of `SERVICES` has: one for each [`Audience`].
pub const SERVICE_WORDS: usize = 3;

/// Whose traffic policy applies to a client. The discriminant is the position of its word in an entry
/// of `SERVICES`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Audience {
    /// Clients of this cluster that dial a cluster address: `internalTrafficPolicy`.
    Internal = 0,
    /// Clients from elsewhere that dial another address: `externalTrafficPolicy`.
    External = 1,
    /// Clients of this cluster that dial a node port, an external or a load balancer address: any
    /// endpoint, whatever the policies.
    Inside = 2,
}

impl Audience {
    /// All of them, by position.
    pub const ALL: [Self; SERVICE_WORDS] = [Self::Internal, Self::External, Self::Inside];

    /// Position of its word in an entry of `SERVICES`.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the discriminant; From is not const")]
    pub const fn position(self) -> usize {
        self as usize
    }
}

/// One word of `SERVICES`, stored by the agent with a single aligned store: a reader sees the old
/// set of backends or the new one, never a mixture.
///
/// ```text
///  63     42 41     32 31                     0
/// | unused   | service  | region offset, words |
/// |          | generation                      |
/// ```
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ServiceWord(pub u64);

impl ServiceWord {
    /// The word of a service in `generation` whose region begins at `offset` words into `ARENA`.
    /// Offset 0 is no region: the index is not in use.
    #[must_use]
    #[inline(always)]
    pub const fn new(offset: u32, generation: u32) -> Self {
        let [a, b, c, d] = offset.to_be_bytes();
        let [_, _, g, h] = generation.to_be_bytes();
        Self(u64::from_be_bytes([0, 0, g & 0x3, h, a, b, c, d]))
    }

    /// Offset of the region in `ARENA`, in words; 0 means none.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        crate::hash::lower(self.0)
    }

    /// Generation of the service's id.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        crate::hash::upper(self.0) & 0x3ff
    }
}
