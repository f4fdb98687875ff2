//! Brings the tables to what the objects say, in spite of failures.
//!
//! The planner believes that every write it returned will be applied, in order: so the writes wait
//! in one queue, and a write that fails is tried again before any other. Wherever the agent dies,
//! the tables are sound, and the next agent begins with what they hold.
//!
//! Nothing is written before Services *and* `EndpointSlices` have been listed, and after a reset not
//! until both have been listed again: an object that is merely not known yet must not be taken for
//! one that was deleted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use lb_common::table::frontend::FrontendKey;

use crate::clock;
use crate::dataplane::{Dataplane, DataplaneError, FlowCursor, Write};
use crate::model::name::ObjectName;
use crate::plan::planner::Planner;
use crate::plan::{NodeView, ServiceView};

pub mod audit;
#[cfg(test)]
mod tests;

/// The objects as the reconciler reads them.
pub trait Objects {
    /// A Service and its slices, unless it is gone.
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>>;

    /// The names of all Services.
    fn names(&self) -> Vec<ObjectName>;

    /// The node the agent runs on.
    fn node(&self) -> NodeView<'_>;
}

/// How long to wait before the next try after `failures` in a row: 10 ms, doubled each time, at
/// most 5 s.
pub fn retry_delay(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(5);
    let factor = 1_u32.checked_shl(failures.saturating_sub(1));
    factor
        .and_then(|factor| FIRST.checked_mul(factor))
        .map_or(LONGEST, |delay| delay.min(LONGEST))
}

/// Applies what the planner says, and keeps what could not be applied yet.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    planner: Planner,
    queue: VecDeque<Write>,
    /// Frontends for which the kernel had no room, though the planner thought so; nothing depends
    /// on them. Tried again whenever the queue is empty.
    parked: BTreeMap<FrontendKey, Write>,
    dirty: BTreeSet<ObjectName>,
    is_listed: bool,
    /// Whether every Service that was there at the last listing has been planned.
    is_complete: bool,
    /// Whether UDP flows of an earlier agent's time have been compared with what Services have.
    has_compared: bool,
    pass: Option<Pass>,
    applied: u64,
    spent: Spent,
}

/// Processor time of the thread that reconciles.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// Planning.
    pub plan: Duration,
    /// Writing to the tables.
    pub write: Duration,
}

/// A pass over the flow tables.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    at: FlowCursor,
    met: u64,
}

impl<D: Dataplane> Reconciler<D> {
    /// Begins with what the tables hold and flows name.
    pub fn start(mut dataplane: D) -> Result<Self, DataplaneError> {
        // Programs may still read a region that an earlier agent gave up as its last act.
        dataplane.wait_for_readers()?;
        let actual = dataplane.read_tables()?;
        let in_use = dataplane.ids_in_use()?;
        let mut planner = Planner::new(dataplane.capacity());
        dataplane.read_regions(&actual.services, &mut |offset, words| {
            planner.find_region(offset, words);
        })?;
        planner.restore(actual, &in_use);
        Ok(Self {
            dataplane,
            planner,
            queue: VecDeque::new(),
            parked: BTreeMap::new(),
            dirty: BTreeSet::new(),
            is_listed: false,
            is_complete: false,
            has_compared: false,
            pass: None,
            applied: 0,
            spent: Spent::default(),
        })
    }

    /// The planner, for names and reports.
    pub const fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The tables.
    pub const fn dataplane(&self) -> &D {
        &self.dataplane
    }

    /// The tables, to be written beside the plan (settings, devices).
    pub const fn dataplane_mut(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// Services that are not what they were when this was last asked, and are planned: of one that
    /// is to be planned again it is said afterwards.
    pub fn take_touched(&mut self) -> BTreeSet<ObjectName> {
        let mut touched = self.planner.take_touched();
        touched.retain(|name| !self.dirty.contains(name));
        touched
    }

    /// How many writes have been applied.
    pub const fn applied(&self) -> u64 {
        self.applied
    }

    /// Processor time taken so far.
    pub const fn spent(&self) -> Spent {
        self.spent
    }

    /// Whether the tables hold what the objects said when they were last looked at.
    pub fn is_synced(&self) -> bool {
        self.is_listed && self.is_complete && self.dirty.is_empty() && self.queue.is_empty()
    }

    /// Frontends that the kernel had no room for.
    pub fn parked(&self) -> impl Iterator<Item = &FrontendKey> {
        self.parked.keys()
    }

    /// A Service or one of its slices changed, came or went.
    pub fn changed(&mut self, name: ObjectName) {
        self.dirty.insert(name);
    }

    /// Every Service has to be looked at again: the node's name or zone changed.
    pub fn all_changed(&mut self, objects: &impl Objects) {
        self.dirty.extend(objects.names());
        self.dirty.extend(self.planner.planned_names().cloned());
    }

    /// Services and slices have both been listed: from here on, what is absent is gone.
    pub fn listed(&mut self, objects: &impl Objects) {
        self.is_listed = true;
        self.is_complete = false;
        self.all_changed(objects);
    }

    /// A list has to be repeated: what is absent may only be unknown until [`Self::listed`].
    pub const fn reset(&mut self) {
        self.is_listed = false;
    }

    /// Plans and applies until there is nothing left to do. On an error call it again, after
    /// [`retry_delay`]: it goes on where it stopped.
    pub fn run(&mut self, objects: &impl Objects) -> Result<(), DataplaneError> {
        while self.step(objects)? {}
        Ok(())
    }

    /// Applies what waits, then plans one Service. False if there was nothing to do.
    pub fn step(&mut self, objects: &impl Objects) -> Result<bool, DataplaneError> {
        self.flush()?;
        if !self.is_listed {
            return Ok(false);
        }
        if let Some(name) = self.dirty.pop_first() {
            self.plan(&name, objects);
            if self.is_short_of(&name) && self.planner.awaits_readers() {
                // What was given up a moment ago may be all the room it takes.
                self.flush()
                    .and_then(|()| self.dataplane.wait_for_readers())
                    .inspect_err(|_| {
                        self.dirty.insert(name.clone());
                    })?;
                self.planner.readers_done();
                self.plan(&name, objects);
            }
            return Ok(true);
        }
        if !self.is_complete {
            self.is_complete = true;
            self.queue.extend(self.planner.remove_unclaimed());
            return Ok(true);
        }
        self.retry_parked()?;
        Ok(false)
    }

    /// Whether there may be UDP flows to backends that their Services no longer have, or remembered
    /// clients, once the tables say what the objects say.
    pub fn has_flows_to_cut(&self) -> bool {
        let is_first = self.is_synced() && !self.has_compared;
        is_first
            || self.has_clients_to_forget()
            || self.pass.is_some()
            || !self.planner.departed().is_empty()
    }

    /// Whether clients may be remembered whose service lost their backend or its session affinity.
    fn has_clients_to_forget(&self) -> bool {
        self.is_synced() && self.planner.has_lost_affinity()
    }

    /// Forgets them, so that what comes back does not find its clients again.
    fn forget_clients(&mut self) -> Result<(), DataplaneError> {
        // What programs chose by earlier tables is written before the map is looked through.
        self.dataplane.wait_for_readers()?;
        let sets = self.planner.affinity_sets();
        self.dataplane.forget_affinity(&|service, backend| {
            sets.get(&service)
                .is_some_and(|sets| sets.iter().any(|set| set.contains(backend)))
        })?;
        self.planner.affinity_settled();
        Ok(())
    }

    /// Takes such flows out, a few milliseconds' worth; true if the pass is not over. To be called
    /// when [`Self::run`] is done. On an error call it again: the pass begins anew.
    pub fn cut(&mut self) -> Result<bool, DataplaneError> {
        if !self.has_flows_to_cut() {
            return Ok(false);
        }
        if self.has_clients_to_forget() {
            self.forget_clients()?;
            if !self.has_flows_to_cut() {
                return Ok(false);
            }
        }
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => self.begin_pass()?,
        };
        let departed = self.planner.departed();
        if departed.is_empty() {
            return Ok(false);
        }
        let step = self
            .dataplane
            .cut_flows(pass.at, &|pair| departed.contains(pair))?;
        pass.met += step.met;
        if let Some(at) = step.next {
            pass.at = at;
            self.pass = Some(pass);
        } else {
            self.planner.departed_mut().end_pass(pass.met);
        }
        Ok(self.pass.is_some())
    }

    /// What programs chose by earlier tables is in the flow tables before they are looked through.
    fn begin_pass(&mut self) -> Result<Pass, DataplaneError> {
        self.flush()?;
        self.dataplane.wait_for_readers()?;
        if self.is_synced() && !self.has_compared {
            let in_use = self.dataplane.ids_in_use()?;
            self.planner.compare_flows(&in_use.udp_pairs);
            self.has_compared = true;
        }
        self.planner.departed_mut().begin_pass();
        Ok(Pass::default())
    }

    /// Frees what nothing needs any more: waits for programs that run, reads which ids flows name,
    /// and gives Services that had no room another try. To be called every minute or so.
    pub fn sweep(&mut self) -> Result<(), DataplaneError> {
        self.flush()?;
        if self.planner.awaits_readers() {
            self.dataplane.wait_for_readers()?;
            self.planner.readers_done();
            let in_use = self.dataplane.ids_in_use()?;
            self.planner.compare_flows(&in_use.udp_pairs);
            self.queue.extend(self.planner.sweep(&in_use));
        }
        self.dirty.extend(self.planner.kept_back().cloned());
        self.flush()
    }

    fn plan(&mut self, name: &ObjectName, objects: &impl Objects) {
        let begin = clock::thread_time();
        let writes = match objects.view(name) {
            Some(view) => self.planner.plan_service(&view, &objects.node()),
            None => self.planner.remove_service(name),
        };
        self.queue.extend(writes);
        self.spent.plan += clock::thread_time().saturating_sub(begin);
    }

    fn is_short_of(&self, name: &ObjectName) -> bool {
        self.planner.kept_back().any(|kept| kept == name)
    }

    fn flush(&mut self) -> Result<(), DataplaneError> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let begin = clock::thread_time();
        let result = self.apply_queued();
        self.spent.write += clock::thread_time().saturating_sub(begin);
        result
    }

    fn apply_queued(&mut self) -> Result<(), DataplaneError> {
        while let Some(write) = self.queue.front() {
            match self.dataplane.apply(write) {
                Ok(()) => self.unpark(),
                Err(DataplaneError::Full { .. }) if self.park() => {}
                Err(error) => return Err(error),
            }
            self.queue.pop_front();
            self.applied += 1;
        }
        Ok(())
    }

    /// Puts the first write aside, if nothing depends on it.
    fn park(&mut self) -> bool {
        if let Some(Write::SetFrontend { key, .. }) = self.queue.front() {
            let write = self.queue.front().cloned();
            self.parked.extend(write.map(|write| (*key, write)));
            return true;
        }
        false
    }

    /// A newer write of the same frontend makes a parked one void.
    fn unpark(&mut self) {
        if let Some(Write::SetFrontend { key, .. } | Write::RemoveFrontend { key }) =
            self.queue.front()
        {
            self.parked.remove(key);
        }
    }

    fn retry_parked(&mut self) -> Result<(), DataplaneError> {
        let keys: Vec<_> = self.parked.keys().copied().collect();
        for key in keys {
            match self
                .parked
                .get(&key)
                .map(|write| self.dataplane.apply(write))
            {
                Some(Ok(())) => {
                    self.parked.remove(&key);
                }
                Some(Err(DataplaneError::Full { .. })) | None => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }
}
