//! From the JSON of an answer to model values: each object is converted at once and dropped.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::event::{Event, Kind};
use crate::model::name::ObjectName;
use crate::source::convert::endpoint_slice::api::{ApiMetadata, ApiSlice, Text};
use crate::source::convert::{self, Notes};
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem};

/// Annotation of the bookmark that ends the objects of a streaming list.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// An object as the model has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Decoded {
    pub(super) name: ObjectName,
    pub(super) value: Value,
    /// What is wrong with it.
    pub(super) notes: Notes,
}

/// What an object says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    /// It is there.
    Applied(Event),
    /// It is a `ServiceCIDR` of these networks.
    Cidrs(Vec<(IpAddr, u8)>),
    /// It is gone, or none of ours.
    Gone,
    /// It is not understood: what was held stays.
    Unknown,
}

/// One line of a watch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Line {
    Object {
        object: Decoded,
        version: Option<String>,
    },
    Bookmark {
        version: Option<String>,
        /// Whether all objects of a streaming list have been named.
        ends_list: bool,
    },
    /// The server gives up.
    Error(Status),
}

/// What the server says about a request that failed: `meta/v1` `Status`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct Status {
    /// HTTP status, which inside a stream is not that of the answer.
    pub(super) code: u16,
    pub(super) reason: Option<String>,
    pub(super) message: Option<String>,
    details: Option<Details>,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: Option<u64>,
}

impl Status {
    /// What the body of an answer with HTTP status `code` says; it need not be JSON.
    pub(super) fn parse(code: u16, body: &[u8]) -> Self {
        let status: Self = serde_json::from_slice(body).unwrap_or_default();
        Self { code, ..status }
    }

    /// Whether the version or the token that was asked for is too old.
    pub(super) fn is_expired(&self) -> bool {
        self.code == 410 || matches!(self.reason.as_deref(), Some("Expired" | "Gone"))
    }

    /// What the answer's head says of when to ask again comes first.
    pub(super) const fn ask_after(&mut self, seconds: Option<u64>) {
        if seconds.is_some() {
            self.details = Some(Details {
                retry_after_seconds: seconds,
            });
        }
    }

    /// After how many seconds to ask again.
    pub(super) fn retry_after_seconds(&self) -> Option<u64> {
        self.details.as_ref()?.retry_after_seconds
    }
}

/// The end of a page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Envelope {
    pub(super) version: Option<String>,
    /// Where the next page begins.
    pub(super) token: Option<String>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// Only what every object has; the rest may be null, as in bookmarks.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Bare {
    metadata: BareMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BareMetadata {
    namespace: Option<String>,
    name: Option<String>,
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    token: Option<String>,
    annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// What tells an object from others, and from what it was.
#[derive(Clone, Copy, Default)]
struct Identity<'a> {
    namespace: &'a str,
    name: &'a str,
    version: Option<&'a str>,
}

impl<'a> Identity<'a> {
    fn of(metadata: &'a ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.as_deref().unwrap_or_default(),
            name: metadata.name.as_deref().unwrap_or_default(),
            version: metadata.resource_version.as_deref(),
        }
    }

    fn of_slice(metadata: &'a ApiMetadata<Text<'_>>) -> Self {
        let (namespace, name) = metadata.name();
        Self {
            namespace,
            name,
            version: metadata.resource_version.as_ref().map(AsRef::as_ref),
        }
    }
}

/// Reads objects of one kind.
#[derive(Debug)]
pub(super) struct Decoder {
    kind: Kind,
    interner: Interner,
}

impl Decoder {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            interner: Interner::default(),
        }
    }

    /// Lets go of names that no object has any more.
    pub(super) fn sweep(&mut self) {
        self.interner.sweep();
    }

    /// An item of a list.
    pub(super) fn item(&mut self, json: &[u8]) -> Option<Decoded> {
        let text = str::from_utf8(json).ok()?;
        self.object(text).map(|(object, _)| object)
    }

    /// A line of a watch; `None` for one that is no frame, after which nothing can be trusted.
    pub(super) fn line(&mut self, json: &[u8]) -> Option<Line> {
        let frame: Frame<'_> = serde_json::from_slice(json).ok()?;
        let text = frame.object.get();
        match &*frame.kind {
            "ADDED" | "MODIFIED" => {
                let (object, version) = self.object(text)?;
                Some(Line::Object { object, version })
            }
            "DELETED" => {
                let metadata = bare(text)?;
                Some(Line::Object {
                    object: Decoded {
                        name: name(&metadata),
                        value: Value::Gone,
                        notes: Notes::new(),
                    },
                    version: metadata.resource_version,
                })
            }
            "BOOKMARK" => {
                let metadata = bare(text)?;
                let annotations = metadata.annotations.unwrap_or_default();
                Some(Line::Bookmark {
                    version: metadata.resource_version,
                    ends_list: annotations.get(INITIAL_END).is_some_and(|it| it == "true"),
                })
            }
            "ERROR" => Some(Line::Error(serde_json::from_str(text).unwrap_or_default())),
            _ => None,
        }
    }

    /// Object and version; `None` for one that is not even an object with metadata.
    fn object(&mut self, json: &str) -> Option<(Decoded, Option<String>)> {
        match self.kind {
            Kind::Service => self.convert(
                json,
                |it: &Service| Identity::of(&it.metadata),
                convert::service::convert,
                |service| Value::Applied(Event::ServiceApplied(Arc::new(service))),
            ),
            Kind::EndpointSlice => self.convert(
                json,
                |it: &ApiSlice<Text<'_>>| {
                    it.metadata
                        .as_ref()
                        .map(Identity::of_slice)
                        .unwrap_or_default()
                },
                convert::endpoint_slice::convert,
                |slice| Value::Applied(Event::SliceApplied(Arc::new(slice))),
            ),
            Kind::Node => self.convert(
                json,
                |it: &Node| Identity::of(&it.metadata),
                convert::node::convert,
                |node| Value::Applied(Event::NodeApplied(Arc::new(node))),
            ),
            Kind::ServiceCidr => self.convert(
                json,
                |it: &ServiceCIDR| Identity::of(&it.metadata),
                convert::service_cidr::convert,
                Value::Cidrs,
            ),
        }
    }

    fn convert<'a, O: Deserialize<'a>, V>(
        &mut self,
        json: &'a str,
        identity: impl FnOnce(&O) -> Identity<'_>,
        convert: impl FnOnce(&O, &mut Interner, &mut Notes) -> Result<Option<V>, FieldProblem>,
        value: impl FnOnce(V) -> Value,
    ) -> Option<(Decoded, Option<String>)> {
        let object: O = match serde_json::from_str(json) {
            Ok(object) => object,
            Err(error) => {
                let metadata = bare(json)?;
                let detail = Detail::Malformed {
                    message: error.to_string(),
                };
                let decoded = Decoded {
                    name: name(&metadata),
                    value: Value::Unknown,
                    notes: vec![FieldProblem::new("", detail)],
                };
                return Some((decoded, metadata.resource_version));
            }
        };
        let identity = identity(&object);
        let interner = &mut self.interner;
        let name = ObjectName {
            namespace: interner.get(identity.namespace),
            name: interner.get_nearby(identity.name),
        };
        let version = identity.version.map(str::to_owned);
        let mut notes = Notes::new();
        let value = match convert(&object, interner, &mut notes) {
            Ok(Some(converted)) => value(converted),
            Ok(None) => Value::Gone,
            Err(problem) => {
                notes.push(problem);
                Value::Unknown
            }
        };
        let decoded = Decoded { name, value, notes };
        Some((decoded, version))
    }
}

/// What stands around the items of a page.
pub(super) fn envelope(json: &[u8]) -> Option<Envelope> {
    let bare: Bare = serde_json::from_slice(json).ok()?;
    Some(Envelope {
        version: bare.metadata.resource_version,
        token: bare.metadata.token.filter(|token| !token.is_empty()),
    })
}

/// The event of there being no such object, where the kind has one.
pub(super) fn removed(kind: Kind, name: ObjectName) -> Option<Event> {
    match kind {
        Kind::Service => Some(Event::ServiceRemoved(name)),
        Kind::EndpointSlice => Some(Event::SliceRemoved(name)),
        Kind::Node => Some(Event::NodeRemoved(name.name.to_string())),
        Kind::ServiceCidr => None,
    }
}

fn bare(json: &str) -> Option<BareMetadata> {
    let bare: Bare = serde_json::from_str(json).ok()?;
    Some(bare.metadata)
}

fn name(metadata: &BareMetadata) -> ObjectName {
    ObjectName {
        namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
        name: metadata.name.as_deref().unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind, json: &str) -> Option<Line> {
        Decoder::new(kind).line(json.as_bytes())
    }

    #[test]
    fn bookmarks_with_null_fields_are_read_for_their_version() {
        let json = r#"{"type":"BOOKMARK","object":{"kind":"EndpointSlice",
            "apiVersion":"discovery.k8s.io/v1","metadata":{"resourceVersion":"12"ANNOTATIONS},
            "addressType":"","endpoints":null,"ports":null}}"#;
        for (annotations, ends_list) in [
            ("", false),
            (r#","annotations":null"#, false),
            (
                r#","annotations":{"k8s.io/initial-events-end":"true"}"#,
                true,
            ),
        ] {
            let json = json.replace("ANNOTATIONS", annotations);
            let expected = Line::Bookmark {
                version: Some("12".into()),
                ends_list,
            };
            assert_eq!(line(Kind::EndpointSlice, &json), Some(expected));
        }
    }

    #[test]
    fn a_slice_with_null_endpoints_and_ports_is_an_empty_one() {
        let json = r#"{"type":"MODIFIED","object":{"metadata":{"namespace":"ns","name":"s",
            "resourceVersion":"3","labels":{"kubernetes.io/service-name":"web"}},
            "addressType":"IPv4","endpoints":null,"ports":null}}"#;
        let Some(Line::Object { object, version }) = line(Kind::EndpointSlice, json) else {
            panic!("an object")
        };
        assert_eq!(version.as_deref(), Some("3"));
        let Value::Applied(Event::SliceApplied(slice)) = object.value else {
            panic!("applied")
        };
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
    }

    #[test]
    fn a_slice_is_read_as_well_where_its_texts_are_escaped() {
        let escaped = r#"{"type":"ADDED","object":{"metadata":{"namespace":"n\u0073","name":"s\/1",
            "resourceVersion":"\u0033","labels":{"kubernetes.io/service-name":"w\u0065b"}},
            "addressType":"IPv\u0034","endpoints":[{"addresses":["10.0.0\u002e1"],
            "nodeName":"node\u002da"}],"ports":[{"name":"\u0068ttp","port":80}]}}"#;
        let plain = escaped
            .replace(r"\u0073", "s")
            .replace(r"\/", "/")
            .replace(r"\u0033", "3")
            .replace(r"\u0065", "e")
            .replace(r"\u0034", "4")
            .replace(r"\u002e", ".")
            .replace(r"\u002d", "-")
            .replace(r"\u0068", "h");
        assert!(!plain.contains('\\'));
        let read = line(Kind::EndpointSlice, escaped);
        assert_eq!(read, line(Kind::EndpointSlice, &plain));
        let Some(Line::Object { object, .. }) = read else {
            panic!("an object")
        };
        let Value::Applied(Event::SliceApplied(slice)) = object.value else {
            panic!("applied")
        };
        assert_eq!(slice.endpoints.len(), 1);
    }

    #[test]
    fn an_error_says_whether_its_version_is_too_old_and_when_to_come_again() {
        let expired = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1",
            "metadata":{},"status":"Failure","message":"too old resource version: 1 (2645)",
            "reason":"Expired","code":410}}"#;
        let Some(Line::Error(status)) = line(Kind::Node, expired) else {
            panic!("an error")
        };
        assert!(status.is_expired());
        let busy = br#"{"code":504,"reason":"Timeout","details":{"causes":[],
            "retryAfterSeconds":7}}"#;
        let status = Status::parse(504, busy);
        assert_eq!(status.retry_after_seconds(), Some(7));
        assert!(!status.is_expired());
        assert_eq!(Status::parse(404, b"404 page not found\n").code, 404);
    }

    #[test]
    fn an_object_that_is_not_understood_keeps_its_name_and_says_why() {
        let json = r#"{"type":"ADDED","object":{"metadata":{"namespace":"ns","name":"web",
            "resourceVersion":"9"},"spec":{"ports":"eighty"}}}"#;
        let Some(Line::Object { object, version }) = line(Kind::Service, json) else {
            panic!("an object")
        };
        assert_eq!(object.name.to_string(), "ns/web");
        assert_eq!(object.value, Value::Unknown);
        assert_eq!(object.notes.len(), 1);
        assert_eq!(version.as_deref(), Some("9"));
        for garbage in [
            "",
            "null",
            "{}",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"X","object":{}}"#,
        ] {
            assert_eq!(line(Kind::Service, garbage), None, "{garbage}");
        }
    }

    #[test]
    fn a_service_that_is_none_of_ours_is_gone() {
        let json = r#"{"metadata":{"namespace":"ns","name":"web"},
            "spec":{"clusterIP":"None","clusterIPs":["None"]}}"#;
        let object = Decoder::new(Kind::Service).item(json.as_bytes()).unwrap();
        assert_eq!(object.value, Value::Gone);
    }
}
