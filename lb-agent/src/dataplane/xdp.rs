//! XDP links of uplinks: attached, pinned, taken over on restart, detached.
//!
//! What XDP does not take goes on to tc, so a device may be without the program at any time: nothing
//! here fails the agent. A device has the program in one mode; the mode is part of the pin's name, since
//! the kernel does not tell it of a link.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::bpffs::{PinPaths, parse_xdp_link_name, read_dir_or_empty};
use super::load::{LoadError, Loaded};
use super::syscall::{self, LinkTarget};

/// Where an XDP program sees frames.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum XdpMode {
    /// In the device's driver.
    Native,
    /// In the host's receive path, as packets already.
    Generic,
}

impl XdpMode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Generic];

    /// The name in pins, messages and snapshots.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// Why a device is without the XDP program; tc serves it.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The device is gone: nothing is left to do.
    #[error("device {interface} is gone")]
    Gone {
        /// Interface index.
        interface: u32,
    },
    /// The operator must remove the other program, if ours is wanted. It is tried again.
    #[error("another XDP program is on the device")]
    Occupied,
    /// The operator may set `datapath.xdp` to `Generic`.
    #[error("the device's driver has no native XDP (datapath.xdp: Generic works on any)")]
    NoDriver,
    /// The kernel refused for another reason; it is tried again.
    #[error("attaching {} XDP: {source}", mode.name())]
    Attach {
        /// The mode.
        mode: XdpMode,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The link of an earlier agent keeps its program; it is tried again.
    #[error("replacing the XDP program: {source}")]
    Replace {
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
    /// The program is not there, or this kernel refuses it.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Whose program a link has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Program {
    /// That of an earlier agent.
    Earlier,
    /// Ours.
    Own,
}

/// Which devices have the program.
#[derive(Debug)]
pub struct XdpLinks {
    paths: PinPaths,
    held: BTreeMap<u32, (XdpMode, Program)>,
}

impl XdpLinks {
    /// Finds the links that an earlier agent has pinned. They keep their program until [`Self::ensure`].
    pub fn find(paths: &PinPaths) -> Result<Self, XdpError> {
        let directory = paths.links();
        let failed = |source| XdpError::Pin {
            path: directory.clone(),
            source,
        };
        let mut held = BTreeMap::new();
        for entry in read_dir_or_empty(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some((interface, mode)) = name.to_str().and_then(parse_xdp_link_name) {
                held.insert(interface, (mode, Program::Earlier));
            }
        }
        Ok(Self {
            paths: paths.clone(),
            held,
        })
    }

    /// The devices that have the program.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        self.held.keys().copied()
    }

    /// The mode in which a device has the program.
    pub fn mode(&self, interface: u32) -> Option<XdpMode> {
        self.held.get(&interface).map(|(mode, _)| *mode)
    }

    /// Makes sure that a device has our program in this mode; says whether it had none before.
    pub fn ensure(
        &mut self,
        loaded: &mut Loaded,
        interface: u32,
        mode: XdpMode,
    ) -> Result<bool, XdpError> {
        match self.held.get(&interface) {
            Some((held, Program::Own)) if *held == mode => return Ok(false),
            Some((held, Program::Earlier)) if *held == mode => {
                match self.replace(loaded, interface, mode) {
                    // A pin of a device that had this index before.
                    Err(XdpError::Gone { .. }) => self.detach(interface)?,
                    done => {
                        done?;
                        self.held.insert(interface, (mode, Program::Own));
                        return Ok(false);
                    }
                }
            }
            Some(_) => self.detach(interface)?,
            None => {}
        }
        let program = loaded.frame_program(mode)?;
        let link = syscall::attach_xdp(program.as_fd(), interface, mode)
            .map_err(|source| refused(interface, mode, source))?;
        let path = self.paths.xdp_link(interface, mode);
        syscall::pin(link.as_fd(), &path).map_err(|source| XdpError::Pin { path, source })?;
        self.held.insert(interface, (mode, Program::Own));
        Ok(true)
    }

    /// Gives a link that is pinned our program.
    fn replace(&self, loaded: &mut Loaded, interface: u32, mode: XdpMode) -> Result<(), XdpError> {
        let path = self.paths.xdp_link(interface, mode);
        let unusable = |source| XdpError::Pin {
            path: path.clone(),
            source,
        };
        let link = syscall::open_pin(&path).map_err(unusable)?;
        let target = syscall::link_target(link.as_fd()).map_err(unusable)?;
        if target != (LinkTarget::Xdp { interface }) {
            return Err(XdpError::Gone { interface });
        }
        let program = loaded.frame_program(mode)?;
        match syscall::update_link(link.as_fd(), program.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                Err(XdpError::Gone { interface })
            }
            Err(source) => Err(XdpError::Replace { source }),
            Ok(()) => Ok(()),
        }
    }

    /// Detaches the program from a device, in whatever mode it is there.
    pub fn detach(&mut self, interface: u32) -> Result<(), XdpError> {
        for mode in XdpMode::ALL {
            let path = self.paths.xdp_link(interface, mode);
            release(&path).map_err(|source| XdpError::Pin { path, source })?;
        }
        self.held.remove(&interface);
        Ok(())
    }
}

/// Detaches the link that is pinned at `path` at once, and removes the pin; one that is not there is
/// fine. A link whose pin alone goes is detached a moment later.
pub fn release(path: &Path) -> io::Result<()> {
    match syscall::open_pin(path) {
        Ok(link) => match syscall::detach_link(link.as_fd()) {
            // The device is gone.
            Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => return Err(error),
            _ => {}
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // No link, or none that can be used: it goes with its pin all the same.
        Err(_) => {}
    }
    fs::remove_file(path)
}

/// What the kernel means.
fn refused(interface: u32, mode: XdpMode, source: io::Error) -> XdpError {
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => XdpError::Occupied,
        Some(libc::EOPNOTSUPP) if mode == XdpMode::Native => XdpError::NoDriver,
        Some(libc::ENODEV | libc::ENXIO) => XdpError::Gone { interface },
        _ => XdpError::Attach { mode, source },
    }
}
