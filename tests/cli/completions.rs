//! `completions`: a script for each shell, of the commands as they are.

use crate::world::{portcullis, run, write};
use std::process::Command;

#[test]
fn each_shell_gets_a_script_that_knows_the_commands() {
    for (shell, word) in [
        ("bash", "complete -F _portcullis"),
        ("zsh", "#compdef portcullis"),
        ("fish", "complete -c portcullis"),
    ] {
        let script = run(portcullis().args(["completions", shell])).must(0).text();
        assert!(script.len() > 10_000 && script.contains(word), "{shell}: {} bytes", script.len());
        for known in ["completions", "collateral", "keep-latches", "two-persons"] {
            assert!(script.contains(known), "{shell}: {known}");
        }
    }
    run(portcullis().args(["completions", "tcsh"])).must(64);
}

#[test]
fn bash_reads_its_script() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis");
    write(&file, run(portcullis().args(["completions", "bash"])).must(0).stdout, 0o644);
    let read = run(Command::new("bash").arg("-n").arg(&file));
    assert_eq!((read.code, read.stderr.as_str()), (0, ""));
    // And completes with it.
    let ask = format!(
        "source {}; COMP_WORDS=(portcullis admin tw); COMP_CWORD=2; _portcullis portcullis tw admin; echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    let completed = run(Command::new("bash").args(["--norc", "-c", &ask])).must(0);
    assert_eq!(completed.text().trim(), "two-persons");
}
