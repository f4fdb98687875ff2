//! The whole table of transitions, written down a second time, then what must hold of any table.

use std::vec::Vec;

use super::*;

/// States by number after each event of [`Event::ALL`] in turn; `.` leaves the state as it is.
///
/// ```text
/// Syn SynAck Fin Ack Rst NoFlags Udp SctpInit SctpEnd SctpOther
/// ```
const ORIGINAL: [(State, &str); 13] = [
    (State::SynSent, ". . 9 . 10 . . . . ."),
    (State::SynReceived, ". . 6 5 10 . . . . ."),
    (State::Established, ". . 6 . 10 . . . . ."),
    (State::FinWait, ". . . . 10 . . . . ."),
    (State::CloseWait, ". . 8 . 10 . . . . ."),
    (State::LastAck, ". . . 9 10 . . . . ."),
    (State::TimeWait, "3 . . . 10 . . . . ."),
    (State::Closed, "3 . . 3 . . . . . ."),
    (State::UdpNew, ". . . . . . . . . ."),
    (State::UdpStream, ". . . . . . . . . ."),
    (State::SctpNew, ". . . . . . . . 15 ."),
    (State::SctpEstablished, ". . . . . . . . 15 ."),
    (State::SctpShutdown, ". . . . . . . 13 . 13"),
];

const REPLY: [(State, &str); 13] = [
    (State::SynSent, "4 4 7 5 10 . . . . ."),
    (State::SynReceived, ". . 7 . 10 . . . . ."),
    (State::Established, ". . 7 . 10 . . . . ."),
    (State::FinWait, ". . 8 . 10 . . . . ."),
    (State::CloseWait, ". . . . 10 . . . . ."),
    (State::LastAck, ". . . 9 10 . . . . ."),
    (State::TimeWait, ". . . . 10 . . . . ."),
    (State::Closed, ". . . 5 . . . . . ."),
    (State::UdpNew, ". . . . . . 12 . . ."),
    (State::UdpStream, ". . . . . . . . . ."),
    (State::SctpNew, ". . . . . . . 14 15 14"),
    (State::SctpEstablished, ". . . . . . . . 15 ."),
    (State::SctpShutdown, ". . . . . . . . . 14"),
];

fn check_table(direction: Direction, table: &[(State, &str)]) {
    let rows: Vec<_> = table.iter().map(|(state, _)| *state).collect();
    assert_eq!(rows, State::ALL, "every state has its row, in order");
    for (state, row) in table {
        let cells: Vec<_> = row.split(' ').collect();
        assert_eq!(cells.len(), Event::ALL.len());
        for (event, cell) in Event::ALL.iter().zip(cells) {
            let expected = match cell {
                "." => *state,
                number => State::from_number(number.parse().unwrap()).unwrap(),
            };
            assert_eq!(
                step(*state, direction, *event),
                expected,
                "{state:?}, {direction:?}, {event:?}"
            );
        }
    }
}

#[test]
fn every_packet_of_the_client_moves_every_state_as_written() {
    check_table(Direction::Original, &ORIGINAL);
}

#[test]
fn every_packet_of_the_backend_moves_every_state_as_written() {
    check_table(Direction::Reply, &REPLY);
}

#[test]
fn flows_begin_as_written_and_never_confirmed() {
    let expected = [3, 3, 9, 3, 10, 3, 11, 13, 15, 13];
    for (event, number) in Event::ALL.iter().zip(expected) {
        assert_eq!(first(*event).number(), number, "{event:?}");
        assert!(!first(*event).is_confirmed(), "{event:?}");
    }
}

#[test]
fn the_client_alone_never_confirms_a_flow() {
    let mut reached: Vec<State> = Event::ALL.iter().map(|event| first(*event)).collect();
    let mut next = 0;
    while let Some(state) = reached.get(next).copied() {
        next += 1;
        for event in Event::ALL {
            let after = step(state, Direction::Original, *event);
            assert!(!after.is_confirmed(), "{state:?} by {event:?}");
            if !reached.contains(&after) {
                reached.push(after);
            }
        }
    }
    assert!(reached.contains(&State::Closed) && reached.contains(&State::SctpShutdown));
}

#[test]
fn packets_never_lead_out_of_their_protocol() {
    let protocol = |state: State| match state.number() {
        3..=10 => "tcp",
        11 | 12 => "udp",
        _ => "sctp",
    };
    for state in State::ALL {
        for direction in [Direction::Original, Direction::Reply] {
            for event in Event::ALL {
                let after = step(*state, direction, *event);
                assert_eq!(protocol(*state), protocol(after));
            }
        }
    }
}

#[test]
fn a_repeated_packet_never_moves_a_flow_twice() {
    for state in State::ALL {
        for direction in [Direction::Original, Direction::Reply] {
            for event in Event::ALL {
                let once = step(*state, direction, *event);
                let twice = step(once, direction, *event);
                assert_eq!(once, twice, "{state:?}, {direction:?}, {event:?}");
            }
        }
    }
}

#[track_caller]
fn check_walk(packets: &[(Direction, u8)], expected: &[State]) {
    let mut state = None;
    for ((direction, flags), expected) in packets.iter().zip(expected) {
        let event = Event::tcp(*flags);
        let next = state.map_or(first(event), |state| step(state, *direction, event));
        assert_eq!(next, *expected, "after {direction:?} {flags:#x}");
        state = Some(next);
    }
    assert_eq!(packets.len(), expected.len());
}

const FIN_ACK: u8 = 0x11;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

#[test]
fn a_connection_that_the_client_closes_walks_from_syn_to_time_wait() {
    use Direction::{Original, Reply};
    use State as S;
    check_walk(
        &[
            (Original, SYN),
            (Reply, SYN_ACK),
            (Original, ACK),
            (Original, FIN_ACK),
            (Original, FIN_ACK),
            (Reply, ACK),
            (Reply, FIN_ACK),
            (Original, ACK),
        ],
        &[
            S::SynSent,
            S::SynReceived,
            S::Established,
            S::FinWait,
            S::FinWait,
            S::FinWait,
            S::LastAck,
            S::TimeWait,
        ],
    );
}

#[test]
fn a_forged_reset_ends_nothing_that_goes_on_in_both_directions() {
    use Direction::{Original, Reply};
    use State as S;
    check_walk(
        &[
            (Original, ACK),
            (Reply, ACK),
            (Original, RST),
            (Original, ACK),
            (Reply, ACK),
        ],
        &[
            S::SynSent,
            S::Established,
            S::Closed,
            S::SynSent,
            S::Established,
        ],
    );
}

#[test]
fn only_an_opening_packet_on_an_ended_flow_begins_anew() {
    for state in State::ALL {
        for event in Event::ALL {
            let expected = matches!(event, Event::Syn | Event::SctpInit)
                && matches!(state, State::TimeWait | State::Closed | State::SctpShutdown);
            assert_eq!(begins_anew(*state, *event), expected);
        }
    }
}

#[test]
fn tcp_flags_are_read_in_order_of_their_weight() {
    for flags in 0..=u8::MAX {
        let expected = match (flags & 4, flags & 2, flags & 1, flags & 16) {
            (4, ..) => Event::Rst,
            (_, 2, _, 16) => Event::SynAck,
            (_, 2, ..) => Event::Syn,
            (_, _, 1, _) => Event::Fin,
            (.., 16) => Event::Ack,
            _ => Event::NoFlags,
        };
        assert_eq!(Event::tcp(flags), expected, "{flags:#010b}");
    }
}

#[test]
fn sctp_chunks_are_openings_endings_or_neither() {
    assert_eq!(Event::sctp(None), Event::SctpOther);
    for chunk in 0..=u8::MAX {
        let expected = match chunk {
            1 => Event::SctpInit,
            6 | 8 | 14 => Event::SctpEnd,
            _ => Event::SctpOther,
        };
        assert_eq!(Event::sctp(Some(chunk)), expected, "chunk {chunk}");
    }
}

#[test]
fn states_have_numbers_and_names_of_their_own_and_timeouts_a_stamp_can_hold() {
    let mut names = std::collections::BTreeSet::new();
    for (state, number) in State::ALL.iter().zip(3..) {
        assert_eq!(state.number(), number);
        assert_eq!(State::from_number(number), Some(*state));
        assert!(names.insert(state.name()));
        assert!(state.default_timeout() <= crate::flows::control::MAX_TIMEOUT);
    }
    assert_eq!(State::ALL.len(), 13);
    assert!(
        [0, 1, 2, 16]
            .iter()
            .all(|n| State::from_number(*n).is_none())
    );
}

#[test]
fn a_syn_ack_belongs_to_another_connection_once_the_flow_has_begun_to_close() {
    for &state in State::ALL {
        let is_open = matches!(
            state,
            State::SynSent | State::SynReceived | State::Established
        );
        assert_eq!(is_of_another(state, Event::SynAck), !is_open, "{state:?}");
        assert!(!is_of_another(state, Event::Ack), "{state:?}");
        assert!(!is_of_another(state, Event::Fin), "{state:?}");
    }
}

#[test]
fn in_a_steady_state_an_acknowledgement_or_datagram_changes_nothing() {
    for &state in State::ALL {
        for direction in [Direction::Original, Direction::Reply] {
            if is_steady(state, direction) {
                for event in [Event::Ack, Event::Udp] {
                    assert_eq!(step(state, direction, event), state, "{state:?} {event:?}");
                    assert!(!begins_anew(state, event) && !is_of_another(state, event));
                }
            }
        }
    }
}

#[test]
fn a_source_port_is_given_up_by_what_has_ended_or_was_never_confirmed() {
    for &state in State::ALL {
        assert!(!state.yields_port(Seconds(1)), "{state:?}");
        assert_eq!(state.yields_port(Seconds(2)), !state.is_confirmed());
    }
}

/// What XDP has begun to decide about, tc may have to decide about again.
#[test]
fn a_packet_that_is_told_twice_moves_its_flow_once() {
    for &event in Event::ALL {
        let begun = first(event);
        assert_eq!(step(begun, Direction::Original, event), begun, "{event:?}");
        assert!(!begins_anew(begun, event), "{event:?}");
        for &state in State::ALL {
            for direction in [Direction::Original, Direction::Reply] {
                let moved = step(state, direction, event);
                let again = step(moved, direction, event);
                assert_eq!(again, moved, "{state:?} {direction:?} {event:?}");
            }
        }
    }
}
