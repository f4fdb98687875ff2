//! The pinned maps and how full they are.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::inputs::MapInput;

/// A table is nearly full from this many percent on.
pub const PRESSURE_WARNING_PERCENT: u64 = 80;

/// One map.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapView {
    /// Its name.
    pub name: String,
    /// The kernel's word for its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Entries in use; `None` where counting them has no meaning.
    pub used: Option<u64>,
    /// Entries it can hold.
    pub capacity: u64,
    /// Used entries of a hundred.
    pub pressure_percent: Option<u64>,
    /// Memory in bytes, by the kernel's own accounting.
    pub memory_bytes: u64,
    /// Where it is pinned.
    pub pin: PathBuf,
}

/// Every map, by name.
#[must_use]
pub fn maps(inputs: &[MapInput]) -> Vec<MapView> {
    let mut views: Vec<MapView> = inputs
        .iter()
        .map(|map| MapView {
            name: map.name.clone(),
            kind: map.kind.clone(),
            used: map.used,
            capacity: map.capacity,
            pressure_percent: map
                .used
                .and_then(|used| used.saturating_mul(100).checked_div(map.capacity)),
            memory_bytes: map.memory_bytes,
            pin: map.pin.clone(),
        })
        .collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}
