//! `portcullis admin key …`

use super::output::{Lines, changed};
use super::{Failure, Operators};
use crate::proto::admin::*;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Start a term: what is written from now on is sealed under a new key.
    ///
    /// Example: portcullis admin key rotate
    Rotate,
    /// Seal everything anew in the current term, in the background; then the older keys are dropped.
    ///
    /// Example: portcullis admin key rewrap
    Rewrap,
    /// Lock the keys anew, with the source that the broker's configuration names as `key_source_next`.
    ///
    /// Example: portcullis admin key rekey
    Rekey,
    /// What opens the store, which terms there are, and how far a rewrap is.
    ///
    /// Example: portcullis admin key status
    Status,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Rotate => operators.answer(operators.open().await?.rotate_key(RotateKeyRequest {})).await,
        Command::Rewrap => operators.answer(operators.open().await?.rewrap_key(RewrapKeyRequest {})).await,
        Command::Rekey => operators.answer(operators.open().await?.rekey(RekeyRequest {})).await,
        Command::Status => operators.answer(operators.open().await?.key_status(KeyStatusRequest {})).await,
    }
}

impl Lines for RotateKeyResponse {
    fn lines(&self) -> Vec<String> {
        let what = format!("term {} has begun; `key rewrap` seals the rest in it", self.term);
        changed(what, self.change.as_ref())
    }
}

impl Lines for RewrapKeyResponse {
    fn lines(&self) -> Vec<String> {
        let dropped: Vec<String> = self.terms_to_drop.iter().map(u32::to_string).collect();
        let what = format!("sealing all anew in term {}, then dropping {}", self.term, dropped.join(", "));
        changed(what, self.change.as_ref())
    }
}

impl Lines for RekeyResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = changed(format!("opened by {} from now on", self.locked_with), self.change.as_ref());
        lines.push("name that source as `key_source` before the next restart but one".to_owned());
        lines
    }
}

impl Lines for KeyStatusResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("opened by {}", self.locked_with)];
        if !self.next_source.is_empty() {
            lines.push(format!("`key rekey` would move to: {}", self.next_source));
        }
        lines.extend(self.terms.iter().map(|one| {
            let current = if one.term == self.term { " (current)" } else { "" };
            format!("term {}{current}: {} records", one.term, one.records)
        }));
        if self.rewrapping {
            lines.push(format!("rewrap under way: {} records sealed anew", self.sealed_anew));
        }
        lines.extend(self.stuck.iter().map(|why| format!("rewrap: {why}")));
        lines
    }
}
