//! Files of settings that change while the agent runs: applied as a whole, or refused as a whole.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::layers::Layers;
use crate::settings::Settings;

/// How often files are looked at. A `ConfigMap` takes the kubelet a minute to write.
const PERIOD: Duration = Duration::from_secs(1);

/// What all layers amount to.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The layers, to compare with later ones.
    pub layers: Layers,
    /// The settings.
    pub settings: Settings,
}

/// Settings that a running agent takes over; all others need a restart.
const LIVE: [&str; 10] = [
    "timeouts",
    "serviceCIDRs",
    "interfaces",
    "datapath.redirect",
    "datapath.xdp",
    "health",
    "metrics",
    "conntrack",
    "oomScoreAdj",
    "audit",
];

/// What a running agent makes of changed settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Nothing has changed.
    Nothing,
    /// All of it can be applied at once: the names of the settings.
    Live(Vec<String>),
    /// Nothing is applied: these need a restart.
    Restart(Vec<String>),
}

impl Change {
    /// What leads from `old` to `new`.
    pub fn between(old: &Layers, new: &Layers) -> Self {
        let names = old.differences(new);
        if names.is_empty() {
            return Self::Nothing;
        }
        let needs_restart: Vec<_> = names
            .iter()
            .filter(|name| !is_live(name))
            .cloned()
            .collect();
        if needs_restart.is_empty() {
            Self::Live(names)
        } else {
            Self::Restart(needs_restart)
        }
    }
}

/// Whether a running agent takes over the setting `name`.
pub fn is_live(name: &str) -> bool {
    LIVE.iter().any(|live| {
        name.strip_prefix(live)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Reads all layers anew; the text of the error is for people.
type Read = Box<dyn Fn() -> Result<Effective, String> + Send>;

/// The files that settings came from, and how to read them again.
pub struct Watched {
    files: Vec<PathBuf>,
    seen: Vec<Option<Signature>>,
    read: Read,
}

/// What tells one state of a file from another.
type Signature = (u64, u64, i64, i64, u64);

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watched")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl Watched {
    /// Watches `files`, which `read` reads. Make it before the first reading, so that no change
    /// falls between.
    pub fn new(files: Vec<PathBuf>, read: Read) -> Self {
        let seen = signatures(&files);
        Self { files, seen, read }
    }

    /// Reads the settings now.
    pub fn read(&self) -> Result<Effective, String> {
        (self.read)()
    }

    /// Reads the settings whenever a file has changed, and sends what came of it, until nobody
    /// receives.
    pub async fn run(mut self, results: mpsc::Sender<Result<Effective, String>>) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = results.closed() => return,
                _ = ticks.tick() => {}
            }
            let seen = signatures(&self.files);
            if seen == self.seen {
                continue;
            }
            self.seen = seen;
            if results.send(self.read()).await.is_err() {
                return;
            }
        }
    }
}

fn signatures(files: &[PathBuf]) -> Vec<Option<Signature>> {
    files
        .iter()
        .map(|file| {
            // Through symbolic links, since a volume of a ConfigMap is switched by one.
            let data = fs::metadata(file).ok()?;
            Some((
                data.dev(),
                data.ino(),
                data.mtime(),
                data.mtime_nsec(),
                data.size(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const HEAD: &str = "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n";

    fn layers(text: &str) -> Layers {
        let mut layers = Layers::new();
        layers
            .add_text(Path::new("c.yaml"), &format!("{HEAD}{text}"))
            .unwrap();
        layers
    }

    #[test]
    fn a_change_is_applied_whole_or_refused_whole() {
        let old = layers("timeouts: {established: 2h}\n");
        let check = |text: &str, expected: Change| {
            assert_eq!(Change::between(&old, &layers(text)), expected, "{text}");
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        check("timeouts: {established: 120m}\n", Change::Nothing);
        check(
            "timeouts: {established: 3h}\nhealth: {bindAddress: \"Off\"}\n",
            Change::Live(names(&["health.bindAddress", "timeouts.established"])),
        );
        check(
            "timeouts: {established: 3h}\nsizes: {services: 100}\nnodeName: n2\n",
            Change::Restart(names(&["nodeName", "sizes.services"])),
        );
        check(
            "sizes: {}\n",
            Change::Live(names(&["timeouts.established"])),
        );
    }

    #[tokio::test]
    async fn a_file_is_read_again_when_it_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("c.yaml");
        fs::write(&file, "one").unwrap();
        let read = file.clone();
        let watched = Watched::new(
            vec![file.clone()],
            Box::new(move || Err(fs::read_to_string(&read).unwrap_or_default())),
        );
        assert_eq!(watched.read(), Err("one".to_owned()));
        let (sender, mut results) = mpsc::channel(1);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(watched.run(sender));
        let other = directory.path().join("other");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        let result = tokio::time::timeout(Duration::from_secs(10), results.recv()).await;
        assert_eq!(result.unwrap(), Some(Err("two".to_owned())));
        drop(results);
        assert!(tasks.join_next().await.unwrap().is_ok());
    }
}
