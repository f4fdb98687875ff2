//! A packet of a flow that the table has.

use super::side::Side;
use super::{Next, Step, Workspace};
use crate::conntrack::{self, Event, State};
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use crate::flows::{Advanced, Placed, Placement};
use crate::id::Seconds;
use crate::select;
use crate::table::backend::BackendFlags;
use crate::table::device::Role;
use crate::tables::{Tables, flow_table};
use crate::verdict::Reason;

/// Finds the flow of a packet with `tuple`, moves the half that was found on, and prepares the
/// packet's translation.
#[inline(always)]
pub(super) fn settle<F: Family, S: Side>(
    tuple: &FlowTuple<F>,
    event: Event,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    let key = FlowKey {
        tuple: *tuple,
        hook: S::HOOK,
    };
    if !tables.search(&key, now, &mut workspace.found) {
        return Step::next(Next::Choose, State::SynSent);
    }
    let Some(found) = workspace.found.get() else {
        return Step::next(Next::Choose, State::SynSent);
    };
    let direction = found.entry.direction;
    let is_request = is_request::<S>(found.entry.path);
    if direction == Direction::Original && is_request {
        // UDP has no end that a proxy could see, so it leaves a backend that is gone.
        let is_orphan = tuple.protocol == Protocol::Udp && !serves(&found.entry, tables);
        if is_orphan {
            tables.note(Reason::BackendReplaced);
        }
        if is_orphan || conntrack::begins_anew(found.state, event) {
            return Step::next(Next::Replace, found.state);
        }
    }
    // Its source port may be another flow's by now: a new one is chosen. A hairpin's is chosen anew
    // at ingress, with its first pair.
    if direction == Direction::Original
        && S::HOOK == Hook::Egress
        && S::ROLE == Role::Uplink
        && conntrack::begins_anew(found.state, event)
    {
        return Step::next(Next::Replace, found.state);
    }
    if direction == Direction::Reply && S::HOOK == Hook::Egress {
        // The client dials the backend itself by now, from the port that the ended flow had.
        if conntrack::is_of_another(found.state, event) {
            return Step::next(Next::Replace, found.state);
        }
    }
    let table = flow_table::<F, _>(tables);
    let next = |state| conntrack::step(state, direction, event);
    let advanced = table.advance(found.location, found.control, now, next);
    let verdict = Workspace::translate(&mut workspace.rewrite, Reason::Established, &found.entry);
    match advanced {
        Advanced::Changed(state, _) => Step {
            next: Next::Follow,
            verdict,
            state,
        },
        // Unchanged is the rule; whoever was faster has seen a later packet.
        Advanced::Unchanged(_) | Advanced::Lost => Step::done(verdict),
    }
}

/// Whether packets are a client's that go from it to a service, of a flow that takes this path.
#[inline(always)]
pub(super) const fn is_request<S: Side>(path: Path) -> bool {
    match (S::ROLE, S::HOOK) {
        (_, Hook::Ingress) => true,
        (Role::Uplink, Hook::Egress) => S::IS_OF_HOST && matches!(path, Path::OfHost),
        (Role::Workload, Hook::Egress) => false,
    }
}

/// Whether the flow's backend is still there and serving.
#[inline(always)]
fn serves<F: Family>(entry: &FlowEntry<F>, tables: &impl Tables) -> bool {
    select::record(tables, entry.backend)
        .is_some_and(|record| record.flags().has(BackendFlags::SERVING))
}

/// Moves the other half of the flow that was found to `state` and stamps it, or rebuilds it if it
/// is lost. Runs on a change of state, and else once a second for each flow.
#[inline(never)]
pub(super) fn follow<F: Family>(
    state: State,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) {
    let Some(found) = workspace.found.get() else {
        return;
    };
    let half = &mut workspace.half;
    match tables.place_partner(&found.entry, half, state, now, &mut workspace.placed) {
        Placement::Same => {
            let Placed {
                location, control, ..
            } = workspace.placed;
            flow_table::<F, _>(tables).advance(location, control, now, |_| state);
        }
        Placement::Inserted => tables.note(Reason::HalfRebuilt),
        Placement::Other | Placement::Full | Placement::Contended => {}
    }
}

/// Takes both halves of the flow that was found out of the table.
#[inline(never)]
pub(super) fn forget<F: Family>(now: Seconds, tables: &impl Tables, workspace: &mut Workspace<F>) {
    let Some(found) = workspace.found.get() else {
        return;
    };
    tables.remove_partner(&found.entry, &mut workspace.half, now);
    flow_table::<F, _>(tables).remove(found.location, found.control);
}
