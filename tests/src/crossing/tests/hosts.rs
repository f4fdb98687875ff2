//! What comes from outside and is for the host of another node.

use super::*;

/// What a client's first packet becomes on a node whose devices are closed, and what the backend's answer
/// does.
fn ask_host(
    mut tables: MemoryTables,
    device: u32,
    (client, service): (SocketAddr, SocketAddr),
    protocol: Protocol,
) -> [Crossed; 2] {
    let fib = tables.fib.clone();
    let first = given::first(protocol, client, service).build();
    let asked = by_tc(&mut tables, &fib, device, &first, NOW).crossed;
    let (back, frame) = asked.left.clone().expect("it goes on");
    let (from, to, _) = ends_of(&frame).expect("it has ports");
    let answer = given::answer(protocol, to, from).build();
    let answered = by_tc(&mut tables, &fib, back, &answer, NOW).crossed;
    [asked, answered]
}

#[test]
fn what_comes_from_outside_for_a_host_elsewhere_is_sent_on_unasked_and_nothing_else() {
    let told = |is_local, client| {
        let mut tables = tables(is_local, client);
        know_hosts(&mut tables);
        tables
    };
    for place in PLACES {
        for protocol in PROTOCOLS {
            let service = outside::dialled(place)[0];
            let far = (outside::client(place), service);
            let pod = (SocketAddr::new(place.pod(2), 40_000), service);
            let plain = ask_host(tables(false, Answer::Known), UPLINK, far, protocol);
            for client in [Answer::Known, Answer::Unresolved] {
                let quick = ask_host(told(false, client), UPLINK, far, protocol);
                for (plain, quick) in plain.iter().zip(&quick) {
                    assert!(quick.is_sent_on && !plain.is_sent_on, "{protocol:?}");
                    assert!(quick.left.is_some() && quick.left == plain.left);
                }
            }
            for (tables, device, ends, what) in [
                (told(false, Answer::Known), CLIENT, pod, "a pod's"),
                (told(true, Answer::Known), UPLINK, far, "to this node's"),
            ] {
                let both = ask_host(tables, device, ends, protocol);
                assert!(both.iter().all(|one| !one.is_sent_on), "{what}");
            }
            let mut looked_at = told(false, Answer::Known);
            for (&index, record) in &mut looked_at.others {
                *record = record.cleared(index, false);
            }
            looked_at.stand_at(UPLINK);
            let both = ask_host(looked_at, UPLINK, far, protocol);
            assert!(both.iter().all(|one| !one.is_sent_on), "others look on");
        }
    }
}
