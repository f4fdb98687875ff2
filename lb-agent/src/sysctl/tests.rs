//! kube-proxy's table, and a directory that stands for `/proc/sys`.

use super::*;

fn per_core(max_per_core: u32, min: u32) -> KernelConntrack {
    KernelConntrack {
        max_per_core,
        min,
        ..KernelConntrack::default()
    }
}

#[test]
fn the_size_of_the_table_is_kube_proxys() {
    for (settings, processors, expected) in [
        (per_core(0, 131_072), 8, 0),
        (per_core(32_768, 131_072), 2, 131_072),
        (per_core(32_768, 131_072), 8, 262_144),
        (per_core(67_890, 0), 4, 271_560),
        (per_core(1, 123_456), 4, 123_456),
        (per_core(32_768, 131_072), 512, 1_048_576),
        // The limit comes before the minimum.
        (per_core(32_768, 2_000_000), 512, 1_048_576),
        (per_core(32_768, 2_000_000), 2, 2_000_000),
    ] {
        assert_eq!(
            max_entries(&settings, processors),
            expected,
            "{settings:?} {processors}"
        );
    }
}

/// What a kernel has after a start.
fn fresh() -> Values {
    [
        (Sysctl::Max, 65_536),
        (Sysctl::Buckets, 16_384),
        (Sysctl::TcpEstablished, 432_000),
        (Sysctl::TcpCloseWait, 60),
        (Sysctl::TcpBeLiberal, 0),
        (Sysctl::Udp, 30),
        (Sysctl::UdpStream, 120),
    ]
    .into()
}

#[test]
fn only_what_is_asked_for_and_not_there_is_written() {
    assert_eq!(decide(&KernelConntrack::default(), 4, &fresh()), []);
    let kube_proxy = decide(&KernelConntrack::KUBE_PROXY, 4, &fresh());
    assert_eq!(
        kube_proxy,
        [
            (Sysctl::Max, 131_072),
            (Sysctl::Buckets, 32_768),
            (Sysctl::TcpEstablished, 86_400),
            (Sysctl::TcpCloseWait, 3_600),
        ]
    );
    let mut current = fresh();
    current.extend(kube_proxy);
    assert_eq!(decide(&KernelConntrack::KUBE_PROXY, 4, &current), []);
    // More buckets than needed stay.
    current.insert(Sysctl::Buckets, 1 << 20);
    assert_eq!(decide(&KernelConntrack::KUBE_PROXY, 4, &current), []);
    let everything = KernelConntrack {
        tcp_be_liberal: true,
        udp_seconds: 20,
        udp_stream_seconds: 90,
        ..KernelConntrack::KUBE_PROXY
    };
    assert_eq!(
        decide(&everything, 4, &current),
        [
            (Sysctl::TcpBeLiberal, 1),
            (Sysctl::Udp, 20),
            (Sysctl::UdpStream, 90)
        ]
    );
    // Without the module there is nothing to set.
    assert_eq!(decide(&everything, 4, &Values::new()), []);
}

/// A `/proc/sys` with `values`, and a state directory.
fn directories(values: &Values) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let proc_sys = root.path().join("sys");
    let state = root.path().join("state");
    fs::create_dir_all(proc_sys.join("net/netfilter")).unwrap();
    fs::create_dir(&state).unwrap();
    for (sysctl, value) in values {
        fs::write(sysctl.path(&proc_sys), format!("{value}\n")).unwrap();
    }
    (root, proc_sys, state)
}

#[test]
fn values_are_set_and_put_back() {
    let (_root, proc_sys, state) = directories(&fresh());
    let kube_proxy = KernelConntrack::KUBE_PROXY;
    assert_eq!(apply(&kube_proxy, 4, &proc_sys, &state).unwrap().len(), 4);
    assert_eq!(read(&proc_sys)[&Sysctl::Max], 131_072);
    assert_eq!(read(&proc_sys)[&Sysctl::TcpCloseWait], 3_600);
    assert_eq!(apply(&kube_proxy, 4, &proc_sys, &state).unwrap(), []);
    // A later agent with other settings keeps what was there before the first.
    let more = KernelConntrack {
        min: 200_000,
        ..kube_proxy
    };
    assert_eq!(apply(&more, 4, &proc_sys, &state).unwrap().len(), 2);
    // Somebody else has a mind of their own.
    fs::write(Sysctl::TcpEstablished.path(&proc_sys), "7200\n").unwrap();
    restore(&state).unwrap();
    let mut expected = fresh();
    expected.insert(Sysctl::TcpEstablished, 7200);
    assert_eq!(read(&proc_sys), expected);
    assert_eq!(restore(&state).unwrap(), []);
}

#[test]
fn the_first_value_that_cannot_be_written_ends_it_and_is_named() {
    let (_root, proc_sys, _state) = directories(&fresh());
    // A directory in the place of the file: readable to nobody, whoever runs the test.
    fs::remove_file(Sysctl::Max.path(&proc_sys)).unwrap();
    fs::create_dir(Sysctl::Max.path(&proc_sys)).unwrap();
    let writes = [(Sysctl::Max, 1), (Sysctl::TcpCloseWait, 2)];
    let error = write(&writes, &proc_sys).unwrap_err().to_string();
    assert!(error.contains("nf_conntrack_max"), "{error}");
    assert!(error.contains("--proc-sys"), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert_eq!(read(&proc_sys)[&Sysctl::TcpCloseWait], 60);
}

#[test]
fn nothing_is_set_where_the_earlier_values_cannot_be_kept() {
    let (_root, proc_sys, state) = directories(&fresh());
    let missing = state.join("missing");
    let error = apply(&KernelConntrack::KUBE_PROXY, 4, &proc_sys, &missing).unwrap_err();
    assert!(matches!(error, SysctlError::Keep { .. }), "{error}");
    assert_eq!(read(&proc_sys), fresh());
}
