//! Programs run to their end: output captured, failure turned into an error that shows it.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::clock;

/// Runs `command` with `input` on its standard input and returns what it printed.
///
/// A non-zero exit is an error with the command line and its standard error.
pub fn run(command: &mut Command, input: &str) -> Result<String> {
    let output = output(command, input)?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            numbered(input),
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `command` with `input` on its standard input, whatever its exit status.
pub fn output(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?} (is its package installed?)"))?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        // A thread of its own, so that a child that fills its output before it reads its input
        // cannot block us both. A child that ends early breaks the pipe; its exit status says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes()).ok()));
        child
            .wait_with_output()
            .with_context(|| format!("wait for {command:?}"))
    })
}

/// Runs a batch of `ip` commands, one a line, inside the namespace called `namespace`.
pub fn ip(namespace: &str, batch: &str) -> Result<String> {
    run(
        Command::new("ip").args(["-n", namespace, "-batch", "-"]),
        batch,
    )
}

/// Waits until the kernel has taken `device` into use.
///
/// A device that was set up has its carrier noticed later, up to a second when many come at once;
/// until then it silently drops what is sent through it.
pub fn await_device(namespace: &str, device: &str) -> Result<()> {
    let what = format!("{device} in {namespace} is up");
    clock::eventually(&what, Duration::from_secs(10), || {
        let state = ["-n", namespace, "-brief", "link", "show", "dev", device];
        let state = run(Command::new("ip").args(state), "")?;
        Ok(state
            .split_whitespace()
            .nth(1)
            .is_some_and(|word| word == "UP")
            .then_some(()))
    })
}

/// The input with line numbers, since that is what `ip -batch` and `nft -f` refer to.
fn numbered(input: &str) -> String {
    let mut text = String::new();
    for (line, number) in input.lines().zip(1..) {
        // Writing to a string cannot fail.
        write!(text, "\n{number:5} {line}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_a_program_is_returned_and_its_input_delivered() {
        let text = run(&mut Command::new("cat"), "one\ntwo\n").expect("cat succeeds");
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_failing_program_is_an_error_with_its_message_and_numbered_input() {
        let error = run(
            Command::new("sh").args(["-c", "echo broken >&2; exit 3"]),
            "first",
        )
        .expect_err("exit status 3")
        .to_string();
        assert!(
            error.contains("broken") && error.contains("exit status: 3"),
            "{error}"
        );
        assert!(error.ends_with("    1 first"), "{error}");
    }
}
