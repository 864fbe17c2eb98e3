//! `portcullis admin pending …`, `portcullis admin two-persons …`

use super::output::Lines;
use super::{Failure, Operators};
use crate::proto::admin::*;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List changes that wait for a second person.
    ///
    /// Example: portcullis admin pending list
    List,
    /// Show a change as it was asked for.
    ///
    /// Example: portcullis admin pending show 5f3f1c2e7f0f4e0c9d530f5f6a2b7c11
    Show {
        /// The proposal's id.
        id: String,
    },
    /// Approve a change that another proposed: it is made, as it was proposed, or not at all.
    ///
    /// Example: portcullis admin pending approve 5f3f1c2e7f0f4e0c9d530f5f6a2b7c11
    Approve {
        /// The proposal's id.
        id: String,
        /// The SHA-256 that `show` printed, where it was looked at elsewhere.
        #[arg(long, default_value = "")]
        sha256: String,
    },
    /// Reject a change that another proposed.
    ///
    /// Example: portcullis admin pending reject 5f3f1c2e7f0f4e0c9d530f5f6a2b7c11 --why 'too wide'
    Reject {
        /// The proposal's id.
        id: String,
        /// Why, for the audit log.
        #[arg(long)]
        why: String,
    },
    /// Withdraw a change that you proposed.
    ///
    /// Example: portcullis admin pending withdraw 5f3f1c2e7f0f4e0c9d530f5f6a2b7c11
    Withdraw {
        /// The proposal's id.
        id: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum TwoPersonsCommand {
    /// Let changes wait for a second person, in every role that two persons have.
    ///
    /// Example: portcullis admin two-persons on
    On,
    /// Do without, once another administrator has approved it.
    ///
    /// Example: portcullis admin two-persons off
    Off,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::List => operators.answer(operators.open().await?.list_pending(ListPendingRequest {})).await,
        Command::Show { id } => {
            operators.answer(operators.open().await?.show_pending(ShowPendingRequest { id })).await
        }
        Command::Approve { id, sha256 } => {
            let request = ApprovePendingRequest { id, sha256 };
            operators.answer(operators.open().await?.approve_pending(request)).await
        }
        Command::Reject { id, why } => {
            operators.answer(operators.open().await?.reject_pending(RejectPendingRequest { id, why })).await
        }
        Command::Withdraw { id } => {
            operators.answer(operators.open().await?.withdraw_pending(WithdrawPendingRequest { id })).await
        }
    }
}

pub(super) async fn two_persons(command: TwoPersonsCommand, operators: &Operators) -> Result<(), Failure> {
    let on = matches!(command, TwoPersonsCommand::On);
    operators.answer(operators.open().await?.set_two_persons(SetTwoPersonsRequest { on })).await
}

impl Lines for ListPendingResponse {
    fn lines(&self) -> Vec<String> {
        self.proposals.iter().map(line).collect()
    }
}

impl Lines for ShowPendingResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.proposal.iter().map(line).collect();
        lines.extend(self.proposal.iter().map(|one| format!("sha256 {}", one.sha256)));
        lines.push(format!("details {}", self.details));
        // JSON has no line breaks but its own, so texts are shown as they will be.
        let request =
            serde_json::from_str(&self.request).map_or_else(|_| vec![self.request.clone()], written);
        lines.extend(request);
        lines
    }
}

/// Each member on a line; a text of several lines as it is, indented.
fn written(request: serde_json::Value) -> Vec<String> {
    let mut lines = Vec::new();
    let serde_json::Value::Object(members) = request else { return vec![request.to_string()] };
    for (name, value) in members {
        match value {
            serde_json::Value::String(text) if text.contains('\n') => {
                lines.push(format!("{name}:"));
                lines.extend(text.lines().map(|line| format!("    {line}")));
            }
            serde_json::Value::Object(_) => {
                lines.push(format!("{name}:"));
                lines.extend(written(value).into_iter().map(|line| format!("    {line}")));
            }
            other => lines.push(format!("{name}: {other}")),
        }
    }
    lines
}

fn line(one: &Proposal) -> String {
    let ended = if one.ended { " (ended)" } else { "" };
    format!(
        "{} {} {} by {} at {} until {}{ended}, to be approved by {}",
        one.id,
        one.verb,
        one.target,
        one.proposed_by,
        one.proposed,
        one.expires,
        one.approvers.join(" or ")
    )
}
