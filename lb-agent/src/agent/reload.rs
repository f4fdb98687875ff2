//! Changed settings, taken over by a running agent as a whole or not at all.

use super::timers::now;
use super::{Agent, audit, setup};
use crate::config::reload::{Change, Effective};

impl Agent {
    /// Takes over what the files say now, or says why not.
    pub(super) fn take_config(&mut self, result: Result<Effective, String>) {
        let problem = match result {
            Ok(effective) => self.take_effective(effective),
            Err(error) => Some(format!(
                "changed settings are refused, the old ones stay: {error}"
            )),
        };
        if let Some(problem) = &problem
            && self.config_problem.as_ref() != Some(problem)
        {
            tracing::warn!("{problem}");
        }
        self.outside.outside().metrics.reloaded(problem.is_none());
        self.config_problem = problem;
        self.published.status_changed();
    }

    /// Why not, if so.
    fn take_effective(&mut self, effective: Effective) -> Option<String> {
        let Effective { layers, settings } = effective;
        let known = self.layers.all_warnings();
        for warning in layers.all_warnings() {
            if !known.contains(&warning) {
                tracing::warn!("{warning}");
            }
        }
        let names = match Change::between(&self.layers, &layers) {
            Change::Nothing => return None,
            Change::Restart(names) => {
                return Some(format!(
                    "changed settings are refused as a whole, since these need a restart of the agent: {}",
                    names.join(", ")
                ));
            }
            Change::Live(names) => names,
        };
        // What can fail comes first, so that a failure leaves the old settings.
        if let Err(error) = setup::write_config(self.reconciler.dataplane_mut(), &settings) {
            // Words before the one that failed are put back.
            if let Err(error) = setup::write_config(self.reconciler.dataplane_mut(), &self.settings)
            {
                tracing::error!("putting the old settings back: {error}");
            }
            return Some(format!(
                "changed settings are refused, the old ones stay: {error}"
            ));
        }
        self.settings = settings;
        self.layers = layers;
        if let Err(error) = audit::write_basis(&self.settings) {
            tracing::error!("{error}");
        }
        self.audits.hasten(&self.settings);
        self.keeper.set_rules(&self.settings);
        self.walks_without = 0;
        self.kernel_problems = setup::write_kernel(&self.settings);
        self.outside.outside().set_settings(&self.settings.outside);
        self.write_cidrs();
        self.keep_devices();
        // What is known of a device may depend on what was asked about it.
        self.devices_at = Some(now());
        tracing::info!(settings = names.join(", "), "changed settings taken over");
        None
    }
}
