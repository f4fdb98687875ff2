//! The bodies of errors: `Status` objects as the API server words them.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::resource::Resource;

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) code: StatusCode,
    pub(super) retry_after_seconds: Option<u32>,
    pub(super) body: FailureBody,
}

/// How a failure is worded.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FailureBody {
    /// A `Status` object.
    Status(Value),
    /// Plain text, as from layers that know no objects.
    Text(&'static str),
}

impl Failure {
    fn status(code: StatusCode, message: &str, reason: &str, details: Option<Value>) -> Self {
        Self::with_metadata(code, json!({}), (message, reason), details)
    }

    fn with_metadata(
        code: StatusCode,
        metadata: Value,
        (message, reason): (&str, &str),
        details: Option<Value>,
    ) -> Self {
        let mut body = Map::new();
        body.insert("kind".to_owned(), json!("Status"));
        body.insert("apiVersion".to_owned(), json!("v1"));
        body.insert("metadata".to_owned(), metadata);
        body.insert("status".to_owned(), json!("Failure"));
        body.insert("message".to_owned(), json!(message));
        if !reason.is_empty() {
            body.insert("reason".to_owned(), json!(reason));
        }
        if let Some(details) = details {
            body.insert("details".to_owned(), details);
        }
        body.insert("code".to_owned(), json!(code.as_u16()));
        Self {
            code,
            retry_after_seconds: None,
            body: FailureBody::Status(Value::Object(body)),
        }
    }

    const fn text(code: StatusCode, text: &'static str) -> Self {
        Self {
            code,
            retry_after_seconds: None,
            body: FailureBody::Text(text),
        }
    }

    /// A path that leads nowhere.
    pub(super) const fn no_such_path() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    /// Priority and fairness turn a request away before anything looks at it.
    pub(super) fn too_many_requests(retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::text(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests, please try again later.\n",
            )
        }
    }

    /// A token that is unknown or has expired.
    pub(super) fn unauthorized() -> Self {
        let (message, reason) = ("Unauthorized", "Unauthorized");
        Self::status(StatusCode::UNAUTHORIZED, message, reason, None)
    }

    /// A user whom no rule lets do this.
    pub(super) fn forbidden(user: &str, verb: &str, resource: Resource, namespace: &str) -> Self {
        let scope = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let message = format!(
            "{} is forbidden: User \"{user}\" cannot {verb} resource \"{}\" in API group \"{}\" {scope}",
            resource.qualified(),
            resource.plural(),
            resource.group()
        );
        let details = details(resource, None);
        Self::status(StatusCode::FORBIDDEN, &message, "Forbidden", Some(details))
    }

    /// An object that is not there.
    pub(super) fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        let details = details(resource, Some(name));
        Self::status(StatusCode::NOT_FOUND, &message, "NotFound", Some(details))
    }

    /// An object that is there already.
    pub(super) fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        let details = details(resource, Some(name));
        Self::status(
            StatusCode::CONFLICT,
            &message,
            "AlreadyExists",
            Some(details),
        )
    }

    /// A revision that is no number. On a watch the real server lets the parser's error through, as
    /// an internal one.
    pub(super) fn malformed_revision(text: &str) -> Self {
        let message = format!(
            "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        );
        Self::status(StatusCode::INTERNAL_SERVER_ERROR, &message, "", None)
    }

    /// A client that takes none of the formats there are.
    pub(super) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json";
        let code = StatusCode::NOT_ACCEPTABLE;
        Self::status(code, message, "NotAcceptable", None)
    }

    /// A request that cannot be read.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::status(StatusCode::BAD_REQUEST, message, "BadRequest", None)
    }

    /// Options that contradict each other.
    pub(super) fn invalid_option(field: &str, message: &str) -> Self {
        let text =
            format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: Forbidden: {message}");
        let details = json!({
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{
                "reason": "FieldValueForbidden",
                "message": format!("Forbidden: {message}"),
                "field": field,
            }],
        });
        let code = StatusCode::UNPROCESSABLE_ENTITY;
        Self::status(code, &text, "Invalid", Some(details))
    }

    /// A list of a revision that is forgotten.
    pub(super) fn list_too_old() -> Self {
        let message = "The resourceVersion for the provided list is too old.";
        Self::status(StatusCode::GONE, message, "Expired", None)
    }

    /// A page of a list that is forgotten; `token` leads to the rest of the newest one.
    pub(super) fn continue_expired(token: &str) -> Self {
        let message = "The provided continue parameter is too old to display a consistent list \
            result. You can start a new list without the continue parameter, or use the continue \
            token in this response to retrieve the remainder of the results. Continuing with the \
            provided token results in an inconsistent list - objects that were created, modified, \
            or deleted between the time the first chunk was returned and now may show up in the \
            list.";
        let metadata = json!({ "continue": token });
        Self::with_metadata(StatusCode::GONE, metadata, (message, "Expired"), None)
    }

    /// A watch from a revision that is forgotten.
    pub(super) fn watch_too_old(revision: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {revision} ({oldest})");
        Self::status(StatusCode::GONE, &message, "Expired", None)
    }

    /// A list no older than a revision that is not reached yet.
    pub(super) fn revision_too_large(revision: u64, current: u64) -> Self {
        let message =
            format!("Timeout: Too large resource version: {revision}, current: {current}");
        let details = json!({
            "causes": [{
                "reason": "ResourceVersionTooLarge",
                "message": "Too large resource version",
            }],
            "retryAfterSeconds": 1,
        });
        let code = StatusCode::GATEWAY_TIMEOUT;
        Self {
            retry_after_seconds: Some(1),
            ..Self::status(code, &message, "Timeout", Some(details))
        }
    }

    /// The server's own store does not answer in time.
    pub(super) fn timeout() -> Self {
        let message = "Timeout: request did not complete within the allotted timeout";
        let code = StatusCode::GATEWAY_TIMEOUT;
        Self::status(code, message, "Timeout", Some(json!({})))
    }

    /// The server fails.
    pub(super) fn internal() -> Self {
        let message = "Internal error occurred: etcdserver: leader changed";
        let details = json!({ "causes": [{ "message": "etcdserver: leader changed" }] });
        let code = StatusCode::INTERNAL_SERVER_ERROR;
        Self::status(code, message, "InternalError", Some(details))
    }

    /// The `Status` inside an ERROR event.
    pub(super) fn as_event(&self) -> String {
        let FailureBody::Status(status) = &self.body else {
            return String::new();
        };
        format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n")
    }
}

fn details(resource: Resource, name: Option<&str>) -> Value {
    let mut details = Map::new();
    if let Some(name) = name {
        details.insert("name".to_owned(), json!(name));
    }
    if !resource.group().is_empty() {
        details.insert("group".to_owned(), json!(resource.group()));
    }
    details.insert("kind".to_owned(), json!(resource.plural()));
    Value::Object(details)
}
