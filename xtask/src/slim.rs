//! What of a kernel object is loaded, without what only its build needs.
//!
//! Types (BTF) are made from debug information, which the linker leaves in the object: nine tenths of
//! it. And of each instruction `.BTF.ext` says the line it is from, which aya copies for all of a section to each
//! function of it: 470 KB for two hundred functions, a hundred megabytes of the agent's memory while it
//! loads, for notes in the verifier's log. The linker's own output, which has both, stays where it is.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Names of sections of debug information begin with one of these.
const DEBUG: [&[u8]; 2] = [b".debug_", b".rel.debug_"];
/// Relocations of types, which say again what the sections themselves say.
const RELOCATIONS: [&[u8]; 2] = [b".rel.BTF", b".rel.BTF.ext"];

/// Fields of `struct btf_ext_header` (`include/uapi/linux/btf.h`), by their bytes.
const HEADER_LENGTH: Range<usize> = 4..8;
const FUNCTIONS_LENGTH: Range<usize> = 12..16;
const LINES_OFFSET: Range<usize> = 16..20;
const LINES_LENGTH: Range<usize> = 20..24;
const CORE_OFFSET: Range<usize> = 24..28;
const CORE_LENGTH: Range<usize> = 28..32;

/// The object without debug information and lines of source.
pub(crate) fn slim(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("read the kernel object")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        section.delete =
            DEBUG.iter().any(|debug| name.starts_with(debug)) || RELOCATIONS.contains(&name);
        if name == b".BTF.ext" {
            let SectionData::Data(data) = &section.data else {
                bail!("the kernel object's .BTF.ext is not plain data");
            };
            section.data = SectionData::Data(without_lines(data)?.into());
        }
    }
    // The linker has one table for names of sections and symbols; the builder makes two.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    builder.set_section_sizes();
    let mut slim = Vec::new();
    builder
        .write(&mut slim)
        .context("write the kernel object")?;
    Ok(slim)
}

/// `.BTF.ext` that says what functions are, and of no instruction where it is from.
fn without_lines(extension: &[u8]) -> Result<Vec<u8>> {
    let field = |at: Range<usize>| -> Result<u32> {
        let bytes = extension.get(at).context("the .BTF.ext is cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?))
    };
    // Offsets count from the header's end. Functions come first, then lines, then what is relocated
    // by types of the running kernel, which our programs know nothing of.
    let lines = field(LINES_OFFSET)?;
    ensure!(
        field(FUNCTIONS_LENGTH)? == lines && field(CORE_LENGTH)? == 0,
        "the .BTF.ext holds more than functions and lines"
    );
    let end = usize::try_from(field(HEADER_LENGTH)? + lines)?;
    let mut kept = extension
        .get(..end)
        .context("the .BTF.ext is cut short")?
        .to_vec();
    for (at, value) in [(LINES_LENGTH, 0), (CORE_OFFSET, lines)] {
        let bytes = kept.get_mut(at).context("the .BTF.ext is cut short")?;
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header, a record size and two words of functions, then as much of lines.
    fn extension() -> Vec<u8> {
        let mut words = vec![0x0001_eb9f, 32, 0, 12, 12, 12, 24, 0];
        words.extend([8, 1, 2, 16, 3, 4]);
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn functions_stay_and_lines_go() {
        let kept = without_lines(&extension()).unwrap();
        let expected: Vec<u8> = [0x0001_eb9f, 32, 0, 12, 12, 0, 12, 0, 8, 1, 2]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(kept, expected);
        // Once more changes nothing.
        assert_eq!(without_lines(&kept).unwrap(), expected);
    }

    #[test]
    fn what_is_cut_short_or_holds_more_is_refused() {
        let whole = extension();
        for length in 0..CORE_LENGTH.end + 12 {
            without_lines(&whole[..length]).unwrap_err();
        }
        let mut more = whole;
        more[CORE_LENGTH].copy_from_slice(&8_u32.to_le_bytes());
        without_lines(&more).unwrap_err();
        slim(b"no object").unwrap_err();
    }
}
