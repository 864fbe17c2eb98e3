//! `portcullis admin reference …`

use super::output::{Lines, changed, more};
use super::{End, Failure, Operators, read_bytes, read_text};
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
    /// Put the reference values of a signed CoRIM as sets. The broker verifies the signature.
    ///
    /// Example: portcullis admin reference import pay.corim --signer vendor.pem --format tdx --name pay-2026-11
    ///          --workload spiffe://example.org/ns/pay/* --not-after 2027-03-01T00:00:00Z --dry-run
    Import(Box<Import>),
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

#[derive(Debug, clap::Args)]
pub(super) struct Import {
    /// The signed CoRIM.
    file: PathBuf,
    /// The public key that signed it: JWK, or PEM or DER (SubjectPublicKeyInfo). Several: one of them did.
    #[arg(long, required = true)]
    signer: Vec<PathBuf>,
    /// The section that the values are for: a manifest does not say it.
    #[arg(long, value_parser = ["process", "tpm2", "nitro", "sev-snp", "tdx"])]
    format: String,
    /// The set's name; of several triples NAME-1, NAME-2, … by their place in the manifest.
    #[arg(long)]
    name: String,
    /// Whom the values speak of: a SPIFFE ID, or one and `/*`.
    #[arg(long)]
    workload: String,
    #[command(flatten)]
    end: End,
    /// Only this reference triple of the manifest, counted from 1; may be repeated. Else every one.
    #[arg(long)]
    triple: Vec<u32>,
    /// Go on where the manifest also holds what is no reference value (endorsements, keys, other tags).
    #[arg(long)]
    pass_over: bool,
    /// Change nothing: show what would be put, and how it differs from what is there.
    #[arg(long)]
    dry_run: bool,
    /// Let holds that rest on reference values go on.
    #[arg(long)]
    keep_latches: bool,
}

impl Import {
    fn request(self) -> Result<ImportReferenceSetsRequest, Failure> {
        Ok(ImportReferenceSetsRequest {
            corim: read_bytes(&self.file)?,
            signers: self.signer.iter().map(|path| read_bytes(path)).collect::<Result<_, _>>()?,
            format: self.format,
            name: self.name,
            workload: self.workload,
            not_after: self.end.text()?,
            triples: self.triple,
            pass_over: self.pass_over,
            dry_run: self.dry_run,
            keep_latches: self.keep_latches,
        })
    }
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
        Command::Import(import) => {
            let request = import.request()?;
            operators.answer(operators.open().await?.import_reference_sets(request)).await
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

impl Lines for ImportReferenceSetsResponse {
    fn lines(&self) -> Vec<String> {
        let (manifest, signer) = (&self.manifest, &self.signer);
        let by =
            format!("manifest `{manifest}`, signed by `{signer}`, key file sha256 {}", self.signer_sha256);
        let mut lines = vec![by];
        for set in &self.sets {
            let state = match (set.is_new, set.difference.is_empty()) {
                (true, _) => "new",
                (false, true) => "as it is stored",
                (false, false) => "changed",
            };
            lines.push(format!("{} of triple {} ({}): {state}", set.name, set.triple, set.environment));
            lines.extend(set.difference.iter().map(|line| format!("  {line}")));
        }
        lines.extend(self.passed_over.iter().map(|what| format!("not imported: {what}")));
        lines.extend(self.others.iter().map(|name| format!("stays in force for the same workload: {name}")));
        match &self.change {
            Some(change) => lines.extend(changed("done".to_owned(), Some(change))),
            None => lines.push("dry run: nothing was changed".to_owned()),
        }
        lines
    }
}
