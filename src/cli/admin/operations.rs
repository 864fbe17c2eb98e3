//! `portcullis admin latch|lease|revoke|unrevoke|revocation …`

use super::output::{Lines, changed, more, or};
use super::{Failure, Operators};
use crate::proto::admin::{revoke_request, unrevoke_request, *};

#[derive(Debug, clap::Subcommand)]
pub(super) enum LatchCommand {
    /// List refusals that still hold.
    ///
    /// Example: portcullis admin latch list --identity spiffe://example.org/ns/payments/api
    List {
        /// Only of this identity.
        #[arg(long, default_value = "")]
        identity: String,
        /// Also those that have ended and are not forgotten.
        #[arg(long)]
        ended: bool,
    },
    /// End refusals of an identity before their time.
    ///
    /// Example: portcullis admin latch clear spiffe://example.org/ns/payments/api --secret kv/payments/stripe
    Clear {
        /// The identity.
        identity: String,
        /// Only of this subject.
        #[arg(long, default_value = "")]
        subject: String,
        /// Only for this secret.
        #[arg(long, default_value = "")]
        secret: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum LeaseCommand {
    /// List leases that stand.
    ///
    /// Example: portcullis admin lease list --secret kv/payments/stripe
    List {
        /// Only of this identity.
        #[arg(long, default_value = "")]
        identity: String,
        /// Only of this secret.
        #[arg(long, default_value = "")]
        secret: String,
    },
    /// End a lease before its time.
    ///
    /// Example: portcullis admin lease revoke 5f3f1c2e7f0f4e0c9d530f5f6a2b7c11 --why 'host taken'
    Revoke {
        /// The lease's id.
        id: String,
        /// Why, for the audit log.
        #[arg(long)]
        why: String,
    },
}

/// Whom an act is about.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Whom {
    /// A SPIFFE ID, or `…/*` for all below one.
    #[arg(long)]
    identity: Option<String>,
    /// SHA-256 of a leaf's SPKI, hex.
    #[arg(long)]
    key: Option<String>,
}

/// Deny an identity or a key from now on, and end all its leases.
///
/// Example: portcullis admin revoke --identity spiffe://example.org/ns/payments/api --why 'host taken'
#[derive(Debug, clap::Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    whom: Whom,
    /// Why, for the audit log.
    #[arg(long)]
    why: String,
}

/// Lift a revocation.
///
/// Example: portcullis admin unrevoke --identity spiffe://example.org/ns/payments/api
#[derive(Debug, clap::Args)]
pub(super) struct Unrevoke {
    #[command(flatten)]
    whom: Whom,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum RevocationCommand {
    /// List the broker's own revocations.
    ///
    /// Example: portcullis admin revocation list
    List {
        /// Where an earlier page said that more follow.
        #[arg(long, default_value = "")]
        after: String,
        /// At most so many.
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
}

pub(super) async fn latch(command: LatchCommand, operators: &Operators) -> Result<(), Failure> {
    match command {
        LatchCommand::List { identity, ended } => {
            let request = ListLatchesRequest { identity, ended };
            operators.answer(operators.open().await?.list_latches(request)).await
        }
        LatchCommand::Clear { identity, subject, secret } => {
            let request = ClearLatchRequest { identity, subject, secret };
            operators.answer(operators.open().await?.clear_latch(request)).await
        }
    }
}

pub(super) async fn lease(command: LeaseCommand, operators: &Operators) -> Result<(), Failure> {
    match command {
        LeaseCommand::List { identity, secret } => {
            let request = ListLeasesRequest { identity, secret };
            operators.answer(operators.open().await?.list_leases(request)).await
        }
        LeaseCommand::Revoke { id, why } => {
            operators.answer(operators.open().await?.revoke_lease(RevokeLeaseRequest { id, why })).await
        }
    }
}

pub(super) async fn revoke(command: Revoke, operators: &Operators) -> Result<(), Failure> {
    use revoke_request::Whom as Asked;
    let Revoke { whom, why } = command;
    let whom = whom.identity.map(Asked::Identity).or(whom.key.map(Asked::KeySha256));
    operators.answer(operators.open().await?.revoke(RevokeRequest { whom, why })).await
}

pub(super) async fn unrevoke(command: Unrevoke, operators: &Operators) -> Result<(), Failure> {
    use unrevoke_request::Whom as Asked;
    let whom = command.whom.identity.map(Asked::Identity).or(command.whom.key.map(Asked::KeySha256));
    operators.answer(operators.open().await?.unrevoke(UnrevokeRequest { whom })).await
}

pub(super) async fn revocations(command: RevocationCommand, operators: &Operators) -> Result<(), Failure> {
    let RevocationCommand::List { after, limit } = command;
    operators.answer(operators.open().await?.list_revocations(ListRevocationsRequest { after, limit })).await
}

impl Lines for ListLatchesResponse {
    fn lines(&self) -> Vec<String> {
        let line = |latch: &Latch| {
            let (subject, about) = match &latch.key {
                Some(key) => (
                    or(&key.subject, "every new one"),
                    format!("{} {}", key.identity, or(&key.secret, "all secrets")),
                ),
                None => ("", String::new()),
            };
            format!(
                "{about} until {} ({} s) subject {subject} refusal {} rests on {}",
                latch.until,
                latch.length_ms / 1000,
                latch.record,
                latch.rests_on.join(", ")
            )
        };
        let mut lines: Vec<String> = self.latches.iter().map(line).collect();
        left_out(&mut lines, self.more);
        lines
    }
}

impl Lines for ClearLatchResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("cleared {} (record {})", self.cleared.len(), self.record)];
        lines.extend(
            self.cleared.iter().map(|key| format!("{} {} {}", key.identity, key.secret, key.subject)),
        );
        lines
    }
}

impl Lines for ListLeasesResponse {
    fn lines(&self) -> Vec<String> {
        let line = |lease: &Lease| {
            let secret = |secret: &LeasedSecret| format!("{}@{}", secret.path, secret.version);
            let secrets: Vec<String> = lease.secrets.iter().map(secret).collect();
            let secrets = secrets.join(",");
            format!(
                "{} {} {secrets} until {} decision {}",
                lease.id, lease.identity, lease.not_after, lease.decision_id
            )
        };
        let mut lines: Vec<String> = self.leases.iter().map(line).collect();
        left_out(&mut lines, self.more);
        lines
    }
}

impl Lines for RevokeLeaseResponse {
    fn lines(&self) -> Vec<String> {
        vec![format!("revoked (record {})", self.record)]
    }
}

impl Lines for RevokeResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = changed("revoked".to_owned(), self.change.as_ref());
        lines.extend(self.leases_ended.iter().map(|id| format!("ended lease {id}")));
        lines
    }
}

impl Lines for ListRevocationsResponse {
    fn lines(&self) -> Vec<String> {
        let line = |one: &Revocation| match one.identity.as_str() {
            "" => format!("key {}: {}", one.key_sha256, one.why),
            identity => format!("{identity}: {}", one.why),
        };
        let mut lines: Vec<String> = self.revocations.iter().map(line).collect();
        more(&mut lines, &self.next);
        lines
    }
}

fn left_out(lines: &mut Vec<String>, more: u64) {
    if more > 0 {
        lines.push(format!("and {more} more: narrow it down"));
    }
}
