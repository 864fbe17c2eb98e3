//! `portcullis admin node …`

use super::output::{Lines, changed, more};
use super::{End, Failure, Operators, read_text};
use crate::proto::admin::enrol_node_request::PublicKey;
use crate::proto::admin::*;
use std::path::PathBuf;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Enrol a node: whose key it is, what it may vouch for, until when.
    ///
    /// Example: portcullis admin node enrol node-1 --public-key node-1.pem --days 90
    ///          --may-vouch-for 'spiffe://example.org/ns/payments/*'
    Enrol(Enrol),
    /// Remove a node: its word counts no more.
    ///
    /// Example: portcullis admin node remove node-1
    Remove {
        /// The node's name.
        name: String,
        /// Let holds that rest on this node go on.
        #[arg(long)]
        keep_latches: bool,
    },
    /// List nodes.
    ///
    /// Example: portcullis admin node list
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
pub(super) struct Enrol {
    /// The node's name, as its attester is configured.
    name: String,
    /// What `portcullis agent --print-public-key` printed there, in a file.
    #[arg(long)]
    public_key: PathBuf,
    #[command(flatten)]
    end: End,
    /// A SPIFFE ID that it may vouch for, or `…/*` for all below one; never all by default.
    #[arg(long, required = true)]
    may_vouch_for: Vec<String>,
    /// Hardware evidence that its statements must come with: FORMAT=HEX of nitro (PCR0), sev-snp (MEASUREMENT) or tdx (MRTD);
    /// several of one format are alternatives.
    #[arg(long = "measurement", value_name = "FORMAT=HEX")]
    measurements: Vec<String>,
    /// Take the place of an enrolment of this name.
    #[arg(long)]
    replace: bool,
    /// Let holds that rest on this node go on.
    #[arg(long)]
    keep_latches: bool,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Enrol(enrol) => {
            let request = EnrolNodeRequest {
                name: enrol.name,
                public_key: Some(PublicKey::Pem(read_text(&enrol.public_key)?)),
                not_after: enrol.end.text()?,
                may_vouch_for: enrol.may_vouch_for,
                measurements: enrol.measurements,
                replace: enrol.replace,
                keep_latches: enrol.keep_latches,
            };
            operators.answer(operators.open().await?.enrol_node(request)).await
        }
        Command::Remove { name, keep_latches } => {
            operators
                .answer(operators.open().await?.remove_node(RemoveNodeRequest { name, keep_latches }))
                .await
        }
        Command::List { after, limit } => {
            operators.answer(operators.open().await?.list_nodes(ListNodesRequest { after, limit })).await
        }
    }
}

impl Lines for EnrolNodeResponse {
    fn lines(&self) -> Vec<String> {
        changed(format!("enrolled, key sha256 {}", self.key_sha256), self.change.as_ref())
    }
}

impl Lines for ListNodesResponse {
    fn lines(&self) -> Vec<String> {
        let line = |node: &Node| {
            let ended = if node.ended { " (ended)" } else { "" };
            let patterns = node.may_vouch_for.join(" ");
            let with: Vec<String> =
                node.measurements.iter().map(|one| format!(", comes with {one}")).collect();
            format!(
                "{} until {}{ended} for {patterns}, key sha256 {}{}",
                node.name,
                node.not_after,
                node.key_sha256,
                with.concat()
            )
        };
        let mut lines: Vec<String> = self.nodes.iter().map(line).collect();
        more(&mut lines, &self.next);
        lines
    }
}
