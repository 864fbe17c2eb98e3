//! How deep a policy text is, before anything parses it.
//!
//! *Takes* text. *Gives* its word that Cedar's recursion stays within a stack, and that stack. *Denies* nothing itself: a
//! text that is too deep is refused whole. *Source*: measured on Cedar 4.14: 100,000 parentheses, or as many `+`, overflow
//! its parser's stack, which ends the process; and where the stack runs short (200 members, 2 MiB), its validator stops
//! looking and reports **no error**, so an invalid policy passes for valid.

use super::compile::{Cause, Fault, PolicyError};
use crate::limits;

/// Bounds the brackets within brackets, and the parts, of each policy. It reads only what Cedar's lexer agrees about:
/// where texts and comments begin and end.
pub(super) fn check(text: &str) -> Result<(), Fault> {
    let mut bytes = text.bytes().peekable();
    let mut extent = Extent { line: 1, ..Extent::default() };
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => extent.line = extent.line.saturating_add(skip_text(&mut bytes)),
            b'/' if bytes.peek() == Some(&b'/') => {
                while bytes.next_if(|byte| !matches!(byte, b'\n' | b'\r')).is_some() {}
            }
            _ => extent.meet(byte),
        }
        if extent.depth > limits::POLICY_DEPTH || extent.parts > limits::POLICY_PARTS {
            return Err(extent.fault());
        }
    }
    Ok(())
}

/// Does `work` on a stack that no text which [`check`] lets through can exhaust, whatever stack the caller has left.
pub(super) fn on_ample_stack<T: Send>(
    work: impl FnOnce() -> Result<T, PolicyError> + Send,
) -> Result<T, PolicyError> {
    let unchecked = |message: String| PolicyError::one(Cause::Unchecked, message);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(limits::POLICY_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, work).map_err(|error| unchecked(error.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(unchecked("the validator failed".to_owned())))
    })
}

/// Skips to the end of a quoted text; gives the lines that it spans.
fn skip_text(bytes: &mut impl Iterator<Item = u8>) -> usize {
    let mut lines: usize = 0;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => drop(bytes.next()),
            b'\n' => lines = lines.saturating_add(1),
            _ => (),
        }
    }
    lines
}

/// What has been met of the current policy.
#[derive(Default)]
struct Extent {
    line: usize,
    depth: usize,
    parts: usize,
    /// The last two letters, and whether a word goes on: `if` nests without a bracket.
    word: [u8; 2],
    length: usize,
}

impl Extent {
    fn meet(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() || byte == b'_' {
            self.word = [self.word[1], byte];
            self.length = self.length.saturating_add(1);
            return;
        }
        if self.length == 2 && self.word == *b"if" {
            self.part();
        }
        self.length = 0;
        match byte {
            b'(' | b'[' | b'{' => {
                self.depth = self.depth.saturating_add(1);
                self.part();
            }
            b')' | b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'.' => self.part(),
            b'\n' => self.line = self.line.saturating_add(1),
            // Within brackets it is no end, and Cedar will say so.
            b';' if self.depth == 0 => *self = Extent { line: self.line, ..Extent::default() },
            _ => (),
        }
    }

    fn part(&mut self) {
        self.parts = self.parts.saturating_add(1);
    }

    fn fault(&self) -> Fault {
        let (depth, parts) = (limits::POLICY_DEPTH, limits::POLICY_PARTS);
        let message =
            format!("a policy has more than {depth} brackets within brackets, or more than {parts} parts");
        Fault { cause: Cause::TooDeep, rule: None, line: Some(self.line), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cedar::tests::facts;
    use crate::policy::cedar::{Decision, PolicySet};

    fn policy(condition: &str) -> String {
        format!("@id(\"a\")\npermit (principal, action, resource)\nwhen {{ {condition} }};\n")
    }

    /// Nests `n` levels around `leaf` (a condition) by each means that the language has.
    fn nested(n: usize, leaf: &str) -> [(&'static str, String); 9] {
        let around =
            |open: &str, middle: &str, close: &str| format!("{}{middle}{}", open.repeat(n), close.repeat(n));
        [
            ("parentheses", around("(", leaf, ")")),
            ("sets", format!("{0} == {0}", around("[", leaf, "]"))),
            ("records", format!("{0} == {0}", around("{a:", leaf, "}"))),
            ("calls", around("[true].contains(", leaf, ")")),
            ("conjunction", format!("{leaf}{}", " && !context.hold".repeat(n))),
            ("disjunction within", around("(context.hold || ", leaf, ")")),
            ("conditionals", format!("{}{leaf}", "if context.hold then false else\n".repeat(n))),
            ("members", format!("{}{}", around("{a:", leaf, "}"), ".a".repeat(n))),
            ("sums", format!("({leaf}) && 0 < 1{}", "+1".repeat(n))),
        ]
    }

    #[test]
    fn a_text_that_would_overflow_the_stack_is_refused_unparsed() {
        for (means, condition) in nested(50_000, "true") {
            let fault = check(&policy(&condition)).unwrap_err();
            assert_eq!(fault.cause, Cause::TooDeep, "{means}");
            assert!(fault.line.is_some_and(|line| line >= 3), "{means}");
        }
    }

    /// The deepest text of each means that is let through; `leaf` is put at its deepest place.
    fn deepest(leaf: &str) -> Vec<(&'static str, String)> {
        let fitting = |place: usize| {
            (1..1024).rev().find_map(|n| {
                let (means, condition) = nested(n, leaf).into_iter().nth(place)?;
                let text = policy(&condition);
                check(&text).is_ok().then_some((means, text))
            })
        };
        (0..nested(0, leaf).len()).map(|place| fitting(place).unwrap()).collect()
    }

    fn on_stack<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::Builder::new().stack_size(bytes).spawn(work).unwrap().join().unwrap()
    }

    #[test]
    fn the_deepest_policy_is_decided_and_explained() {
        for (means, text) in deepest("context.ttl_seconds < 100") {
            let (decided, explained) = on_stack(limits::DECIDING_STACK_BYTES, move || {
                let set = PolicySet::compile(&text).unwrap_or_else(|error| panic!("{error}"));
                let facts = facts();
                (set.decide(&facts.question()), set.explain(&facts.question()).decision)
            });
            assert_eq!(decided, Decision::Permitted { rules: vec!["a".into()] }, "{means}");
            assert_eq!(explained, decided, "{means}");
        }
    }

    /// Cedar's validator says nothing of what it has no stack to look at.
    #[test]
    fn an_invalid_policy_is_refused_however_deep_it_hides_and_little_stack_is_left() {
        for (means, text) in deepest("context.nonsense < 100") {
            let error =
                on_stack(256 * 1024, move || PolicySet::compile(&text).map(|set| set.len())).unwrap_err();
            assert!(error.faults.iter().all(|fault| fault.cause == Cause::Invalid), "{means}: {error}");
            assert!(error.to_string().contains("nonsense"), "{means}: {error}");
        }
    }

    #[test]
    fn a_validator_that_panics_is_no_permission() {
        let outcome = on_ample_stack(|| -> Result<(), PolicyError> { panic!("as a test") });
        assert_eq!(outcome.unwrap_err().faults[0].cause, Cause::Unchecked);
    }

    #[test]
    fn texts_comments_and_other_policies_do_not_count() {
        let brackets = "(".repeat(1000);
        let quoted = format!("resource.path == \"{brackets}\\\"{brackets}\" // {brackets}\r\n\n");
        assert_eq!(check(&policy(&quoted)), Ok(()));
        let list = vec!["\"a\""; 5000].join(",");
        let many = policy(&format!("[{list}].contains(principal.path)")).repeat(20);
        assert_eq!(check(&many), Ok(()));
        assert!(check(&policy(&format!("{}; true", "(".repeat(10))).repeat(2)).is_err());
        // After a comment that a carriage return ends, brackets count again.
        assert!(check(&policy(&format!("true // \r {brackets}"))).is_err());
    }
}
