//! Another party's program on the hooks we share: it counts what it sees and passes everything on.
//!
//! It needs no compiler and no map. The program is two instructions in an object file of four
//! sections, laid out below, and the kernel's own run counter tells how often it ran.

use std::{mem, os::fd::OwnedFd};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramInfo, SchedClassifier, Xdp, XdpMode, loaded_programs,
        tc::{NlOptions, TcAttachOptions, TcAttachType},
    },
    sys::{Stats, enable_stats},
};

use crate::lab::Node;

/// The program's name in the object.
const NAME: &str = "neighbour";

/// What a program on a tc hook returns that only watches: `TCX_NEXT`.
const NEXT: i32 = -1;
/// The same on an XDP hook: `XDP_PASS`.
const PASS: i32 = 2;

/// Bytes of an ELF header.
const HEADER: u64 = 64;

/// Where a probe is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Tcx,
    Filter,
}

/// A program of somebody else, attached to one device.
#[derive(Debug)]
pub struct Probe {
    id: u32,
    // Owns the program and its link.
    _object: Ebpf,
    // The kernel counts runs while this is open.
    _stats: OwnedFd,
}

impl Probe {
    /// Attaches to a tcx hook of `device` on `node`, at the end of the chain, until dropped.
    pub fn attach(node: &Node, device: &str, hook: TcAttachType) -> Result<Self> {
        Self::attach_as(Place::Tcx, node, device, hook)
    }

    /// Attaches as a filter of the `clsact` qdisc of `device`, which must exist, for as long as the
    /// device does.
    pub fn attach_filter(node: &Node, device: &str, hook: TcAttachType) -> Result<Self> {
        Self::attach_as(Place::Filter, node, device, hook)
    }

    fn attach_as(place: Place, node: &Node, device: &str, hook: TcAttachType) -> Result<Self> {
        let options = match place {
            Place::Tcx => TcAttachOptions::TcxOrder(LinkOrder::last()),
            Place::Filter => TcAttachOptions::Netlink(NlOptions::default()),
        };
        let stats = enable_stats(Stats::RunTime).context("have the kernel count program runs")?;
        node.ns.run(|| {
            let mut object =
                Ebpf::load(&object_file("classifier", NEXT)).context("load the probe's object")?;
            let program = object
                .program_mut(NAME)
                .context("the object has its program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().context("load the probe")?;
            let link = program
                .attach_with_options(device, hook, options)
                .with_context(|| format!("attach the probe to {device} in {}", node.name))?;
            if place == Place::Filter {
                // A filter's link, dropped outside the namespace, would remove whatever filter has
                // the same numbers there. It goes with its device instead.
                mem::forget(program.take_link(link)?);
            }
            Ok(Self {
                id: program.info()?.id(),
                _object: object,
                _stats: stats,
            })
        })
    }

    /// The program's id.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// How often it has run.
    pub fn runs(&self) -> Result<u64> {
        let info = loaded_programs()
            .flatten()
            .find(|info| info.id() == self.id);
        let info: ProgramInfo = info.context("the probe is no longer loaded")?;
        Ok(info.run_count())
    }

    /// Fails unless it ran since it had run `before` times.
    pub fn has_run_since(&self, before: u64) -> Result<()> {
        let runs = self.runs()?;
        ensure!(
            runs > before,
            "the probe has not run since: {runs} times in all"
        );
        Ok(())
    }
}

/// Runs `action` with a program that does nothing, loaded and attached nowhere.
pub fn with_empty_program<T>(action: impl FnOnce(&SchedClassifier) -> Result<T>) -> Result<T> {
    let mut object =
        Ebpf::load(&object_file("classifier", NEXT)).context("load the empty program's object")?;
    let program = object
        .program_mut(NAME)
        .context("the object has its program")?;
    let program: &mut SchedClassifier = program.try_into()?;
    program.load().context("load the empty program")?;
    action(program)
}

/// A program of somebody else at a device's XDP hook, in its driver; it passes everything on.
#[derive(Debug)]
pub struct FrameProbe {
    id: u32,
    // Owns the program and its link.
    _object: Ebpf,
}

impl FrameProbe {
    /// Attaches to `device` on `node` until dropped.
    pub fn attach(node: &Node, device: &str) -> Result<Self> {
        node.ns.run(|| {
            let object = object_file("xdp", PASS);
            let mut object = Ebpf::load(&object).context("load the probe's object")?;
            let program = object
                .program_mut(NAME)
                .context("the object has its program")?;
            let program: &mut Xdp = program.try_into()?;
            program.load().context("load the probe")?;
            program
                .attach(device, XdpMode::Driver)
                .with_context(|| format!("attach the probe to {device} in {}", node.name))?;
            Ok(Self {
                id: program.info()?.id(),
                _object: object,
            })
        })
    }

    /// The program's id.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

/// `r0 = returned; exit`.
fn instructions(returned: i32) -> Vec<u8> {
    let exit = [0x95, 0, 0, 0, 0, 0, 0, 0];
    [&[0xb7, 0, 0, 0][..], &returned.to_le_bytes(), &exit].concat()
}

/// One section of the object file.
struct Section<'a> {
    /// Offset of its name among the strings.
    name: u32,
    /// 0 none, 1 program bits, 2 symbols, 3 strings.
    kind: u32,
    /// 2 allocated, 4 executable.
    flags: u64,
    /// For symbols: the section with their names.
    link: u32,
    /// For symbols: the number of the first global one.
    info: u32,
    entry_size: u64,
    contents: &'a [u8],
}

/// A relocatable ELF file for BPF: header, contents, section headers.
///
/// ```text
///   0 (none)   1 .strtab   2 classifier or xdp   3 license   4 .symtab
/// ```
fn object_file(kind: &str, returned: i32) -> Vec<u8> {
    let strings = format!("\0.strtab\0{kind}\0license\0.symtab\0neighbour\0");
    let strings = strings.as_bytes();
    let instructions = instructions(returned);
    let string = |text: &str| {
        let found = strings
            .windows(text.len())
            .position(|window| window == text.as_bytes());
        u32::try_from(found.unwrap_or(0)).unwrap_or(0)
    };
    let plain = |name: u32, kind: u32, flags: u64, contents| Section {
        name,
        kind,
        flags,
        link: 0,
        info: 0,
        entry_size: 0,
        contents,
    };
    let symbols = [[0; 24].to_vec(), symbol(string(NAME))].concat();
    let sections = [
        plain(0, 0, 0, &[]),
        plain(string(".strtab"), 3, 0, strings),
        plain(string(kind), 1, 6, &instructions),
        plain(string("license"), 1, 2, b"GPL\0"),
        Section {
            link: 1,
            info: 1,
            entry_size: 24,
            ..plain(string(".symtab"), 2, 0, &symbols)
        },
    ];
    let mut contents = Vec::new();
    let mut headers = Vec::new();
    for section in sections {
        contents.resize(contents.len().next_multiple_of(8), 0);
        headers.extend(section.header(HEADER + contents.len() as u64));
        contents.extend(section.contents);
    }
    contents.resize(contents.len().next_multiple_of(8), 0);
    [header(HEADER + contents.len() as u64, 5), contents, headers].concat()
}

impl Section<'_> {
    fn header(&self, offset: u64) -> Vec<u8> {
        let alignment: u64 = 8;
        [
            &self.name.to_le_bytes()[..],
            &self.kind.to_le_bytes(),
            &self.flags.to_le_bytes(),
            // The address, which a relocatable file does not have.
            &0_u64.to_le_bytes(),
            &offset.to_le_bytes(),
            &(self.contents.len() as u64).to_le_bytes(),
            &self.link.to_le_bytes(),
            &self.info.to_le_bytes(),
            &alignment.to_le_bytes(),
            &self.entry_size.to_le_bytes(),
        ]
        .concat()
    }
}

/// A global function at the start of section 2.
fn symbol(name: u32) -> Vec<u8> {
    let mut symbol = name.to_le_bytes().to_vec();
    symbol.extend([0x12, 0, 2, 0]);
    symbol.extend(0_u64.to_le_bytes());
    symbol.extend((instructions(NEXT).len() as u64).to_le_bytes());
    symbol
}

/// 64-bit, little-endian, relocatable, for BPF (machine 247).
fn header(section_headers: u64, sections: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    for half in [1_u16, 247] {
        header.extend(half.to_le_bytes());
    }
    header.extend(1_u32.to_le_bytes());
    for word in [0, 0, section_headers] {
        header.extend(word.to_le_bytes());
    }
    header.extend(0_u32.to_le_bytes());
    // Sizes of this header, of a program header (none) and of a section header; names in section 1.
    for half in [64, 0, 0, 64, sections, 1] {
        header.extend(half.to_le_bytes());
    }
    header
}
