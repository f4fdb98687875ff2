//! Starts what delivers objects.

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Agent, AgentError, setup};
use crate::model::event::Event;
use crate::settings::SourceSettings;
use crate::source::directory::{self, DirectoryOptions};
use crate::source::kubernetes::events;
use crate::source::kubernetes::{self, KubernetesOptions, Timing};
use crate::source::report::SourceReport;

/// Batches of events that may wait.
const QUEUED_BATCHES: usize = 16;

/// What a source says: batches of events, and how it is.
type Delivered = (mpsc::Receiver<Vec<Event>>, watch::Receiver<SourceReport>);

impl Agent {
    /// Starts the source of the settings.
    pub(super) fn start_source(
        &mut self,
        tasks: &mut JoinSet<Result<(), AgentError>>,
    ) -> Result<Delivered, AgentError> {
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let (reporter, reports) = watch::channel(SourceReport::default());
        match self.settings.source.clone() {
            SourceSettings::Directory(path) => {
                let options = DirectoryOptions::new(path);
                tasks.spawn(async move { Ok(directory::run(options, sender, reporter).await?) });
            }
            SourceSettings::Kubernetes(api) => {
                let options = KubernetesOptions {
                    node_name: self.settings.node_name.clone(),
                    api,
                    state_dir: self.settings.state_dir.clone(),
                    timing: Timing::default(),
                    seed: setup::random_number()?,
                    metrics: self.outside.api_metrics(),
                    looks_on: false,
                };
                let (sink, notes) = events::channel();
                self.notes.sink = Some(sink);
                tasks.spawn(
                    async move { Ok(kubernetes::run(options, sender, reporter, notes).await?) },
                );
            }
        }
        Ok((batches, reports))
    }
}
