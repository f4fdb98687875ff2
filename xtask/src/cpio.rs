//! Writes the archive that Linux unpacks as its first file system.
//!
//! The format is "newc" of the kernel's `Documentation/driver-api/early-userspace/buffer-format`:
//! an ASCII header of 110 bytes, the name, the data, each padded to four bytes.

/// What a file is, as its mode says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    Program,
    File,
}

impl Kind {
    const fn mode(self) -> u32 {
        match self {
            Self::Folder => 0o040_755,
            Self::Program => 0o100_755,
            Self::File => 0o100_644,
        }
    }
}

/// An archive under construction; a folder must be added before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.add(path, Kind::Folder.mode(), &[]);
    }

    /// Adds an executable file.
    pub(crate) fn program(&mut self, path: &str, data: &[u8]) {
        self.add(path, Kind::Program.mode(), data);
    }

    /// Adds a plain file.
    pub(crate) fn file(&mut self, path: &str, data: &[u8]) {
        self.add(path, Kind::File.mode(), data);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn add(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let name_size = path.len() + 1;
        // inode, mode, uid, gid, links, mtime, size, device ×4, name size, checksum
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_and_data_padded_to_four() {
        let mut archive = Archive::default();
        archive.program("init", b"hello");
        let bytes = archive.bytes;
        assert_eq!(
            &bytes[..110],
            "070701\
             00000001000081ed00000000000000000000000100000000\
             00000005000000000000000000000000000000000000000500000000"
                .as_bytes()
        );
        assert_eq!(&bytes[110..], b"init\0\0hello\0\0\0");
    }

    #[test]
    fn the_archive_ends_with_the_trailer() {
        let bytes = Archive::default().finish();
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
