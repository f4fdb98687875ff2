//! What the agent writes before it reads any object.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lb_common::table::config::{REDIRECT, SEED};
use tokio::task::JoinSet;

use super::timers::ticks;
use super::{AgentError, config};
use crate::dataplane::load::Loaded;
use crate::dataplane::maps::BpfDataplane;
use crate::dataplane::{Dataplane as _, Write};
use crate::settings::{Redirect, Settings};
use crate::sysctl::{self, local_ports};

/// How often the debug datapath's log is read: its buffer holds what comes in between.
const LOG_INTERVAL: Duration = Duration::from_millis(20);

/// What programs need before anything else: the seed, chosen once for as long as the pins live, and
/// what the settings say.
pub(super) fn write_config(
    dataplane: &mut BpfDataplane,
    settings: &Settings,
) -> Result<(), AgentError> {
    let mut words = config::timeouts(&settings.timeouts);
    words.push(config::flow_buckets(
        settings.sizes.flow_buckets_v4,
        settings.sizes.flow_buckets_v6,
    ));
    // Off again once no flow is left whose packets are sent on.
    if settings.redirect == Redirect::On {
        words.push((REDIRECT, 1));
    }
    if dataplane.config(SEED) == 0 {
        words.push((SEED, random_seed()?));
    }
    for (word, value) in words {
        dataplane.apply(&Write::SetConfig { word, value })?;
    }
    Ok(())
}

/// Sets the kernel's own connection tracking, and the score by which the kernel chooses whom to end
/// where memory is short; looks at who else takes the ports of flows. What fails or conflicts is said, and
/// costs nothing else.
pub(super) fn write_kernel(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    match sysctl::apply(
        &settings.conntrack,
        u64::try_from(processors).unwrap_or(1),
        &settings.proc_sys,
        &settings.state_dir,
    ) {
        Ok(written) => {
            for (name, value) in written {
                tracing::info!(?name, value, "set the kernel's connection tracking");
            }
        }
        Err(error) => problems.push(error.to_string()),
    }
    if let Some(score) = settings.oom_score_adj
        && let Err(error) = fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        problems.push(format!(
            "setting oom_score_adj to {score}: {error}; a lower one than the pod has takes CAP_SYS_RESOURCE"
        ));
    }
    let sockets = Path::new("/proc/net");
    problems.extend(local_ports::conflicts(&settings.proc_sys, sockets));
    for problem in &problems {
        tracing::warn!("{problem}");
    }
    problems
}

/// A random number that is not 0, which means "none yet".
fn random_seed() -> Result<u64, AgentError> {
    Ok(random_number()? | 1)
}

/// A random number.
pub(super) fn random_number() -> Result<u64, AgentError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(
        |errno| AgentError::Runtime {
            operation: "choosing a random number",
            source: errno.into(),
        },
    )?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Logs what the debug object writes.
pub(super) fn forward_log(
    loaded: &mut Loaded,
    tasks: &mut JoinSet<Result<(), AgentError>>,
) -> Result<(), AgentError> {
    let mut logger = aya_log::EbpfLogger::init(loaded.ebpf())
        .map_err(|source| AgentError::DebugLog { source })?;
    tasks.spawn(async move {
        let mut ticks = ticks(LOG_INTERVAL);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    });
    Ok(())
}
