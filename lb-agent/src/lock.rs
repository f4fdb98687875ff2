//! One agent for a pin directory.
//!
//! The lock is flock(2) on the pin directory itself: two agents that share it meet there whatever
//! their other settings, and the kernel lets it go when the agent dies, however it dies.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, major, minor};

/// Why the pin directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The operator must stop the other agent, or choose another pin directory.
    #[error("another agent{} uses pin directory {}: stop it, or choose another --pin-dir", holder(*pid), path.display())]
    Held {
        /// The pin directory.
        path: PathBuf,
        /// The process that holds it, where the kernel tells.
        pid: Option<u32>,
    },
    /// The directory could not be locked.
    #[error("locking pin directory {}: {source}", path.display())]
    Io {
        /// The pin directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// A pin directory that nobody else uses while this lives.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Locks `path`, an existing directory; at once or not at all.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        loop {
            let directory = File::open(path).map_err(failed)?;
            match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held {
                        path: path.to_owned(),
                        pid: holder_of(&directory),
                    });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // `steerage cleanup` may have removed it since, and another have made it anew.
            let ours = directory.metadata().map_err(failed)?;
            let current = fs::metadata(path).map_err(failed)?;
            if (ours.dev(), ours.ino()) == (current.dev(), current.ino()) {
                return Ok(Self {
                    _directory: directory,
                });
            }
        }
    }
}

fn holder_of(directory: &File) -> Option<u32> {
    let metadata = directory.metadata().ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    find_holder(&locks, metadata.dev(), metadata.ino())
}

/// The process that holds a flock on the file `inode` of `device`, in the text of `/proc/locks`.
fn find_holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        (fields.next() == Some("FLOCK")).then_some(())?;
        let pid = fields.nth(2)?;
        (fields.next() == Some(file.as_str())).then_some(())?;
        pid.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let locks = "1: FLOCK  ADVISORY  WRITE 11290 00:27:874426 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 77 00:27:874427 0 EOF\n\
                     3: -> FLOCK ADVISORY WRITE 88 00:27:874427 0 EOF\n";
        let device = rustix::fs::makedev(0, 0x27);
        assert_eq!(find_holder(locks, device, 874_426), Some(11_290));
        assert_eq!(find_holder(locks, device, 874_427), None);
        assert_eq!(find_holder("", device, 1), None);
    }

    #[test]
    fn a_second_lock_names_the_process_of_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err();
        let LockError::Held { pid, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*pid, Some(std::process::id()));
        drop(first);
        Lock::take(directory.path()).unwrap();
    }
}
