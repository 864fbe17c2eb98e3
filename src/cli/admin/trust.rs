//! `portcullis admin status`, `clock|crl|bundle accept`.

use super::output::{Lines, or, waits};
use super::{Failure, Operators, read_text};
use crate::proto::admin::accept_crl_request::Issuer;
use crate::proto::admin::*;
use std::path::PathBuf;

/// Show how the broker stands: trust with the freshness left, audit, clock, epochs, counts.
///
/// Example: portcullis admin status --output json
#[derive(Debug, clap::Args)]
pub(super) struct Status {}

#[derive(Debug, clap::Subcommand)]
pub(super) enum ClockCommand {
    /// Say that the broker's wall clock is right as it is.
    ///
    /// Example: portcullis admin clock accept
    Accept,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum CrlCommand {
    /// Take a trust domain's lists even where their numbers went back: for a rebuilt CA.
    ///
    /// Example: portcullis admin crl accept example.org --issuer new-ca.pem
    Accept {
        /// The trust domain.
        trust_domain: String,
        /// The certificate of the CA that signs the lists, PEM.
        #[arg(long)]
        issuer: PathBuf,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum BundleCommand {
    /// Take a trust domain's bundle even where its sequence went back: for a rebuilt SPIFFE server.
    ///
    /// Example: portcullis admin bundle accept example.org
    Accept {
        /// The trust domain.
        trust_domain: String,
    },
}

pub(super) async fn status(_command: Status, operators: &Operators) -> Result<(), Failure> {
    operators.answer(operators.open().await?.status(StatusRequest {})).await
}

pub(super) async fn clock(command: ClockCommand, operators: &Operators) -> Result<(), Failure> {
    let ClockCommand::Accept = command;
    operators.answer(operators.open().await?.accept_clock(AcceptClockRequest {})).await
}

pub(super) async fn crl(command: CrlCommand, operators: &Operators) -> Result<(), Failure> {
    let CrlCommand::Accept { trust_domain, issuer } = command;
    let issuer = Some(Issuer::Pem(read_text(&issuer)?));
    operators.answer(operators.open().await?.accept_crl(AcceptCrlRequest { trust_domain, issuer })).await
}

pub(super) async fn bundle(command: BundleCommand, operators: &Operators) -> Result<(), Failure> {
    let BundleCommand::Accept { trust_domain } = command;
    operators.answer(operators.open().await?.accept_bundle(AcceptBundleRequest { trust_domain })).await
}

impl Lines for StatusResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("portcullis {}", self.version)];
        for domain in &self.trust_domains {
            lines.push(format!("trust domain {} (epoch {})", domain.name, domain.epoch));
            lines.extend(domain.bundle.iter().map(|input| format!("  bundle: {}", described(input))));
            lines.extend(domain.revocation.iter().map(|input| format!("  revocation: {}", described(input))));
        }
        if let Some(audit) = &self.audit {
            let health = if audit.healthy { "written" } else { "CANNOT BE WRITTEN: everything is denied" };
            lines.push(format!("audit log: {health}, {} records", audit.records));
        }
        if let Some(clock) = &self.clock {
            lines.push(format!("clock: {} at {}", or(&clock.suspect, "trusted"), clock.time));
        }
        for name in ["nodes", "reference", "policy", "revocations"] {
            if !self.epochs.contains_key(name) {
                lines.push(format!("{name}: CANNOT BE READ: everything is denied"));
            }
        }
        if self.restore_not_accepted {
            lines.push(
                "RESTORED AND NOT ACCEPTED: everything is denied until `admin restore accept`".to_owned(),
            );
        }
        let shared = self.two_persons.join(", ");
        lines.push(format!("changes that wait for a second person: {}", or(&shared, "none")));
        let counts: Vec<String> = self.counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        lines.push(format!("counts: {}", counts.join(", ")));
        lines
    }
}

impl Lines for AcceptClockResponse {
    fn lines(&self) -> Vec<String> {
        vec![format!("accepted as {} (record {})", self.time, self.record)]
    }
}

impl Lines for AcceptResponse {
    fn lines(&self) -> Vec<String> {
        if !self.proposal.is_empty() {
            return vec![waits(&self.proposal)];
        }
        let mut lines = vec![format!("accepted (record {})", self.record)];
        lines.extend(self.accepted.iter().cloned());
        lines
    }
}

fn described(input: &Input) -> String {
    match input.usable_for_ms {
        Some(0) => format!("NOT USABLE, {}", input.state),
        Some(left) => format!("{}, for {} s more", input.state, left / 1000),
        None => input.state.clone(),
    }
}
