//! What happens to a packet and why: the one vocabulary for counters, command line, documents and
//! tests.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $index:literal, $kind:ident, $text:literal;)+) => {
        /// Why a packet was passed, translated, answered or dropped. The discriminant is the
        /// reason's index in `COUNTERS`: it never changes meaning, new reasons go to the end.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $index,)+
        }

        impl Reason {
            /// Every reason, by index.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Index in `COUNTERS`.
            #[inline(always)]
            pub const fn index(self) -> u32 {
                match self { $(Self::$name => $index,)+ }
            }

            /// The name in snake case, as commands, metrics and documents show it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What becomes of the packet.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }

            /// What it means and what an operator may do about it.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+),)+ }
            }
        }
    };
}

/// What becomes of a packet, in one word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Goes on untouched.
    Pass,
    /// Goes on with other addresses or ports.
    Translate,
    /// Is turned into an answer to its sender.
    Answer,
    /// Ends here.
    Drop,
    /// Not a packet's end: something that happened on the way.
    Note,
}

reasons! {
    /// Not IPv4 or IPv6, or behind more than two VLAN tags.
    NotIp = 0, Pass, "not_ip";
    /// Headers that end too early or contradict themselves; the kernel decides.
    Malformed = 1, Pass, "malformed";
    /// Concerns no service.
    NotService = 2, Pass, "not_service";
    /// A new flow to a service, sent to a backend.
    NewFlow = 3, Translate, "new_flow";
    /// A packet of a known flow.
    Established = 4, Translate, "established";
    /// A later fragment of a translated packet.
    Fragment = 5, Translate, "fragment";
    /// An ICMP error about a translated flow.
    IcmpError = 6, Translate, "icmp_error";
    /// An echo request to a service address that has a ready endpoint.
    EchoReply = 7, Answer, "echo_reply";
    /// The service has no endpoint that may be used; the client is refused at once.
    NoEndpoints = 8, Answer, "no_endpoints";
    /// A service address, but not one of its ports; the client is refused at once.
    UnknownPort = 9, Answer, "unknown_port";
    /// In the service CIDR, but no Service has the address.
    UnallocatedAddress = 10, Drop, "unallocated_address";
    /// The service has endpoints, but its traffic policy allows none of them on this node.
    NoLocalEndpoints = 11, Drop, "no_local_endpoints";
    /// A later fragment whose first fragment was not seen.
    FragmentWithoutFirst = 12, Drop, "fragment_without_first";
    /// Both buckets of the flow table are full of live confirmed flows: raise the table's size.
    FlowsFull = 13, Drop, "flows_full";
    /// Other processors were claiming the same flow; the sender's next packet settles it.
    FlowContention = 14, Drop, "flow_contention";
    /// No source port is free for this client and backend.
    PortsExhausted = 15, Drop, "ports_exhausted";
    /// A backend or region that a table names is not there: `steerage verify` tells more.
    TableInconsistent = 16, Drop, "table_inconsistent";
    /// A refusal that the rate limit swallowed, or an answer that must not be given (to a RST, an
    /// ICMP error, a multicast or a later fragment).
    RefusalSuppressed = 17, Drop, "refusal_suppressed";
    /// An ICMP redirect about a translated flow: its route is ours to choose.
    RedirectSuppressed = 18, Drop, "redirect_suppressed";
    /// The kernel refused a change to the packet.
    RewriteFailed = 19, Drop, "rewrite_failed";
    /// The lost half of a flow was rebuilt.
    HalfRebuilt = 20, Note, "half_rebuilt";
    /// A flow whose backend is gone was given another one.
    BackendReplaced = 21, Note, "backend_replaced";
    /// A source port was changed, since another flow held the reply tuple.
    PortChanged = 22, Note, "port_changed";
    /// A flow that no reply had confirmed made room for a newcomer.
    UnconfirmedReplaced = 23, Note, "unconfirmed_replaced";
    /// An SCTP flow whose ports would have to change. Earlier versions could not do that; not counted
    /// any more.
    SctpPortChange = 24, Drop, "sctp_port_change";
    /// The client is in none of the networks that may dial this load balancer address
    /// (`loadBalancerSourceRanges`).
    SourceRange = 25, Drop, "source_range";
    /// A flow from outside to a backend elsewhere was given a source address and port of this node,
    /// so that its replies come back here.
    NewSource = 26, Translate, "new_source";
    /// A flow from outside would leave by a device that has no address of its family for its replies
    /// to come back to: give the device one, or route to the backend by another.
    NoSourceAddress = 27, Drop, "no_source_address";
    /// A first fragment of an SCTP packet whose ports change: the checksum is over all of the packet,
    /// whose length this fragment does not say. SCTP itself sends packets that need no fragments.
    SctpFragment = 28, Drop, "sctp_fragment";
    /// A packet was sent on to the next device without the host's filters and routing
    /// (`datapath.redirect`).
    SentOn = 29, Note, "sent_on";
    /// A packet of a flow that is sent on went to the host nevertheless: it is too large, its TTL ends
    /// here, it has options, or no route leads on; the host answers, or routes it.
    NotSentOn = 30, Note, "not_sent_on";
    /// A packet was translated at both of its hooks and sent on where its frame came in
    /// (`datapath.xdp`): it is counted under what the two hooks would have said, too.
    ByXdp = 31, Note, "by_xdp";
    /// This node itself dials a service, and packets cannot be sent to the backend that was chosen: it is
    /// on this node's own network, or no route leads there, or by a device without programs of ours, whose
    /// answers nobody would restore. The client is refused at once.
    NoWayToBackend = 32, Answer, "no_way_to_backend";
    /// A packet of this node to a service was translated and could not be sent: no route leads to its
    /// backend any more, or it is larger than the route's MTU.
    NotCarried = 33, Drop, "not_carried";
}

/// Slots of `COUNTERS`: more than there are reasons, so that a new one needs no new map.
pub const COUNTER_SLOTS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn reasons_have_their_position_as_index_and_a_name_of_their_own() {
        let mut names = BTreeSet::new();
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(usize::try_from(reason.index()), Ok(position));
            assert!(names.insert(reason.name()));
        }
        assert!(u32::try_from(Reason::ALL.len()).unwrap() <= COUNTER_SLOTS);
    }
}
