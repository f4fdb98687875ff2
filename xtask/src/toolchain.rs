//! Finds, or installs, a toolchain that compiles for BPF: rustc, the standard library's source, and
//! a bpf-linker built on the same LLVM.
//!
//! `core` for `bpfel-unknown-none` is built from source, which needs `rust-src` and
//! `RUSTC_BOOTSTRAP=1`; bpf-linker reads rustc's bitcode, so a linker of an older LLVM fails on it.
//! Three ways lead there, tried in this order: what is in use and complete already; Debian's
//! packages, where apt is there and we are root; rustup's component, the way of other systems.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::{self, Need};
use crate::process;

/// The release of bpf-linker that goes with aya 0.14.
const LINKER_VERSION: &str = "0.13.0";

/// LLVM releases that this bpf-linker can be built on.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// LLVM of Debian's `rustc-web`.
const DEBIAN_LLVM: u32 = 22;

/// What Debian's toolchain consists of.
const DEBIAN: [Need; 5] = [
    Need::file("/usr/bin/rustc", "rustc-web"),
    Need::file("/usr/bin/cargo", "cargo-web"),
    Need::file(
        "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
        "rust-web-src",
    ),
    Need::file("/usr/lib/llvm-22/include/llvm-c/Core.h", "llvm-22-dev"),
    Need::program("g++", "g++"),
];

/// A complete BPF toolchain.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// Its cargo.
    pub(crate) cargo: PathBuf,
    /// Its rustc, which that cargo must be told to use.
    pub(crate) rustc: PathBuf,
    /// The bpf-linker of the same LLVM.
    pub(crate) linker: PathBuf,
    /// Where it comes from, for people.
    origin: &'static str,
    release: String,
}

/// A compiler on this machine.
struct Compiler {
    cargo: PathBuf,
    rustc: PathBuf,
    release: String,
    llvm: u32,
    has_source: bool,
}

impl std::fmt::Display for Toolchain {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "BPF toolchain: {}, rustc {} ({}), bpf-linker {LINKER_VERSION} ({})",
            self.origin,
            self.release,
            self.rustc.display(),
            self.linker.display()
        )
    }
}

/// The subcommand: finds or installs, and says which it was.
pub(crate) fn run() -> Result<()> {
    println!("{}", find_or_install()?);
    Ok(())
}

/// A toolchain that builds the object, installed if there was none.
pub(crate) fn find_or_install() -> Result<Toolchain> {
    let linker = installed_linker();
    let in_use = compiler_in_use()?;
    if in_use.has_source
        && let Some(linker) = &linker
        && linker_llvm(linker).is_none_or(|llvm| llvm == in_use.llvm)
    {
        return Ok(with_linker(in_use, linker.clone(), "the toolchain in use"));
    }
    if apt::are_met(&DEBIAN) || apt::can_install() {
        apt::ensure(&DEBIAN, "compile the kernel programs")?;
        let compiler = compiler_at("/usr/bin/cargo".into(), "/usr/bin/rustc".into())?;
        if compiler.llvm != DEBIAN_LLVM {
            bail!(
                "/usr/bin/rustc is {} on LLVM {}, not Debian's rustc-web on LLVM {DEBIAN_LLVM}: \
                 remove the older rustc package and run this again",
                compiler.release,
                compiler.llvm
            );
        }
        let linker = matching_linker(linker, compiler.llvm)?;
        return Ok(with_linker(compiler, linker, "Debian's packages"));
    }
    let in_use = if in_use.has_source {
        in_use
    } else {
        println!("adding the component rust-src to the toolchain in use");
        process::run(Command::new("rustup").args(["component", "add", "rust-src"])).context(
            "rust-src is needed to compile the kernel programs; \
             see docs/testing.md for the ways to get it",
        )?;
        compiler_in_use()?
    };
    let linker = matching_linker(linker, in_use.llvm)?;
    Ok(with_linker(
        in_use,
        linker,
        "rustup's toolchain with rust-src",
    ))
}

fn with_linker(compiler: Compiler, linker: PathBuf, origin: &'static str) -> Toolchain {
    Toolchain {
        cargo: compiler.cargo,
        rustc: compiler.rustc,
        linker,
        origin,
        release: compiler.release,
    }
}

/// The rustc and cargo that run xtask, by their real paths.
fn compiler_in_use() -> Result<Compiler> {
    let sysroot = process::capture(Command::new("rustc").args(["--print", "sysroot"]))?;
    let bin = Path::new(sysroot.trim()).join("bin");
    compiler_at(bin.join("cargo"), bin.join("rustc"))
}

fn compiler_at(cargo: PathBuf, rustc: PathBuf) -> Result<Compiler> {
    let version = process::capture(Command::new(&rustc).arg("-vV"))?;
    let sysroot = process::capture(Command::new(&rustc).args(["--print", "sysroot"]))?;
    let source = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    let (release, llvm) = release_and_llvm(&version).with_context(|| {
        format!(
            "`{} -vV` names no release and LLVM version",
            rustc.display()
        )
    })?;
    Ok(Compiler {
        has_source: cargo.exists() && source.exists(),
        cargo,
        rustc,
        release,
        llvm,
    })
}

/// Reads the release and LLVM's major version out of `rustc -vV`.
fn release_and_llvm(version: &str) -> Option<(String, u32)> {
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name));
    let release = field("release: ")?.to_owned();
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((release, llvm))
}

/// Where `cargo install` puts binaries.
fn cargo_bin() -> PathBuf {
    std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))
        .unwrap_or_default()
        .join("bin")
}

/// A bpf-linker of the right version that starts, in `PATH` or where cargo installs.
fn installed_linker() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([cargo_bin()])
        .map(|folder| folder.join("bpf-linker"))
        .filter(|candidate| candidate.is_file())
        .find(|candidate| {
            Command::new(candidate)
                .arg("--version")
                .output()
                .is_ok_and(|output| {
                    let said = String::from_utf8_lossy(&output.stdout);
                    said.split_whitespace().any(|word| word == LINKER_VERSION)
                })
        })
}

/// LLVM's major version a bpf-linker is dynamically linked to; none if it carries its own.
fn linker_llvm(linker: &Path) -> Option<u32> {
    llvm_named_in(&fs::read(linker).ok()?)
}

/// Finds the first `libLLVM.so.N` or `libLLVM-N` in a binary.
fn llvm_named_in(binary: &[u8]) -> Option<u32> {
    [b"libLLVM.so.".as_slice(), b"libLLVM-".as_slice()]
        .iter()
        .find_map(|name| {
            let at = binary
                .windows(name.len())
                .position(|window| window == *name)?;
            let digits: String = binary
                .iter()
                .skip(at + name.len())
                .map_while(|&byte| byte.is_ascii_digit().then_some(char::from(byte)))
                .collect();
            digits.parse().ok()
        })
}

/// The linker found if it fits this LLVM, else one installed with `cargo install`.
fn matching_linker(found: Option<PathBuf>, llvm: u32) -> Result<PathBuf> {
    if let Some(linker) = found
        && linker_llvm(&linker).is_none_or(|of_linker| of_linker == llvm)
    {
        return Ok(linker);
    }
    if !LINKER_LLVMS.contains(&llvm) {
        bail!(
            "rustc is built on LLVM {llvm}, but bpf-linker {LINKER_VERSION} knows LLVM {} to {}: \
             use a rustc between 1.91 and the newest this release of Steerage names",
            LINKER_LLVMS.start(),
            LINKER_LLVMS.end()
        );
    }
    println!("installing bpf-linker {LINKER_VERSION} on LLVM {llvm} (about a minute and a half)");
    let mut install = process::cargo();
    install.args([
        "install",
        "bpf-linker",
        "--version",
        LINKER_VERSION,
        "--locked",
        "--force",
    ]);
    install.args([
        "--no-default-features",
        "--features",
        &format!("llvm-{llvm}"),
    ]);
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if std::env::var_os("LLVM_PREFIX").is_none() && Path::new(&prefix).exists() {
        install.env("LLVM_PREFIX", prefix);
    }
    process::run(&mut install).with_context(|| {
        format!(
            "building bpf-linker needs LLVM {llvm}'s headers and libraries: \
             install them (Debian: llvm-{llvm}-dev) and set LLVM_PREFIX to their folder"
        )
    })?;
    installed_linker().context("cargo installed bpf-linker, yet it does not start: run it by hand")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_and_llvm_are_read_from_rustc() {
        let version = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\n\
                       release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(release_and_llvm(version), Some(("1.96.0".to_owned(), 22)));
    }

    #[test]
    fn a_rustc_without_llvm_is_refused() {
        assert_eq!(release_and_llvm("release: 1.96.0\n"), None);
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_binary() {
        assert_eq!(llvm_named_in(b"\0libz.so.1\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_named_in(b"\0libLLVM-21.so\0"), Some(21));
        assert_eq!(llvm_named_in(b"\0libc.so.6\0"), None);
    }
}
