//! The kernel tier on an older kernel: Debian's, under qemu, with nothing else in the machine.
//!
//! The first file system is all there is: busybox, the objects and statically linked test binaries.
//! qemu emulates (TCG), because nested virtualisation is not to be had everywhere; a boot takes a
//! few seconds. The serial line carries the results out.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::apt::{self, Need};
use crate::arch::Arch;
use crate::cpio::Archive;
use crate::outcome::Counts;
use crate::workspace::{self, Object};
use crate::{build, process, test};

/// A boot takes seconds, but an emulated kernel verifies the programs for a minute or two, and again for many a
/// test; a machine that has not powered off by now hangs.
const DEADLINE: Duration = Duration::from_mins(40);

/// What a machine needs to emulate another.
const NEEDS: [Need; 2] = [
    Need::program("qemu-system-x86_64", "qemu-system-x86"),
    Need::file("/bin/busybox", "busybox-static"),
];

/// What [`INIT`] writes before it powers off.
const RESULT: &str = "VM-RESULT: ";

/// The first process.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
export PATH=/bin HOME=/tmp RUST_BACKTRACE=1 STEERAGE_REQUIRE_ROOT=1
export STEERAGE_BPF_OBJECT_PATH=/steerage-bpf.o STEERAGE_BPF_OBJECT_DEBUG_PATH=/steerage-bpf-debug.o
echo \"VM-KERNEL: $(uname -r)\"
result=ok
for test in /tests/*; do
  echo \"VM-TEST: $test\"
  \"$test\" --test-threads=1 || result=failed
done
echo \"VM-RESULT: $result\"
poweroff -f
";

/// A kernel series that Debian has as a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 12's, the oldest supported
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's
    #[value(name = "6.12")]
    V6_12,
}

impl Kernel {
    const fn series(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// Boots the kernel and runs the kernel tier on it.
pub(crate) fn run(kernel: Kernel) -> Result<Counts> {
    if Arch::host() != Arch::X86_64 {
        bail!("older kernels run on x86_64 machines only; here, run `cargo xtask test kernel`");
    }
    let names = test::binaries("tests/tests", "kernel")?;
    if names.is_empty() {
        bail!(
            "no tests/tests/kernel_*.rs: booting {} would prove nothing",
            kernel.series()
        );
    }
    apt::ensure(&NEEDS, "boot an older kernel")?;
    build::objects()?;
    let image = kernel_image(kernel)?;
    let tests = static_tests(&names)?;
    let initramfs = folder().join("initramfs.cpio");
    fs::write(&initramfs, archive(&tests)?)
        .with_context(|| format!("write {}", initramfs.display()))?;
    boot(&image, &initramfs)
}

fn folder() -> PathBuf {
    workspace::target_dir().join("vm")
}

/// The kernel from Debian's package, unpacked and not installed.
fn kernel_image(kernel: Kernel) -> Result<PathBuf> {
    let folder = folder().join(kernel.series());
    if let Some(image) = image_in(&folder) {
        return Ok(image);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    apt::update_lists()?;
    let package = kernel_package(kernel)?;
    println!("fetching Debian's package {package}");
    process::run(
        Command::new("apt-get")
            // The download folder need not be open to apt's own user.
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&folder),
    )?;
    let archive = files_in(&folder)
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package in {}", folder.display()))?;
    process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&folder))?;
    image_in(&folder).with_context(|| format!("{package} holds no boot/vmlinuz"))
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

fn image_in(folder: &Path) -> Option<PathBuf> {
    files_in(&folder.join("boot")).into_iter().find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    })
}

/// The newest kernel of a series, by the package that always depends on it.
fn kernel_package(kernel: Kernel) -> Result<String> {
    let series = kernel.series();
    for meta in [
        format!("linux-image-{series}-cloud-amd64"),
        "linux-image-cloud-amd64".to_owned(),
    ] {
        let output = Command::new("apt-cache")
            .args(["depends", "--important", &meta])
            .output()
            .context("start `apt-cache`: older kernels come from Debian's archive")?;
        let depends = String::from_utf8_lossy(&output.stdout);
        if let Some(package) = dependency(&depends, series) {
            return Ok(package.to_owned());
        }
    }
    bail!(
        "the configured Debian archive has no cloud kernel {series}: \
         add the release or backports suite that carries it to apt's sources"
    );
}

/// The kernel of a series among the dependencies that `apt-cache depends` lists.
fn dependency<'a>(depends: &'a str, series: &str) -> Option<&'a str> {
    depends.lines().find_map(|line| {
        let package = line.trim().strip_prefix("Depends: ")?;
        let version = package.strip_prefix("linux-image-")?.strip_prefix(series)?;
        version.starts_with('.').then_some(package)
    })
}

/// Builds the test binaries without a dynamic linker to need.
fn static_tests(names: &[String]) -> Result<Vec<PathBuf>> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--package", "lb-tests"]);
    cargo.args([
        "--target",
        "x86_64-unknown-linux-gnu",
        "--message-format=json-render-diagnostics",
    ]);
    for name in names {
        cargo.args(["--test", name]);
    }
    let messages = process::capture(
        cargo
            .env(
                "RUSTFLAGS",
                "-Ctarget-feature=+crt-static -Cdebuginfo=0 -Cstrip=symbols",
            )
            .env("CARGO_TARGET_DIR", folder().join("build")),
    )?;
    let built = executables(&messages);
    if built.len() != names.len() {
        bail!(
            "cargo built {} test binaries where {} were asked for",
            built.len(),
            names.len()
        );
    }
    Ok(built)
}

/// The test binaries among cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["kind"][0] == "test")
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

fn archive(tests: &[PathBuf]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "tests", "tmp", "run"] {
        archive.folder(folder);
    }
    archive.program("init", INIT.as_bytes());
    archive.program("bin/busybox", &read(Path::new("/bin/busybox"))?);
    for (object, name) in [
        (Object::Normal, "steerage-bpf.o"),
        (Object::DebugLog, "steerage-bpf-debug.o"),
    ] {
        archive.file(name, &read(&object.path(Arch::host()))?);
    }
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("tests/{name}"), &read(test)?);
    }
    fixtures(&mut archive)?;
    Ok(archive.finish())
}

/// Adds `tests/fixtures` under its path on this machine, which the binaries have compiled in.
fn fixtures(archive: &mut Archive) -> Result<()> {
    let fixtures = workspace::root().join("tests/fixtures");
    if !fixtures.exists() {
        return Ok(());
    }
    let parents: Vec<&Path> = fixtures.ancestors().skip(1).collect();
    for parent in parents
        .into_iter()
        .rev()
        .filter(|path| path.parent().is_some())
    {
        archive.folder(&name_in_archive(parent));
    }
    let mut folders = vec![fixtures];
    while let Some(folder) = folders.pop() {
        archive.folder(&name_in_archive(&folder));
        for path in files_in(&folder) {
            if path.is_dir() {
                folders.push(path);
            } else {
                let data = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                archive.file(&name_in_archive(&path), &data);
            }
        }
    }
    Ok(())
}

fn name_in_archive(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// Boots, passes the serial line on, and reads the result from it.
fn boot(image: &Path, initramfs: &Path) -> Result<Counts> {
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2048", "-net", "none",
        ])
        .args([
            "-display",
            "none",
            "-monitor",
            "none",
            "-serial",
            "stdio",
            "-no-reboot",
        ])
        // A panic reboots at once, which `-no-reboot` makes the end. On a busy machine emulated
        // timers come too late for the check of them.
        .args([
            "-append",
            "console=ttyS0 quiet no_timer_check panic=-1 oops=panic",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let serial = child.stdout.take().context("qemu has no standard output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let clock = process::Stopwatch::start();
    let mut report = Report::default();
    let is_off = loop {
        match lines.recv_timeout(DEADLINE.saturating_sub(clock.elapsed())) {
            Ok(line) => {
                println!("vm: {line}");
                report.add_line(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    if !is_off {
        child.kill().context("stop qemu")?;
    }
    child.wait().context("wait for qemu")?;
    if !is_off {
        bail!(
            "the machine was not off after {} s; its last lines are above",
            DEADLINE.as_secs()
        );
    }
    report.counts()
}

/// What the serial line said.
#[derive(Debug, Default)]
struct Report {
    counts: Counts,
    is_ok: Option<bool>,
}

impl Report {
    fn add_line(&mut self, line: &str) {
        self.counts.add_line(line);
        // Kernel messages may share the line.
        if let Some((_, result)) = line.split_once(RESULT) {
            self.is_ok = Some(result.starts_with("ok"));
        }
    }

    /// The tests' sums; a machine that died without a result is an error, not a number.
    fn counts(mut self) -> Result<Counts> {
        match self.is_ok {
            None => bail!("the machine stopped before its tests ended; its last lines are above"),
            Some(false) if self.counts.failed == 0 => self.counts.failed = 1,
            Some(_) => {}
        }
        Ok(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(serial: &str) -> Result<Counts> {
        let mut report = Report::default();
        serial.lines().for_each(|line| report.add_line(line));
        report.counts()
    }

    #[test]
    fn the_serial_line_carries_the_counts_out() {
        let serial = "VM-KERNEL: 6.1.0\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                      test result: ok. 4 passed; 0 failed; 0 ignored\nVM-RESULT: ok\n";
        assert_eq!(
            report(serial).unwrap(),
            Counts {
                passed: 7,
                failed: 0
            }
        );
    }

    #[test]
    fn a_crashed_binary_is_a_failure() {
        assert_eq!(
            report("VM-RESULT: failed\n").unwrap(),
            Counts {
                passed: 0,
                failed: 1
            }
        );
    }

    #[test]
    fn a_machine_without_a_result_is_an_error() {
        report("test result: ok. 3 passed; 0 failed\nKernel panic - not syncing\n").unwrap_err();
    }

    #[test]
    fn the_kernel_of_a_series_is_found_among_dependencies() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.94-cloud-amd64\n";
        assert_eq!(
            dependency(depends, "6.12"),
            Some("linux-image-6.12.94-cloud-amd64")
        );
        assert_eq!(dependency(depends, "6.1"), None);
    }

    #[test]
    fn test_binaries_are_read_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["test"]},"executable":"/x/kernel_icmp"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), [PathBuf::from("/x/kernel_icmp")]);
    }
}
