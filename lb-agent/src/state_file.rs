//! Files of the state directory: whole or not at all, for whoever reads them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use serde::Serialize;

/// Writes `value` as JSON to `path`: a reader finds the old file or the new one.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut writer = BufWriter::new(File::create(&temporary)?);
    serde_json::to_writer(&mut writer, value)?;
    writer.write_all(b"\n")?;
    writer.flush()?;
    fs::rename(&temporary, path)
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
