//! `portcullis admin explain`.

use super::output::Lines;
use super::{Failure, Operators};
use crate::proto::admin::*;

/// Explain why an identity gets a secret, or does not; or why a recorded decision ended as it did (role `audit`).
///
/// Example: portcullis admin explain --identity spiffe://example.org/ns/payments/api --secret kv/payments/stripe
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// The identity.
    #[arg(long, required_unless_present = "decision", default_value = "")]
    identity: String,
    /// The secret's path.
    #[arg(long, required_unless_present = "decision", default_value = "")]
    secret: String,
    /// The decision id that the caller was told.
    #[arg(long)]
    decision: Option<String>,
}

pub(super) async fn run(command: Explain, operators: &Operators) -> Result<(), Failure> {
    let request = ExplainRequest {
        identity: command.identity,
        secret: command.secret,
        decision_id: command.decision.unwrap_or_default(),
    };
    operators.answer(operators.open().await?.explain(request)).await
}

impl Lines for ExplainResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.decision.iter().flat_map(decision).collect();
        if !self.findings.is_empty() {
            lines.push("As things stand now:".to_owned());
        }
        lines.extend(self.findings.iter().map(|finding| {
            let mark = if finding.obstacle { "!!" } else { "ok" };
            format!("  {mark} {}: {}", finding.subject, finding.words)
        }));
        for answer in &self.policy {
            lines.push(format!("Policy, for the claims of {}:", answer.claims_of));
            lines.extend(answer.words.lines().map(|line| format!("  {line}")));
        }
        match self.needed.is_empty() {
            true => lines.push("Nothing stands in the way.".to_owned()),
            false => lines.push("What would be needed:".to_owned()),
        }
        lines.extend(self.needed.iter().map(|words| format!("  - {words}")));
        lines
    }
}

fn decision(decision: &Decision) -> Vec<String> {
    let mut lines =
        vec![format!("Decision {} at {}: {}", decision.decision_id, decision.time, decision.outcome)];
    if !decision.denial.is_empty() {
        lines.push(format!("  {} ({}): {}", decision.denial, decision.class, decision.explanation));
    }
    let epochs: Vec<String> = decision.epochs.iter().map(|(name, epoch)| format!("{name} {epoch}")).collect();
    let facts = [
        ("the caller heard", decision.reason.clone()),
        ("stage", decision.stage.clone()),
        ("detail", decision.detail.clone()),
        ("identity", decision.identity.clone()),
        ("node", decision.node.clone()),
        ("secrets", decision.secrets.join(", ")),
        ("about", decision.refused_secret.clone()),
        ("rules", decision.rules.join(", ")),
        ("rested on", epochs.join(", ")),
        ("repeats", decision.repeats.clone()),
        ("claims", decision.claims.clone()),
    ];
    let known = facts.into_iter().filter(|(_, fact)| !fact.is_empty());
    lines.extend(known.map(|(name, fact)| format!("  {name}: {fact}")));
    lines
}
