//! The source follows a real directory.

use std::fs;
use std::path::Path;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::model::index::Model;

/// Longer than any wait should be, on a machine that is busy.
const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n"
    )
}

struct Running {
    model: Model,
    events: mpsc::Receiver<Vec<Event>>,
    reports: channel::Receiver<SourceReport>,
    task: JoinHandle<Result<(), DirectoryError>>,
}

impl Running {
    fn start(path: &Path, rescan: Duration) -> Self {
        let quiet = Duration::from_millis(5);
        let options = DirectoryOptions {
            path: path.to_owned(),
            quiet,
            rescan,
        };
        let (sender, events) = mpsc::channel(4);
        let (report_sender, reports) = channel::channel(SourceReport::default());
        let runtime = tokio::runtime::Handle::current();
        let task = runtime.spawn(run(options, sender, report_sender));
        Self {
            model: Model::new("node-a"),
            events,
            reports,
            task,
        }
    }

    /// Takes in batches until the model has exactly these Services.
    async fn until(&mut self, expected: &[&str]) {
        let reached = async {
            while !self.model.is_ready() || self.services() != expected {
                let batch = self.events.recv().await.unwrap();
                assert!(!self.model.apply_all(batch).is_empty() || expected.is_empty());
            }
        };
        timeout(DEADLINE, reached).await.unwrap();
    }

    fn services(&self) -> Vec<&str> {
        self.model
            .services()
            .map(|service| &*service.name.name)
            .collect()
    }

    async fn until_problems(&mut self, count: usize) {
        let wait = self
            .reports
            .wait_for(|report| report.problems.len() == count);
        assert!(timeout(DEADLINE, wait).await.unwrap().is_ok());
    }

    async fn stop(self) {
        drop(self.events);
        timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// Only inotify can be in time.
const NEVER: Duration = Duration::from_hours(1);

#[tokio::test]
async fn changes_are_seen_when_they_happen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("a.yaml"), service("a")).unwrap();
    let mut running = Running::start(path, NEVER);
    running.until(&["a"]).await;
    fs::write(path.join("b.yaml"), service("b")).unwrap();
    running.until(&["a", "b"]).await;
    fs::write(path.join(".tmp"), service("c")).unwrap();
    fs::rename(path.join(".tmp"), path.join("a.yaml")).unwrap();
    running.until(&["b", "c"]).await;
    fs::write(path.join("b.yaml"), "kind: [").unwrap();
    running.until_problems(1).await;
    fs::remove_file(path.join("b.yaml")).unwrap();
    running.until(&["c"]).await;
    running.until_problems(0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_directory_that_vanishes_and_comes_back_is_watched_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), service("a")).unwrap();
    let mut running = Running::start(&path, NEVER);
    running.until(&["a"]).await;
    fs::remove_dir_all(&path).unwrap();
    let other = parent.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("b.yaml"), service("b")).unwrap();
    fs::rename(&other, &path).unwrap();
    running.until(&["b"]).await;
    fs::write(path.join("c.yaml"), service("c")).unwrap();
    running.until(&["b", "c"]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_at_the_start_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(&directory.path().join("missing"), NEVER);
    let error = timeout(DEADLINE, running.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("read the directory ") && text.contains("missing of --source"));
}

#[tokio::test]
async fn a_source_nobody_listens_to_ends() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path(), NEVER);
    running.until(&[]).await;
    running.stop().await;
}
