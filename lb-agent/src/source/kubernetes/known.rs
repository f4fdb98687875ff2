//! The API servers' addresses, kept for the next start: the Service address of the API does not
//! work before the agent has programmed it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::servers::Url;
use crate::state_file::write_json;

/// Name of the file in the state directory.
const FILE_NAME: &str = "api-servers.json";

/// What the file holds.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Known {
    /// Endpoints of `default/kubernetes`, such as `https://10.0.0.1:6443`.
    servers: Vec<String>,
    /// The server that worked last, which may be one of the settings.
    last: Option<String>,
}

impl Known {
    pub(super) fn new(servers: &[Url], last: &Url) -> Self {
        Self {
            servers: servers.iter().map(ToString::to_string).collect(),
            last: Some(last.to_string()),
        }
    }

    /// What an earlier agent kept. A file that cannot be read is as good as none: it only spares
    /// time.
    pub(super) fn read(directory: &Path) -> Self {
        let text = fs::read(path(directory)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        write_json(&path(directory), self)
    }

    /// Only servers with TLS: another one could be anybody.
    pub(super) fn servers(&self) -> Vec<Url> {
        let servers = self.servers.iter().map(String::as_str);
        let servers = servers.filter(|server| server.starts_with("https://"));
        servers.map(Url::from).collect()
    }

    pub(super) fn last(&self) -> Option<Url> {
        self.last.as_deref().map(Url::from)
    }
}

/// Where the file is.
pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_a_broken_file_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Known::read(directory.path()), Known::default());
        let servers: [Url; 2] = ["https://10.0.0.1:6443".into(), "http://10.0.0.2".into()];
        let known = Known::new(&servers, &servers[0]);
        known.write(directory.path()).unwrap();
        let read = Known::read(directory.path());
        assert_eq!(read, known);
        assert_eq!(read.servers(), servers[..1]);
        assert_eq!(read.last().as_ref(), Some(&servers[0]));
        fs::write(path(directory.path()), "{\"servers\": [").unwrap();
        assert_eq!(Known::read(directory.path()), Known::default());
    }
}
