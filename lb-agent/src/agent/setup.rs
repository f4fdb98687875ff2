//! What the agent writes before it reads any object.

use lb_common::table::config::SEED;

use super::{AgentError, config};
use crate::dataplane::maps::BpfDataplane;
use crate::dataplane::{Dataplane as _, Write};
use crate::settings::Settings;

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
    if dataplane.config(SEED) == 0 {
        words.push((SEED, random_seed()?));
    }
    for (word, value) in words {
        dataplane.apply(&Write::SetConfig { word, value })?;
    }
    Ok(())
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
