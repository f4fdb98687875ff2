//! What a document is, and its typed reading.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::object::{Key, Object};
use crate::model::event::Kind;
use crate::model::name::ObjectName;
use crate::source::convert::endpoint_slice::{self, api::ApiSlice};
use crate::source::convert::{Notes, node, service, service_cidr};
use crate::source::intern::Interner;
use crate::source::report::{Detail, FieldProblem};

/// The fields that say what a document is; all others are skipped.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<Metadata>,
    /// How many `endpoints` there are: too many are refused before they are built.
    endpoints: Option<Count>,
    items: Option<Vec<Self>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
}

/// The length of a sequence; 0 for anything else.
#[derive(Clone, Copy, Debug, Default)]
struct Count(usize);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Count, A::Error> {
        let mut count = 0;
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Count(count))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count::default())
    }

    fn visit_unit<E: Error>(self) -> Result<Count, E> {
        Ok(Count::default())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Count, E> {
        Ok(Count::default())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Count, E> {
        Ok(Count::default())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Count, E> {
        Ok(Count::default())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Count, E> {
        Ok(Count::default())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Count, E> {
        Ok(Count::default())
    }
}

/// What to read a document as.
#[derive(Debug)]
pub(super) enum Wanted {
    /// One object.
    One(Option<Kind>),
    /// A list of these.
    List(Vec<Option<Kind>>),
}

impl Wanted {
    pub(super) fn is_any(&self) -> bool {
        match self {
            Self::One(kind) => kind.is_some(),
            Self::List(kinds) => kinds.iter().any(Option::is_some),
        }
    }

    /// Reads the document, and gives each object of ours, with its index in a list, to the sink.
    pub(super) const fn seed<S: FnMut(Option<usize>, Typed)>(self, sink: S) -> Seed<S> {
        Seed { wanted: self, sink }
    }
}

impl Header {
    /// What it is. What does not say so, or is refused unread, is given to `problem` with its index
    /// in a list, and is not read.
    pub(super) fn wanted(&self, mut problem: impl FnMut(Option<usize>, FieldProblem)) -> Wanted {
        let (version, kind) = match self.named_type(None) {
            Ok(named) => named,
            Err(error) => {
                problem(None, error);
                return Wanted::One(None);
            }
        };
        let mut or_none = |index, result: Result<Option<Kind>, FieldProblem>| {
            result.unwrap_or_else(|error| {
                problem(index, error);
                None
            })
        };
        let Some(item_kind) = kind.strip_suffix("List") else {
            return Wanted::One(or_none(None, self.kind_of(version, kind)));
        };
        let default = (!item_kind.is_empty()).then_some((version, item_kind));
        let items = self
            .items
            .iter()
            .flatten()
            .enumerate()
            .map(|(index, item)| {
                let kind = item
                    .named_type(default)
                    .and_then(|(version, kind)| item.kind_of(version, kind));
                or_none(Some(index), kind)
            });
        Wanted::List(items.collect())
    }

    /// Kind and name, as far as it says.
    pub(super) fn describe(&self, item: Option<usize>) -> Option<String> {
        let object = match item {
            Some(index) => self.items.as_deref()?.get(index)?,
            None => self,
        };
        let list = self
            .kind
            .as_deref()
            .and_then(|kind| kind.strip_suffix("List"));
        let kind = object
            .kind
            .as_deref()
            .or(list)
            .filter(|kind| !kind.is_empty())?;
        let metadata = object.metadata.as_ref();
        let Some(name) = metadata.and_then(|metadata| metadata.name.as_deref()) else {
            return Some(kind.to_owned());
        };
        let namespace = match metadata.and_then(|metadata| metadata.namespace.as_deref()) {
            None if matches!(kind, "Service" | "EndpointSlice") => Some(DEFAULT_NAMESPACE),
            other => other,
        };
        Some(match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        })
    }

    fn named_type<'a>(
        &'a self,
        default: Option<(&'a str, &'a str)>,
    ) -> Result<(&'a str, &'a str), FieldProblem> {
        match (self.api_version.as_deref(), self.kind.as_deref(), default) {
            (Some(version), Some(kind), _) => Ok((version, kind)),
            (None, None, Some(default)) => Ok(default),
            (None, _, _) => Err(FieldProblem::new("apiVersion", Detail::MissingType)),
            (_, None, _) => Err(FieldProblem::new("kind", Detail::MissingType)),
        }
    }

    fn kind_of(&self, version: &str, kind: &str) -> Result<Option<Kind>, FieldProblem> {
        Ok(match (version, kind) {
            ("v1", "Service") => Some(Kind::Service),
            ("v1", "Node") => Some(Kind::Node),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                endpoint_slice::check_count(self.endpoints.unwrap_or_default().0)?;
                Some(Kind::EndpointSlice)
            }
            ("networking.k8s.io/v1", "ServiceCIDR") => Some(Kind::ServiceCidr),
            _ => None,
        })
    }
}

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// An object as Kubernetes has it.
pub(super) enum Typed {
    Service(Box<Service>),
    Slice(Box<ApiSlice<String>>),
    Node(Box<Node>),
    Cidr(Box<ServiceCIDR>),
}

impl Typed {
    /// Its identity and value, after the defaults that an API server would have set.
    pub(super) fn convert(
        self,
        interner: &mut Interner,
        notes: &mut Notes,
    ) -> Result<(Key, Object), FieldProblem> {
        let (kind, (namespace, name), object) = match self {
            Self::Service(mut object) => {
                object
                    .metadata
                    .namespace
                    .get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
                let value = service::convert(&object, interner, notes)?;
                let value = value.map(|value| Object::Service(Arc::new(value)));
                (Kind::Service, name_of(object.metadata), value)
            }
            Self::Slice(mut object) => {
                if let Some(metadata) = &mut object.metadata {
                    metadata
                        .namespace
                        .get_or_insert_with(|| DEFAULT_NAMESPACE.to_owned());
                }
                for port in object.ports.iter_mut().flatten() {
                    port.name.get_or_insert_default();
                }
                let value = endpoint_slice::convert(&object, interner, notes)?;
                let value = value.map(|value| Object::Slice(Arc::new(value)));
                let name = object
                    .metadata
                    .map(|metadata| (metadata.namespace, metadata.name));
                (Kind::EndpointSlice, name.unwrap_or_default(), value)
            }
            Self::Node(object) => {
                let value = node::convert(&object, interner, notes)?;
                let value = value.map(|value| Object::Node(Arc::new(value)));
                (Kind::Node, name_of(object.metadata), value)
            }
            Self::Cidr(object) => {
                let value = service_cidr::convert(&object, interner, notes)?;
                let value = value.map(|value| Object::Cidrs(value.into()));
                (Kind::ServiceCidr, name_of(object.metadata), value)
            }
        };
        let is_namespaced = matches!(kind, Kind::Service | Kind::EndpointSlice);
        let namespace = namespace.filter(|_| is_namespaced);
        let name = ObjectName {
            namespace: interner.get(namespace.as_deref().unwrap_or_default()),
            name: interner.get_nearby(name.as_deref().unwrap_or_default()),
        };
        Ok((Key { kind, name }, object.unwrap_or(Object::None)))
    }
}

/// Namespace and name, as far as they are given.
fn name_of(metadata: ObjectMeta) -> (Option<String>, Option<String>) {
    (metadata.namespace, metadata.name)
}

/// Reads a document that was classified.
pub(super) struct Seed<S> {
    wanted: Wanted,
    sink: S,
}

impl<'de, S: FnMut(Option<usize>, Typed)> DeserializeSeed<'de> for Seed<S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        match self.wanted {
            Wanted::One(kind) => {
                if let Some(typed) = (TypedSeed { kind }).deserialize(deserializer)? {
                    (self.sink)(None, typed);
                }
                Ok(())
            }
            Wanted::List(kinds) => deserializer.deserialize_map(ListVisitor {
                kinds,
                sink: self.sink,
            }),
        }
    }
}

struct TypedSeed {
    kind: Option<Kind>,
}

impl<'de> DeserializeSeed<'de> for TypedSeed {
    type Value = Option<Typed>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(Some(match self.kind {
            Some(Kind::Service) => Typed::Service(Deserialize::deserialize(deserializer)?),
            Some(Kind::EndpointSlice) => Typed::Slice(Deserialize::deserialize(deserializer)?),
            Some(Kind::Node) => Typed::Node(Deserialize::deserialize(deserializer)?),
            Some(Kind::ServiceCidr) => Typed::Cidr(Deserialize::deserialize(deserializer)?),
            None => {
                IgnoredAny::deserialize(deserializer)?;
                return Ok(None);
            }
        }))
    }
}

struct ListVisitor<S> {
    kinds: Vec<Option<Kind>>,
    sink: S,
}

impl<'de, S: FnMut(Option<usize>, Typed)> Visitor<'de> for ListVisitor<S> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of Kubernetes objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                map.next_value_seed(ItemsSeed {
                    kinds: &self.kinds,
                    sink: &mut self.sink,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct ItemsSeed<'a, S> {
    kinds: &'a [Option<Kind>],
    sink: &'a mut S,
}

impl<'de, S: FnMut(Option<usize>, Typed)> DeserializeSeed<'de> for ItemsSeed<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: FnMut(Option<usize>, Typed)> Visitor<'de> for ItemsSeed<'_, S> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a sequence of Kubernetes objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        for index in 0.. {
            let kind = self.kinds.get(index).copied().flatten();
            match sequence.next_element_seed(TypedSeed { kind })? {
                Some(Some(typed)) => (self.sink)(Some(index), typed),
                Some(None) => {}
                None => break,
            }
        }
        Ok(())
    }
}
