//! What the kernel's own connection tracking is set to. Other connections of the host live by it
//! too, and hosts that kube-proxy has run on are used to its values.

/// Settings of the kernel's connection tracking. 0 leaves a value as it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct KernelConntrack {
    /// Entries for each processor.
    pub max_per_core: u32,
    /// The least entries in all, unless `max_per_core` is 0.
    pub min: u32,
    /// `nf_conntrack_tcp_timeout_established`, seconds.
    pub tcp_established_seconds: u32,
    /// `nf_conntrack_tcp_timeout_close_wait`, seconds.
    pub tcp_close_wait_seconds: u32,
    /// `nf_conntrack_tcp_be_liberal`; false leaves it as it is.
    pub tcp_be_liberal: bool,
    /// `nf_conntrack_udp_timeout`, seconds.
    pub udp_seconds: u32,
    /// `nf_conntrack_udp_timeout_stream`, seconds.
    pub udp_stream_seconds: u32,
}

impl KernelConntrack {
    /// kube-proxy's defaults.
    pub const KUBE_PROXY: Self = Self {
        max_per_core: 32_768,
        min: 131_072,
        tcp_established_seconds: 86_400,
        tcp_close_wait_seconds: 3_600,
        tcp_be_liberal: false,
        udp_seconds: 0,
        udp_stream_seconds: 0,
    };
}
