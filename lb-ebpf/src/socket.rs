//! Whether the host has a socket for a packet: asked before a source port is given away.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use lb_common::family::Family;
use lb_common::flow::{FlowTuple, Protocol};

/// `BPF_F_CURRENT_NETNS`: the network namespace of the device.
const OWN_NAMESPACE: u64 = u64::MAX;

/// `struct bpf_sock_tuple`: source and destination address, source and destination port, all in
/// network order, one after the other; an IPv4 one is shorter.
#[repr(C)]
struct SocketTuple([u32; 9]);

const SIZE_V4: u32 = 12;
const SIZE_V6: u32 = 36;

const _: () = assert!(size_of::<SocketTuple>() == size_of::<bpf_sock_tuple>());

/// Whether a socket of the host would take a packet with `tuple` by the device that the program with this
/// context runs on.
#[inline(never)]
pub(crate) fn is_there<F: Family>(context: *mut c_void, tuple: &FlowTuple<F>) -> bool {
    let mut wanted = SocketTuple::new(tuple);
    let wanted = (&raw mut wanted).cast();
    let size = if F::IS_V6 { SIZE_V6 } else { SIZE_V4 };
    let socket = match tuple.protocol {
        // SAFETY: the helper reads `size` bytes, which the tuple has.
        Protocol::Tcp => unsafe { bpf_sk_lookup_tcp(context, wanted, size, OWN_NAMESPACE, 0) },
        // SAFETY: as above.
        Protocol::Udp => unsafe { bpf_sk_lookup_udp(context, wanted, size, OWN_NAMESPACE, 0) },
        // The kernel has no question for it.
        Protocol::Sctp => return false,
    };
    if socket.is_null() {
        return false;
    }
    // SAFETY: a socket that was found is held until it is released, once.
    unsafe { bpf_sk_release(socket.cast()) };
    true
}

impl SocketTuple {
    #[inline(always)]
    fn new<F: Family>(tuple: &FlowTuple<F>) -> Self {
        let [a, b, c, d] = words(F::mapped(tuple.source));
        let [e, f, g, h] = words(F::mapped(tuple.destination));
        let [i, j] = tuple.source_port.to_be_bytes();
        let [k, l] = tuple.destination_port.to_be_bytes();
        let ports = u32::from_ne_bytes([i, j, k, l]);
        if F::IS_V6 {
            Self([a, b, c, d, e, f, g, h, ports])
        } else {
            Self([d, h, ports, 0, 0, 0, 0, 0, 0])
        }
    }
}

/// An address, four bytes a word, in memory order.
#[inline(always)]
const fn words(address: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
