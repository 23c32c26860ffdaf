//! `matome completions`: a script for the shell, from the command line itself.

use std::io;

use clap::CommandFactory as _;
use clap_complete::aot;

use crate::cli::{Cli, CompletionsArgs, Shell};
use crate::failure::Failure;
use crate::output::printed;

pub fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut Cli::command(), "matome", &mut script);
    printed(io::Write::write_all(&mut io::stdout(), &script))
}
