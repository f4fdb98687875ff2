//! placeholder
use crate::settings::Settings;
/// placeholder
pub fn run(_settings: Settings) -> Result<(), std::io::Error> {
    Ok(())
}
