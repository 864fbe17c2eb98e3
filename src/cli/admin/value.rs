//! Values of secrets: from a file, from standard input or from a terminal, never from the argument list.
//!
//! *Takes* `--field` arguments. *Gives* fields, zeroized when dropped. *Denies* `name=value`: every process of the machine
//! can read an argument list, and shells keep it. *Source*: the issue, point 1; proc_pid_cmdline(5).

use super::Failure;
use crate::cli::terminal;
use crate::limits;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Where a field's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    StandardInput,
    Prompt,
}

/// Reads all fields.
pub(super) fn fields(arguments: &[String]) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, Failure> {
    let mut sources = BTreeMap::new();
    for argument in arguments {
        let (name, source) = parse(argument)?;
        if sources.insert(name.clone(), source).is_some() {
            return Err(Failure::usage(format!("field `{name}` is given twice")));
        }
    }
    if sources.values().filter(|source| **source == Source::StandardInput).count() > 1 {
        return Err(Failure::usage("standard input is one value: only one field can come from it"));
    }
    sources.into_iter().map(|(name, source)| value(&name, source).map(|value| (name, value))).collect()
}

/// `name=@file`, `name=-`, or `name` alone for a prompt.
fn parse(argument: &str) -> Result<(String, Source), Failure> {
    let (name, source) = match argument.split_once('=') {
        None => (argument, Source::Prompt),
        Some((name, "-")) => (name, Source::StandardInput),
        Some((name, from)) => match from.strip_prefix('@') {
            Some(path) if !path.is_empty() => (name, Source::File(path.into())),
            Some(_) | None => {
                // The text is not repeated: it may be the value.
                return Err(Failure::usage(
                    "a value in the argument list can be read by every process and is kept by shells: use \
                     --field name=@file, --field name=- for standard input, or --field name to be asked",
                ));
            }
        },
    };
    Ok((name.to_owned(), source))
}

fn value(name: &str, source: Source) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("field `{name}`: {error}"));
    match source {
        Source::File(path) => {
            let file = std::fs::File::open(&path)
                .map_err(|error| Failure::usage(format!("`{}`: {error}", path.display())))?;
            bounded(file, name)
        }
        Source::StandardInput => bounded(std::io::stdin().lock(), name),
        Source::Prompt if std::io::stdin().is_terminal() => {
            terminal::ask(name, limits::SECRET_BYTES).map_err(failed)
        }
        Source::Prompt => Err(Failure::usage(format!(
            "field `{name}`: standard input is no terminal to ask at; use --field {name}=- or --field {name}=@file"
        ))),
    }
}

/// At most what a secret may hold; the buffer has its whole size at once, so that no copy is left behind.
fn bounded(from: impl Read, name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let most = limits::SECRET_BYTES;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most.saturating_add(1)));
    let limit = u64::try_from(most).unwrap_or(0).saturating_add(1);
    from.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::usage(format!("field `{name}`: {error}")))?;
    if bytes.len() > most {
        return Err(Failure::usage(format!("field `{name}` is over 24 KiB")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_the_argument_list_is_refused_and_not_repeated() {
        for argument in ["password=hunter2", "password=", "password=@", "password=--"] {
            let failure = parse(argument).unwrap_err();
            assert_eq!(failure.exit_code(), 64, "{argument}");
            assert!(!failure.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn files_standard_input_and_prompts_are_told_apart() {
        assert_eq!(parse("a=@/x=y").unwrap(), ("a".to_owned(), Source::File("/x=y".into())));
        assert_eq!(parse("a=-").unwrap(), ("a".to_owned(), Source::StandardInput));
        assert_eq!(parse("a").unwrap(), ("a".to_owned(), Source::Prompt));
        for twice in [["a=-", "b=-"], ["a=-", "a=@x"]] {
            assert_eq!(fields(&twice.map(str::to_owned)).unwrap_err().exit_code(), 64);
        }
    }

    #[test]
    fn a_file_is_read_as_it_is_and_not_past_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("value");
        std::fs::write(&path, b"a\nb\n").unwrap();
        let argument = format!("value=@{}", path.display());
        assert_eq!(fields(std::slice::from_ref(&argument)).unwrap()["value"].as_slice(), b"a\nb\n");
        std::fs::write(&path, vec![b'x'; limits::SECRET_BYTES + 1]).unwrap();
        assert_eq!(fields(&[argument]).unwrap_err().exit_code(), 64);
    }
}
