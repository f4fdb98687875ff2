//! Asking the agent to repair the tables.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::audit::report::{AuditReport, REQUEST_NAME};
use crate::cli::error::{CliError, while_doing};
use crate::cli::pins;
use crate::cli::render::units;
use crate::clock;

/// How often to look for the answer.
const POLL: Duration = Duration::from_millis(50);

/// Asks, and waits for the report that answers.
pub(super) fn ask(state_dir: &Path, patience: Duration) -> Result<AuditReport, CliError> {
    let word = format!("{}-{}", std::process::id(), clock::moment().unix.as_nanos());
    let path = state_dir.join(REQUEST_NAME);
    // Beside it first, so that the agent never reads half a word.
    let temporary = state_dir.join(format!("{REQUEST_NAME}.{}", std::process::id()));
    fs::write(&temporary, &word)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(while_doing(format!("writing {}", path.display())))?;
    let deadline = clock::instant() + patience;
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
