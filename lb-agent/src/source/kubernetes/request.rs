//! What the API server is asked: paths, selectors, and the forms of a list.

use std::fmt::Write as _;

use super::Time;
use crate::model::event::Kind;
use crate::source::convert::{endpoint_slice, service};

/// Objects of a page; servers that answer from their cache send everything in one.
const PAGE_SIZE: u32 = 500;

/// One request: all are `GET`s.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// The kind of objects.
    pub kind: Kind,
    /// What of them.
    pub form: Form,
    /// Whether Services without a cluster address are left out by the server, which servers before
    /// 1.31 cannot.
    pub has_field_selector: bool,
}

/// The forms a request has. Lists never name a version: what comes is what the cluster holds now,
/// and never older than what came before.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Form {
    /// A page of a full list, the first one without a token.
    Page {
        /// Where to go on.
        token: Option<String>,
    },
    /// A full list in one piece.
    Whole,
    /// All objects, a bookmark that says so, then their changes. The server ends it after so long.
    Stream {
        /// After how long.
        end: Time,
    },
    /// The changes since a version.
    Watch {
        /// The version.
        version: String,
        /// After how long the server ends it.
        end: Time,
    },
}

impl Request {
    /// Path and query, for the agent of this Node.
    pub fn target(&self, node_name: &str) -> String {
        let (path, labels) = match self.kind {
            Kind::Service => ("/api/v1/services", Some(service::PROXY_NAME)),
            Kind::EndpointSlice => (
                "/apis/discovery.k8s.io/v1/endpointslices",
                Some(endpoint_slice::HEADLESS),
            ),
            Kind::Node => ("/api/v1/nodes", None),
            Kind::ServiceCidr => ("/apis/networking.k8s.io/v1/servicecidrs", None),
        };
        let mut query = Query(format!("{path}?"));
        if let Some(label) = labels {
            query.add("labelSelector", &format!("!{label}"));
        }
        match self.kind {
            Kind::Service if self.has_field_selector => {
                query.add("fieldSelector", "spec.clusterIP!=None");
            }
            Kind::Node => query.add("fieldSelector", &format!("metadata.name={node_name}")),
            _ => {}
        }
        match &self.form {
            Form::Page { token } => {
                query.add("limit", &PAGE_SIZE.to_string());
                if let Some(token) = token {
                    query.add("continue", token);
                }
            }
            Form::Whole => {}
            Form::Stream { end } => {
                query.watch(*end);
                query.add("sendInitialEvents", "true");
                query.add("resourceVersionMatch", "NotOlderThan");
            }
            Form::Watch { version, end } => {
                query.watch(*end);
                query.add("resourceVersion", version);
            }
        }
        query.0.trim_end_matches(['&', '?']).to_owned()
    }
}

/// A path and its query, under construction.
struct Query(String);

impl Query {
    fn watch(&mut self, end: Time) {
        self.add("watch", "true");
        self.add("allowWatchBookmarks", "true");
        self.add("timeoutSeconds", &end.as_secs().to_string());
    }

    fn add(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                self.0.push(char::from(byte));
            } else {
                // Writing to a string cannot fail.
                write!(self.0, "%{byte:02X}").unwrap_or_default();
            }
        }
        self.0.push('&');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, form: Form, expected: &str) {
        let request = Request {
            kind,
            form,
            has_field_selector: true,
        };
        assert_eq!(request.target("node-a&x"), expected);
    }

    #[test]
    fn requests_carry_the_selectors_of_kube_proxy() {
        let end = Time::from_secs(301);
        check(
            Kind::Service,
            Form::Page { token: None },
            "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name\
             &fieldSelector=spec.clusterIP%21%3DNone&limit=500",
        );
        check(
            Kind::EndpointSlice,
            Form::Watch {
                version: "17".into(),
                end,
            },
            "/apis/discovery.k8s.io/v1/endpointslices\
             ?labelSelector=%21service.kubernetes.io%2Fheadless&watch=true\
             &allowWatchBookmarks=true&timeoutSeconds=301&resourceVersion=17",
        );
        check(
            Kind::Node,
            Form::Page {
                token: Some("a+b/c=".into()),
            },
            "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-a%26x&limit=500\
             &continue=a%2Bb%2Fc%3D",
        );
        check(
            Kind::ServiceCidr,
            Form::Stream { end },
            "/apis/networking.k8s.io/v1/servicecidrs?watch=true&allowWatchBookmarks=true\
             &timeoutSeconds=301&sendInitialEvents=true&resourceVersionMatch=NotOlderThan",
        );
        check(
            Kind::ServiceCidr,
            Form::Whole,
            "/apis/networking.k8s.io/v1/servicecidrs",
        );
    }

    #[test]
    fn a_server_without_the_field_selector_is_asked_for_all_services() {
        let request = Request {
            kind: Kind::Service,
            form: Form::Whole,
            has_field_selector: false,
        };
        assert_eq!(
            request.target("node-a"),
            "/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"
        );
    }
}
