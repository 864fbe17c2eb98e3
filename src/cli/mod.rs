//! The command line: one file per subcommand; the only place that reads configuration and environment.
//!
//! *Takes* arguments. *Gives* an exit code (see [`exit`]). *Denies* by the code that says which kind of no it was.
//! *Source*: sysexits(3) for the codes.
#![allow(clippy::disallowed_methods, reason = "the command line is where the environment is read")]

pub mod admin;
pub mod agent;
pub mod audit;
pub mod backup;
pub mod completions;
pub mod config;
pub mod deliver;
pub mod demo;
pub mod devca;
pub mod enrolment_files;
pub mod evidence;
pub mod exec;
pub mod exit;
pub mod get;
pub mod holder;
pub mod init;
pub mod keep;
pub mod keyplace;
pub mod launch;
pub mod restore;
pub mod serve;
mod terminal;
pub mod verify;
pub mod workload;
