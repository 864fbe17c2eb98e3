//! `portcullis admin …`: the operators' command line, over the operators' API alone.
//!
//! *Takes* a verb and its arguments. *Gives* text or JSON, and an exit code (see `cli::exit`); 1 where the
//! answer is a plain no (not there, already there, a check that fails). *Denies* by the code that says which kind of no it
//! was. *Source*: `admin.proto`; the issue, point 1.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod administrator;
mod apply;
mod backup;
mod collateral;
mod explain;
mod failure;
mod key;
mod link;
mod node;
mod operations;
mod output;
mod pending;
mod policy;
mod reference;
mod secret;
mod trust;
mod value;

#[doc(hidden)]
pub use apply::is_file_of;
pub use failure::Failure;
pub use link::{ConnectionArgs, Operators};
pub use output::Output;

use crate::cli::exit;
use crate::time::{SystemTime, TimeSource, WallTime};

/// Operate a broker: secrets, policy, reference sets, nodes, latches, leases, revocations, administrators.
///
/// Example: portcullis admin --admin-address 127.0.0.1:8444 --admin-cert ada.pem --admin-key ada.key --bundle
///          bundle.pem --broker-id spiffe://example.org/portcullis status
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// How to print answers.
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put, list, describe, configure, disable, enable and destroy secrets; no command shows a value.
    #[command(subcommand)]
    Secret(secret::Command),
    /// Put and show the policies; check and test them without a broker.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Put, import, list and remove reference sets.
    #[command(subcommand)]
    Reference(reference::Command),
    /// Enrol, list and remove nodes.
    #[command(subcommand)]
    Node(node::Command),
    /// List and clear latches.
    #[command(subcommand)]
    Latch(operations::LatchCommand),
    /// List and revoke leases.
    #[command(subcommand)]
    Lease(operations::LeaseCommand),
    Revoke(operations::Revoke),
    Unrevoke(operations::Unrevoke),
    /// List revocations.
    #[command(subcommand)]
    Revocation(operations::RevocationCommand),
    /// Accept the clock as it is.
    #[command(subcommand)]
    Clock(trust::ClockCommand),
    /// Accept revocation lists whose numbers went back.
    #[command(subcommand)]
    Crl(trust::CrlCommand),
    /// Accept a bundle whose sequence went back.
    #[command(subcommand)]
    Bundle(trust::BundleCommand),
    /// Show, refresh and import vendors' certificates, lists and statements for hardware evidence.
    #[command(subcommand)]
    Collateral(collateral::Command),
    Status(trust::Status),
    Explain(explain::Explain),
    /// Put, list and remove administrators.
    #[command(subcommand)]
    Administrator(administrator::Command),
    /// Rotate, rewrap and rekey the store's own keys.
    #[command(subcommand)]
    Key(key::Command),
    Backup(backup::Backup),
    /// Show and accept a restore.
    #[command(subcommand)]
    Restore(backup::RestoreCommand),
    /// List, show, approve, reject and withdraw changes that wait for a second person.
    #[command(subcommand)]
    Pending(pending::Command),
    /// Whether changes wait for a second person.
    #[command(subcommand)]
    TwoPersons(pending::TwoPersonsCommand),
    Apply(apply::Apply),
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    match dispatch(args).await {
        Ok(()) => exit::OK,
        Err(failure) => {
            eprintln!("portcullis: {failure}");
            failure.exit_code()
        }
    }
}

async fn dispatch(args: Args) -> Result<(), Failure> {
    let operators = Operators { connection: args.connection, output: args.output };
    match args.command {
        Command::Secret(command) => secret::run(command, &operators).await,
        Command::Policy(command) => policy::run(command, &operators).await,
        Command::Reference(command) => reference::run(command, &operators).await,
        Command::Node(command) => node::run(command, &operators).await,
        Command::Latch(command) => operations::latch(command, &operators).await,
        Command::Lease(command) => operations::lease(command, &operators).await,
        Command::Revoke(command) => operations::revoke(command, &operators).await,
        Command::Unrevoke(command) => operations::unrevoke(command, &operators).await,
        Command::Revocation(command) => operations::revocations(command, &operators).await,
        Command::Clock(command) => trust::clock(command, &operators).await,
        Command::Crl(command) => trust::crl(command, &operators).await,
        Command::Bundle(command) => trust::bundle(command, &operators).await,
        Command::Collateral(command) => collateral::run(command, &operators).await,
        Command::Status(command) => trust::status(command, &operators).await,
        Command::Explain(command) => explain::run(command, &operators).await,
        Command::Administrator(command) => administrator::run(command, &operators).await,
        Command::Key(command) => key::run(command, &operators).await,
        Command::Backup(command) => backup::backup(command, &operators).await,
        Command::Restore(command) => backup::restore(command, &operators).await,
        Command::Pending(command) => pending::run(command, &operators).await,
        Command::TwoPersons(command) => pending::two_persons(command, &operators).await,
        Command::Apply(command) => apply::run(command, &operators).await,
    }
}

/// When something ends: a time, or days from now.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct End {
    /// When it ends: RFC 3339, UTC, such as 2027-03-01T00:00:00Z.
    #[arg(long)]
    not_after: Option<String>,
    /// When it ends: days from now.
    #[arg(long)]
    days: Option<u16>,
}

impl End {
    fn text(self) -> Result<String, Failure> {
        match (self.not_after, self.days) {
            (Some(text), _) => Ok(text),
            (None, Some(days)) => {
                let now = SystemTime.wall().ok_or_else(|| Failure::internal("the clock cannot be read"))?;
                Ok(WallTime(now.0).plus(u64::from(days).saturating_mul(86_400_000)).to_string())
            }
            (None, None) => Err(Failure::usage("say --not-after or --days")),
        }
    }
}

/// A text file, bounded.
fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    let unreadable = |_| Failure::usage(format!("{}: not UTF-8 text", path.display()));
    String::from_utf8(read_bytes(path)?).map_err(unreadable)
}

/// A file, bounded.
fn read_bytes(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > u64::try_from(crate::limits::ADMIN_MESSAGE_BYTES).unwrap_or(0) {
        return Err(failed(&"larger than 2 MiB"));
    }
    std::fs::read(path).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Whole::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        use clap::CommandFactory;
        fn check(command: &clap::Command, path: &str) {
            let leaves: Vec<_> = command.get_subcommands().filter(|one| one.get_name() != "help").collect();
            if leaves.is_empty() {
                let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
                assert!(about.unwrap_or_default().contains("Example: portcullis admin"), "{path}");
            }
            leaves.iter().for_each(|leaf| check(leaf, &format!("{path} {}", leaf.get_name())));
        }
        check(&Whole::command(), "admin");
    }

    #[tokio::test]
    async fn a_missing_connection_is_a_usage_error_by_name() {
        let whole = Whole::try_parse_from(["x", "status", "--admin-cert", "a", "--admin-key", "b"]).unwrap();
        let args = Args {
            connection: ConnectionArgs { admin_address: None, ..whole.args.connection },
            ..whole.args
        };
        let failure = dispatch(args).await.unwrap_err();
        assert_eq!(failure.exit_code(), exit::USAGE);
        assert!(failure.to_string().contains("--admin-address"), "{failure}");
    }
}
