//! Ends the search for flows whose packets are sent on, once the setting is off and none is left.

use lb_common::table::config::REDIRECT;

use super::Agent;
use crate::dataplane::sweep::Walk;
use crate::dataplane::{Dataplane as _, Write};
use crate::settings::Redirect;

/// Walks in a row without such a flow: the first may have begun while there still were new ones.
const WALKS_WITHOUT: u32 = 2;

impl Agent {
    /// Tells the programs when a walk through the flow tables has shown that they need not look for such
    /// flows any more.
    pub(super) fn end_redirect(&mut self, walk: Walk) {
        let dataplane = self.reconciler.dataplane_mut();
        if self.settings.redirect == Redirect::On || dataplane.config(REDIRECT) == 0 {
            return;
        }
        self.walks_without = if walk.sent_on == 0 {
            self.walks_without + 1
        } else {
            0
        };
        let (word, value) = (REDIRECT, 0);
        if self.walks_without >= WALKS_WITHOUT
            && let Err(error) = dataplane.apply(&Write::SetConfig { word, value })
        {
            tracing::error!("{error}");
        }
    }
}
