//! How the decisions see the kernel tables: pinned maps in the kernel and in `steerage explain`,
//! ordinary collections in tests.

use crate::conntrack::State;
use crate::family::{Family, MappedAddress};
use crate::flow::{FlowEntry, FlowKey, FlowTuple};
use crate::flows::{Buckets, FlowTable, Found, Insert as _, Placed, Placement, Timeouts};
use crate::hash;
use crate::id::{BackendId, Seconds, ServiceId};
use crate::onward::{Hop, Reach};
use crate::room::Room;
use crate::select;
use crate::table::affinity::{AffinityKey, AffinityValue};
use crate::table::backend::BackendRecord;
use crate::table::config;
use crate::table::fragment::{FragmentKey, FragmentPorts};
use crate::table::frontend::FrontendKey;
use crate::table::service::{Audience, ServiceWord};
use crate::table::source_range::SourceRangeKey;
use crate::verdict::Reason;

/// Every table that a decision may read or write.
pub trait Tables: Sized {
    /// The flow table of one family.
    type Flows<F: Family>: Buckets<F>;

    /// Word `word` of `CONFIG`, 0 beyond its end.
    fn config(&self, word: u32) -> u64;

    /// The value of `key` in `FRONTENDS`.
    fn frontend(&self, key: &FrontendKey) -> Option<u64>;

    /// The word of a service for one audience.
    fn service(&self, index: u32, audience: Audience) -> Option<ServiceWord>;

    /// Word `word` of `ARENA`.
    fn arena(&self, word: u32) -> Option<u64>;

    /// The record at `index` of `BACKENDS`.
    fn backend(&self, index: u32) -> Option<BackendRecord>;

    /// Word `word` of `SERVICE_FILTER`, all ones beyond its end.
    fn service_filter(&self, word: u32) -> u64;

    /// Word `word` of `BACKEND_FILTER`, all ones beyond its end.
    fn backend_filter(&self, word: u32) -> u64;

    /// Word `word` of `NODE_PORTS`, all ones beyond its end.
    fn node_ports(&self, word: u32) -> u64;

    /// The value of `address` in `NODE_ADDRESSES`.
    fn node_address(&self, address: &MappedAddress) -> Option<u64>;

    /// Whether a network of `SOURCE_RANGES` holds `client`.
    fn has_source_range(&self, client: &SourceRangeKey) -> bool;

    /// The flow table.
    fn flows<F: Family>(&self) -> Self::Flows<F>;

    /// The ports remembered for a fragmented packet.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;

    /// Remembers the ports of a fragmented packet.
    fn remember_fragment(&self, key: &FragmentKey, ports: FragmentPorts);

    /// What `AFFINITY` has of a client.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue>;

    /// Remembers a client's backend.
    fn remember_affinity(&self, key: &AffinityKey, value: AffinityValue);

    /// Whether `id` is one of the `count` members of the region at `offset`: see
    /// [`select::has_member`]. The kernel side has a function of its own for it, too.
    #[inline(always)]
    fn has_member(&self, offset: u32, count: u16, id: BackendId) -> bool {
        select::has_member(self, offset, count, id)
    }

    /// `value`, of which the kernel's verifier knows nothing any more; `by` is anything that it
    /// does not know either.
    #[inline(always)]
    fn obscure(&self, value: u32, by: u32) -> u32 {
        let _ = by;
        value
    }

    /// Whether `client`, on whose device the program runs, and `backend` are ports of one bridge:
    /// then packets between them are bridged, not routed, in both directions.
    fn share_bridge<F: Family>(&self, client: F::Address, backend: F::Address) -> bool;

    /// Whether a flow that begins with the packet that the program runs on is sent on at once, in both
    /// directions, where the packet is to have `tuple`: see [`crate::onward::may_begin`].
    fn leads_on<F: Family>(&self, tuple: &FlowTuple<F>, reach: Reach) -> bool;

    /// The address that flows get which leave by the device that the program runs on and must come
    /// back to this node; the unspecified one where it has none of the family.
    fn source_address<F: Family>(&self) -> F::Address;

    /// Whether the packet that the program runs on was made by this host, and not received by any device.
    fn is_of_host(&self) -> bool;

    /// Interface index of the device that the program runs on.
    fn device(&self) -> u32;

    /// The next hop of a packet of this host with `tuple`: see [`crate::onward::of_host`].
    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop;

    /// [`Self::source_address`] of the device with interface index `device`.
    fn source_of<F: Family>(&self, device: u32) -> F::Address;

    /// Whether a socket of this node would take a packet with `tuple`: a listener's, or one of a
    /// connection. Of SCTP nothing is known.
    fn has_socket<F: Family>(&self, tuple: &FlowTuple<F>) -> bool;

    /// Counts something that happened on the way to a verdict.
    fn note(&self, reason: Reason);

    /// Counts a connection opened to a backend of a service.
    fn opened(&self, service: ServiceId, backend: BackendId);

    /// 32 random bits, for the choice of a source port.
    fn random(&self) -> u32;

    /// Looks for the live flow entry of `key`; says whether `found` is it now.
    ///
    /// This, [`Self::place`], [`Self::partner`] and [`Self::remove`] are what the kernel side has functions of its own for, which its
    /// verifier checks once instead of at each call.
    #[inline(always)]
    fn search<F: Family>(
        &self,
        key: &FlowKey<F>,
        now: Seconds,
        found: &mut Room<Found<F>>,
    ) -> bool {
        flow_table::<F, Self>(self).search(key, now, found)
    }

    /// Inserts a flow entry: see [`crate::flows::Insert::place`].
    #[inline(always)]
    fn place<F: Family>(
        &self,
        entry: &FlowEntry<F>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        flow_table::<F, Self>(self).place(entry, state, now, placed)
    }

    /// Puts the partner of `entry` into `room`. `None` never happens; the kernel's verifier cannot
    /// know that of what another function wrote.
    #[inline(always)]
    fn partner<'r, F: Family>(
        &self,
        entry: &FlowEntry<F>,
        room: &'r mut Room<FlowEntry<F>>,
    ) -> Option<&'r FlowEntry<F>> {
        Some(room.put(entry.partner()))
    }

    /// Inserts the partner of `entry`, which goes to `half`.
    #[inline(always)]
    fn place_partner<F: Family>(
        &self,
        entry: &FlowEntry<F>,
        half: &mut Room<FlowEntry<F>>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        self.partner(entry, half)
            .map_or(Placement::Contended, |partner| {
                self.place(partner, state, now, placed)
            })
    }

    /// Removes the partner of `entry`, which goes to `half`.
    #[inline(always)]
    fn remove_partner<F: Family>(
        &self,
        entry: &FlowEntry<F>,
        half: &mut Room<FlowEntry<F>>,
        now: Seconds,
    ) {
        if let Some(partner) = self.partner(entry, half) {
            self.remove(partner, now);
        }
    }

    /// Removes this very flow entry, if it is in the table.
    #[inline(always)]
    fn remove<F: Family>(&self, entry: &FlowEntry<F>, now: Seconds) {
        let table = flow_table::<F, Self>(self);
        if let Some((location, control)) = table.find(entry, now) {
            table.remove(location, control);
        }
    }
}

/// The flow table of `tables`, with the seed and timeouts of its settings.
#[inline(always)]
pub fn flow_table<F: Family, T: Tables>(
    tables: &T,
) -> FlowTable<F, T::Flows<F>, impl Timeouts + '_> {
    FlowTable::new(
        tables.flows::<F>(),
        tables.config(config::SEED),
        |state: State| {
            Seconds(hash::lower(
                tables.config(config::TIMEOUTS.wrapping_add(state.number())),
            ))
        },
    )
}
