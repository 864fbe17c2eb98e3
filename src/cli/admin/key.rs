//! `portcullis admin key …`

use super::output::{Lines, changed};
use super::{Failure, Operators};
use crate::cli::terminal;
use crate::proto::admin::*;
use std::io::{IsTerminal, Read};
use zeroize::Zeroizing;

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
    /// To shares: name each holder's key (`portcullis holder new`). The shares are dealt, and lock the store once enough holders
    /// have read theirs back.
    ///
    /// Example: portcullis admin key rekey
    /// Example: portcullis admin key rekey --threshold 2 --holder ada=pch1-… --holder bob=pch1-… --holder eve=pch1-…
    Rekey {
        /// To shares: a holder's name and public key, NAME=pch1-…; once for each share.
        #[arg(long = "holder", value_name = "NAME=KEY")]
        holders: Vec<String>,
        /// To shares: how many of them open the store.
        #[arg(long, default_value_t = 0)]
        threshold: u8,
    },
    /// Read back a share that was dealt by `rekey`, asked for at the terminal or read from standard input.
    ///
    /// Example: portcullis admin key confirm
    Confirm,
    /// Give a sealed broker one share, asked for at the terminal or read from standard input.
    ///
    /// Example: portcullis admin key unseal
    Unseal,
    /// What opens the store, which terms there are, and how far a rewrap is.
    ///
    /// Example: portcullis admin key status
    Status,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Rotate => operators.answer(operators.open().await?.rotate_key(RotateKeyRequest {})).await,
        Command::Rewrap => operators.answer(operators.open().await?.rewrap_key(RewrapKeyRequest {})).await,
        Command::Rekey { holders, threshold } => {
            let request = RekeyRequest { holders: named(&holders)?, threshold: threshold.into() };
            operators.answer(operators.open().await?.rekey(request)).await
        }
        Command::Confirm => {
            let share = share().map_err(|error| Failure::usage(format!("the share: {error}")))?;
            let request = ConfirmRekeyRequest { share: share.to_string() };
            operators.answer(operators.open().await?.confirm_rekey(request)).await
        }
        Command::Unseal => unseal(operators).await,
        Command::Status => operators.answer(operators.open().await?.key_status(KeyStatusRequest {})).await,
    }
}

fn named(holders: &[String]) -> Result<Vec<ShareHolder>, Failure> {
    let split = |text: &String| {
        let (name, key) = text.split_once('=')?;
        Some(ShareHolder { name: name.to_owned(), key: key.to_owned() })
    };
    let all: Option<Vec<ShareHolder>> = holders.iter().map(split).collect();
    all.ok_or_else(|| Failure::usage("a holder is NAME=pch1-…".to_owned()))
}

/// A share is never an argument: every process of the machine can read those.
async fn unseal(operators: &Operators) -> Result<(), Failure> {
    let share = share().map_err(|error| Failure::usage(format!("the share: {error}")))?;
    let request = UnsealRequest { share: share.to_string() };
    let answered = operators.open_sealed().await?.unseal(request).await;
    match answered {
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Err(Failure::no("the broker is not sealed; nothing was done with the share"))
        }
        answered => operators.answer(std::future::ready(answered)).await,
    }
}

fn share() -> std::io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(SHARE_BYTES));
    if std::io::stdin().is_terminal() {
        bytes = terminal::ask("share", SHARE_BYTES)?;
    } else {
        let bound = u64::try_from(SHARE_BYTES).unwrap_or(0);
        std::io::stdin().lock().take(bound).read_to_end(&mut bytes)?;
    }
    let text = std::str::from_utf8(&bytes).map_err(std::io::Error::other)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// A share has some 125 characters.
const SHARE_BYTES: usize = 512;

impl Lines for UnsealResponse {
    fn lines(&self) -> Vec<String> {
        match self.unsealed {
            true => vec!["unsealed; the broker starts".to_owned()],
            false => vec![format!("{} of {} shares are in", self.have, self.needed)],
        }
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
        if self.change.as_ref().is_some_and(|change| !change.shares.is_empty()) {
            return changed("shares were dealt".to_owned(), self.change.as_ref());
        }
        let mut lines = changed(format!("opened by {} from now on", self.locked_with), self.change.as_ref());
        if self.locked_with.is_empty() {
            return lines;
        }
        lines.push(
            "until the configuration names that source as `key_source`, leave `key_source_next` in it"
                .to_owned(),
        );
        lines
    }
}

impl Lines for ConfirmRekeyResponse {
    fn lines(&self) -> Vec<String> {
        if self.locked_with.is_empty() {
            return vec![format!("{} of {} shares were read back", self.have, self.needed)];
        }
        changed(format!("opened by {} from now on", self.locked_with), self.change.as_ref())
    }
}

impl Lines for KeyStatusResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("opened by {}", self.locked_with)];
        if !self.next_source.is_empty() {
            lines.push(format!("`key rekey` would move to: {}", self.next_source));
        }
        if !self.dealt.is_empty() {
            lines.push(format!("dealt, and not in force yet: {}", self.dealt));
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
