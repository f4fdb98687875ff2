//! The stack that the kernel's programs take, as older kernels count it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::{env, fs};

use lb_agent::dataplane::load::{DEBUG_OBJECT_PATH_VARIABLE, OBJECT_PATH_VARIABLE};
use object::read::elf::ElfFile64;
use object::{
    Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind,
    SymbolKind,
};

/// `MAX_BPF_STACK`: bytes for a program and all that it calls.
const STACK: u64 = 512;
/// A frame takes a multiple of so many bytes (`check_max_stack_depth` before Linux 6.8; 16 since).
const PIECE: u64 = 32;
/// The register that holds the frame's end.
const FRAME: u8 = 10;
/// `BPF_JMP | BPF_CALL`, and the register field that makes it a call of a function of the object.
const CALL: (u8, u8) = (0x85, 1);

/// Where a function begins: the index of its section, and the bytes before it there.
type Place = (usize, u64);

/// What is known of a function.
struct Function {
    name: String,
    frame: u64,
    calls: BTreeSet<Place>,
}

/// An instruction, as `struct bpf_insn` has it.
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i64,
    immediate: i64,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        let [code, registers, a, b, c, d, e, f] = bytes.try_into().expect("eight bytes");
        Self {
            code,
            to: registers & 15,
            from: registers >> 4,
            offset: i16::from_le_bytes([a, b]).into(),
            immediate: i32::from_le_bytes([c, d, e, f]).into(),
        }
    }

    /// Bytes below the frame's end that it reads or writes by the frame's register.
    fn reach(&self) -> i64 {
        /// The classes of instructions that load, and that store.
        const LOADS: u8 = 1;
        const STORES: [u8; 2] = [2, 3];
        let class = self.code & 7;
        let by_frame =
            (class == LOADS && self.from == FRAME) || (STORES.contains(&class) && self.to == FRAME);
        if by_frame { -self.offset } else { 0 }
    }
}

/// Bytes of the frame of a function with these instructions: as far as it reaches by the register itself, or
/// by one that is made from it.
fn frame(code: &[Instruction]) -> u64 {
    /// `r = r` and `r += number` of 64 bits.
    const COPY: u8 = 0xbf;
    const ADD: u8 = 0x07;
    let mut copies = [false; 16];
    let mut deepest = 0;
    for it in code {
        deepest = deepest.max(it.reach());
        let to = usize::from(it.to);
        if it.code == ADD && copies[to] {
            deepest = deepest.max(-it.immediate);
        }
        copies[to] = it.code == COPY && it.from == FRAME;
    }
    deepest.unsigned_abs()
}

/// Every function of the object, and which of them are programs.
fn functions(object: &[u8]) -> (BTreeMap<Place, Function>, Vec<Place>) {
    let elf = ElfFile64::<Endianness>::parse(object).expect("the object is one");
    // Calls of functions in other sections, by the place of the instruction.
    let mut targets = BTreeMap::new();
    for section in elf.sections() {
        for (offset, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(index) = relocation.target() {
                let symbol = elf.symbol_by_index(index).expect("the symbol is there");
                let base = symbol
                    .section_index()
                    .map(|section| (section.0, symbol.address()));
                targets.insert((section.index().0, offset), base);
            }
        }
    }
    let (mut functions, mut programs) = (BTreeMap::new(), Vec::new());
    for symbol in elf.symbols().filter(|it| it.kind() == SymbolKind::Text) {
        let Some(index) = symbol.section_index().filter(|_| symbol.size() > 0) else {
            continue;
        };
        let section = elf.section_by_index(index).expect("the section is there");
        assert_eq!(section.kind(), SectionKind::Text);
        let bytes = section.data_range(symbol.address(), symbol.size());
        let bytes = bytes.ok().flatten().expect("the section has the function");
        let code: Vec<Instruction> = bytes.chunks_exact(8).map(Instruction::read).collect();
        let mut calls = BTreeSet::new();
        for (place, it) in (symbol.address()..).step_by(8).zip(&code) {
            if (it.code, it.from) != CALL {
                continue;
            }
            // Counted in instructions, from the next one.
            let distance = (it.immediate + 1) * 8;
            calls.insert(match targets.get(&(index.0, place)).copied().flatten() {
                Some((section, base)) => (section, base.wrapping_add_signed(distance)),
                None => (index.0, place.wrapping_add_signed(distance)),
            });
        }
        let place = (index.0, symbol.address());
        if section.name() != Ok(".text") {
            programs.push(place);
        }
        let name = symbol.name().expect("a function has a name").to_owned();
        let frame = frame(&code);
        functions.insert(place, Function { name, frame, calls });
    }
    (functions, programs)
}

/// Bytes that the deepest chain of calls takes from the function at `place` on, and its functions.
fn deepest(functions: &BTreeMap<Place, Function>, place: Place) -> (u64, Vec<String>) {
    let function = functions.get(&place).expect("a call leads to a function");
    let own = function.frame.max(1).next_multiple_of(PIECE);
    let below = function
        .calls
        .iter()
        .map(|&called| deepest(functions, called));
    let (bytes, names) = below.max().unwrap_or_default();
    let own_name = format!("{} ({})", function.name, function.frame);
    (own + bytes, [vec![own_name], names].concat())
}

#[test]
fn every_chain_of_calls_fits_the_stack_of_older_kernels() {
    for variable in [OBJECT_PATH_VARIABLE, DEBUG_OBJECT_PATH_VARIABLE] {
        let path = env::var_os(variable).expect("xtask names the objects");
        let object = fs::read(path).expect("the object can be read");
        let (functions, programs) = functions(&object);
        assert!(programs.len() > 6, "{} programs", programs.len());
        for program in programs {
            let (bytes, chain) = deepest(&functions, program);
            assert!(bytes <= STACK, "{bytes} bytes of stack: {chain:#?}");
            // Each has some, and calls: else nothing was measured.
            assert!(bytes > PIECE && chain.len() > 1, "{chain:#?}");
        }
    }
}
