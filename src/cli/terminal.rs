//! Asking at the terminal, without echo.
//!
//! *Takes* a question. *Gives* one line, zeroized when dropped, without its end. *Denies* where standard input is no
//! terminal. *Source*: termios(3).
#![allow(clippy::print_stderr, reason = "a prompt goes to the terminal, beside what is piped on")]

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, IsTerminal, Read};
use zeroize::Zeroizing;

/// Asks; the buffer has its whole size, `most` bytes, at once, so that no copy is left behind.
pub(super) fn ask(question: &str, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(io::Error::other("standard input is no terminal to ask at"));
    }
    let before = tcgetattr(&stdin)?;
    let silent = Silent { before: before.clone() };
    let mut quiet = before;
    quiet.local_modes.remove(LocalModes::ECHO);
    quiet.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&stdin, OptionalActions::Flush, &quiet)?;
    eprint!("{question}: ");
    let mut line = Zeroizing::new(Vec::with_capacity(most));
    stdin.lock().take(u64::try_from(most).unwrap_or(0)).read_until(b'\n', &mut line)?;
    drop(silent);
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(line)
}

/// The same, or the next line of standard input where that is no terminal.
pub(super) fn ask_or_read(question: &str, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return ask(question, most);
    }
    let mut line = Zeroizing::new(Vec::with_capacity(most));
    stdin.lock().take(u64::try_from(most).unwrap_or(0)).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::Error::other("standard input has ended"));
    }
    Ok(line)
}

/// Puts the terminal back as it was.
struct Silent {
    before: Termios,
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
