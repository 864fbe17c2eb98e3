//! Rust source as `architecture.rs` reads it: files, their code without comments and strings, the paths it names.
//!
//! *Takes* text. *Gives* [`Source`] and what is found in it. *Denies* nothing. *Source*: the Rust Reference, "Tokens",
//! "Use declarations"; only what rustfmt leaves of them is understood.

use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// Its path from the package's directory, such as `src/policy/permit.rs`.
    pub path: String,
    /// Its text as it is.
    pub text: String,
    /// The same without comments.
    pub with_strings: String,
    /// The same without comments and without what stands in strings.
    pub code: String,
    /// `code` up to the tests at its end; empty where all of the file is tests.
    pub product: String,
}

/// Every `.rs` file below a directory of the package, sorted.
pub fn sources(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(&root.join(directory), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let (with_strings, code) = (stripped(&text, true), stripped(&text, false));
        let product = product(&code);
        Source { path, text, with_strings, code, product }
    };
    let mut sources: Vec<Source> = paths.into_iter().map(read).collect();
    let tests: Vec<String> = sources.iter().flat_map(test_modules).collect();
    for source in &mut sources {
        let stem = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if tests.iter().any(|test| stem == test || stem.starts_with(&format!("{test}/"))) {
            source.product.clear();
        }
    }
    sources
}

impl Source {
    /// Its module's path from the crate root: `["policy", "permit"]`; empty for `lib.rs` and `main.rs`.
    pub fn module(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path).strip_suffix(".rs").unwrap();
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/').filter(|part| !["lib", "main"].contains(part)).collect()
    }

    /// Every path after `crate::`, one for each leaf of a `use` tree.
    pub fn crate_paths(&self) -> Vec<Vec<String>> {
        let mut paths = Vec::new();
        for (at, found) in self.product.match_indices("crate::") {
            if !self.product[..at].ends_with(is_word) && !self.product[..at].ends_with('$') {
                expand(&self.product[at + found.len()..], &[], &mut paths);
            }
        }
        paths
    }
}

/// Where `word` stands in `text` as a word of its own.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let whole = |at: usize| !text[..at].ends_with(is_word) && !text[at + word.len()..].starts_with(is_word);
    text.match_indices(word).map(|(at, _)| at).filter(move |at| whole(*at))
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn walk(directory: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

/// The files, without `.rs`, of the modules that a file declares for tests alone.
fn test_modules(source: &Source) -> Vec<String> {
    let own = source.path.trim_end_matches(".rs");
    let directory = match own.rsplit_once('/') {
        Some((directory, "mod" | "lib" | "main")) => directory,
        _ => own,
    };
    let (mut for_tests, mut file, mut found) = (false, None, Vec::new());
    for (line, text) in source.code.lines().zip(source.with_strings.lines()) {
        let line = line.trim();
        if line.starts_with("#[cfg(") {
            for_tests = words(line, "test").next().is_some();
        } else if line.starts_with("#[path") {
            let beside = source.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            file = text.split('"').nth(1).map(|name| format!("{beside}/{}", name.trim_end_matches(".rs")));
        } else if !line.starts_with("#[") {
            let name = line.rsplit_once("mod ").and_then(|(_, name)| name.strip_suffix(';'));
            if let (true, Some(name)) = (for_tests, name) {
                found.push(file.take().unwrap_or_else(|| format!("{directory}/{name}")));
            }
            (for_tests, file) = (false, None);
        }
    }
    found
}

/// Tests stand at the very end of a file, in an inline `mod tests`.
fn product(code: &str) -> String {
    let inline = code.match_indices("mod tests {").map(|(at, _)| at);
    let end = inline.filter_map(|at| code[..at].rfind("#[cfg(").filter(|from| at - from < 80)).next();
    code[..end.unwrap_or(code.len())].to_owned()
}

/// One level of a `use` tree: `a::{b, c::d}` and what follows an identifier or a brace is not looked at.
fn expand(text: &str, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let text = text.trim_start();
    if let Some(inside) = text.strip_prefix('{') {
        branches(inside).into_iter().for_each(|branch| expand(branch, prefix, paths));
        return;
    }
    let name: String = text.chars().take_while(|c| is_word(*c)).collect();
    if name.is_empty() {
        return;
    }
    let path = [prefix, std::slice::from_ref(&name)].concat();
    match text[name.len()..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c| is_word(c) || c == '{') => expand(rest, &path, paths),
        _ => paths.push(path),
    }
}

/// The parts between the commas of a brace whose opening was read, up to its closing.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&text[from..at]);
                return found;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// Code with comments blanked, and strings and characters too unless `keep_strings`; lines stay where they are.
fn stripped(text: &str, keep_strings: bool) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(character) = rest.chars().next() {
        let before = out.chars().next_back();
        let (length, keep) = token(rest, character, before);
        let keep = keep || (keep_strings && character != '/');
        let taken = &rest[..length];
        out.extend(taken.chars().map(|c| if keep || c == '\n' { c } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

/// The length of a comment, string or character literal at the beginning of `rest`, else of one character, and whether
/// it is code.
fn token(rest: &str, first: char, before: Option<char>) -> (usize, bool) {
    let to = |end: &str, skip: usize| rest[skip..].find(end).map_or(rest.len(), |at| skip + at + end.len());
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), false);
    }
    if rest.starts_with("/*") {
        return (to("*/", 2), false);
    }
    if first == 'r' && !before.is_some_and(is_word) || rest.starts_with("br") && !before.is_some_and(is_word)
    {
        let raw = &rest[1 + usize::from(first == 'b')..];
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let skip = rest.len() - raw.len() + hashes + 1;
            return (to(&end, skip), false);
        }
    }
    match first {
        '"' => (quoted(rest), false),
        '\'' => character(rest).map_or((1, true), |length| (length, false)),
        _ => (first.len_utf8(), true),
    }
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// A character literal's length; none for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut characters = rest.char_indices().skip(1);
    let (_, first) = characters.next()?;
    if first == '\\' {
        let (at, _) = characters.skip(1).find(|(_, c)| *c == '\'')?;
        return Some(at + 1);
    }
    let (at, second) = characters.next()?;
    (second == '\'').then_some(at + 1)
}

#[test]
fn code_is_told_from_comments_and_strings() {
    let text = "a // b\n\"c \\\" d\" 'e' 'f r#\"g\"h\"# /* i */ j";
    let words: Vec<String> = stripped(text, false).split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["a", "'f", "j"]);
    assert!(stripped(text, true).contains("g\"h") && !stripped(text, true).contains('b'));
}

#[test]
fn use_trees_are_expanded() {
    let mut paths = Vec::new();
    expand("{a::{self, b}, c::D, e};", &[], &mut paths);
    let joined: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(joined, ["a::self", "a::b", "c::D", "e"]);
}
