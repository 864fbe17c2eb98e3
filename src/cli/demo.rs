//! `portcullis demo`: the main job on real processes, and eight ways in which nothing is released.
//!
//! *Takes* nothing but this program. *Gives* a broker, a node attester and a workload in a temporary directory, on loopback
//! ports that the system picks, and a table of what was released and what was not. *Denies* its success (exit 1) where any
//! outcome differs from what it should be. *Source*: `README.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod scenes;
mod stage;

use crate::cli::exit;
use crate::cli::serve::Signals;
use scenes::Outcome;
use stage::Stage;

/// Show the main job end to end: a release to an attested process, and denials explained.
///
/// Example: portcullis demo --keep
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave broker and attester running afterwards, until Ctrl-C, and print how to talk to them.
    #[arg(long)]
    pub keep: bool,
}

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A file, a directory or a process.
    #[error("{0}: {1}")]
    System(String, std::io::Error),
    /// Certificates or lists.
    #[error(transparent)]
    Ca(#[from] crate::cli::devca::CaError),
    /// What `init` makes.
    #[error(transparent)]
    Init(#[from] crate::cli::init::InitError),
    /// The node's key.
    #[error("the node's key: {0}")]
    NodeKey(String),
    /// A command that had to succeed did not.
    #[error("`{0}` failed: {1}")]
    Command(String, String),
    /// Something that had to happen did not, in time.
    #[error("{0}")]
    Waited(String),
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    match show(&args).await {
        Ok(true) => exit::OK,
        Ok(false) => DIFFERED,
        Err(error) => {
            eprintln!("portcullis: the demo could not go on: {error}");
            exit::INTERNAL
        }
    }
}

async fn show(args: &Args) -> Result<bool, DemoError> {
    let stage = Stage::set().await?;
    let outcomes = scenes::play(&stage).await?;
    let as_expected = print_table(&outcomes);
    if args.keep {
        let signals = Signals::listen();
        stage.print_how_to_talk();
        if let Ok(mut signals) = signals {
            signals.asked_to_end().await;
        }
    }
    Ok(as_expected)
}

fn print_table(outcomes: &[Outcome]) -> bool {
    println!(
        "\n{:<44} {:<9} {:<26} {:<24} {:>9}",
        "situation", "outcome", "caller heard", "audit log says", "time"
    );
    for outcome in outcomes {
        let verdict = if outcome.released { "released" } else { "denied" };
        let mark = if outcome.as_expected() { "" } else { "   <-- not as it should be" };
        println!(
            "{:<44} {verdict:<9} {:<26} {:<24} {:>6} ms{mark}",
            outcome.situation, outcome.heard, outcome.recorded, outcome.milliseconds
        );
    }
    let as_expected = outcomes.iter().all(Outcome::as_expected);
    println!("\n{}", if as_expected { "every outcome is as it should be" } else { "an outcome differs" });
    as_expected
}

/// An outcome differed from what it should be.
const DIFFERED: u8 = 1;
