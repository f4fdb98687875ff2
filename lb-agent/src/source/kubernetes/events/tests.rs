//! What is sent, how often, and what is dropped.

use super::*;

const WALL: i64 = 1_795_305_250_123_456;

fn note(text: &str) -> Note {
    Note {
        gravity: Gravity::Warning,
        regarding: Regarding::node("node-a"),
        reason: "NodeMissing",
        action: "Watch",
        text: text.to_owned(),
    }
}

fn seconds(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

#[test]
fn an_event_is_created_once_and_then_counted() {
    let mut outbox = Outbox::new("node-a");
    outbox.offer(note("gone"), Time::ZERO);
    outbox.offer(note("gone"), Time::ZERO);
    let post = outbox.next(Time::ZERO, WALL).unwrap();
    assert_eq!(post.method, Method::POST);
    assert_eq!(
        post.target,
        "/apis/events.k8s.io/v1/namespaces/default/events"
    );
    assert_eq!(post.body["eventTime"], "2026-11-21T23:54:10.123456Z");
    assert_eq!(post.body["note"], "gone");
    assert_eq!(post.body["regarding"]["uid"], "node-a");
    let name = post.body["metadata"]["name"].as_str().unwrap().to_owned();
    assert_eq!(outbox.next(Time::ZERO, WALL), None, "one at a time");
    outbox.answered(Some(201), Time::ZERO);
    assert_eq!(
        outbox.next(Time::ZERO, WALL),
        None,
        "offered twice, sent once"
    );

    outbox.offer(note("gone"), seconds(60));
    let post = outbox.next(seconds(60), WALL + 1).unwrap();
    assert_eq!(post.method, Method::PATCH);
    assert!(post.target.ends_with(&format!("/events/{name}")));
    assert_eq!(post.body["series"]["count"], 2);
    assert_eq!(
        post.body["series"]["lastObservedTime"],
        "2026-11-21T23:54:10.123457Z"
    );
    outbox.answered(Some(404), seconds(60));
    let post = outbox.next(seconds(60), WALL + 2).unwrap();
    assert_eq!(post.method, Method::POST, "what it counted in has expired");
}

#[test]
fn a_flood_of_notes_becomes_a_few_events_and_then_one_every_ten_seconds() {
    let mut outbox = Outbox::new("node-a");
    let mut sent = Vec::new();
    for second in 0..120 {
        for number in 0..5 {
            outbox.offer(note(&format!("{second}-{number}")), seconds(second));
        }
        while let Some(post) = outbox.next(seconds(second), WALL) {
            sent.push(second);
            assert_eq!(post.method, Method::POST);
            outbox.answered(Some(201), seconds(second));
        }
        assert!(outbox.pending.len() <= MAX_PENDING);
    }
    let late = sent.iter().filter(|second| **second >= 60).count();
    assert_eq!(late, 6, "{sent:?}");
    assert!(sent.len() <= 20 + 12, "{}", sent.len());
    assert!(outbox.sent.len() <= MAX_SERIES);
}

#[test]
fn what_cannot_be_sent_is_tried_again_until_it_is_old() {
    let mut outbox = Outbox::new("node-a");
    outbox.offer(note("gone"), Time::ZERO);
    let mut tries = 0;
    for second in 0..3600 {
        if outbox.next(seconds(second), WALL).is_some() {
            tries += 1;
            outbox.answered(None, seconds(second));
        }
    }
    assert!((30..=60).contains(&tries), "{tries}");
    assert_eq!(outbox.due(), None);
}

#[test]
fn a_name_that_another_node_has_taken_is_not_tried_again() {
    let mut outbox = Outbox::new("node-a");
    outbox.offer(note("gone"), Time::ZERO);
    let first = outbox.next(Time::ZERO, WALL).unwrap();
    outbox.answered(Some(409), Time::ZERO);
    let second = outbox.next(Time::ZERO, WALL + 1).unwrap();
    assert_eq!(second.method, Method::POST);
    assert_ne!(
        first.body["metadata"]["name"],
        second.body["metadata"]["name"]
    );
    outbox.answered(Some(201), Time::ZERO);
    assert_eq!(outbox.due(), None);
}

#[test]
fn an_event_that_is_forbidden_is_dropped() {
    let mut outbox = Outbox::new("node-a");
    outbox.offer(note("gone"), Time::ZERO);
    assert!(outbox.next(Time::ZERO, WALL).is_some());
    outbox.answered(Some(403), Time::ZERO);
    assert_eq!(outbox.due(), None);
    outbox.offer(note("gone"), seconds(20));
    let post = outbox.next(seconds(20), WALL).unwrap();
    assert_eq!(post.method, Method::POST, "there is none to count in");
}

#[test]
fn a_full_queue_drops_and_never_waits() {
    let (sink, mut receiver) = channel();
    for number in 0..MAX_PENDING + 10 {
        let is_sent = sink.send(note(&number.to_string()));
        assert_eq!(is_sent, number < MAX_PENDING);
    }
    let mut held = 0;
    while receiver.try_recv().is_ok() {
        held += 1;
    }
    assert_eq!(held, MAX_PENDING);
    drop(receiver);
    assert!(!sink.send(note("nobody listens")));
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let mut outbox = Outbox::new("node-a");
    outbox.offer(note(&"é".repeat(1000)), Time::ZERO);
    let post = outbox.next(Time::ZERO, WALL).unwrap();
    assert_eq!(post.body["note"].as_str().unwrap().len(), MAX_TEXT);
}
