//! The parts of a `discovery.k8s.io/v1` `EndpointSlice` that are read.
//!
//! Slices are nearly all that an agent ever decodes. Of the whole object, as `k8s-openapi` has it, most
//! is thrown away again: here the rest is passed over, and texts may stay in the JSON they came in.

use std::borrow::Cow;

use serde::Deserialize;

/// A text that is borrowed from the JSON it stands in, where nothing in it is escaped.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A slice, with texts of type `S`. What is absent may also be null.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiSlice<S> {
    /// What it is called.
    pub metadata: Option<ApiMetadata<S>>,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<S>,
    /// Who serves.
    pub endpoints: Option<Vec<ApiEndpoint<S>>>,
    /// By which ports.
    pub ports: Option<Vec<ApiPort<S>>>,
}

/// `metadata` of a slice.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiMetadata<S> {
    /// Its namespace.
    pub namespace: Option<S>,
    /// Its name in that namespace.
    pub name: Option<S>,
    /// The version that a watch goes on from.
    pub resource_version: Option<S>,
    /// `metadata.labels`.
    pub labels: Option<ApiLabels<S>>,
    /// `metadata.annotations`.
    pub annotations: Option<ApiAnnotations<S>>,
}

/// The labels that mean something.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiLabels<S> {
    /// [`SERVICE_NAME`](super::SERVICE_NAME).
    #[serde(rename = "kubernetes.io/service-name")]
    pub service_name: Option<S>,
    /// [`HEADLESS`](super::HEADLESS).
    #[serde(rename = "service.kubernetes.io/headless")]
    pub headless: Option<S>,
}

/// The annotations that mean something.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiAnnotations<S> {
    /// [`WEIGHT`](super::WEIGHT).
    #[serde(rename = "steerage.dev/weight")]
    pub weight: Option<S>,
    /// [`TRIGGER_TIME`](super::TRIGGER_TIME).
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub trigger_time: Option<S>,
}

/// An entry of `endpoints`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiEndpoint<S> {
    /// Only the first has a meaning.
    pub addresses: Option<Vec<S>>,
    /// What it can do now.
    pub conditions: Option<ApiConditions>,
    /// For whom it is.
    pub hints: Option<ApiHints<S>>,
    /// The Node that it runs on.
    pub node_name: Option<S>,
    /// What it is; mostly a pod.
    pub target_ref: Option<ApiTarget<S>>,
    /// The zone that it runs in.
    pub zone: Option<S>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct ApiConditions {
    /// Whether it gets new connections.
    pub ready: Option<bool>,
    /// Whether it could, if it did not terminate.
    pub serving: Option<bool>,
    /// Whether it is going away.
    pub terminating: Option<bool>,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiHints<S> {
    /// Zones whose clients it is for.
    pub for_zones: Option<Vec<ApiNamed<S>>>,
    /// Nodes whose clients it is for.
    pub for_nodes: Option<Vec<ApiNamed<S>>>,
}

/// A zone or a Node.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiNamed<S> {
    /// What it is called.
    pub name: S,
}

/// `targetRef` of an endpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiTarget<S> {
    /// `Pod`, or something else.
    pub kind: Option<S>,
    /// Its name, in the namespace of the slice.
    pub name: Option<S>,
}

/// An entry of `ports`.
#[derive(Clone, Debug, Deserialize)]
pub struct ApiPort<S> {
    /// The name that a port of the Service has, too.
    pub name: Option<S>,
    /// All ports where it is absent.
    pub port: Option<i32>,
    /// `TCP` where it is absent.
    pub protocol: Option<S>,
}

impl<S: AsRef<str>> ApiSlice<S> {
    pub(super) fn label(&self, label: impl FnOnce(&ApiLabels<S>) -> Option<&S>) -> Option<&str> {
        label(self.metadata.as_ref()?.labels.as_ref()?).map(AsRef::as_ref)
    }

    pub(super) fn annotation(
        &self,
        annotation: impl FnOnce(&ApiAnnotations<S>) -> Option<&S>,
    ) -> Option<&str> {
        annotation(self.metadata.as_ref()?.annotations.as_ref()?).map(AsRef::as_ref)
    }
}

impl<S: AsRef<str>> ApiMetadata<S> {
    /// Namespace and name, both perhaps empty.
    pub fn name(&self) -> (&str, &str) {
        (text(self.namespace.as_ref()), text(self.name.as_ref()))
    }
}

/// What stands there; nothing stands for what is absent.
pub(super) fn text<S: AsRef<str>>(text: Option<&S>) -> &str {
    text.map_or("", AsRef::as_ref)
}
