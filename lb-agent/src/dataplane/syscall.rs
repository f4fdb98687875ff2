//! System calls that aya does not offer: links by interface index, their replacement and origin,
//! and the wait for running programs.
//!
//! aya attaches by interface *name*, which may have moved to another device between a lookup and
//! the call; an index never does.

#![expect(unsafe_code, reason = "bpf(2) takes a union by address")]

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{
    BPF_F_AFTER, BPF_F_BEFORE, BPF_F_RDONLY, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE,
    bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_map_type,
};
use lb_common::flow::Hook;
use rustix::thread::{MembarrierCommand, membarrier};

use super::xdp::XdpMode;

/// What a link is attached to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkTarget {
    /// A tcx hook; interface index 0 where the device is gone.
    Tcx {
        /// Interface index.
        interface: u32,
        /// Which side.
        hook: Hook,
    },
    /// A device's XDP hook; interface index 0 where the device is gone.
    Xdp {
        /// Interface index.
        interface: u32,
    },
    /// Anything else.
    Other,
}

const fn zeroed_attributes() -> bpf_attr {
    // SAFETY: `bpf_attr` is a union of integers and arrays of integers: all zeroes is a value of it.
    unsafe { mem::zeroed() }
}

/// Calls bpf(2); gives what it returns.
fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes at most the given size of the union, and pointers inside
    // it are set by this module's functions to memory that outlives the call.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<bpf_attr>(),
        )
    };
    match i32::try_from(returned) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

/// As [`bpf`], for commands that return a new descriptor.
fn bpf_descriptor(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attributes)?;
    // SAFETY: the command returned a new descriptor (close-on-exec, as all of bpf(2)'s), which
    // nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn raw(descriptor: BorrowedFd<'_>) -> u32 {
    descriptor.as_raw_fd().cast_unsigned()
}

const fn attach_type(hook: Hook) -> bpf_attach_type {
    match hook {
        Hook::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Hook::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    }
}

/// Attaches `program` to a tcx hook: before all others at ingress, after all others at egress, so
/// that these see client and backend at both. A kernel below 6.6 answers `EINVAL`.
pub fn attach_tcx(program: BorrowedFd<'_>, interface: u32, hook: Hook) -> io::Result<OwnedFd> {
    let mut attributes = zeroed_attributes();
    attributes.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attributes.link_create.__bindgen_anon_2.target_ifindex = interface;
    attributes.link_create.attach_type = attach_type(hook) as u32;
    attributes.link_create.flags = match hook {
        Hook::Ingress => BPF_F_BEFORE,
        Hook::Egress => BPF_F_AFTER,
    };
    bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attributes)
}

/// Attaches `program` to a device's XDP hook. `EBUSY` or `EEXIST` where another program is there.
pub fn attach_xdp(program: BorrowedFd<'_>, interface: u32, mode: XdpMode) -> io::Result<OwnedFd> {
    let mut attributes = zeroed_attributes();
    attributes.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attributes.link_create.__bindgen_anon_2.target_ifindex = interface;
    attributes.link_create.attach_type = bpf_attach_type::BPF_XDP as u32;
    attributes.link_create.flags = match mode {
        XdpMode::Native => XDP_FLAGS_DRV_MODE,
        XdpMode::Generic => XDP_FLAGS_SKB_MODE,
    };
    bpf_descriptor(bpf_cmd::BPF_LINK_CREATE, &mut attributes)
}

/// Detaches `link` at once. `ENOLINK` where it is detached.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = zeroed_attributes();
    attributes.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// How many programs are on a tcx hook; 0 where the kernel has none.
pub fn count_tcx(interface: u32, hook: Hook) -> io::Result<u32> {
    let mut attributes = zeroed_attributes();
    attributes.query.__bindgen_anon_1.target_ifindex = interface;
    attributes.query.attach_type = attach_type(hook) as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attributes) {
        Ok(_) => {
            // SAFETY: it was written above; any bytes are one.
            let query = unsafe { attributes.query };
            // SAFETY: both of the union's members are this number.
            Ok(unsafe { query.__bindgen_anon_2.prog_cnt })
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Replaces the program of `link`: a packet meets the old one or the new one. `ENOLINK` where the
/// device is gone.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = zeroed_attributes();
    attributes.link_update.link_fd = raw(link);
    attributes.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attributes).map(drop)
}

/// What `link` is attached to.
pub fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    // SAFETY: a struct of integers and a union of integers: all zeroes is a value of it.
    let mut info: bpf_link_info = unsafe { mem::zeroed() };
    let mut attributes = zeroed_attributes();
    attributes.info.bpf_fd = raw(link);
    attributes.info.info = std::ptr::from_mut(&mut info) as u64;
    attributes.info.info_len =
        u32::try_from(size_of::<bpf_link_info>()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: the kernel filled in the union's member for XDP; before, all of it was zeroes.
        let xdp = unsafe { info.__bindgen_anon_1.xdp };
        let interface = xdp.ifindex;
        return Ok(LinkTarget::Xdp { interface });
    }
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        return Ok(LinkTarget::Other);
    }
    // SAFETY: the kernel filled in the union's member for tcx, since the type is tcx; before, all of
    // it was zeroes.
    let tcx = unsafe { info.__bindgen_anon_1.tcx };
    Ok(match tcx.attach_type {
        kind if kind == bpf_attach_type::BPF_TCX_INGRESS as u32 => LinkTarget::Tcx {
            interface: tcx.ifindex,
            hook: Hook::Ingress,
        },
        kind if kind == bpf_attach_type::BPF_TCX_EGRESS as u32 => LinkTarget::Tcx {
            interface: tcx.ifindex,
            hook: Hook::Egress,
        },
        _ => LinkTarget::Other,
    })
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Opens the object pinned at `path`.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_descriptor(bpf_cmd::BPF_OBJ_GET, &mut attributes)
}

/// Opens the map pinned at `path` so that nothing can be written through the descriptor.
pub fn open_map_for_reading(path: &Path) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attributes.__bindgen_anon_4.file_flags = BPF_F_RDONLY;
    bpf_descriptor(bpf_cmd::BPF_OBJ_GET, &mut attributes)
}

/// Pins `object` at `path`, which must be on a bpffs and not exist.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attributes.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attributes).map(drop)
}

/// The key of a hash map that comes after `key` in the map's own order, or the first one; `None` at
/// the end. A key that is gone begins anew. `N` must be the map's size of a key.
pub fn next_key<const N: usize>(
    map: BorrowedFd<'_>,
    key: Option<&[u8; N]>,
) -> io::Result<Option<[u8; N]>> {
    let mut next = [0; N];
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_2.map_fd = raw(map);
    attributes.__bindgen_anon_2.key = key.map_or(0, |key| key.as_ptr() as u64);
    attributes.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    match bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attributes) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn create_array(
    kind: bpf_map_type,
    value_size: u32,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_1.map_type = kind as u32;
    attributes.__bindgen_anon_1.key_size = 4;
    attributes.__bindgen_anon_1.value_size = value_size;
    attributes.__bindgen_anon_1.max_entries = 1;
    attributes.__bindgen_anon_1.inner_map_fd = inner.map_or(0, raw);
    bpf_descriptor(bpf_cmd::BPF_MAP_CREATE, &mut attributes)
}

/// How to wait until every program that was running has ended.
#[derive(Debug)]
pub enum GracePeriod {
    /// `membarrier(MEMBARRIER_CMD_GLOBAL)`, which waits for an RCU grace period: 8 to 20 ms.
    Membarrier,
    /// An update of a map of maps, after which the kernel waits for running programs
    /// (`maybe_wait_bpf_programs`). For kernels with `nohz_full` processors, which refuse the
    /// former.
    MapOfMaps {
        /// The map of maps.
        outer: OwnedFd,
        /// What its only element is set to.
        inner: OwnedFd,
    },
}

impl GracePeriod {
    /// The first of the two that this kernel accepts.
    pub fn probe() -> io::Result<Self> {
        if membarrier(MembarrierCommand::Global).is_ok() {
            return Ok(Self::Membarrier);
        }
        Self::map_of_maps()
    }

    /// The second.
    pub fn map_of_maps() -> io::Result<Self> {
        use std::os::fd::AsFd as _;

        let inner = create_array(bpf_map_type::BPF_MAP_TYPE_ARRAY, 8, None)?;
        let outer = create_array(
            bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
            4,
            Some(inner.as_fd()),
        )?;
        Ok(Self::MapOfMaps { outer, inner })
    }

    /// Returns once every program that was running at the call has ended.
    pub fn wait(&self) -> io::Result<()> {
        match self {
            Self::Membarrier => Ok(membarrier(MembarrierCommand::Global)?),
            Self::MapOfMaps { outer, inner } => {
                let key = 0_u32;
                let value = inner.as_raw_fd();
                let mut attributes = zeroed_attributes();
                attributes.__bindgen_anon_2.map_fd = outer.as_raw_fd().cast_unsigned();
                attributes.__bindgen_anon_2.key = std::ptr::from_ref(&key) as u64;
                attributes.__bindgen_anon_2.__bindgen_anon_1.value =
                    std::ptr::from_ref(&value) as u64;
                bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attributes).map(drop)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_a_pin_that_is_not_there_says_so() {
        let error = open_pin(Path::new("/sys/fs/bpf/steerage-no-such-pin")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
