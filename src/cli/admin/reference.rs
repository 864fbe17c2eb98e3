//! `portcullis admin reference …`

use super::output::{Lines, more};
use super::{Failure, Operators, read_text};
use crate::proto::admin::put_reference_sets_request::Sets;
use crate::proto::admin::*;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Put the sets of a file, each in place of the one of its name.
    ///
    /// Example: portcullis admin reference put reference-values.toml
    Put {
        /// TOML, or JSON where its name ends in `.json`.
        file: PathBuf,
        /// Let holds that rest on reference values go on.
        #[arg(long)]
        keep_latches: bool,
    },
    /// Remove a set.
    ///
    /// Example: portcullis admin reference remove payments-api-2026-11
    Remove {
        /// The set's name.
        name: String,
        /// Let holds that rest on reference values go on.
        #[arg(long)]
        keep_latches: bool,
    },
    /// List sets.
    ///
    /// Example: portcullis admin reference list --output json
    List {
        /// Where an earlier page said that more follow.
        #[arg(long, default_value = "")]
        after: String,
        /// At most so many.
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Put { file, keep_latches } => {
            let text = read_text(&file)?;
            let json = file.extension().is_some_and(|extension| extension == "json");
            let sets = Some(if json { Sets::Json(text) } else { Sets::Toml(text) });
            let request = PutReferenceSetsRequest { sets, keep_latches };
            operators.answer(operators.open().await?.put_reference_sets(request)).await
        }
        Command::Remove { name, keep_latches } => {
            let request = RemoveReferenceSetRequest { name, keep_latches };
            operators.answer(operators.open().await?.remove_reference_set(request)).await
        }
        Command::List { after, limit } => {
            let request = ListReferenceSetsRequest { after, limit };
            operators.answer(operators.open().await?.list_reference_sets(request)).await
        }
    }
}

impl Lines for ListReferenceSetsResponse {
    fn lines(&self) -> Vec<String> {
        let line = |set: &ReferenceSet| {
            let ended = if set.ended { " (ended)" } else { "" };
            format!("{} for {} until {}{ended}: {}", set.name, set.workload, set.not_after, set.json)
        };
        let mut lines: Vec<String> = self.sets.iter().map(line).collect();
        more(&mut lines, &self.next);
        lines
    }
}
