//! Programs that are no device's: others call them by way of an array.
//!
//! What an uplink's egress calls for packets of this host is whole by itself: whichever agent has put it
//! into the array, it does the same to the same tables. So there is one array, pinned like a table, in which
//! an agent that starts replaces what it finds.
//!
//! The XDP programs of one mode hand a frame on in memory of their own. A kernel empties such an array once no process has it open and nothing pins it. So it is pinned beside
//! the tables, that the programs stay whole while no agent lives; an agent that starts puts its own in the
//! place. An earlier program whose array is gone leaves to tc what it would have called another for.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::Ebpf;
use aya::maps::{Map, ProgramArray};
use aya::programs::{ProgramError, ProgramFd, Xdp};

use super::bpffs::PinPaths;
use super::load::{
    HOST_EGRESS_V4, HOST_EGRESS_V6, LoadError, UPLINK_XDP, UPLINK_XDP_GENERIC, classifier, refused,
};
use super::syscall;
use super::xdp::XdpMode;

/// The arrays, by the names of their pins.
pub const ARRAYS: [&str; 3] = [HOST_PARTS, NATIVE.array, GENERIC.array];

/// The array of programs for what this host sends.
pub const HOST_PARTS: &str = "HOST_PARTS";

/// What the XDP programs of a mode are called.
struct Chain {
    first: &'static str,
    /// In the order of the array.
    parts: [&'static str; 3],
    array: &'static str,
}

const NATIVE: Chain = Chain {
    first: UPLINK_XDP,
    parts: ["lb_xdp_enter", "lb_xdp_leave_v4", "lb_xdp_leave_v6"],
    array: "XDP_PARTS",
};
const GENERIC: Chain = Chain {
    first: UPLINK_XDP_GENERIC,
    parts: ["lb_xdp_enter_g", "lb_xdp_leave_v4_g", "lb_xdp_leave_v6_g"],
    array: "XDP_PARTS_G",
};

/// The programs of a mode, in the order in which they call each other.
pub const fn programs(mode: XdpMode) -> [&'static str; 4] {
    let Chain { first, parts, .. } = chain(mode);
    let [second, third, fourth] = *parts;
    [first, second, third, fourth]
}

const fn chain(mode: XdpMode) -> &'static Chain {
    match mode {
        XdpMode::Native => &NATIVE,
        XdpMode::Generic => &GENERIC,
    }
}

/// Puts the programs for what this host sends, which the verifier has seen, into their array.
pub fn fill_host_parts(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for (index, name) in (0..).zip([HOST_EGRESS_V4, HOST_EGRESS_V6]) {
        let failed = |source| LoadError::Program {
            program: name,
            source,
        };
        let part = classifier(ebpf, name)?.fd().map_err(failed)?;
        let part = part.try_clone();
        let part = part.map_err(|source| failed(ProgramError::IOError(source)))?;
        put(ebpf, HOST_PARTS, index, &part)?;
    }
    Ok(())
}

/// Puts a program into an array, in the place of what is there.
fn put(
    ebpf: &mut Ebpf,
    array: &'static str,
    index: u32,
    part: &ProgramFd,
) -> Result<(), LoadError> {
    let failed = |source| LoadError::Parts { array, source };
    let map = ebpf.map_mut(array).ok_or(LoadError::ObjectLacks {
        what: "map",
        name: array,
    })?;
    let mut programs = ProgramArray::try_from(map).map_err(failed)?;
    programs.set(index, part, 0).map_err(failed)
}

/// The first program of a mode. The first call hands all of them to the verifier, and fills their array.
pub fn load(ebpf: &mut Ebpf, mode: XdpMode) -> Result<OwnedFd, LoadError> {
    let chain = chain(mode);
    let mut indices = (0_u32..).zip(chain.parts).collect::<Vec<_>>();
    // What is called first comes last: whoever finds a part finds those after it.
    indices.reverse();
    for (index, name) in indices {
        if let (part, true) = verified(ebpf, name)? {
            put(ebpf, chain.array, index, &part)?;
        }
    }
    let (first, _) = verified(ebpf, chain.first)?;
    let owned = first.as_fd().try_clone_to_owned();
    owned.map_err(|source| LoadError::Program {
        program: chain.first,
        source: ProgramError::IOError(source),
    })
}

/// Pins the array of a mode, whose programs are [loaded](load), in the place of an earlier agent's.
pub fn pin(ebpf: &Ebpf, mode: XdpMode, paths: &PinPaths) -> Result<(), LoadError> {
    let name = chain(mode).array;
    let lacks = LoadError::ObjectLacks { what: "map", name };
    let Some(Map::ProgramArray(map)) = ebpf.map(name) else {
        return Err(lacks);
    };
    let path = paths.maps().join(name);
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    removed
        .and_then(|()| syscall::pin(map.fd().as_fd(), &path))
        .map_err(|source| LoadError::PinParts { path, source })
}

/// A program that the verifier has seen, and whether it had not before.
fn verified(ebpf: &mut Ebpf, name: &'static str) -> Result<(ProgramFd, bool), LoadError> {
    let failed = |source| LoadError::Program {
        program: name,
        source,
    };
    let program = ebpf.program_mut(name).ok_or(LoadError::ObjectLacks {
        what: "program",
        name,
    })?;
    let program: &mut Xdp = program.try_into().map_err(failed)?;
    let is_new = program.fd().is_err();
    if is_new {
        program.load().map_err(|error| refused(name, error))?;
    }
    let descriptor = program.fd().map_err(failed)?;
    let descriptor = descriptor
        .try_clone()
        .map_err(|source| failed(ProgramError::IOError(source)))?;
    Ok((descriptor, is_new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_array_has_the_name_of_a_table() {
        for table in super::super::layout::Table::ALL {
            assert!(!ARRAYS.contains(&table.name()), "{}", table.name());
        }
    }
}
