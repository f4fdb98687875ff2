//! `steerage completions` and `steerage man`: made from the command line's own definition.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::Shell;

use super::error::{CliError, while_doing};
use super::output::{say, show_once};

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  steerage completions bash > /etc/bash_completion.d/steerage
  steerage completions zsh > ~/.zfunc/_steerage";
const MAN_EXAMPLES: &str = "\
Examples:
  steerage man | man -l -
  steerage man --dir /usr/local/share/man/man1";

/// Arguments of `completions`.
#[derive(Args, Debug)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
#[command(after_help = MAN_EXAMPLES)]
pub(crate) struct ManArgs {
    /// Write one page for each command into this directory, instead of the main one to stdout
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "steerage", &mut text);
    show_once(text)
}

pub(crate) fn man(args: &ManArgs) -> Result<(), CliError> {
    let mut command = super::command();
    command.build();
    let Some(directory) = &args.dir else {
        let text = page(&command).map_err(while_doing("writing the manual page"))?;
        return show_once(text);
    };
    std::fs::create_dir_all(directory)
        .and_then(|()| write_pages(directory, &command, "steerage"))
        .map_err(while_doing(format!(
            "writing manual pages to {}",
            directory.display()
        )))?;
    say(&format!("manual pages written to {}", directory.display()));
    Ok(())
}

fn page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    Ok(text)
}

/// Writes the page of `command` as `name`.1, and those of all below it.
fn write_pages(directory: &Path, command: &clap::Command, name: &str) -> io::Result<()> {
    let text = page(&command.clone().display_name(name.to_owned()))?;
    std::fs::write(directory.join(format!("{name}.1")), text)?;
    for subcommand in command.get_subcommands() {
        if subcommand.get_name() != "help" {
            let name = format!("{name}-{}", subcommand.get_name());
            write_pages(directory, subcommand, &name)?;
        }
    }
    Ok(())
}
