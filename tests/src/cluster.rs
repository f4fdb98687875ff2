//! A lab with one real agent per node, fed from a directory of Kubernetes manifests.

/// Where the BPF file system is mounted.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// What the names of the agents' pin directories begin with; the lab's prefix follows.
pub const PIN_PREFIX: &str = "steerage-";
