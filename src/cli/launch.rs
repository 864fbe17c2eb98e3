//! Running a program exactly as it was measured, for `exec`.
//!
//! *Takes* a command's name and where to look for it. *Gives* [`Launch`]: open descriptors for `program_fds`, and later
//! the process that executes them. *Denies* [`LaunchError`]: what could not be run just as it was measured.
//! *Source*: `protocol.md` "program"; execve(2), memfd_create(2); `fail-open-catalogue.md` row 40.
//!
//! The program, and for `#!` its interpreter and its script, are each opened once and copied into a sealed memfd. The
//! attester measures the memfd and the kernel executes the memfd, so nobody can change one in between. Why a memfd:
//! fs-verity needs a file system that has it and files prepared with it; and to measure the file again before running it
//! leaves the moment between the two.
//!
//! What it costs: the program finds itself as `/memfd:PATH (deleted)`, so what looks for its neighbours by `$ORIGIN` or
//! `/proc/self/exe`, or a script by `$0`, does not find them, and the child cannot be attested in its own name. Its
//! shared libraries, and what an interpreter loads after its script, are not measured. Set-user-id is refused.

use crate::limits;
use rustix::fs::{Access, AtFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::{Errno, FdFlags};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// A program in hand, unchangeable, not yet running.
#[derive(Debug)]
pub struct Launch {
    program: Sealed,
    script: Option<Sealed>,
    /// The first argument: as the user, or the script's first line, named the program.
    name: OsString,
    /// What the script's first line gives its interpreter.
    interpreter_argument: Option<OsString>,
}

/// A sealed copy of a file.
#[derive(Debug)]
struct Sealed {
    path: String,
    descriptor: OwnedFd,
}

/// Why a program is not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is none of that name.
    #[error("`{}`: not found", .0.display())]
    NotFound(PathBuf),
    /// It is there, and may not be executed, or not read (it must be read to be measured).
    #[error("`{path}`: {cause}", path = .0.display(), cause = .1)]
    Denied(PathBuf, io::Error),
    /// It is no regular file, or a deleted one.
    #[error("`{}`: not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// It would run as another user or group, which a copy does not.
    #[error("`{}`: set-user-id and set-group-id programs cannot be run as measured", .0.display())]
    SetId(PathBuf),
    /// Its path is not UTF-8, so it cannot be attested.
    #[error("`{}`: the path is not UTF-8", .0.display())]
    NotUtf8(PathBuf),
    /// It is larger than the attester measures.
    #[error("`{}`: larger than {} bytes", .0.display(), limits::ATTEST_FILE_BYTES)]
    TooLarge(PathBuf),
    /// It is neither ELF nor a script with a `#!` line that can be followed.
    #[error("`{path}`: {cause}", path = .0.display(), cause = .1)]
    Format(PathBuf, &'static str),
    /// No memfd could be made, sealed or written.
    #[error("no sealed copy of `{path}`: {cause}", path = .0.display(), cause = .1)]
    NotSealed(PathBuf, io::Error),
}

/// Opens `program` as execvp(3) finds it in `search_path` (the caller's `PATH`), and seals what would run.
pub fn open(program: &OsStr, search_path: Option<&OsStr>) -> Result<Launch, LaunchError> {
    let copy = seal(find(program, search_path)?)?;
    match first_line(&copy)? {
        FirstLine::Elf => {
            Ok(Launch { program: copy, script: None, name: program.to_owned(), interpreter_argument: None })
        }
        FirstLine::Script { interpreter, argument } => {
            let (name, argument, file) = find_interpreter(&copy, interpreter, argument, search_path)?;
            let program = seal(file)?;
            if !matches!(first_line(&program)?, FirstLine::Elf) {
                return Err(format_error(&program, "an interpreter that is itself a script"));
            }
            Ok(Launch { program, script: Some(copy), name, interpreter_argument: argument })
        }
    }
}

impl Launch {
    /// The descriptors to be measured: the program (for a script: its interpreter), then the script.
    pub fn program_fds(&self) -> Vec<u32> {
        self.parts().filter_map(|part| u32::try_from(part.descriptor.as_raw_fd()).ok()).collect()
    }

    /// Their paths, as the attester will state them.
    pub fn paths(&self) -> Vec<&str> {
        self.parts().map(|part| part.path.as_str()).collect()
    }

    /// The command that runs them, with `arguments` after its name and `environment` alone.
    pub fn command<A, N, V>(
        self,
        arguments: impl IntoIterator<Item = A>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> LaunchCommand
    where
        A: AsRef<OsStr>,
        N: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        let mut command = Command::new(self.program.executable_path());
        command.arg0(&self.name).args(&self.interpreter_argument);
        command.args(self.script.as_ref().map(Sealed::executable_path));
        command.args(arguments).env_clear().envs(environment);
        LaunchCommand { command, launch: self }
    }

    fn parts(&self) -> impl Iterator<Item = &Sealed> {
        std::iter::once(&self.program).chain(&self.script)
    }
}

/// A command together with the descriptors that it executes, which must be open until it does.
#[derive(Debug)]
pub struct LaunchCommand {
    command: Command,
    launch: Launch,
}

impl LaunchCommand {
    /// For standard streams, working directory and the like; not for the program.
    pub fn settings(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it as a child. The copies stay open here for as long as the [`Launch`] lives, to be measured again.
    pub fn spawn(mut self) -> io::Result<(Child, Launch)> {
        self.let_script_through()?;
        Ok((self.command.spawn()?, self.launch))
    }

    /// Becomes it. Returns only if that fails.
    pub fn exec(mut self) -> io::Error {
        match self.let_script_through() {
            Ok(()) => self.command.exec(),
            Err(error) => error,
        }
    }

    /// The interpreter opens its script by number, so that descriptor must outlive the `execve`; the kernel opens the
    /// program itself before it closes anything. A child that another thread starts now gets a copy that it can only
    /// read.
    fn let_script_through(&self) -> io::Result<()> {
        match &self.launch.script {
            Some(script) => Ok(rustix::io::fcntl_setfd(&script.descriptor, FdFlags::empty())?),
            None => Ok(()),
        }
    }
}

impl Sealed {
    /// The name under which kernel and interpreter find the copy, in the child as here.
    fn executable_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.descriptor.as_raw_fd()))
    }
}

/// An open file that may be executed, and its path as the kernel knows it.
struct Found {
    file: File,
    path: PathBuf,
}

/// As execvp(3): a name with a slash is a path; others are looked for in each directory, and what may not be executed
/// there is passed over, though remembered.
fn find(program: &OsStr, search_path: Option<&OsStr>) -> Result<Found, LaunchError> {
    if program.as_bytes().contains(&b'/') {
        return open_executable(Path::new(program));
    }
    let mut denied = None;
    if !program.is_empty() {
        for directory in std::env::split_paths(search_path.unwrap_or(OsStr::new(DEFAULT_SEARCH_PATH))) {
            // An empty element is the working directory; `join` on nothing gives just that.
            match open_executable(&Path::new(".").join(directory).join(program)) {
                Ok(found) => return Ok(found),
                Err(LaunchError::NotFound(_)) => {}
                Err(error @ (LaunchError::Denied(..) | LaunchError::NotRegular(_))) => {
                    denied.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Err(denied.unwrap_or_else(|| LaunchError::NotFound(PathBuf::from(program))))
}

/// The interpreter of a script, and its first argument and the rest as the kernel would pass them.
///
/// `env` would run what nobody measured, so `#!/usr/bin/env NAME` is followed to NAME; any other use of it is refused.
fn find_interpreter(
    script: &Sealed,
    interpreter: OsString,
    argument: Option<OsString>,
    search_path: Option<&OsStr>,
) -> Result<(OsString, Option<OsString>, Found), LaunchError> {
    if Path::new(&interpreter).file_name() != Some(OsStr::new("env")) {
        let found = open_executable(Path::new(&interpreter))?;
        return Ok((interpreter, argument, found));
    }
    let name = argument.filter(|name| {
        let bytes = name.as_bytes();
        !bytes.starts_with(b"-") && !bytes.iter().any(|byte| b"= \t".contains(byte))
    });
    let name = name.ok_or_else(|| format_error(script, "`#!` with env and more than a name"))?;
    let found = find(&name, search_path)?;
    Ok((name, None, found))
}

/// Opens a file and asks the kernel whether that very file may be executed (mode, and the mount it was reached by).
fn open_executable(path: &Path) -> Result<Found, LaunchError> {
    let failed = |error: Errno| match error {
        Errno::NOENT | Errno::NOTDIR => LaunchError::NotFound(path.to_owned()),
        error => LaunchError::Denied(path.to_owned(), error.into()),
    };
    // Without waiting, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?);
    let metadata = file.metadata().map_err(|error| LaunchError::Denied(path.to_owned(), error))?;
    if !metadata.is_file() {
        return Err(LaunchError::NotRegular(path.to_owned()));
    }
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::accessat(rustix::fs::CWD, &link, Access::EXEC_OK, AtFlags::EACCESS).map_err(failed)?;
    if metadata.mode() & SET_ID != 0 {
        return Err(LaunchError::SetId(path.to_owned()));
    }
    let path = std::fs::read_link(&link).map_err(|error| LaunchError::Denied(path.to_owned(), error))?;
    if metadata.nlink() == 0 {
        return Err(LaunchError::NotRegular(path));
    }
    Ok(Found { file, path })
}

/// Copies a file into a memfd of its name and seals that against every change.
fn seal(found: Found) -> Result<Sealed, LaunchError> {
    let Found { file, path } = found;
    let text = path.to_str().ok_or_else(|| LaunchError::NotUtf8(path.clone()))?.to_owned();
    let not_sealed = |error: io::Error| LaunchError::NotSealed(path.clone(), error);
    let mut copy = File::from(memfd(&text).map_err(|error| not_sealed(error.into()))?);
    let limit = limits::ATTEST_FILE_BYTES;
    let length = io::copy(&mut file.take(limit.saturating_add(1)), &mut copy).map_err(not_sealed)?;
    if length > limit {
        return Err(LaunchError::TooLarge(path));
    }
    copy.rewind().map_err(not_sealed)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&copy, seals).map_err(|error| not_sealed(error.into()))?;
    Ok(Sealed { path: memfd_name(&text).to_owned(), descriptor: copy.into() })
}

fn memfd(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(memfd_name(path), flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memfd is executable, and the flag that says so is unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create(memfd_name(path), flags),
        made => made,
    }
}

/// A memfd's name has room for 249 bytes; of a longer path it is the file's name, and of that its end.
fn memfd_name(path: &str) -> &str {
    if path.len() <= MEMFD_NAME_BYTES {
        return path;
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    let from = (0..name.len())
        .find(|at| name.len().saturating_sub(*at) <= MEMFD_NAME_BYTES && name.is_char_boundary(*at));
    name.get(from.unwrap_or(0)..).unwrap_or(name)
}

/// How a program begins.
enum FirstLine {
    Elf,
    Script { interpreter: OsString, argument: Option<OsString> },
}

/// Reads the copy's beginning as the kernel would (binfmt_elf, binfmt_script); what only other handlers or a shell would
/// take is refused.
fn first_line(copy: &Sealed) -> Result<FirstLine, LaunchError> {
    let mut head = [0; HEAD_BYTES];
    let length = read_head(copy.descriptor.as_fd(), &mut head)
        .map_err(|error| LaunchError::NotSealed(PathBuf::from(&copy.path), error.into()))?;
    let head = head.get(..length).unwrap_or_default();
    if head.starts_with(b"\x7fELF") {
        return Ok(FirstLine::Elf);
    }
    let rest =
        head.strip_prefix(b"#!").ok_or_else(|| format_error(copy, "neither ELF nor a script with `#!`"))?;
    let end = rest.iter().position(|byte| *byte == b'\n');
    // A line that the head cuts off could name another interpreter than it seems to.
    let line = match end {
        Some(end) => rest.get(..end).unwrap_or_default(),
        None if length < HEAD_BYTES => rest,
        None => return Err(format_error(copy, "its `#!` line is too long")),
    };
    let line = line.trim_ascii();
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (interpreter, argument) = match line.iter().position(is_space) {
        Some(at) => (line.get(..at).unwrap_or_default(), line.get(at..).unwrap_or_default().trim_ascii()),
        None => (line, &[][..]),
    };
    if interpreter.is_empty() || line.contains(&0) {
        return Err(format_error(copy, "its `#!` line names no interpreter"));
    }
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let argument = (!argument.is_empty()).then(|| text(argument));
    Ok(FirstLine::Script { interpreter: text(interpreter), argument })
}

fn read_head(descriptor: std::os::fd::BorrowedFd<'_>, head: &mut [u8]) -> rustix::io::Result<usize> {
    rustix::io::retry_on_intr(|| rustix::io::pread(descriptor, &mut *head, 0))
}

fn format_error(copy: &Sealed, cause: &'static str) -> LaunchError {
    LaunchError::Format(PathBuf::from(&copy.path), cause)
}

/// Where execvp(3) looks without `PATH` (confstr, _CS_PATH).
const DEFAULT_SEARCH_PATH: &str = "/bin:/usr/bin";

/// S_ISUID and S_ISGID.
const SET_ID: u32 = 0o6000;

/// NAME_MAX less the kernel's `memfd:` (memfd_create(2)).
const MEMFD_NAME_BYTES: usize = 249;

/// BINPRM_BUF_SIZE (linux/binfmts.h).
const HEAD_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Stdio;

    fn executable(directory: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn output(launch: Launch, arguments: &[&str]) -> String {
        let mut command = launch.command(arguments, [("GIVEN", "yes")]);
        command.settings().stdout(Stdio::piped());
        let output = command.spawn().unwrap().0.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    fn content(descriptor: u32) -> Vec<u8> {
        std::fs::read(format!("/proc/self/fd/{descriptor}")).unwrap()
    }

    fn open_path(path: &Path) -> Result<Launch, LaunchError> {
        open(path.as_os_str(), None)
    }

    #[test]
    fn a_program_replaced_after_it_was_opened_runs_as_it_was_measured() {
        let directory = tempfile::tempdir().unwrap();
        let original = std::fs::read("/bin/echo").unwrap();
        let program = executable(directory.path(), "program", &original, 0o755);
        let launch = open_path(&program).unwrap();
        // In place, and by another file of the name.
        std::fs::write(&program, std::fs::read("/bin/false").unwrap()).unwrap();
        std::fs::remove_file(&program).unwrap();
        std::fs::copy("/bin/false", &program).unwrap();
        assert_eq!(launch.paths(), [program.to_str().unwrap()]);
        assert_eq!(content(launch.program_fds()[0]), original);
        assert_eq!(output(launch, &["measured"]), "measured\n");
    }

    #[test]
    fn a_script_replaced_after_it_was_opened_runs_as_it_was_measured() {
        let directory = tempfile::tempdir().unwrap();
        let text = b"#!/bin/sh -e\necho script $1 $GIVEN $HOME\n";
        let script = executable(directory.path(), "script", text, 0o755);
        let launch = open_path(&script).unwrap();
        std::fs::write(&script, "#!/bin/sh\necho replaced\n").unwrap();
        let interpreter = std::fs::canonicalize("/bin/sh").unwrap();
        assert_eq!(launch.paths(), [interpreter.to_str().unwrap(), script.to_str().unwrap()]);
        let [program, text_fd] = launch.program_fds()[..] else { panic!() };
        assert_eq!(content(program), std::fs::read("/bin/sh").unwrap());
        assert_eq!(content(text_fd), text);
        assert_eq!(output(launch, &["one"]), "script one yes\n");
    }

    #[test]
    fn the_interpreter_that_env_would_find_is_the_one_measured() {
        let directory = tempfile::tempdir().unwrap();
        let script = executable(directory.path(), "script", b"#!/usr/bin/env sh\necho env\n", 0o755);
        let launch = open(script.as_os_str(), Some(OsStr::new("/nonexistent:/bin"))).unwrap();
        assert_eq!(launch.paths()[0], std::fs::canonicalize("/bin/sh").unwrap().to_str().unwrap());
        assert_eq!(output(launch, &[]), "env\n");
        for line in
            ["#!/usr/bin/env\n", "#!/usr/bin/env -S sh -e\n", "#!/usr/bin/env A=1\n", "#!/bin/env sh -e\n"]
        {
            let script = executable(directory.path(), "other", line.as_bytes(), 0o755);
            assert!(matches!(open_path(&script), Err(LaunchError::Format(..))), "{line}");
        }
    }

    #[test]
    fn the_copies_cannot_be_changed() {
        let launch = open(OsStr::new("sh"), Some(OsStr::new("/bin"))).unwrap();
        let copy = &launch.program.descriptor;
        assert_eq!(rustix::io::write(copy, b"x"), Err(Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(copy, 0), Err(Errno::PERM));
        assert_eq!(rustix::fs::fcntl_add_seals(copy, SealFlags::FUTURE_WRITE), Err(Errno::PERM));
    }

    #[test]
    fn names_are_looked_for_as_execvp_does() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first"), directory.path().join("second"));
        std::fs::create_dir_all(first.join("directory")).unwrap();
        std::fs::create_dir(&second).unwrap();
        let echo = std::fs::read("/bin/echo").unwrap();
        executable(&first, "tool", &echo, 0o644);
        let tool = executable(&second, "tool", &echo, 0o755);
        let search = std::env::join_paths([&directory.path().join("none"), &first, &second]).unwrap();
        let launch = open(OsStr::new("tool"), Some(&search)).unwrap();
        assert_eq!(launch.paths(), [tool.to_str().unwrap()]);
        assert_eq!(launch.name, "tool");
        let outcome = |name: &str| open(OsStr::new(name), Some(&search)).unwrap_err();
        assert!(matches!(outcome("missing"), LaunchError::NotFound(_)));
        assert!(matches!(outcome(""), LaunchError::NotFound(_)));
        assert!(matches!(outcome("directory"), LaunchError::NotRegular(_)));
        let only_first = std::env::join_paths([&first]).unwrap();
        let outcome = open(OsStr::new("tool"), Some(&only_first));
        assert!(matches!(outcome, Err(LaunchError::Denied(..))), "{outcome:?}");
    }

    #[test]
    fn the_program_keeps_the_name_that_the_user_gave_it() {
        let launch = open(OsStr::new("sh"), Some(OsStr::new("/bin"))).unwrap();
        assert_eq!(output(launch, &["-c", "tr '\\0' ' ' < /proc/$$/cmdline | cut -d' ' -f1"]), "sh\n");
    }

    #[test]
    fn what_cannot_be_run_as_measured_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let program = |content: &[u8], mode| executable(directory.path(), "program", content, mode);
        assert!(matches!(open_path(&program(b"", 0o755)), Err(LaunchError::Format(..))));
        assert!(matches!(open_path(&program(b"echo no line\n", 0o755)), Err(LaunchError::Format(..))));
        assert!(matches!(open_path(&program(b"#!\n", 0o755)), Err(LaunchError::Format(..))));
        assert!(matches!(open_path(&program(b"#! \t \n", 0o755)), Err(LaunchError::Format(..))));
        let long = [b"#!/bin/sh ".to_vec(), vec![b'x'; 300], b"\n".to_vec()].concat();
        assert!(matches!(open_path(&program(&long, 0o755)), Err(LaunchError::Format(..))));
        assert!(matches!(open_path(&program(b"#!/no/such\n", 0o755)), Err(LaunchError::NotFound(_))));
        let echo = std::fs::read("/bin/echo").unwrap();
        assert!(matches!(open_path(&program(&echo, 0o4755)), Err(LaunchError::SetId(_))));
        assert!(matches!(open_path(&program(&echo, 0o2755)), Err(LaunchError::SetId(_))));
        let inner = executable(directory.path(), "inner", b"#!/bin/sh\n", 0o755);
        let nested = format!("#!{}\n", inner.display());
        assert!(matches!(open_path(&program(nested.as_bytes(), 0o755)), Err(LaunchError::Format(..))));
        let unnamable = directory.path().join(OsStr::from_bytes(b"\xff"));
        std::fs::copy("/bin/echo", &unnamable).unwrap();
        assert!(matches!(open_path(&unnamable), Err(LaunchError::NotUtf8(_))));
    }

    #[test]
    fn a_long_path_becomes_a_name_that_fits() {
        assert_eq!(memfd_name("/bin/sh"), "/bin/sh");
        let long = format!("/{}/tool", "d".repeat(250));
        assert_eq!(memfd_name(&long), "tool");
        let name = format!("/{}/é{}", "d".repeat(10), "n".repeat(248));
        assert_eq!(memfd_name(&name), "n".repeat(248));
    }
}
