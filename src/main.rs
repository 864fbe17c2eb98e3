//! The one binary; everything is in the library.

use clap::{Parser, Subcommand};
use portcullis::cli::{admin, agent, audit, backup, demo, exec, exit, get, init, restore, serve, verify};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A secrets broker that releases only to a workload attested for this very request.
///
/// Exit codes: 0 done; 64 usage; 69 could not connect; 70 a defect; 75 verification was not possible; 76 not the
/// broker's answer; 77 denied;
/// 78 configuration. `exec` gives its child's own code otherwise; `verify` ends in 1 (refused) or 2 (undecided).
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Agent(agent::Args),
    Exec(exec::Args),
    Get(get::Args),
    Admin(admin::Args),
    Audit(audit::Args),
    Verify(Box<verify::Args>),
    Init(init::Args),
    Demo(demo::Args),
    Backup(backup::Args),
    Restore(restore::Args),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    // Deciding needs more stack than a thread's default: Cedar's evaluator recurses as deep as a policy nests.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_stack_size(portcullis::limits::DECIDING_STACK_BYTES)
        .build();
    let Ok(runtime) = runtime else { return ExitCode::from(exit::INTERNAL) };
    ExitCode::from(runtime.block_on(run(arguments.command)))
}

async fn run(command: Command) -> u8 {
    // On a worker thread, which has the stack; the main thread has whatever the shell gave it.
    let task = tokio::spawn(async move {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Agent(args) => agent::run(args).await,
            Command::Exec(args) => exec::run(args).await,
            Command::Get(args) => get::run(args).await,
            Command::Admin(args) => admin::run(args).await,
            Command::Audit(args) => audit::run(args).await,
            Command::Verify(args) => verify::run(*args).await,
            Command::Init(args) => init::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Restore(args) => restore::run(args).await,
        }
    });
    task.await.unwrap_or(exit::INTERNAL)
}
