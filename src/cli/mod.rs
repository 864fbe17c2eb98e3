//! The command line: one file per subcommand; the only place that reads configuration and environment.

pub mod launch;
