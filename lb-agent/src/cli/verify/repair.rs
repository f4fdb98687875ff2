//! Asking the agent to repair the tables. Commands that ask at the same time take turns, since there is
//! one request and one answer.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::audit::report::{AuditReport, REQUEST_NAME};
use crate::cli::error::{CliError, while_doing};
use crate::cli::pins;
use crate::cli::render::units;
use crate::clock;

/// How often to look for the answer.
const POLL: Duration = Duration::from_millis(50);

/// Asks, and waits for the report that answers.
pub(super) fn ask(state_dir: &Path, patience: Duration) -> Result<AuditReport, CliError> {
    let deadline = clock::instant() + patience;
    let _turn = take_turn(state_dir, patience)?;
    let word = format!("{}-{}", std::process::id(), clock::moment().unix.as_nanos());
    let path = state_dir.join(REQUEST_NAME);
    // Beside it first, so that the agent never reads half a word.
    let temporary = state_dir.join(format!("{REQUEST_NAME}.{}", std::process::id()));
    fs::write(&temporary, &word)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(while_doing(format!("writing {}", path.display())))?;
    loop {
        if let Some(report) = pins::audit_report(state_dir)?
            && report.request.as_ref() == Some(&word)
        {
            return Ok(report);
        }
        if clock::instant() >= deadline {
            return Err(CliError::Timeout {
                waited_for: "the agent's repair",
                timeout: units::duration(patience),
                hint: "steerage status says whether the agent has its objects and can write"
                    .to_owned(),
            });
        }
        std::thread::sleep(POLL.min(patience));
    }
}

/// Waits until nobody else asks: flock(2) on the state directory, which the kernel lets go when a
/// command ends, however it ends.
fn take_turn(state_dir: &Path, patience: Duration) -> Result<File, CliError> {
    let doing = || while_doing(format!("locking {}", state_dir.display()));
    let directory = File::open(state_dir).map_err(doing())?;
    let deadline = clock::instant() + patience;
    loop {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) if clock::instant() < deadline => {
                std::thread::sleep(POLL.min(patience));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(CliError::Timeout {
                    waited_for: "another command's repair",
                    timeout: units::duration(patience),
                    hint: "another steerage verify --repair is asking the agent".to_owned(),
                });
            }
            Err(errno) => return Err(doing()(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_another_does_waits_for_its_turn() {
        let directory = tempfile::tempdir().unwrap();
        let first = take_turn(directory.path(), Duration::ZERO).unwrap();
        let error = take_turn(directory.path(), Duration::from_millis(60)).unwrap_err();
        assert!(error.to_string().contains("another command"), "{error}");
        drop(first);
        take_turn(directory.path(), Duration::ZERO).unwrap();
    }
}
