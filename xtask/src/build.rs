//! Builds the kernel object, then the agent that embeds it.
//!
//! xtask does this, not a build script: `cargo check`, clippy and rust-analyzer then need no BPF
//! toolchain, and nothing is built behind anyone's back. The object has a target directory of its
//! own because another toolchain fills it.

use std::fs;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::process;
use crate::slim::slim;
use crate::toolchain::{self, Toolchain};
use crate::workspace::{self, Object};

/// Flags of `build`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Build only the kernel object that logs flow decisions
    #[arg(long)]
    debug_log: bool,
    /// Machine the kernel object is for; another than this one builds only the object
    #[arg(long, value_name = "ARCH")]
    target: Option<Arch>,
}

/// The subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let arch = args.target.unwrap_or(Arch::host());
    let toolchain = toolchain::find_or_install()?;
    println!("{toolchain}");
    if args.debug_log {
        return object(&toolchain, Object::DebugLog, arch);
    }
    object(&toolchain, Object::Normal, arch)?;
    if arch != Arch::host() {
        return Ok(());
    }
    object(&toolchain, Object::DebugLog, arch)?;
    agent()
}

/// Both objects and the agent, for this machine: what every later step runs on.
pub(crate) fn everything() -> Result<()> {
    objects()?;
    agent()
}

/// Both objects, for this machine.
pub(crate) fn objects() -> Result<()> {
    let toolchain = toolchain::find_or_install()?;
    println!("{toolchain}");
    object(&toolchain, Object::Normal, Arch::host())?;
    object(&toolchain, Object::DebugLog, Arch::host())
}

/// The bench's object, for this machine.
pub(crate) fn bench_object() -> Result<()> {
    object(&toolchain::find_or_install()?, Object::Bench, Arch::host())
}

/// Builds one object and leaves at [`Object::path`] what of it is loaded.
pub(crate) fn object(toolchain: &Toolchain, object: Object, arch: Arch) -> Result<()> {
    // One directory per machine: the flags differ, and cargo would rebuild `core` at each change.
    let target_dir = workspace::target_dir().join("bpf-build").join(arch.name());
    let mut cargo = process::foreign_cargo(&toolchain.cargo, &toolchain.rustc);
    cargo
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "lb-ebpf",
            "--bin",
            object.binary(),
            "--profile",
            "bpf",
        ])
        .args([
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
            "--target-dir",
        ])
        .arg(&target_dir)
        // `-Z build-std` on a released compiler; the language features used are those of nightly.
        .env("RUSTC_BOOTSTRAP", "1")
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            [
                format!("--cfg=bpf_target_arch=\"{}\"", arch.name()),
                format!("-Clinker={}", toolchain.linker.display()),
                "-Clink-arg=--btf".to_owned(),
                // Else every clearing of more than one word is a call that clears byte by byte. What the
                // linker would keep in order for it is what compilers of C emit; no kernel asks for that.
                "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
                "-Cdebuginfo=2".to_owned(),
                // v3 has compare-and-swap and exchange; v4 would need kernel 6.6.
                "-Ctarget-cpu=v3".to_owned(),
            ]
            .join("\u{1f}"),
        );
    if object == Object::DebugLog {
        cargo.args(["--features", "debug-log"]);
    }
    process::run(&mut cargo)?;

    let built = target_dir.join("bpfel-unknown-none/bpf");
    let built = built.join(object.binary());
    let kept = object.path(arch);
    if let Some(folder) = kept.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("create the folder {}", folder.display()))?;
    }
    let bytes = fs::read(&built).with_context(|| format!("read the object {}", built.display()))?;
    let bytes = slim(&bytes).with_context(|| format!("make {} smaller", built.display()))?;
    // An unchanged object keeps its time stamp, so that the agent is not built again for it.
    if fs::read(&kept).ok().as_ref() != Some(&bytes) {
        fs::write(&kept, &bytes).with_context(|| format!("write {}", kept.display()))?;
    }
    println!("kernel object: {} ({} bytes)", kept.display(), bytes.len());
    Ok(())
}

/// Builds the release agent with both objects inside.
fn agent() -> Result<()> {
    process::run(with_objects(&mut process::cargo()).args([
        "build",
        "--release",
        "--package",
        "lb-agent",
    ]))?;
    println!("agent: {}", workspace::agent().display());
    Ok(())
}

/// Tells the agent's build script which objects to embed.
///
/// Every release build of the agent, `demo` and `bench` included, gets the same two variables: a
/// different value would build it again.
pub(crate) fn with_objects(command: &mut std::process::Command) -> &mut std::process::Command {
    command
        .env("STEERAGE_BPF_OBJECT", Object::Normal.path(Arch::host()))
        .env(
            "STEERAGE_BPF_OBJECT_DEBUG",
            Object::DebugLog.path(Arch::host()),
        )
}
