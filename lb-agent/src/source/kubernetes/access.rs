//! Who we are to the API server, and how it proves who it is: a kubeconfig, or the service account
//! of the pod. Files are read again whenever a server refuses them.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::servers::Url;
use crate::settings::ApiSettings;

/// The name every API server has in its certificate, whatever address it is dialled at.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// Why there is nothing to identify with, or nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The operator must name a server.
    #[error(
        "no API server is known: give --api-server or --kubeconfig, or run in a pod with a service account"
    )]
    NoServer,
    /// The operator must correct the kubeconfig.
    #[error("kubeconfig {}: {source}", .path.display())]
    Kubeconfig {
        /// The first of the files.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The operator must mount the service account, or give a kubeconfig.
    #[error("service account file {}: {source}", .path.display())]
    ServiceAccount {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The operator must correct the address.
    #[error("API server address {server:?}: {source}")]
    Address {
        /// The address.
        server: String,
        /// What is wrong with it.
        #[source]
        source: http::uri::InvalidUri,
    },
}

/// Credentials, and the servers that are named with them.
#[derive(Clone, Debug)]
pub struct Access {
    settings: ApiSettings,
    /// Server of the kubeconfig: its certificate has the name that the file says.
    own: Option<Url>,
    may_learn: bool,
}

impl Access {
    /// Reads the credentials for the first time: what cannot be read then is the operator's
    /// mistake.
    pub async fn load(settings: ApiSettings) -> Result<Self, AccessError> {
        let mut access = Self {
            settings,
            own: None,
            may_learn: true,
        };
        let mut is_insecure = false;
        if access.settings.kubeconfigs.is_empty() {
            access.service_account(Uri::default())?;
        } else {
            let config = access.kubeconfig().await?;
            is_insecure = config.accept_invalid_certs;
            let url = config.cluster_url.to_string();
            access.own = Some(url.trim_end_matches('/').into());
        }
        let is_plain = |server: &Url| !server.starts_with("https://");
        access.may_learn = !is_insecure && !access.configured().iter().any(is_plain);
        Ok(access)
    }

    /// The servers of the settings.
    pub fn configured(&self) -> Vec<Url> {
        match &self.own {
            Some(own) if self.settings.servers.is_empty() => vec![Arc::clone(own)],
            _ => {
                let servers = self.settings.servers.iter();
                servers
                    .map(|server| server.trim_end_matches('/').into())
                    .collect()
            }
        }
    }

    /// The server that the pod's environment names; the kubeconfig's is another cluster's, maybe.
    pub fn environment(&self) -> Option<Url> {
        let is_ours = self.settings.kubeconfigs.is_empty();
        let named = self.settings.environment.as_deref();
        named.filter(|_| is_ours).map(Url::from)
    }

    /// Whether the cluster's own word on where its servers are may be followed: not where the
    /// settings name one that need not prove who it is.
    pub const fn may_learn(&self) -> bool {
        self.may_learn
    }

    /// What is needed to ask this server, read anew.
    pub async fn config(&self, server: &Url) -> Result<Config, AccessError> {
        let url: Uri = server.parse().map_err(|source| AccessError::Address {
            server: server.to_string(),
            source,
        })?;
        let is_address = url
            .host()
            .is_some_and(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok());
        let mut config = if self.settings.kubeconfigs.is_empty() {
            self.service_account(url)?
        } else {
            let mut config = self.kubeconfig().await?;
            config.cluster_url = url;
            config
        };
        if is_address && config.tls_server_name.is_none() && self.own.as_ref() != Some(server) {
            config.tls_server_name = Some(SERVER_NAME.to_owned());
        }
        Ok(config)
    }

    async fn kubeconfig(&self) -> Result<Config, AccessError> {
        let mut paths = self.settings.kubeconfigs.iter();
        let path = paths.next().cloned().unwrap_or_default();
        let failed = |source| AccessError::Kubeconfig {
            path: path.clone(),
            source: Box::new(source),
        };
        let mut merged = Kubeconfig::read_from(&path).map_err(failed)?;
        for path in paths {
            merged = Kubeconfig::read_from(path)
                .and_then(|next| merged.merge(next))
                .map_err(failed)?;
        }
        Config::from_custom_kubeconfig(merged, &KubeConfigOptions::default())
            .await
            .map_err(failed)
    }

    /// The files are named, not copied, so that a token or an authority that is replaced is used
    /// within a minute.
    fn service_account(&self, url: Uri) -> Result<Config, AccessError> {
        let read = |name: &str| {
            let path = self.settings.service_account.join(name);
            match fs::read(&path) {
                Ok(_) => Ok(path),
                Err(source) => Err(AccessError::ServiceAccount { path, source }),
            }
        };
        let (token, authority) = (read("token")?, read("ca.crt")?);
        let is_plain = url.scheme_str() == Some("http");
        let mut config = Config::new(url);
        config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
        if is_plain {
            return Ok(config);
        }
        // Without a list of its own the client would look for the system's authorities.
        config.root_cert = Some(Vec::new());
        config.root_cert_file = Some(authority);
        Ok(config)
    }
}
