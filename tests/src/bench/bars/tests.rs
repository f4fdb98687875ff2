//! How requirements stand in made-up runs.

use super::*;

fn run(ratios: &[f64]) -> Kept {
    let row = |ratio: &f64| Row {
        group: "net".into(),
        case: "10 services".into(),
        contender: "steerage, tc".into(),
        metric: "connect, p50".into(),
        baseline: Some("direct".into()),
        ratio: Some(*ratio),
        ..Row::default()
    };
    Kept {
        rows: ratios.iter().map(row).collect(),
        ..Kept::default()
    }
}

fn connect(path: &str) -> &'static Requirement {
    let is_it = |it: &&Requirement| it.what.starts_with("connect through") && it.path == path;
    REQUIREMENTS.iter().find(is_it).unwrap()
}

#[test]
fn a_requirement_stands_as_its_worst_row_does() {
    let tc = connect("tc");
    assert!(matches!(
        tc.standing(&run(&[1.0, 1.1])),
        Standing::Met { .. }
    ));
    let Standing::Missed {
        farthest,
        by,
        missed,
        of,
    } = tc.standing(&run(&[1.0, 1.21, 1.2]))
    else {
        panic!("1.21 is more than 1.1");
    };
    assert_eq!((missed, of), (2, 3));
    assert_eq!(farthest.ratio.map(|it| it > 1.205), Some(true));
    assert!((by - 0.1).abs() < 0.001);
}

#[test]
fn a_requirement_is_judged_by_rows_of_its_own_path_alone() {
    let mut kept = run(&[1.0]);
    for contender in ["steerage, redirect", "nftables"] {
        kept.rows.push(Row {
            contender: contender.into(),
            ratio: Some(1.5),
            ..kept.rows[0].clone()
        });
    }
    let standing = connect("tc").standing(&kept);
    assert!(matches!(standing, Standing::Met { .. }), "{standing:?}");
}

#[test]
fn what_is_asked_of_xdp_is_judged_by_its_own_cases() {
    let row = |case: &str, contender: &str, ratio| Row {
        group: "datapath".into(),
        case: case.into(),
        contender: contender.into(),
        metric: COST.into(),
        baseline: Some("the same, IPv4".into()),
        ratio: Some(ratio),
        ..Row::default()
    };
    let kept = Kept {
        rows: vec![
            row("established, 4 k flows, IPv6 TCP", "steerage", 1.3),
            row(
                "XDP, established, 4 k flows, IPv6 TCP",
                "steerage, XDP",
                1.1,
            ),
        ],
        ..Kept::default()
    };
    let standing = |path| {
        let is_it = |it: &&Requirement| it.what == "IPv6" && it.path == path;
        REQUIREMENTS.iter().find(is_it).unwrap().standing(&kept)
    };
    let xdp = standing("XDP");
    assert!(matches!(xdp, Standing::Met { .. }), "{xdp:?}");
    let Standing::Missed { of, .. } = standing("tc") else {
        panic!("1.3 is more than 1.25");
    };
    assert_eq!(of, 1);
}

#[test]
fn what_waits_for_a_path_is_not_taken_for_met() {
    assert_eq!(connect("socket").standing(&run(&[1.0])), Standing::NoPath);
    assert_eq!(connect("tc").standing(&run(&[])), Standing::NotMeasured);
}
