//! `portcullis agent`: the node's attester, and what its TPM does for its own enrolment.
//!
//! *Takes* a key file and a name, and the address of a TPM. *Gives* statements about processes that ask for them on its socket,
//! quotes beside them. *Denies* to start without a key of its own. *Source*: `protocol.md` "The node's attester".
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod tpm;

use crate::agent::key::FileKey;
use crate::agent::tpm::QuoterConfig;
use crate::agent::{Agent, AgentConfig, SOCKET_MODE};
use crate::cli::exit;
use crate::evidence::process::Algorithm;
use crate::time::{Clock, SystemTime, WallTime};
use std::path::PathBuf;
use std::sync::Arc;

/// Run the node's attester.
///
/// Example: portcullis agent --node node-1.example --key /etc/portcullis/node.key --tpm device
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// The name under which an administrator enrolled this node's key.
    #[arg(long, env = "PORTCULLIS_NODE", required_unless_present_any = ["generate_key", "print_public_key"])]
    pub node: Option<String>,
    /// The node's key file, PKCS#8, 0600.
    #[arg(long, env = "PORTCULLIS_NODE_KEY", default_value = "/etc/portcullis/node.key")]
    pub key: PathBuf,
    /// Where workloads ask.
    #[arg(long, env = "PORTCULLIS_ATTESTER_SOCKET", default_value = "/run/portcullis/attester.sock")]
    pub socket: PathBuf,
    /// Make the key file, print its public key for `admin node enroll`, and leave.
    #[arg(long)]
    pub generate_key: bool,
    /// Print the key file's public key, and leave.
    #[arg(long)]
    pub print_public_key: bool,
    /// The node's TPM: beside each statement a quote that vouches for it. `device` (/dev/tpmrm0), `device:/dev/…`, `swtpm`
    /// (127.0.0.1:2321), `swtpm:/path/of/socket`, `swtpm:127.0.0.1:PORT`. Without it, statements stand alone.
    #[arg(long, env = "PORTCULLIS_TPM", value_name = "ADDRESS")]
    pub tpm: Option<String>,
    #[command(flatten)]
    quotes: tpm::QuoteArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Prove to an administrator that this node's TPM holds its attestation key.
    #[command(subcommand)]
    Tpm(tpm::Command),
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    if let Some(Command::Tpm(command)) = args.command {
        return tpm::run(command).await;
    }
    let key = match args.generate_key {
        true => FileKey::generate(&args.key, Algorithm::Es256),
        false => FileKey::load(&args.key),
    };
    let key = match key {
        Ok(key) => key,
        Err(error) => {
            eprintln!("portcullis: {}: {error}", args.key.display());
            return exit::CONFIGURATION;
        }
    };
    if args.generate_key || args.print_public_key {
        print!("{}", key.public_pem());
        return exit::OK;
    }
    let Some(node) = args.node else { return exit::USAGE };
    let quotes = match args.tpm.map(|address| args.quotes.config(&address)).transpose() {
        Ok(quotes) => quotes,
        Err(error) => {
            eprintln!("portcullis: {error}");
            return exit::CONFIGURATION;
        }
    };
    let config = AgentConfig { socket: args.socket, node, signer: Arc::new(key), mode: SOCKET_MODE };
    attest(config, quotes).await
}

async fn attest(config: AgentConfig, quotes: Option<QuoterConfig>) -> u8 {
    let started = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).try_init();
    if let Err(error) = started {
        eprintln!("portcullis: the log was started before: {error}");
    }
    crate::cli::serve::harden();
    let socket = config.socket.clone();
    let clock = Arc::new(Clock::new(Arc::new(SystemTime), WallTime(0)));
    let agent = Agent::bind(config, clock).map(|agent| match quotes {
        Some(quotes) => agent.with_tpm(quotes),
        None => agent,
    });
    let agent = match agent {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("portcullis: not started: {error}");
            return exit::CONFIGURATION;
        }
    };
    let mut signals = match crate::cli::serve::Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("portcullis: signals cannot be received: {error}");
            return exit::INTERNAL;
        }
    };
    println!("portcullis: attesting on {}", socket.display());
    agent.run(signals.asked_to_end()).await;
    exit::OK
}
