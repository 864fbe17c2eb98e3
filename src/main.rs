//! The one binary; everything is in the library.

use clap::{CommandFactory, Parser, Subcommand};
use portcullis::cli::{
    admin, agent, audit, backup, completions, demo, exec, exit, get, holder, init, restore, serve, verify,
};
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
    Holder(holder::Args),
    Demo(demo::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Completions(completions::Args),
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
            Command::Holder(args) => holder::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Backup(args) => backup::run(args).await,
            Command::Restore(args) => restore::run(args).await,
            Command::Completions(args) => completions::run(&args, Arguments::command()),
        }
    });
    task.await.unwrap_or(exit::INTERNAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of a command: what follows that word in its help, to the paragraph's end or the next.
    fn examples(command: &clap::Command) -> Vec<String> {
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
        let after = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
        let help = format!("{}\n\n{}", about.unwrap_or_default(), after.unwrap_or_default());
        let found = help.split("\n\n").flat_map(|paragraph| paragraph.split("Example: ").skip(1));
        found.map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// As a shell splits it: quotation marks hold words together, and what is redirected is not the program's.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for one in line.chars() {
            match (quote, one) {
                (Some(open), _) if one == open => quote = None,
                (Some(_), _) => word.get_or_insert_default().push(one),
                (None, '\'' | '"') => {
                    quote = Some(one);
                    word.get_or_insert_default();
                }
                (None, '>' | '<' | '|' | '&' | ';') => break,
                (None, ' ') => words.extend(word.take()),
                (None, _) => word.get_or_insert_default().push(one),
            }
        }
        assert_eq!(quote, None, "{line}");
        words.extend(word);
        words
    }

    fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, Vec<String>)>) {
        let path = format!("{path}{}", command.get_name());
        let inner: Vec<_> = command.get_subcommands().filter(|one| one.get_name() != "help").collect();
        if inner.is_empty() {
            found.push((path.clone(), examples(command)));
        }
        inner.into_iter().for_each(|one| leaves(one, &format!("{path} "), found));
    }

    #[test]
    fn every_command_has_an_example_that_is_one_of_it() {
        let mut found = Vec::new();
        leaves(&Arguments::command(), "", &mut found);
        assert!(found.len() > 50, "{found:?}");
        let mut wrong = Vec::new();
        for (command, examples) in found {
            if examples.is_empty() {
                wrong.push(format!("`{command}` has no example"));
            }
            for example in examples {
                let words = words(&example);
                if !words.join(" ").contains(&command.replacen("portcullis ", "", 1)) && !of(&command, &words)
                {
                    wrong.push(format!("`{command}` has an example of another: {example}"));
                }
                if let Err(error) = from_the_environment(Arguments::command()).try_get_matches_from(&words) {
                    wrong.push(format!("`{command}`: {example}\n{error}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What the environment can say need not stand in an example.
    fn from_the_environment(command: clap::Command) -> clap::Command {
        let optional = |one: clap::Arg| if one.get_env().is_some() { one.required(false) } else { one };
        command.mut_args(optional).mut_subcommands(from_the_environment)
    }

    /// Whether the words name the command, with options of an outer one between them.
    fn of(command: &str, words: &[String]) -> bool {
        let mut rest = words.iter();
        command.split(' ').all(|one| rest.any(|word| word == one))
    }

    #[test]
    fn words_are_split_as_a_shell_does() {
        assert_eq!(words("a 'b c' \"d e\"f  g > h"), ["a", "b c", "d ef", "g"]);
    }
}
