//! From a method and a path to what is asked for.

use hyper::Method;

use super::access::Verb;
use super::resource::Resource;

/// What a request asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Route {
    /// A resource, or one object of it.
    Resource {
        verb: Verb,
        resource: Resource,
        /// Empty for all namespaces.
        namespace: String,
        /// Empty for all objects.
        name: String,
    },
    /// The version of the server.
    Version,
    /// One of the health checks.
    Health,
    /// What is not served.
    Nothing,
}

impl Route {
    /// Reads the path; `is_watch` is what the query says.
    pub(super) fn of(method: &Method, path: &str, is_watch: bool) -> Self {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match segments.as_slice() {
            ["version"] => return Self::Version,
            ["healthz" | "livez" | "readyz"] => return Self::Health,
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return Self::Nothing,
        };
        let (namespace, plural, name) = match rest {
            ["namespaces", namespace, plural, name] => (*namespace, *plural, *name),
            ["namespaces", namespace, plural] => (*namespace, *plural, ""),
            [plural, name] => ("", *plural, *name),
            [plural] => ("", *plural, ""),
            _ => return Self::Nothing,
        };
        let Some(resource) = Resource::at(group, plural) else {
            return Self::Nothing;
        };
        let is_named = !name.is_empty();
        if !resource.is_namespaced() && !namespace.is_empty()
            || resource.is_namespaced() && is_named && namespace.is_empty()
        {
            return Self::Nothing;
        }
        let verb = match *method {
            Method::GET if is_named => Verb::Get,
            Method::GET if is_watch => Verb::Watch,
            Method::GET => Verb::List,
            Method::POST if !is_named => Verb::Create,
            Method::PATCH if is_named => Verb::Patch,
            _ => return Self::Nothing,
        };
        Self::Resource {
            verb,
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, expected: Option<(Verb, Resource, &str, &str)>) {
        let expected = expected.map_or(Route::Nothing, |(verb, resource, namespace, name)| {
            Route::Resource {
                verb,
                resource,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }
        });
        assert_eq!(Route::of(method, path, false), expected, "{method} {path}");
    }

    #[test]
    fn paths_lead_to_resources_and_objects() {
        let get = &Method::GET;
        let services = Resource::Services;
        check(
            get,
            "/api/v1/services",
            Some((Verb::List, services, "", "")),
        );
        check(
            get,
            "/api/v1/namespaces/a/services",
            Some((Verb::List, services, "a", "")),
        );
        check(
            get,
            "/api/v1/namespaces/a/services/b",
            Some((Verb::Get, services, "a", "b")),
        );
        check(
            get,
            "/apis/discovery.k8s.io/v1/endpointslices",
            Some((Verb::List, Resource::EndpointSlices, "", "")),
        );
        check(
            get,
            "/api/v1/nodes/n",
            Some((Verb::Get, Resource::Nodes, "", "n")),
        );
        check(
            &Method::POST,
            "/apis/events.k8s.io/v1/namespaces/a/events",
            Some((Verb::Create, Resource::Events, "a", "")),
        );
        check(
            &Method::PATCH,
            "/api/v1/namespaces/a/events/e",
            Some((Verb::Patch, Resource::CoreEvents, "a", "e")),
        );
        check(get, "/api/v1/pods", None);
        check(get, "/apis/discovery.k8s.io/v1beta1/endpointslices", None);
        check(get, "/api/v1/namespaces/a/nodes", None);
        check(&Method::DELETE, "/api/v1/namespaces/a/services/b", None);
    }

    #[test]
    fn a_watch_is_a_list_that_goes_on() {
        let route = Route::of(&Method::GET, "/api/v1/nodes", true);
        assert!(matches!(
            route,
            Route::Resource {
                verb: Verb::Watch,
                ..
            }
        ));
    }
}
