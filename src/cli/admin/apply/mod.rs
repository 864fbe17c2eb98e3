//! `portcullis admin apply`: what a directory says, brought to the broker; what differs is shown first.
//!
//! *Takes* a directory. *Gives* the difference, and the broker made equal to it, call by call. *Denies* a directory with any fault
//! in it before anything is sent, a value in any file, and to go on past an error or past what waits for a second person.
//! *Source*: `deploy/apply.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod directory;
mod entries;
mod nodes;
mod plan;
mod reference;
mod report;
mod secrets;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use super::output::{Lines, json, printable};
use super::{Failure, Operators, Output};
use crate::proto::admin::admin_client::AdminClient;
use crate::time::{SystemTime, TimeSource};
use plan::{How, Plan};
use report::Report;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Bring what a directory says of secrets, policy, reference sets and nodes to the broker; what differs is shown first.
///
/// All of the directory is read and checked before anything is sent. A value of a secret stands in no file of it. Exit code 0: the
/// broker has what the directory says; 1: it differs (`--dry-run`), or something waits for a second person or for a value.
///
/// Example: portcullis admin apply deploy/apply --dry-run
///
/// Example: portcullis admin apply deploy/apply --prune --yes
#[derive(Debug, clap::Args)]
pub(super) struct Apply {
    /// The directory; `deploy/apply.md` says what stands in it.
    directory: PathBuf,
    /// Show what differs, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove reference sets and nodes that the directory lacks, of the kinds that it speaks of; secrets never.
    #[arg(long)]
    prune: bool,
    /// Do not ask.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Let holds go on that rest on what is changed.
    #[arg(long)]
    keep_latches: bool,
}

/// Whether a text is a file of secrets, of nodes, of reference sets. For the tests of the parsers: nothing else needs it.
#[doc(hidden)]
pub fn is_file_of(text: &str) -> [bool; 3] {
    let file = Path::new("applied.toml");
    [
        entries::secrets(file, text).is_ok(),
        entries::nodes(file, text).is_ok(),
        entries::sets(file, text).is_ok(),
    ]
}

pub(super) async fn run(apply: Apply, operators: &Operators) -> Result<(), Failure> {
    let wanted = directory::read(&apply.directory)?;
    let now = SystemTime.wall().ok_or_else(|| Failure::internal("the clock cannot be read"))?;
    let how = How { prune: apply.prune, keep_latches: apply.keep_latches, now };
    let mut client = operators.open().await?;
    let present = state::read(&wanted, operators, &mut client).await?;
    let plan = Plan::of(&wanted, &present, how)?;
    let mut report = Report::of(&plan, apply.dry_run);
    if apply.dry_run || plan.steps.is_empty() {
        operators.output.show(&report)?;
        return report.verdict();
    }
    if operators.output == Output::Text {
        report.lines().iter().for_each(|line| println!("{}", printable(line)));
    }
    if !apply.yes {
        confirm(&report, operators.output)?;
        // A person thinks longer than a network: what was shown must still be what there is.
        let present = state::read(&wanted, operators, &mut client).await?;
        if Plan::of(&wanted, &present, how)? != plan {
            return Err(Failure::no("another changed the broker meanwhile: nothing was sent; look again"));
        }
    }
    let failure = take(&plan, &mut report, operators, &mut client).await.err();
    if operators.output == Output::Json {
        println!("{}", json(&report)?);
    } else {
        report.ending().iter().for_each(|line| println!("{}", printable(line)));
    }
    failure.map_or_else(|| report.verdict(), Err)
}

/// Step by step. Ends at the first error, and before a phase that would go ahead of what waits.
async fn take(
    plan: &Plan,
    report: &mut Report,
    operators: &Operators,
    client: &mut AdminClient<super::link::Link>,
) -> Result<(), Failure> {
    let mut waits_in = None;
    for step in &plan.steps {
        if waits_in.is_some_and(|phase| phase < step.phase) {
            return Ok(());
        }
        let taken = step.take(operators, client).await.map_err(|failure| failure.at(&step.what))?;
        if !taken.proposal.is_empty() {
            waits_in.get_or_insert(step.phase);
        }
        if operators.output == Output::Text {
            println!("{}", printable(&report::line(&taken)));
        }
        report.add(taken);
    }
    Ok(())
}

/// Asks at the terminal; where there is none, `--yes` says it.
fn confirm(report: &Report, output: Output) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "standard input is no terminal to ask at: say --yes, or --dry-run to look",
        ));
    }
    if output == Output::Json {
        report.lines().iter().for_each(|line| eprintln!("{}", printable(line)));
    }
    eprint!("apply this? Type `yes`: ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::usage(error.to_string()))?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::no("nothing was sent")),
    }
}
