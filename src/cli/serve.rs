//! `portcullis serve`: the broker, put together from its configuration.
//!
//! *Takes* a [`Config`]. *Gives* a running [`Server`]. *Denies* to start by [`StartError`] wherever what it finds on disk
//! is not whole; it repairs nothing silently and never starts fresh. *Source*: `durability.md`; SP 800-53 SC-24, SI-17.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod assemble;
mod check;
mod doors;
mod keep;
mod keys;
mod marked;
mod notify;
mod recover;
mod sealed;
mod signals;
mod stopped;

pub use assemble::{Server, StartError};
pub(in crate::cli) use keys::open_any;
pub use signals::Signals;
pub use stopped::{Stopped, open_stopped};

use crate::cli::config::{Config, LogFormat};
use crate::cli::exit;
use crate::time::SystemTime;
use std::path::PathBuf;
use std::sync::Arc;

/// Run the broker.
///
/// Example: portcullis serve --config /etc/portcullis/portcullis.toml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration file.
    #[arg(long, env = "PORTCULLIS_CONFIG", default_value = "/etc/portcullis/portcullis.toml")]
    pub config: PathBuf,
    /// Check the configuration, the certificate and every trust domain's files, and leave.
    #[arg(long)]
    pub check: bool,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    let config = match Config::read(&args.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("portcullis: {error}");
            return exit::CONFIGURATION;
        }
    };
    if args.check {
        return check(&config);
    }
    start_log(&config);
    harden();
    match Server::start_hearing(&config, Arc::new(SystemTime)).await {
        Ok((server, signals)) => serve(server, signals).await,
        Err(StartError::EndedSealed) => exit::OK,
        Err(error) => {
            eprintln!("portcullis: not started: {error}");
            if matches!(error, StartError::Store(_) | StartError::Log(_) | StartError::LogMissing)
                || matches!(error, StartError::StoreBehindLog { .. })
            {
                eprintln!(
                    "portcullis: nothing was changed; deploy/backup.md says what to keep, and how to restore"
                );
            }
            exit::CONFIGURATION
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains: open requests are answered, and only then is the log closed.
async fn serve(server: Server, signals: Option<Signals>) -> u8 {
    let mut signals = match signals.map_or_else(Signals::listen, Ok) {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("portcullis: signals cannot be received: {error}");
            server.stop().await;
            return exit::INTERNAL;
        }
    };
    let (workloads, operators) = (server.address(), server.admin_address());
    let probes = server.operations_address().map(|address| format!(", probes on {address}"));
    let probes = probes.unwrap_or_default();
    say(&format!("portcullis: serving workloads on {workloads}, operators on {operators}{probes}"));
    let watchdog = tokio::spawn(notify::watchdog(server.telemetry().clone()));
    notify::tell("READY=1");
    signals.asked_to_end().await;
    notify::tell("STOPPING=1");
    watchdog.abort();
    tracing::info!("draining");
    server.stop().await;
    exit::OK
}

/// One line on standard output. Whoever started the broker may have closed it since; that ends no broker.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn check(config: &Config) -> u8 {
    let report = check::check(config, &SystemTime);
    for warning in &report.warnings {
        println!("warning: {warning}");
    }
    for error in &report.errors {
        println!("error: {error}");
    }
    if report.errors.is_empty() {
        println!("ok");
        return exit::OK;
    }
    exit::CONFIGURATION
}

/// Secrets are in this process's memory: no core dumps, no tracing by others of the same user, no swapping where the
/// limit allows it.
pub fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the process stays dumpable");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    // Under a finite limit a later allocation would fail, so nothing is locked then.
    if getrlimit(Resource::Memlock).current.is_some() {
        tracing::warn!("RLIMIT_MEMLOCK is finite: memory is not locked, and secrets may be swapped");
        return;
    }
    use rustix::mm::{MlockAllFlags, mlockall};
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::warn!(%error, "memory is not locked, and secrets may be swapped");
    }
}

fn start_log(config: &Config) {
    let level = config.log.level.clone().unwrap_or_else(|| "info".to_owned());
    let filter = tracing_subscriber::EnvFilter::try_new(level).unwrap_or_default();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if let Err(error) = started {
        eprintln!("portcullis: the log was started before: {error}");
    }
}
