//! The client of the API server, as far as kube-proxy's configuration describes it.

use std::path::PathBuf;

/// How the API server is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiClient {
    /// A kubeconfig file; `None` for the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Requests a second.
    pub qps: f32,
    /// Requests at once.
    pub burst: u32,
}

impl Default for ApiClient {
    /// kube-proxy's values.
    fn default() -> Self {
        Self {
            kubeconfig: None,
            qps: 5.0,
            burst: 10,
        }
    }
}
