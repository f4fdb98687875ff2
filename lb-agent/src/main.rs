//! `steerage`: the node agent, and the tool that shows, explains and checks what the kernel does.

use std::process::ExitCode;

fn main() -> ExitCode {
    lb_agent::cli::main(std::env::args_os())
}
