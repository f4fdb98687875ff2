//! Attaches the programs to devices, keeps the links pinned, and takes them over on restart.
//!
//! A link that is pinned outlives the agent. The next one replaces its program by one update, so a
//! packet meets the old program or the new one: never none. Nothing is ever detached first.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use aya::programs::{ProgramError, ProgramFd};
use lb_common::flow::Hook;
use lb_common::table::device::Role;

use super::bpffs::{PinPaths, parse_link_name, read_dir_or_empty};
use super::clsact;
use super::load::{
    LoadError, Loaded, UPLINK_EGRESS, UPLINK_INGRESS, WORKLOAD_EGRESS, WORKLOAD_INGRESS,
};
use super::syscall::{self, LinkTarget};
use crate::settings::AttachmentMode;

/// Both sides of a device. Egress first: a translated packet must find the way back open.
pub const HOOKS: [Hook; 2] = [Hook::Egress, Hook::Ingress];

/// The way programs are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// tcx links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl Method {
    /// The name in messages and snapshots.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The device is gone: nothing is left to do.
    #[error("device {interface} is gone")]
    Gone {
        /// Interface index.
        interface: u32,
    },
    /// The kernel refused; it may succeed when tried again.
    #[error("{operation} at {} of device {interface}: {source}", super::bpffs::hook_name(*hook))]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Interface index.
        interface: u32,
        /// Which side.
        hook: Hook,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The pin directory cannot be used.
    #[error("pin {}: {source}", path.display())]
    Pin {
        /// Which pin.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program is not there.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The program is not loaded.
    #[error("using a program: {source}")]
    Program {
        /// What aya says.
        #[source]
        source: ProgramError,
    },
}

/// What is attached where.
#[derive(Debug)]
pub struct Attachments {
    paths: PinPaths,
    method: Method,
    attached: BTreeMap<u32, (Method, Role)>,
}

impl Attachments {
    /// Finds out how programs are attached here, and takes over the links that are pinned: each gets
    /// the program of the role that `DEVICES` has of its device. What it could not take over is
    /// reported, and removed where its device is gone.
    pub fn adopt(
        loaded: &mut Loaded,
        mode: AttachmentMode,
        roles: &BTreeMap<u32, Role>,
    ) -> Result<(Self, Vec<AttachError>), AttachError> {
        let paths = loaded.paths().clone();
        let method = match mode {
            AttachmentMode::Clsact => Method::Clsact,
            AttachmentMode::Probe => probe(&program(loaded, Role::Workload, Hook::Ingress)?)?,
        };
        let mut attachments = Self {
            paths,
            method,
            attached: BTreeMap::new(),
        };
        let mut failures = Vec::new();
        let role = |interface| roles.get(&interface).copied().unwrap_or_default();
        attachments.adopt_links(loaded, &role, &mut failures)?;
        attachments.adopt_filters(loaded, &role, &mut failures)?;
        Ok((attachments, failures))
    }

    /// How programs are attached to new devices.
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Devices with programs on both sides, by interface index.
    pub fn devices(&self) -> impl Iterator<Item = (u32, Method)> {
        self.attached
            .iter()
            .map(|(&interface, &(method, _))| (interface, method))
    }

    /// Whether tcx has programs of others at this side of the device. True where that cannot be told.
    pub fn has_strangers(&self, interface: u32, hook: Hook) -> bool {
        let is_tcx = |&(method, _): &(Method, Role)| method == Method::Tcx;
        let own = u32::from(self.attached.get(&interface).is_some_and(is_tcx));
        syscall::count_tcx(interface, hook).map_or(true, |count| count > own)
    }

    /// Whether the device has the programs of this role.
    pub fn contains(&self, interface: u32, role: Role) -> bool {
        let attached = self.attached.get(&interface);
        attached.is_some_and(|(_, held)| *held == role)
    }

    fn adopt_links(
        &mut self,
        loaded: &mut Loaded,
        role: &impl Fn(u32) -> Role,
        failures: &mut Vec<AttachError>,
    ) -> Result<(), AttachError> {
        let mut sides: BTreeMap<u32, usize> = BTreeMap::new();
        for (path, interface, hook) in self.pinned_links()? {
            match replace_program(loaded, role(interface), &path, interface, hook) {
                Ok(()) => *sides.entry(interface).or_default() += 1,
                Err(error) => {
                    if matches!(error, AttachError::Gone { .. }) {
                        remove_pin(&path)?;
                    }
                    failures.push(error);
                }
            }
        }
        // One side alone is what an agent leaves that was killed in between: `attach` adds the
        // other.
        self.attached.extend(
            sides
                .into_iter()
                .filter(|&(_, sides)| sides == HOOKS.len())
                .map(|(interface, _)| (interface, (Method::Tcx, role(interface)))),
        );
        Ok(())
    }

    fn pinned_links(&self) -> Result<Vec<(PathBuf, u32, Hook)>, AttachError> {
        let directory = self.paths.links();
        let failed = |source| AttachError::Pin {
            path: directory.clone(),
            source,
        };
        let mut links = Vec::new();
        for entry in read_dir_or_empty(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((interface, hook)) = name.and_then(parse_link_name) {
                links.push((path, interface, hook));
            }
        }
        links.sort_unstable_by_key(|(_, interface, _)| *interface);
        Ok(links)
    }

    fn adopt_filters(
        &mut self,
        loaded: &mut Loaded,
        role: &impl Fn(u32) -> Role,
        failures: &mut Vec<AttachError>,
    ) -> Result<(), AttachError> {
        for interface in clsact::marked(&self.paths).map_err(|source| AttachError::Pin {
            path: self.paths.clsact(),
            source,
        })? {
            let role = role(interface);
            match attach_filters(loaded, role, &self.paths, interface) {
                Ok(()) => {
                    self.attached.insert(interface, (Method::Clsact, role));
                }
                Err(error) => {
                    if matches!(error, AttachError::Gone { .. }) {
                        self.unmark(interface)?;
                    }
                    failures.push(error);
                }
            }
        }
        Ok(())
    }

    /// Attaches the programs of `role` to both sides of a device, or replaces those of another role,
    /// without a moment without any. What exists already is kept, so it may be called again after a
    /// failure.
    pub fn attach(
        &mut self,
        loaded: &mut Loaded,
        interface: u32,
        role: Role,
    ) -> Result<(), AttachError> {
        if self.contains(interface, role) {
            return Ok(());
        }
        // A device keeps the way it was attached.
        let held = self.attached.get(&interface).map(|(method, _)| *method);
        let method = held.unwrap_or(self.method);
        match method {
            Method::Tcx => {
                for hook in HOOKS {
                    self.attach_link(loaded, role, interface, hook)?;
                }
            }
            Method::Clsact => attach_filters(loaded, role, &self.paths, interface)?,
        }
        self.attached.insert(interface, (method, role));
        Ok(())
    }

    fn attach_link(
        &self,
        loaded: &mut Loaded,
        role: Role,
        interface: u32,
        hook: Hook,
    ) -> Result<(), AttachError> {
        let path = self.paths.link(interface, hook);
        if path.exists() {
            match replace_program(loaded, role, &path, interface, hook) {
                // A pin of a device that had this index before.
                Err(AttachError::Gone { .. }) => remove_pin(&path)?,
                done => return done,
            }
        }
        let link = syscall::attach_tcx(program(loaded, role, hook)?.as_fd(), interface, hook)
            .map_err(|source| failed("attaching", interface, hook, source))?;
        syscall::pin(link.as_fd(), &path).map_err(|source| AttachError::Pin { path, source })
    }

    /// Forgets a device: its pins go, and with them the links, if the device is there at all.
    pub fn detach(&mut self, interface: u32) -> Result<(), AttachError> {
        for hook in HOOKS {
            remove_pin(&self.paths.link(interface, hook))?;
        }
        let attached = self.attached.get(&interface);
        if attached.is_some_and(|(method, _)| *method == Method::Clsact) {
            clsact::detach(interface).map_err(|source| {
                failed("removing the filter", interface, Hook::Ingress, source)
            })?;
            self.unmark(interface)?;
        }
        self.attached.remove(&interface);
        Ok(())
    }

    fn unmark(&self, interface: u32) -> Result<(), AttachError> {
        clsact::unmark(&self.paths, interface).map_err(|source| AttachError::Pin {
            path: self.paths.clsact(),
            source,
        })
    }
}

const fn program_name(role: Role, hook: Hook) -> &'static str {
    match (role, hook) {
        (Role::Workload, Hook::Ingress) => WORKLOAD_INGRESS,
        (Role::Workload, Hook::Egress) => WORKLOAD_EGRESS,
        (Role::Uplink, Hook::Ingress) => UPLINK_INGRESS,
        (Role::Uplink, Hook::Egress) => UPLINK_EGRESS,
    }
}

fn program(loaded: &mut Loaded, role: Role, hook: Hook) -> Result<OwnedFd, AttachError> {
    let program = loaded.program(program_name(role, hook))?;
    let descriptor: &ProgramFd = program
        .fd()
        .map_err(|source| AttachError::Program { source })?;
    descriptor
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| failed("using the program", 0, hook, source))
}

/// Asks the kernel to attach to a device that there cannot be: a kernel with tcx looks for it, one
/// without does not know the request. Versions say nothing, since distributions port tcx back.
fn probe(program: &OwnedFd) -> Result<Method, AttachError> {
    const NO_DEVICE: u32 = i32::MAX.cast_unsigned();
    match syscall::attach_tcx(program.as_fd(), NO_DEVICE, Hook::Ingress) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Method::Clsact),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            Err(failed("probing for tcx", NO_DEVICE, Hook::Ingress, error))
        }
        _ => Ok(Method::Tcx),
    }
}

/// Replaces the program of the link pinned at `path` by that of `role`.
fn replace_program(
    loaded: &mut Loaded,
    role: Role,
    path: &std::path::Path,
    interface: u32,
    hook: Hook,
) -> Result<(), AttachError> {
    let gone = || AttachError::Gone { interface };
    let unusable = |source| AttachError::Pin {
        path: path.to_owned(),
        source,
    };
    let link = syscall::open_pin(path).map_err(unusable)?;
    let target = syscall::link_target(link.as_fd()).map_err(unusable)?;
    // 0 once the device is gone; another index never, unless somebody moved the pin.
    if target != (LinkTarget::Tcx { interface, hook }) {
        return Err(gone());
    }
    let program = program(loaded, role, hook)?;
    match syscall::update_link(link.as_fd(), program.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Err(gone()),
        Err(error) => Err(failed("replacing the program", interface, hook, error)),
        Ok(()) => Ok(()),
    }
}

fn attach_filters(
    loaded: &mut Loaded,
    role: Role,
    paths: &PinPaths,
    interface: u32,
) -> Result<(), AttachError> {
    clsact::prepare(paths, interface)
        .map_err(|source| failed("adding the clsact qdisc", interface, Hook::Egress, source))?;
    for hook in HOOKS {
        let program = loaded.program(program_name(role, hook))?;
        clsact::attach(program, interface, hook)
            .map_err(|source| failed("adding the filter", interface, hook, source))?;
    }
    Ok(())
}

/// `ENODEV` and its kin as what they mean.
fn failed(operation: &'static str, interface: u32, hook: Hook, source: io::Error) -> AttachError {
    if source.raw_os_error() == Some(libc::ENODEV) || source.raw_os_error() == Some(libc::ENXIO) {
        return AttachError::Gone { interface };
    }
    AttachError::Kernel {
        operation,
        interface,
        hook,
        source,
    }
}

/// Removes a pin; one that is not there is fine.
fn remove_pin(path: &std::path::Path) -> Result<(), AttachError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(AttachError::Pin {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
