//! The way to attach on kernels without tcx: filters of a clsact qdisc.
//!
//! A filter lives as long as its device and is replaced in place by priority and handle, so these
//! two are fixed. A directory in the pin directory marks each device: its name is the interface
//! index, and it holds a directory `qdisc` where the qdisc is ours too.

use std::fs;
use std::io;

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use futures::TryStreamExt as _;
use lb_common::flow::Hook;
use netlink_packet_route::tc;
use nix::net::if_::if_indextoname;
use tokio::task::JoinSet;

use super::bpffs::{PinPaths, read_dir_or_empty};
use super::load::{UPLINK_EGRESS, UPLINK_INGRESS, WORKLOAD_EGRESS, WORKLOAD_INGRESS};

/// Ours among the filters of one priority, as a number.
pub const HANDLE_NUMBER: u16 = 0x5354;
/// The same as aya has it.
const HANDLE: TcHandle = TcHandle::new(0, HANDLE_NUMBER);
/// Before all others at ingress.
const INGRESS_PRIORITY: u16 = 1;
/// After all others at egress.
const EGRESS_PRIORITY: u16 = u16::MAX;
/// Name of the directory that says the qdisc is ours.
const QDISC_MARK: &str = "qdisc";

const fn priority(hook: Hook) -> u16 {
    match hook {
        Hook::Ingress => INGRESS_PRIORITY,
        Hook::Egress => EGRESS_PRIORITY,
    }
}

const fn side(hook: Hook) -> TcAttachType {
    match hook {
        Hook::Ingress => TcAttachType::Ingress,
        Hook::Egress => TcAttachType::Egress,
    }
}

fn name_of(interface: u32) -> io::Result<String> {
    let name = if_indextoname(interface)?;
    name.into_string()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The devices that are marked.
pub fn marked(paths: &PinPaths) -> io::Result<Vec<u32>> {
    let mut interfaces = Vec::new();
    for entry in read_dir_or_empty(&paths.clsact())? {
        let name = entry?.file_name();
        interfaces.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    interfaces.sort_unstable();
    Ok(interfaces)
}

/// Whether the qdisc of a device is ours.
pub fn owns_qdisc(paths: &PinPaths, interface: u32) -> bool {
    paths
        .clsact()
        .join(interface.to_string())
        .join(QDISC_MARK)
        .exists()
}

/// Marks the device, and adds the qdisc unless there is one.
pub fn prepare(paths: &PinPaths, interface: u32) -> io::Result<()> {
    let name = name_of(interface)?;
    let mark = paths.clsact().join(interface.to_string());
    let qdisc = mark.join(QDISC_MARK);
    let had_mark = qdisc.exists();
    // The mark comes first: an agent killed in between leaves a mark too many, whose qdisc is
    // removed only when it has no filters.
    fs::create_dir_all(&qdisc)?;
    match qdisc_add_clsact(&name) {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = io_error(ProgramError::from(error));
            if error.raw_os_error() == Some(libc::EEXIST) {
                if !had_mark {
                    fs::remove_dir(&qdisc)?;
                }
                Ok(())
            } else {
                fs::remove_dir(&qdisc)?;
                fs::remove_dir(&mark)?;
                Err(error)
            }
        }
    }
}

/// Attaches `program`, or replaces the program of the filter that is there.
pub fn attach(program: &mut SchedClassifier, interface: u32, hook: Hook) -> io::Result<()> {
    let name = name_of(interface)?;
    let options = || {
        TcAttachOptions::Netlink(NlOptions {
            priority: priority(hook),
            handle: HANDLE,
            classid: None,
        })
    };
    let link = match program.attach_with_options(&name, side(hook), options()) {
        Ok(link) => link,
        Err(error) => {
            let error = io_error(error);
            if error.raw_os_error() != Some(libc::EEXIST) {
                return Err(error);
            }
            let existing =
                SchedClassifierLink::attached(&name, side(hook), priority(hook), HANDLE, None)?;
            program.attach_to_link(existing).map_err(io_error)?
        }
    };
    let link = program.take_link(link).map_err(io_error)?;
    // Dropping it would remove the filter, which is to outlive the agent.
    std::mem::forget(link);
    Ok(())
}

/// Removes our filters from a device, if it and they are there.
pub fn detach(interface: u32) -> io::Result<()> {
    let Ok(name) = name_of(interface) else {
        return Ok(());
    };
    for (hook, program) in [
        (Hook::Ingress, WORKLOAD_INGRESS),
        (Hook::Ingress, UPLINK_INGRESS),
        (Hook::Egress, WORKLOAD_EGRESS),
        (Hook::Egress, UPLINK_EGRESS),
    ] {
        // Absent filters are no failure, whatever the kernel calls them.
        match qdisc_detach_program(&name, side(hook), program) {
            Ok(()) => {}
            Err(error) => {
                let error = io_error(ProgramError::from(error));
                let is_absent = error.kind() == io::ErrorKind::NotFound
                    || matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL));
                if !is_absent {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Removes the mark of a device; one that is not there is fine.
pub fn unmark(paths: &PinPaths, interface: u32) -> io::Result<()> {
    let mark = paths.clsact().join(interface.to_string());
    for directory in [mark.join(QDISC_MARK), mark] {
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Undoes everything at a device, for `steerage cleanup`: our filters, the qdisc if it is ours and
/// nobody else has a filter there, the mark. A device that is gone is fine.
pub fn remove(paths: &PinPaths, interface: u32) -> io::Result<()> {
    detach(interface)?;
    if owns_qdisc(paths, interface) && if_indextoname(interface).is_ok() {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(remove_qdisc(interface))?;
    }
    unmark(paths, interface)
}

async fn remove_qdisc(interface: u32) -> io::Result<()> {
    let index = i32::try_from(interface).map_err(io::Error::other)?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    for request in [
        handle.traffic_filter(index).get().ingress(),
        handle.traffic_filter(index).get().egress(),
    ] {
        let filters: Vec<_> = request
            .execute()
            .try_collect()
            .await
            .map_err(io::Error::other)?;
        if !filters.is_empty() {
            return Ok(());
        }
    }
    let mut request = handle.qdisc().del(index);
    request.message_mut().header.parent = tc::TcHandle::CLSACT;
    request
        .message_mut()
        .attributes
        .push(tc::TcAttribute::Kind("clsact".to_owned()));
    request.execute().await.map_err(io::Error::other)
}

/// The system's error inside of aya's, or all of it as text.
fn io_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::TcError(TcError::IoError(error)) => error,
        ProgramError::TcError(TcError::NetlinkError(error)) => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::other(error),
        },
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
