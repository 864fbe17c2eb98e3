//! System calls that fail when they are told to: `failing.c`, loaded before the C library.
//!
//! *Takes* gcc. *Gives* a command's environment, and triggers. *Denies* nothing. It stands in for a device-mapper target: the
//! program meets the same error at the same call, and unlike there it can be one file's alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of triggers, and what obeys them.
pub struct Shim {
    library: PathBuf,
    triggers: PathBuf,
}

impl Shim {
    /// Builds it below `folder`.
    pub fn new(folder: &Path) -> Shim {
        let (library, triggers) = (folder.join("failing.so"), folder.join("triggers"));
        fs::create_dir(&triggers).unwrap();
        build("failing.c", &["-shared", "-fPIC"], &library, &["-ldl"]);
        Shim { library, triggers }
    }

    /// The command obeys from its start.
    pub fn over<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("LD_PRELOAD", &self.library).env("FAULTS_TRIGGER", &self.triggers)
    }

    /// From now on `call` fails on the files of `directory`.
    pub fn fail(&self, call: &str, directory: &Path) {
        self.trigger(call, &format!("{}\n", directory.display()));
    }

    /// From now on `call` hangs on the files of `directory`, until it is healed.
    pub fn hang(&self, call: &str, directory: &Path) {
        self.trigger(call, &format!("{}\nhang\n", directory.display()));
    }

    fn trigger(&self, call: &str, text: &str) {
        let new = self.triggers.join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.triggers.join(call)).unwrap();
    }

    /// And now no more.
    pub fn heal(&self, call: &str) {
        fs::remove_file(self.triggers.join(call)).unwrap();
    }

    /// How many calls were failed, or made to hang, so far.
    pub fn failed(&self) -> usize {
        fs::read_to_string(self.triggers.join("failed")).map_or(0, |text| text.lines().count())
    }
}

/// Builds a C file of this folder.
pub fn build(name: &str, flags: &[&str], to: &Path, libraries: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-Wall", "-Werror"]).args(flags).arg("-o").arg(to).arg(source).args(libraries);
    crate::world::run(&mut gcc).must(0);
}
