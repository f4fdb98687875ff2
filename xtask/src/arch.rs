//! The machines the kernel object is built for.
//!
//! BPF bytecode is the same everywhere; what differs is the layout of `pt_regs` that aya-ebpf
//! compiles in, chosen by `--cfg bpf_target_arch`.

/// A machine Steerage supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// The machine xtask runs on.
    pub(crate) const fn host() -> Self {
        if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::X86_64
        }
    }

    /// The name Rust and the kernel's sources use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}
