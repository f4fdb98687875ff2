//! Documents and lists become objects; what is broken is reported with its place.

use super::*;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  clusterIP: 10.96.0.10
  ports:
    - port: 80
";

const SLICE: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
endpoints:
  - addresses: [10.244.1.5]
ports:
  - port: 8080
";

#[track_caller]
fn check(format: Format, text: &str, objects: &[&str], problems: &[&str]) -> FileContent {
    let content = parse_text(format, text);
    let found: Vec<_> = content.problems.iter().map(ToString::to_string).collect();
    assert_eq!(found, problems);
    assert_eq!(described(&content).into_keys().collect::<Vec<_>>(), objects);
    content
}

#[test]
fn documents_of_a_file_become_objects_of_the_default_namespace() {
    let other = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nendpoints: {a: 1}\n";
    let text = format!("# web\n---\n{SERVICE}---\n{other}---\n{SLICE}");
    let objects = ["EndpointSlice default/web-1", "Service default/web"];
    let content = check(Format::Yaml, &text, &objects, &[]);
    assert!(!content.is_partial);
    let Object::Slice(slice) = &described(&content)["EndpointSlice default/web-1"] else {
        panic!("a slice")
    };
    // A port without a name gets the empty one, as from an API server.
    assert_eq!(
        (slice.ports[0].name.as_str(), slice.ports[0].port),
        ("", 8080)
    );
}

#[test]
fn lists_hold_items_of_their_own_or_the_lists_kind() {
    let text = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"kind": "Service", "metadata": {"name": "a", "namespace": "ns"}, "apiVersion": "v1",
         "spec": {"clusterIP": "10.96.0.1"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}]}"#;
    check(Format::Json, text, &["Node n", "Service ns/a"], &[]);
    let text = "kind: ServiceList\napiVersion: v1\nmetadata: {resourceVersion: '1'}\nitems:\n\
        - metadata: {name: a}\n  spec: {clusterIP: 10.96.0.1}\n\
        - metadata: {name: b}\n  spec: {clusterIP: 10.96.0.2}\n";
    check(
        Format::Yaml,
        text,
        &["Service default/a", "Service default/b"],
        &[],
    );
    check(
        Format::Yaml,
        "kind: ServiceList\napiVersion: v1\nitems: null\n",
        &[],
        &[],
    );
}

#[test]
fn a_broken_document_is_reported_with_its_place_and_the_others_apply() {
    let wrong = SERVICE
        .replace("port: 80", "port: http")
        .replace("name: web", "name: bad");
    let text = format!("{SLICE}---\n{wrong}---\n{SERVICE}");
    let content = parse_text(Format::Yaml, &text);
    let objects = described(&content).into_keys().collect::<Vec<_>>();
    assert_eq!(
        objects,
        ["EndpointSlice default/web-1", "Service default/web"]
    );
    assert!(content.is_partial);
    let [problem] = &content.problems[..] else {
        panic!("one: {:?}", content.problems)
    };
    assert_eq!(
        problem.position,
        Some(Position {
            document: 2,
            line: 20
        })
    );
    assert_eq!(problem.object.as_deref(), Some("Service default/bad"));
    assert_eq!(problem.problem.field, "spec.ports[0].port");
    let text = problem.to_string();
    assert!(text.starts_with("file:20: document 2: Service default/bad: spec.ports[0].port: "));
    assert!(!text.contains("at line") && !text.contains('\n'), "{text}");
}

#[test]
fn text_that_is_not_yaml_or_json_is_reported_with_its_line() {
    for (format, text, line) in [
        (Format::Yaml, "kind: [\n---\n", 1),
        (Format::Yaml, "# c\n---\na: 1\n  b: 2\n", 4),
        (Format::Yaml, "just words\n", 1),
        (Format::Json, "{\n\"kind\": \"Service\",\n}", 3),
        (Format::Json, "{}\n{}", 2),
    ] {
        let content = parse_text(format, text);
        assert!(content.is_partial, "{text}");
        assert_eq!(content.problems.len(), 1, "{text}");
        let position = content.problems[0].position.unwrap();
        assert!(position.line.abs_diff(line) <= 1, "{text}: {position:?}");
    }
    let content = parse_file(
        &"f".into(),
        Format::Yaml,
        &b"a: \xff\n"[..],
        &mut Interner::default(),
    )
    .unwrap();
    assert_eq!(
        content.problems[0].problem.detail,
        Detail::Malformed {
            message: "the text is not UTF-8".into()
        }
    );
}

#[test]
fn an_object_without_name_or_type_is_reported() {
    check(
        Format::Yaml,
        "apiVersion: v1\nkind: Service\nspec: {clusterIP: 10.96.0.1}\n---\nkind: Service\n---\n\
         apiVersion: v1\n",
        &[],
        &[
            "file:1: document 1: Service: metadata.name: missing; an object needs a name",
            "file:5: document 2: Service: apiVersion: missing; \
             a Kubernetes object has apiVersion and kind",
            "file:7: document 3: kind: missing; a Kubernetes object has apiVersion and kind",
        ],
    );
}

#[test]
fn a_bad_item_of_a_list_leaves_the_others() {
    check(
        Format::Yaml,
        "apiVersion: v1\nkind: List\nitems:\n- {metadata: {name: x}}\n\
         - {apiVersion: v1, kind: Service, metadata: {name: a}, \
            spec: {clusterIP: 10.96.0.1, ports: [{port: 0}]}}\n\
         - {apiVersion: v1, kind: Node}\n",
        &["Service default/a"],
        &[
            "file:1: document 1: items[0].apiVersion: missing; \
             a Kubernetes object has apiVersion and kind",
            "file:1: document 1: Service default/a: items[1].spec.ports[0].port: \
             0 is not a port (1 to 65535); ignored",
            "file:1: document 1: Node: items[2].metadata.name: missing; an object needs a name",
        ],
    );
}

#[test]
fn the_same_object_twice_in_a_file_is_reported_and_the_first_counts() {
    let second = SERVICE.replace("10.96.0.10", "10.96.0.11");
    let problem = "file:10: document 2: Service default/web: defined in file already; \
                   this one is ignored";
    let content = check(
        Format::Yaml,
        &format!("{SERVICE}---\n{second}"),
        &["Service default/web"],
        &[problem],
    );
    let Object::Service(service) = &described(&content)["Service default/web"] else {
        panic!("a Service")
    };
    assert_eq!(service.cluster_ips[0].to_string(), "10.96.0.10");
}

#[test]
fn a_slice_of_a_million_endpoints_is_refused_by_name_unbuilt() {
    for (format, count) in [(Format::Json, 1_000_000), (Format::Yaml, 66_000)] {
        // JSON is YAML as well.
        let endpoints = vec!["[]"; count].join(",");
        let text = format!(
            "{{\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSlice\", \
             \"endpoints\": [{endpoints}], \"metadata\": {{\"name\": \"web-1\"}}}}"
        );
        let problem = format!(
            "file:1: document 1: EndpointSlice default/web-1: endpoints: \
             {count} endpoints, at most 65535 are accepted; split the slice"
        );
        check(format, &text, &[], &[&problem]);
    }
}

#[test]
fn problems_beyond_a_hundred_are_counted() {
    let text = format!("---\n{}", "kind: Service\n---\n".repeat(105));
    let content = parse_text(Format::Yaml, &text);
    assert_eq!(content.problems.len(), MAX_PROBLEMS + 1);
    assert_eq!(
        content.problems[MAX_PROBLEMS].to_string(),
        "file: 5 more problems"
    );
}
