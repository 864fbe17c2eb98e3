//! Answers as text for a person, or as JSON for a program.
#![allow(clippy::print_stdout, reason = "a command speaks to its terminal")]

use super::Failure;
use crate::proto::admin::ChangeResponse;
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// Lines for a person.
pub(super) trait Lines {
    fn lines(&self) -> Vec<String>;
}

impl Output {
    /// Prints an answer.
    pub(super) fn show<T: Serialize + Lines>(self, answer: &T) -> Result<(), Failure> {
        match self {
            Output::Text => answer.lines().iter().for_each(|line| println!("{}", printable(line))),
            Output::Json => println!("{}", json(answer)?),
        }
        Ok(())
    }
}

pub(super) fn json<T: Serialize>(answer: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(answer).map_err(|error| Failure::internal(error.to_string()))
}

/// What was stored by others must not command the terminal.
pub(super) fn printable(line: &str) -> String {
    line.chars().map(|one| if one.is_control() && one != '\t' { '\u{fffd}' } else { one }).collect()
}

/// "done", with the record and the latches that ended.
pub(super) fn changed(what: String, change: Option<&ChangeResponse>) -> Vec<String> {
    let Some(change) = change else { return vec![what] };
    if !change.proposal.is_empty() {
        return vec![waits(&change.proposal)];
    }
    let mut lines = vec![format!("{what} (record {})", change.record)];
    lines.extend(change.latches_ended.iter().map(|key| {
        format!("ended the latch on {} for {}", key.identity, or(&key.secret, "every new subject"))
    }));
    lines.extend(change.shares.iter().map(|one| format!("for {}: {}", one.holder, one.share)));
    if !change.shares.is_empty() {
        lines.push("they are shown once; each holder opens its own (`portcullis holder open`) and reads it back (`portcullis admin key confirm`): until then the store opens as before".to_owned());
    }
    lines
}

/// What is said where nothing was changed yet.
pub(super) fn waits(proposal: &str) -> String {
    format!(
        "proposed {proposal}: nothing is changed until another administrator runs: portcullis admin pending approve {proposal}"
    )
}

/// A text, or what stands for an empty one.
pub(super) fn or<'a>(text: &'a str, empty: &'a str) -> &'a str {
    if text.is_empty() { empty } else { text }
}

impl Lines for ChangeResponse {
    fn lines(&self) -> Vec<String> {
        changed("done".to_owned(), Some(self))
    }
}

/// The line that says that there is more.
pub(super) fn more(lines: &mut Vec<String>, next: &str) {
    if !next.is_empty() {
        lines.push(format!("more follow: --after {next}"));
    }
}
