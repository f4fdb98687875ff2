//! Lists: whole or in pages, of the newest revision or an earlier one.

use super::object::Object;
use super::query::{Continue, Match, Query};
use super::resource::Resource;
use super::status::Failure;
use super::store::{Objects, Store};

/// The body of a list.
pub(super) fn list(store: &Store, resource: Resource, query: &Query) -> Result<String, Failure> {
    let (revision, objects, start) = select(store, resource, query)?;
    let mut selected = objects
        .range(start.to_owned()..)
        .filter(|(_, object)| query.selector.matches(object))
        .peekable();
    let mut items: Vec<&Object> = Vec::new();
    let mut last = None;
    while query.limit == 0 || items.len() < query.limit {
        let Some((path, object)) = selected.next() else {
            break;
        };
        items.push(object);
        last = Some(path);
    }
    let mut metadata = format!(r#""resourceVersion":"{revision}""#);
    if let (Some(last), Some(_)) = (last, selected.peek()) {
        let pinned = is_pinned(query).then_some(revision);
        let token = Continue::after(last, pinned);
        let next = format!(r#","continue":"{token}""#);
        metadata += &next;
        if !query.selector.is_narrow() {
            let remaining = selected.count();
            let count = format!(r#","remainingItemCount":{remaining}"#);
            metadata += &count;
        }
    }
    let items: Vec<&str> = items.iter().map(|object| object.text.as_str()).collect();
    Ok(format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{{{metadata}}},\"items\":[{}]}}\n",
        resource.kind(),
        resource.api_version(),
        items.join(",")
    ))
}

/// Whether the pages are all of one revision: not once a client goes on with a renewed token.
fn is_pinned(query: &Query) -> bool {
    query
        .next
        .as_ref()
        .is_none_or(|next| next.revision.is_some())
}

/// The revision to answer with, the objects of it, and where the page begins.
fn select<'a>(
    store: &Store,
    resource: Resource,
    query: &'a Query,
) -> Result<(u64, Objects, &'a str), Failure> {
    let current = store.revision();
    if let Some(next) = &query.next {
        let Some(revision) = next.revision else {
            return Ok((current, store.objects(resource), &next.start));
        };
        let objects = store
            .objects_at(resource, revision)
            .ok_or_else(|| Failure::continue_expired(&next.renewed()))?;
        return Ok((revision, objects, &next.start));
    }
    let Some(revision) = query.revision.filter(|revision| *revision > 0) else {
        return Ok((current, store.objects(resource), ""));
    };
    if revision > current {
        return Err(Failure::revision_too_large(revision, current));
    }
    // A limit without saying what the revision means is an exact one, for old clients' sake.
    let is_exact = query.revision_match == Some(Match::Exact)
        || query.revision_match.is_none() && query.limit > 0;
    if !is_exact {
        return Ok((current, store.objects(resource), ""));
    }
    let objects = store
        .objects_at(resource, revision)
        .ok_or_else(Failure::list_too_old)?;
    Ok((revision, objects, ""))
}
