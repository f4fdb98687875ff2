//! Settings of an agent whose tables hold a cluster of a size.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use lb_agent::settings::Sizes;

/// Services that the default sizes hold.
const BY_DEFAULT: u32 = 10_000;

/// The defaults, grown where so many services need it.
pub(super) fn for_services(services: u32) -> Sizes {
    let default = Sizes::default();
    let times = services.div_ceil(BY_DEFAULT).max(1);
    Sizes {
        frontends: default.frontends * times,
        services: default.services * times,
        arena_words: default.arena_words * times,
        backends: default.backends * times,
        ..default
    }
}

/// Twice what a cluster's size matters to.
pub(super) const fn doubled(sizes: &Sizes) -> Sizes {
    Sizes {
        frontends: sizes.frontends * 2,
        services: sizes.services * 2,
        arena_words: sizes.arena_words * 2,
        backends: sizes.backends * 2,
        ..*sizes
    }
}

/// Writes a `SteerageConfiguration` with these sizes, and what else is set, below `directory`.
pub(super) fn write(directory: &Path, sizes: &Sizes, others: &str) -> Result<PathBuf> {
    let path = directory.join("settings.yaml");
    let text = format!(
        "apiVersion: steerage.dev/v1alpha1\nkind: SteerageConfiguration\n{others}sizes:\n  \
         frontends: {}\n  services: {}\n  arenaWords: {}\n  backends: {}\n  flowBucketsV4: {}\n  \
         flowBucketsV6: {}\n",
        sizes.frontends,
        sizes.services,
        sizes.arena_words,
        sizes.backends,
        sizes.flow_buckets_v4,
        sizes.flow_buckets_v6,
    );
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}
