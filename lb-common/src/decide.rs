//! What happens to a packet: the whole way from headers to verdict.
//!
//! ```text
//! may it concern a service? ──no──► pass
//!   │ yes
//! its flow is known ──► step its state ──► translate
//!   │ no          └── (egress: pass; or, by an uplink and from outside: a source of this node)
//! a frontend's port ──► choose a backend ──► make the flow's entries ──► translate
//!   │ no                    └─► nobody may serve: refuse, or drop
//! a service's address ──► refuse; answer an echo
//! in a service CIDR ──► drop
//! neither ──► pass (ingress: an answer of a flow whose packets are sent on is one of them)
//! ```
//!
//! The kernel programs, the host's tests and fuzzers and `steerage explain` run these functions.
//! They change nothing but the flow table and the counters of notes; the caller rewrites.

mod create;
mod error;
mod established;
mod glance;
mod host;
mod onward;
mod passage;
mod portless;
mod side;
mod source;
mod transit;

pub use self::glance::{Glance, glance, glance_of};
pub use self::passage::{Passage, enter, leave};
pub use self::side::{FromHost, FromUplink, FromWorkload, Side, ToUplink, ToWorkload};
pub use self::transit::{Fate, Transit, Way, Ways, transit};

use crate::conntrack::{Event, State};
use crate::family::Family;
use crate::flow::{FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use crate::flows::{Found, Placed};
use crate::icmp::QuotedPacket;
use crate::id::Seconds;
use crate::lookup::{self, AddressKind};
use crate::packet::PacketRead;
use crate::parse::{Packet, TcpFlags, Transport};
use crate::rewrite::{ErrorRewrite, Rewrite};
use crate::room::Room;
use crate::table::config;
use crate::table::device::Role;
use crate::tables::Tables;
use crate::verdict::Reason;

/// What the caller does with a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Action {
    /// Hands it on untouched.
    Pass = 0,
    /// Rewrites it as [`Workspace::rewrite`] says and hands it on by the verdict's path.
    Translate = 1,
    /// Rewrites an ICMP error and the packet it quotes as [`Workspace::error`] says.
    TranslateError = 2,
    /// Answers with a TCP RST or an ICMP port unreachable.
    Refuse = 3,
    /// Answers an echo request.
    Echo = 4,
    /// Ends the packet's way.
    Drop = 5,
}

/// What happens to a packet, and why. A struct whose fields are always set, not an enum with
/// fields: it travels in a register, and the kernel refuses a program that moves bits which one of
/// the variants leaves undefined.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    /// What the caller does.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// How the packet leaves, if it goes on: for a translated one at any hook, for one that passes at
    /// ingress, where [`Path::SentOn`] is an answer that egress restores.
    pub path: Path,
}

impl Verdict {
    #[inline(always)]
    const fn new(action: Action, reason: Reason) -> Self {
        Self {
            action,
            reason,
            path: Path::Routed,
        }
    }

    /// The packet goes on untouched.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self::new(Action::Pass, reason)
    }

    /// The packet ends here.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self::new(Action::Drop, reason)
    }

    /// The packet is refused.
    #[inline(always)]
    pub const fn refuse(reason: Reason) -> Self {
        Self::new(Action::Refuse, reason)
    }
}

/// What one part of a decision says, always all of it: see [`Verdict`].
#[derive(Clone, Copy)]
struct Step {
    next: Next,
    /// The verdict, where nothing remains to be decided.
    verdict: Verdict,
    /// The state of the flow that `next` is about.
    state: State,
}

/// What remains to do.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
enum Next {
    /// Nothing.
    Done = 0,
    /// The flow's other half must follow to the state; the verdict stands.
    Follow = 1,
    /// The flow that was found is over and gives way to a new one.
    Replace = 2,
    /// No flow has the packet.
    Choose = 3,
    /// A flow is prepared, to begin in the state.
    Establish = 4,
}

impl Step {
    /// A verdict.
    #[inline(always)]
    const fn done(verdict: Verdict) -> Self {
        Self {
            next: Next::Done,
            verdict,
            state: State::SynSent,
        }
    }

    /// Something that remains to be done.
    #[inline(always)]
    const fn next(next: Next, state: State) -> Self {
        Self {
            next,
            verdict: Verdict::pass(Reason::NotService),
            state,
        }
    }
}

/// Memory of a decision, and what it says beside the verdict. The kernel's stack is too small for
/// it, so it is the caller's: a value of a per-processor map there, a local variable here.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Workspace<F: Family> {
    rewrite: Room<Rewrite<F>>,
    error: Room<ErrorRewrite<F>>,
    /// What an ICMP error quotes.
    quote: Room<QuotedPacket<F>>,
    /// What another flow is looked for by.
    key: Room<FlowKey<F>>,
    /// The flow that has the packet.
    found: Room<Found<F>>,
    /// The entry of a new flow.
    entry: Room<FlowEntry<F>>,
    /// The second entry of a hairpin.
    leg: Room<FlowEntry<F>>,
    /// The partner of any of them.
    half: Room<FlowEntry<F>>,
    /// Where the entry is that was inserted last.
    placed: Placed,
    /// 1 if the client of the new flow has to be remembered, for its service has session affinity.
    sticks: u32,
}

impl<F: Family> Workspace<F> {
    /// From what to what a packet is rewritten, after [`Action::Translate`].
    #[inline(always)]
    pub const fn rewrite(&self) -> Option<&Rewrite<F>> {
        self.rewrite.get()
    }

    /// What an ICMP error quotes and how both are rewritten, after [`Action::TranslateError`].
    #[inline(always)]
    pub const fn error(&self) -> Option<(&QuotedPacket<F>, &ErrorRewrite<F>)> {
        match (self.quote.get(), self.error.get()) {
            (Some(quote), Some(rewrite)) => Some((quote, rewrite)),
            _ => None,
        }
    }

    /// The verdict for a packet of the flow whose entry is `entry`.
    #[inline(never)]
    fn translate(rewrite: &mut Room<Rewrite<F>>, reason: Reason, entry: &FlowEntry<F>) -> Verdict {
        rewrite.put(Rewrite {
            from: entry.key.tuple,
            to: entry.translated,
        });
        Verdict {
            action: Action::Translate,
            reason,
            path: entry.path,
        }
    }
}

/// Where and when a packet is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sighting {
    /// What the device leads to.
    pub role: Role,
    /// The side of the device.
    pub hook: Hook,
    /// The time.
    pub now: Seconds,
}

/// Decides about the `packet` that `read` holds, wherever it is seen.
pub fn decide<F: Family>(
    read: &impl PacketRead,
    packet: &Packet<F>,
    seen: &Sighting,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let now = seen.now;
    match (seen.role, seen.hook) {
        (Role::Workload, Hook::Ingress) => {
            decide_at::<F, FromWorkload>(read, packet, now, tables, workspace)
        }
        (Role::Workload, Hook::Egress) => {
            decide_at::<F, ToWorkload>(read, packet, now, tables, workspace)
        }
        (Role::Uplink, Hook::Ingress) => {
            decide_at::<F, FromUplink>(read, packet, now, tables, workspace)
        }
        (Role::Uplink, Hook::Egress) if tables.is_of_host() => {
            decide_at::<F, FromHost>(read, packet, now, tables, workspace)
        }
        (Role::Uplink, Hook::Egress) => {
            decide_at::<F, ToUplink>(read, packet, now, tables, workspace)
        }
    }
}

/// The same at the side `S`.
#[inline(always)]
pub fn decide_at<F: Family, S: Side>(
    read: &impl PacketRead,
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let verdict = translation::<F, S>(read, packet, now, tables, workspace);
    if S::HOOK == Hook::Ingress
        && matches!(verdict.action, Action::Pass)
        && tables.config(config::REDIRECT) != 0
        && onward::is_answer(packet, now, tables, workspace)
    {
        return Verdict {
            path: Path::SentOn,
            ..verdict
        };
    }
    verdict
}

/// What the packet is translated to here, or why it is not.
///
/// Each of the parts is a function of its own, which in the kernel begins with an almost empty
/// stack.
#[inline(always)]
fn translation<F: Family, S: Side>(
    read: &impl PacketRead,
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    if !packet.has_ports() {
        return if packet.is_error()
            && error::quote(read, packet, &mut workspace.quote)
            && error::find::<F, S>(now, tables, workspace)
        {
            error::decide::<F, S>(packet, workspace)
        } else {
            portless::decide::<F, S>(packet, now, tables, workspace)
        };
    }
    if !may_concern::<F, S>(packet, tables) {
        return unknown_address::<F, S>(packet, tables);
    }
    if packet.fragment.is_part {
        portless::remember::<F, S>(packet, tables);
    }
    let settled = settle::<F, S>(packet, now, tables, workspace);
    match settled.next {
        Next::Done => return settled.verdict,
        Next::Follow => {
            established::follow(settled.state, now, tables, workspace);
            return settled.verdict;
        }
        Next::Replace => established::forget(now, tables, workspace),
        Next::Choose | Next::Establish => {}
    }
    let chosen = match (S::ROLE, S::HOOK) {
        (_, Hook::Ingress) => create::choose::<F, S>(packet, now, tables, workspace),
        (Role::Uplink, Hook::Egress) if S::IS_OF_HOST => {
            host::choose::<F, S>(packet, now, tables, workspace)
        }
        (Role::Uplink, Hook::Egress) => source::choose::<F, S>(packet, now, tables, workspace),
        (Role::Workload, Hook::Egress) => return Verdict::pass(Reason::NotService),
    };
    if chosen.next != Next::Establish {
        return chosen.verdict;
    }
    if S::HOOK == Hook::Ingress {
        onward::begin::<F, S>(packet, tables, workspace);
    }
    let verdict = create::establish::<F, S>(chosen.state, now, tables, workspace);
    create::stick(now, tables, workspace);
    verdict
}

/// Whether a packet with ports may concern a service: most packets end here.
#[inline(never)]
fn may_concern<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> bool {
    let tuple = packet.tuple();
    tuple.is_some_and(|tuple| concerns::<F, S>(&tuple, tables))
}

/// The same of a packet with `tuple`.
#[inline(always)]
fn concerns<F: Family, S: Side>(tuple: &FlowTuple<F>, tables: &impl Tables) -> bool {
    lookup::may_concern::<F>(tables, (S::ROLE, S::HOOK), tuple)
        || (S::IS_OF_HOST && lookup::may_be_service::<F>(tables, tuple.destination))
}

/// Looks for the flow of a packet with ports.
#[inline(never)]
fn settle<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    let Transport::Ports { tuple, tcp_flags } = packet.transport() else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    let event = event(tuple.protocol, tcp_flags);
    established::settle::<F, S>(&tuple, event, now, tables, workspace)
}

/// A packet whose address no table and no flow has.
#[inline(always)]
fn unknown_address<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> Verdict {
    match S::HOOK {
        Hook::Ingress if lookup::in_service_cidr::<F>(tables, packet.destination) => {
            Verdict::drop(Reason::UnallocatedAddress)
        }
        Hook::Ingress | Hook::Egress => Verdict::pass(Reason::NotService),
    }
}

/// What becomes of a packet to `address` when none of its ports matched.
#[inline(always)]
fn refuse_address<F: Family>(address: F::Address, tables: &impl Tables) -> Verdict {
    match lookup::address_kind::<F>(tables, address) {
        AddressKind::Service { .. } => Verdict::refuse(Reason::UnknownPort),
        AddressKind::Unallocated => Verdict::drop(Reason::UnallocatedAddress),
        AddressKind::Foreign => Verdict::pass(Reason::NotService),
    }
}

/// What a packet means to its flow. Of SCTP only addresses and ports are looked at.
#[inline(always)]
fn event(protocol: Protocol, tcp_flags: Option<TcpFlags>) -> Event {
    match (protocol, tcp_flags) {
        (Protocol::Tcp, Some(flags)) => Event::tcp(flags.0),
        (Protocol::Tcp, None) => Event::NoFlags,
        (Protocol::Udp, _) => Event::Udp,
        (Protocol::Sctp, _) => Event::SctpOther,
    }
}
