//! Files of the state directory: whole or not at all, for whoever reads them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Bytes that are written, or read, at a time.
pub(crate) const BUFFER: usize = 1 << 16;

/// A file that is being written, and takes the place of `path` once it is whole.
#[derive(Debug)]
pub(crate) struct Replacement {
    path: PathBuf,
    temporary: PathBuf,
    writer: BufWriter<File>,
}

impl Replacement {
    /// Begins beside `path`; what is left there of an earlier try is overwritten.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".new");
        Ok(Self {
            path: path.to_owned(),
            writer: BufWriter::with_capacity(BUFFER, File::create(&temporary)?),
            temporary: temporary.into(),
        })
    }

    /// Where to write.
    pub(crate) const fn writer(&mut self) -> &mut BufWriter<File> {
        &mut self.writer
    }

    /// Takes the place: a reader finds the old file or the new one.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()?;
        fs::rename(&self.temporary, &self.path)
    }
}

/// Writes `value` as one line of JSON.
pub(crate) fn write_line(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *writer, value)?;
    writer.write_all(b"\n")
}

/// Writes `value` as JSON to `path`: a reader finds the old file or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut replacement = Replacement::new(path)?;
    write_line(replacement.writer(), value)?;
    replacement.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.json");
        write_json(&path, &[1, 2, 3]).unwrap();
        write_json(&path, &"four").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"four\"\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
