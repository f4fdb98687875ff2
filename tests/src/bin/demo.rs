//! `demo`: shows on one machine what Steerage does, and cleans up after itself.

use std::process::ExitCode;

use clap::Parser;
use lb_tests::{
    demo::{self, Screen},
    lab::CniShape,
};

/// Three nodes, one agent each, real traffic: balanced, changed under load, killed, removed.
#[derive(Debug, Parser)]
struct Options {
    /// How pods and nodes are connected: routed, bridge, bridge-without-br-netfilter or vxlan.
    #[arg(long, default_value = "routed")]
    shape: CniShape,
    /// Connections made to each Service when the spread is shown.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    connections: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut screen = Screen::new();
    match demo::run(options.shape, options.connections, &mut screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
