//! The life of a flow as a table of transitions: TCP by its flags (RFC 9293), UDP by who has spoken
//! (RFC 4787), SCTP by its first chunk (RFC 9260).
//!
//! The shape is that of the kernel's `nf_conntrack`, with the two rules of RFC 6146 §3.5.2.2 that a
//! tracker needs which does not follow sequence numbers: a half-closed flow remembers which side
//! closed it, so that a repeated FIN is not taken for the other side's; and a flow that was reset
//! comes back to life when it goes on, so that a forged RST ends nothing.
//!
//! ```text
//!  Original: SYN, or mid-stream                  FIN by the client        FIN by the backend
//!  ─────────► SynSent ──► SynReceived ──► Established ──► FinWait ────────► LastAck ──► TimeWait
//!             (reply:     (original: ACK)     │  └──────► CloseWait ──────────┘   (ACK)
//!              SYN+ACK)                       └─ RST ──► Closed (from anywhere)
//! ```
//!
//! A flow without reply is **unconfirmed**: a newcomer may take its place. So that nobody can make
//! confirmed flows without a reply, every transition from an unconfirmed state to a confirmed one
//! is one of the reply direction, or of a client that answers the backend's SYN+ACK (held by a
//! test). Both entries of a flow get the same transitions; keeping them in step is the caller's.

use crate::flow::Direction;
use crate::id::Seconds;

macro_rules! states {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $seconds:literal, $text:literal;)+) => {
        /// Where a flow is in its life. The number is the control word's and never changes
        /// meaning; 0 to 2 are slots without a flow that readers see.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum State {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl State {
            /// Every state, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The state with this number.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The number: in control words, and of its timeout after `config::TIMEOUTS`.
            #[inline(always)]
            pub const fn number(self) -> u32 {
                match self { $(Self::$name => $number,)+ }
            }

            /// The name in snake case, as commands show it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The timeout when the settings say nothing.
            pub const fn default_timeout(self) -> Seconds {
                match self { $(Self::$name => Seconds($seconds),)+ }
            }
        }
    };
}

states! {
    /// TCP without a reply: a SYN, or a flow met in mid-stream. `nf_conntrack_tcp_timeout_syn_sent`.
    SynSent = 3, 120, "syn_sent";
    /// The backend answered with SYN+ACK. `nf_conntrack_tcp_timeout_syn_recv`.
    SynReceived = 4, 60, "syn_received";
    /// Both sides have spoken. 24 h as kube-proxy sets it; RFC 5382 REQ-5 asks for 2 h 4 min.
    Established = 5, 86400, "established";
    /// The client closed its direction, the backend may go on. 1 h as kube-proxy sets it for
    /// `nf_conntrack_tcp_timeout_close_wait`, where the kernel too has a flow with one closed side.
    FinWait = 6, 3600, "fin_wait";
    /// The backend closed its direction, the client may go on. 1 h, likewise.
    CloseWait = 7, 3600, "close_wait";
    /// Both closed; the last ACK is missing. `nf_conntrack_tcp_timeout_last_ack`.
    LastAck = 8, 30, "last_ack";
    /// Both closed and acknowledged. `nf_conntrack_tcp_timeout_time_wait`.
    TimeWait = 9, 120, "time_wait";
    /// Reset. `nf_conntrack_tcp_timeout_close`.
    Closed = 10, 10, "closed";
    /// UDP without a reply. `nf_conntrack_udp_timeout`.
    UdpNew = 11, 30, "udp_new";
    /// UDP in both directions. `nf_conntrack_udp_timeout_stream`; RFC 4787 REQ-5.
    UdpStream = 12, 120, "udp_stream";
    /// SCTP without a reply. `nf_conntrack_sctp_timeout_heartbeat_sent`, the longest of the kernel's
    /// states before the association is up.
    SctpNew = 13, 30, "sctp_new";
    /// SCTP in both directions. `nf_conntrack_sctp_timeout_established`.
    SctpEstablished = 14, 210, "sctp_established";
    /// An association that ended. `nf_conntrack_sctp_timeout_closed`.
    SctpShutdown = 15, 10, "sctp_shutdown";
}

impl State {
    /// Whether both sides are known to take part: such a flow is never replaced while it lives. A
    /// half-open TCP flow is not yet, as with the kernel's `ASSURED`: a backend answers the SYN of
    /// a forged source too.
    #[inline(always)]
    pub const fn is_confirmed(self) -> bool {
        match self {
            Self::Established
            | Self::FinWait
            | Self::CloseWait
            | Self::LastAck
            | Self::UdpStream
            | Self::SctpEstablished => true,
            Self::SynSent
            | Self::SynReceived
            | Self::TimeWait
            | Self::Closed
            | Self::UdpNew
            | Self::SctpNew
            | Self::SctpShutdown => false,
        }
    }

    /// Whether the flow has ended and its entry only serves stragglers: any newcomer may have it.
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        matches!(self, Self::TimeWait | Self::Closed | Self::SctpShutdown)
    }
}

/// Seconds after which what keeps a source port without need gives it up, see
/// [`State::yields_port`]. Two of whole seconds are more than one.
const PORT_GRACE: Seconds = Seconds(2);

impl State {
    /// Whether a flow in this state, last used `age` ago, leaves its source port to a newcomer that
    /// finds no free one. One that has ended does: Linux, too, takes such a port for a new connection
    /// after a second (`tcp_tw_reuse`), since by then sequence numbers and time stamps tell the two
    /// apart. So does one that nobody has confirmed, or a flood of forged segments would hold all
    /// ports of a backend for the time that a handshake may take.
    #[inline(always)]
    pub fn yields_port(self, age: Seconds) -> bool {
        !self.is_confirmed() && age >= PORT_GRACE
    }
}

/// What a packet means to its flow.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Event {
    /// TCP SYN without ACK.
    Syn,
    /// TCP SYN with ACK.
    SynAck,
    /// TCP FIN.
    Fin,
    /// TCP ACK with none of the flags above.
    Ack,
    /// TCP RST, with whatever else.
    Rst,
    /// TCP with none of these flags.
    NoFlags,
    /// A UDP datagram.
    Udp,
    /// SCTP that begins an association: INIT.
    SctpInit,
    /// SCTP that ends one: ABORT, SHUTDOWN ACK or SHUTDOWN COMPLETE.
    SctpEnd,
    /// Any other SCTP packet.
    SctpOther,
}

impl Event {
    /// Every event.
    pub const ALL: &'static [Self] = &[
        Self::Syn,
        Self::SynAck,
        Self::Fin,
        Self::Ack,
        Self::Rst,
        Self::NoFlags,
        Self::Udp,
        Self::SctpInit,
        Self::SctpEnd,
        Self::SctpOther,
    ];

    /// The event of a segment whose header has these `flags` (RFC 9293 §3.1: byte 13). Looked up,
    /// for the reason that [`step`] gives.
    #[inline(always)]
    pub fn tcp(flags: u8) -> Self {
        let index = usize::from(flags & 0x1f);
        TCP_EVENTS.get(index).copied().unwrap_or(Self::NoFlags)
    }

    /// The number, below 16.
    #[inline(always)]
    #[expect(clippy::as_conversions, reason = "the discriminant; From is not const")]
    pub const fn number(self) -> u32 {
        self as u32
    }

    const fn tcp_by_rule(flags: u8) -> Self {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        const ACK: u8 = 16;
        if flags & RST != 0 {
            Self::Rst
        } else if flags & (SYN | ACK) == SYN | ACK {
            Self::SynAck
        } else if flags & SYN != 0 {
            Self::Syn
        } else if flags & FIN != 0 {
            Self::Fin
        } else if flags & ACK != 0 {
            Self::Ack
        } else {
            Self::NoFlags
        }
    }

    /// The event of a packet whose first chunk has this type (RFC 9260 §3.2), `None` where the
    /// packet ends before it.
    #[inline(always)]
    pub const fn sctp(first_chunk: Option<u8>) -> Self {
        match first_chunk {
            Some(1) => Self::SctpInit,
            Some(6 | 8 | 14) => Self::SctpEnd,
            _ => Self::SctpOther,
        }
    }

    /// Whether the client asks for a new flow.
    #[inline(always)]
    pub const fn is_opening(self) -> bool {
        matches!(self, Self::Syn | Self::SctpInit)
    }
}

/// [`Event::tcp`] of the five flags that matter, and PSH between them.
static TCP_EVENTS: [Event; 32] = tcp_events();

#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index is an error"
)]
#[expect(clippy::arithmetic_side_effects, reason = "at compile time, likewise")]
#[expect(clippy::as_conversions, reason = "below 32; From is not const")]
const fn tcp_events() -> [Event; 32] {
    let mut table = [Event::NoFlags; 32];
    let mut flags = 0_u8;
    while flags < 32 {
        table[flags as usize] = Event::tcp_by_rule(flags);
        flags += 1;
    }
    table
}

/// The state in which a flow begins whose first packet, from the client, means `event`. TCP without
/// SYN is a flow that this table has lost, or never had: it is taken up, unconfirmed.
#[inline(always)]
pub const fn first(event: Event) -> State {
    match event {
        Event::Syn | Event::SynAck | Event::Ack | Event::NoFlags => State::SynSent,
        Event::Fin => State::TimeWait,
        Event::Rst => State::Closed,
        Event::Udp => State::UdpNew,
        Event::SctpInit | Event::SctpOther => State::SctpNew,
        Event::SctpEnd => State::SctpShutdown,
    }
}

/// Whether neither a plain acknowledgement nor a datagram that travels in `direction` takes a flow out
/// of this state: nearly every packet finds its flow in such a one.
#[inline(always)]
pub const fn is_steady(state: State, direction: Direction) -> bool {
    match state {
        State::Established | State::FinWait | State::CloseWait | State::UdpStream => true,
        State::UdpNew => matches!(direction, Direction::Original),
        State::SynSent
        | State::SynReceived
        | State::LastAck
        | State::TimeWait
        | State::Closed
        | State::SctpNew
        | State::SctpEstablished
        | State::SctpShutdown => false,
    }
}

/// Whether this packet of the client's ends an old flow and begins a new one with the same tuple,
/// which then chooses its backend anew.
#[inline(always)]
pub const fn begins_anew(state: State, event: Event) -> bool {
    event.is_opening() && state.is_closing()
}

/// Whether this packet of the backend's cannot be of a flow in this state: it answers a SYN where
/// the flow has long begun to close. Another connection between the same two ports, which we do not
/// translate, then has taken the flow's place.
#[inline(always)]
pub fn is_of_another(state: State, event: Event) -> bool {
    event == Event::SynAck
        && !matches!(
            state,
            State::SynSent | State::SynReceived | State::Established
        )
}

/// The state after a packet that travels in `direction` and means `event`. A packet that makes no
/// sense leaves the flow as it is.
///
/// Looked up, not decided: to the kernel's verifier every branch on a state or an event is another
/// program to follow, and there are 390 of them. The table is made from the rules below.
#[inline(always)]
pub fn step(state: State, direction: Direction, event: Event) -> State {
    let table = match direction {
        Direction::Original => &STEPS_ORIGINAL,
        Direction::Reply => &STEPS_REPLY,
    };
    let index = event.number() << 4 | state.number();
    let next = usize::try_from(index)
        .ok()
        .and_then(|index| table.get(index));
    next.copied().unwrap_or(state)
}

/// Entries of a table of steps, by event and state. Far more than there are events: the verifier
/// does not know that a byte which holds an event is below ten, and any byte must be a valid index.
const STEPS: usize = 256 << 4;
static STEPS_ORIGINAL: [State; STEPS] = steps(Direction::Original);
static STEPS_REPLY: [State; STEPS] = steps(Direction::Reply);

/// [`step_by_rule`] of every event and state; entries of numbers that are none are never read.
#[expect(
    clippy::indexing_slicing,
    reason = "at compile time, where a wrong index is an error"
)]
#[expect(clippy::arithmetic_side_effects, reason = "at compile time, likewise")]
#[expect(
    clippy::as_conversions,
    reason = "numbers of four bits; From is not const"
)]
const fn steps(direction: Direction) -> [State; STEPS] {
    let mut table = [State::SynSent; STEPS];
    let mut state = 0;
    while state < State::ALL.len() {
        let mut event = 0;
        while event < Event::ALL.len() {
            let (before, packet) = (State::ALL[state], Event::ALL[event]);
            let index = (packet.number() << 4 | before.number()) as usize;
            table[index] = step_by_rule(before, direction, packet);
            event += 1;
        }
        state += 1;
    }
    table
}

/// The rules.
const fn step_by_rule(state: State, direction: Direction, event: Event) -> State {
    match direction {
        Direction::Original => step_original(state, event),
        Direction::Reply => step_reply(state, event),
    }
}

const fn step_original(state: State, event: Event) -> State {
    use State as S;
    match (state, event) {
        (
            S::SynSent
            | S::SynReceived
            | S::Established
            | S::FinWait
            | S::CloseWait
            | S::LastAck
            | S::TimeWait
            | S::Closed,
            Event::Rst,
        ) => S::Closed,
        (S::SynReceived, Event::Ack) => S::Established,
        (S::SynReceived | S::Established, Event::Fin) => S::FinWait,
        (S::CloseWait, Event::Fin) => S::LastAck,
        // Nobody has answered, so the client's word is not enough for a state that must live.
        (S::SynSent, Event::Fin) | (S::LastAck, Event::Ack) => S::TimeWait,
        (S::TimeWait | S::Closed, Event::Syn) | (S::Closed, Event::Ack) => S::SynSent,
        (S::SctpNew | S::SctpEstablished, Event::SctpEnd) => S::SctpShutdown,
        (S::SctpShutdown, Event::SctpInit | Event::SctpOther) => S::SctpNew,
        (same, _) => same,
    }
}

const fn step_reply(state: State, event: Event) -> State {
    use State as S;
    match (state, event) {
        (
            S::SynSent
            | S::SynReceived
            | S::Established
            | S::FinWait
            | S::CloseWait
            | S::LastAck
            | S::TimeWait
            | S::Closed,
            Event::Rst,
        ) => S::Closed,
        // A SYN alone is a simultaneous open (RFC 9293 §3.5).
        (S::SynSent, Event::SynAck | Event::Syn) => S::SynReceived,
        // Mid-stream: both sides are there.
        (S::SynSent | S::Closed, Event::Ack) => S::Established,
        (S::SynSent | S::SynReceived | S::Established, Event::Fin) => S::CloseWait,
        (S::FinWait, Event::Fin) => S::LastAck,
        (S::LastAck, Event::Ack) => S::TimeWait,
        (S::UdpNew, Event::Udp) => S::UdpStream,
        (S::SctpNew | S::SctpShutdown, Event::SctpOther) | (S::SctpNew, Event::SctpInit) => {
            S::SctpEstablished
        }
        (S::SctpNew | S::SctpEstablished, Event::SctpEnd) => S::SctpShutdown,
        (same, _) => same,
    }
}

#[cfg(test)]
mod tests;
