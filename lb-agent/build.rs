//! Makes the BPF object named by `STEERAGE_BPF_OBJECT` available to `include_bytes!`; an empty stub
//! stands in when it is unset, so that `cargo check` and clippy need no BPF toolchain.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    for (variable, name) in [
        ("STEERAGE_BPF_OBJECT", "steerage-bpf.o"),
        ("STEERAGE_BPF_OBJECT_DEBUG", "steerage-bpf-debug.o"),
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
        let target = out.join(name);
        match env::var_os(variable) {
            Some(object) => {
                println!("cargo::rerun-if-changed={}", Path::new(&object).display());
                fs::copy(&object, &target)?;
            }
            None => fs::write(&target, [])?,
        }
    }
    Ok(())
}
