//! `portcullis admin policy …`; `check` and `test` need no broker.
#![allow(clippy::print_stdout, reason = "a command speaks to its terminal")]

use super::output::{Lines, changed, json, printable};
use super::{Failure, Operators, Output, read_text};
use crate::policy::cedar::PolicySet;
use crate::policy::table::Table;
use crate::proto::admin::*;
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Compile and validate policies, here, without a broker.
    ///
    /// Example: portcullis admin policy check release.cedar
    Check {
        /// The Cedar text.
        file: PathBuf,
    },
    /// Put a table of cases to policies, here, without a broker; exit code 1 where one is decided otherwise.
    ///
    /// Example: portcullis admin policy test policy-cases.toml --policy release.cedar
    Test {
        /// The table, TOML or JSON.
        table: PathBuf,
        /// The Cedar text.
        #[arg(long)]
        policy: PathBuf,
    },
    /// Put all policies, in place of all there are.
    ///
    /// Example: portcullis admin policy put release.cedar
    Put {
        /// The Cedar text.
        file: PathBuf,
        /// SHA-256 of the text that it takes the place of.
        #[arg(long, default_value = "")]
        expected_sha256: String,
        /// Let holds that rest on policy go on.
        #[arg(long)]
        keep_latches: bool,
    },
    /// Show the policies in force.
    ///
    /// Example: portcullis admin policy show > release.cedar
    Show,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check(&file, operators.output),
        Command::Test { table, policy } => test(&table, &policy, operators.output),
        Command::Put { file, expected_sha256, keep_latches } => {
            let request = PutPolicyRequest { text: read_text(&file)?, expected_sha256, keep_latches };
            operators.answer(operators.open().await?.put_policy(request)).await
        }
        Command::Show => {
            let shown = operators.wait(operators.open().await?.show_policy(ShowPolicyRequest {})).await?;
            match operators.output {
                // As it is, so that what is printed can be put again.
                Output::Text => print!("{}", shown.text),
                Output::Json => println!("{}", json(&shown)?),
            }
            Ok(())
        }
    }
}

fn check(file: &Path, output: Output) -> Result<(), Failure> {
    let set = compile(file)?;
    let names: Vec<&str> = set.names().collect();
    match output {
        Output::Text => println!("ok: {} policies", names.len()),
        Output::Json => println!("{}", json(&json!({ "policies": names }))?),
    }
    Ok(())
}

fn test(table: &Path, policy: &Path, output: Output) -> Result<(), Failure> {
    let set = compile(policy)?;
    let text = read_text(table)?;
    let is_json = table.extension().is_some_and(|extension| extension == "json");
    let parsed = if is_json { Table::parse_json(&text) } else { Table::parse_toml(&text) };
    let parsed = parsed.map_err(|error| Failure::usage(format!("{}: {error}", table.display())))?;
    let outcomes = parsed.run(&set);
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    match output {
        Output::Text => outcomes.iter().for_each(|outcome| println!("{}", printable(&outcome.to_string()))),
        Output::Json => println!("{}", json(&outcomes)?),
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::no(format!("{failed} of {} cases are decided otherwise", outcomes.len()))),
    }
}

fn compile(file: &Path) -> Result<PolicySet, Failure> {
    let text = read_text(file)?;
    PolicySet::compile(&text).map_err(|error| Failure::no(format!("{}: {error}", file.display())))
}

impl Lines for PutPolicyResponse {
    fn lines(&self) -> Vec<String> {
        changed(format!("put {} policies, sha256 {}", self.policies, self.sha256), self.change.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_whose_case_fails_is_a_no_and_a_text_that_does_not_compile_too() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let policy = write("a.cedar", "@id(\"p\") permit (principal, action, resource in Folder::\"kv/a\");");
        let case = |expect| {
            format!(
                "[[case]]\nname = \"one\"\nprincipal = \"spiffe://example.org/a\"\nsecret = \"kv/a/b\"\nexpect = \"{expect}\"\n"
            )
        };
        let (good, bad) = (write("good.toml", &case("permit")), write("bad.toml", &case("forbid")));
        assert!(test(&good, &policy, Output::Text).is_ok());
        assert_eq!(test(&bad, &policy, Output::Json).unwrap_err().exit_code(), 1);
        assert!(check(&policy, Output::Json).is_ok());
        assert_eq!(check(&good, Output::Text).unwrap_err().exit_code(), 1);
        assert_eq!(check(Path::new("/nowhere"), Output::Text).unwrap_err().exit_code(), 64);
    }
}
