//! The house keeps itself in order: what `src/lib.rs` says of the flow and the witnesses is checked here.
//!
//! *Takes* the source tree as text. *Gives* a list of every place that breaks a rule. *Denies* nothing.
//! *Source*: the rules stand in `src/lib.rs` and at each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests run on known input"
)]

#[path = "architecture/source.rs"]
mod source;

use source::{Source, sources, words};
use std::collections::{BTreeMap, BTreeSet};

/// What a stage makes where its check has passed, in the order of the flow, and where it is declared. `Permit` and the
/// others exist once for each request; each format hands a `Verified…` of its own to the stage, which joins them in `Documents`.
const WITNESSES: [(&str, &str); 16] = [
    ("Peer", "transport"),
    ("Challenge", "challenge"),
    ("Answer", "challenge"),
    ("VerifiedStatement", "evidence"),
    ("VerifiedTpm2", "evidence"),
    ("VerifiedNitro", "evidence"),
    ("VerifiedSevSnp", "evidence"),
    ("VerifiedTdx", "evidence"),
    ("VerifiedSgx", "evidence"),
    ("VerifiedEvidence", "evidence"),
    ("CurrentEvidence", "freshness"),
    ("Unlatched", "latch"),
    ("AttestationResult", "appraisal"),
    ("Permit", "policy"),
    ("Grant", "audit"),
    ("Released", "release"),
];

/// The one exception to the order of the flow: the records of the audit log are vocabulary, as denials are. A latch is
/// rebuilt from them, so `latch` names their types; nothing of the log's working is in that file.
const VOCABULARY: [&str; 2] = ["audit", "record"];

/// Lines of a file past which it is two things.
const LINES: usize = 700;

/// The module groups of `src/lib.rs`, each in its order.
struct Groups {
    before: Vec<String>,
    stages: Vec<String>,
    beside: Vec<String>,
}

fn groups() -> Groups {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    let between = |from: &str, to: &str| -> Vec<String> {
        let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("src/lib.rs has no `{from}`"));
        let part = rest.split_once(to).map_or(rest, |(part, _)| part);
        let module = |line: &str| {
            line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
        };
        part.lines().filter_map(module).collect()
    };
    Groups {
        before: between("// Before the stages", "// The stages"),
        stages: between("// The stages", "// Beside them"),
        beside: between("// Beside them", "\u{0}"),
    }
}

/// Fails with every breach on a line of its own.
fn none(rule: &str, breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

#[test]
fn the_groups_of_lib_rs_are_those_that_the_flow_has() {
    let groups = groups();
    let flow = [
        "transport",
        "challenge",
        "evidence",
        "freshness",
        "latch",
        "appraisal",
        "policy",
        "audit",
        "release",
    ];
    assert_eq!(groups.stages, flow);
    for module in ["denial", "limits", "request", "spiffe", "store", "time", "case"] {
        assert!(groups.before.iter().any(|found| found == module), "{module}");
    }
    let all: BTreeSet<&String> = groups.before.iter().chain(&groups.stages).chain(&groups.beside).collect();
    for source in sources("src") {
        let Some(first) = source.module().first().map(|first| (*first).to_owned()) else { continue };
        assert!(all.contains(&first), "`{first}` stands in no group of src/lib.rs");
    }
}

#[test]
fn imports_follow_the_flow() {
    let groups = groups();
    let place = |name: &str| groups.stages.iter().position(|stage| stage == name);
    let mut breaches = Vec::new();
    for source in sources("src") {
        let module = source.module();
        let Some(own) = module.first() else { continue };
        for path in source.crate_paths() {
            let named = path[0].as_str();
            let allowed = named == *own
                || groups.before.iter().any(|before| before == named)
                || match (place(own), place(named)) {
                    (Some(own), Some(named)) => named < own || path.iter().take(2).eq(VOCABULARY),
                    (Some(_), None) => false,
                    (None, _) => !groups.before.iter().any(|before| before == own),
                };
            if !allowed {
                breaches.push(format!("{}: names `{}`", source.path, path.join("::")));
            }
        }
    }
    none("a stage names earlier stages only, and what stands before the stages names none", breaches);
}

#[test]
fn nothing_but_the_command_line_names_the_command_line() {
    let mut breaches = Vec::new();
    for source in sources("src") {
        let names_cli = source.crate_paths().iter().any(|path| path[0] == "cli");
        if names_cli && source.module().first() != Some(&"cli") {
            breaches.push(source.path.clone());
        }
    }
    none("`cli` is named by itself alone", breaches);
}

/// `super::` may not climb to the crate's root, from where a path would go around the rule above.
#[test]
fn no_path_climbs_out_of_its_stage() {
    let mut breaches = Vec::new();
    for source in sources("src") {
        let depth = source.module().len();
        let climb = "super::".repeat(depth.max(1));
        if source.product.contains(&climb) {
            breaches.push(format!("{}: `{climb}`", source.path));
        }
    }
    none("a path climbs to the crate's root", breaches);
}

#[test]
fn each_witness_is_made_in_one_place() {
    let sources = sources("src");
    let mut breaches = Vec::new();
    for (witness, stage) in WITNESSES {
        let declared = declaration(&sources, witness, stage);
        let within = declared.module();
        let places: Vec<String> = sources
            .iter()
            .filter(|source| source.module().starts_with(&within))
            .flat_map(|source| literals(source, witness))
            .collect();
        if places.len() != 1 {
            breaches.push(format!("{witness}: {} places: {}", places.len(), places.join(", ")));
        }
        let body = braces(&declared.product, struct_at(&declared.product, witness).unwrap());
        if body.lines().any(|line| line.trim_start().starts_with("pub")) {
            breaches.push(format!("{witness}: has a field that is not private"));
        }
        if sources
            .iter()
            .any(|other| other.module().len() > within.len() && other.module().starts_with(&within))
        {
            breaches
                .push(format!("{witness}: {} is no leaf file; its children see the fields", declared.path));
        }
    }
    none("the struct literal of a witness stands once, in the function that did the check", breaches);
}

#[test]
fn no_witness_can_be_copied_or_made_from_anything() {
    let sources = sources("src");
    let traits = ["Clone", "Copy", "Default", "Serialize", "Deserialize", "From", "TryFrom"];
    let mut breaches = Vec::new();
    for (witness, stage) in WITNESSES {
        let declared = declaration(&sources, witness, stage);
        let at = struct_at(&declared.product, witness).unwrap();
        let attributes: Vec<&str> = declared.product[..at]
            .lines()
            .rev()
            .take_while(|line| line.trim().is_empty() || line.trim_start().starts_with("#["))
            .collect();
        if !attributes.iter().any(|line| line.starts_with("#[must_use")) {
            breaches.push(format!("{witness}: is not #[must_use]"));
        }
        for name in traits {
            let derived =
                attributes.iter().any(|line| line.contains("derive") && words(line, name).next().is_some());
            if derived || implements(&sources, &declared.module()[0..1], name, witness) {
                breaches.push(format!("{witness}: has {name}"));
            }
        }
    }
    none("a witness is neither copied, nor read from bytes, nor made from anything else", breaches);
}

#[test]
fn every_module_has_its_header() {
    let headless = sources("src").into_iter().filter(|source| !source.text.starts_with("//!"));
    none("a module begins with its `//!` header", headless.map(|source| source.path).collect());
}

#[test]
fn nothing_is_left_to_be_done_later() {
    let marks = [concat!("to", "do!"), concat!("unim", "plemented!"), concat!("#[ig", "nore")];
    let mut breaches = Vec::new();
    for source in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        for mark in marks {
            if source.code.contains(mark) {
                breaches.push(format!("{}: {mark}", source.path));
            }
        }
    }
    none("stubs and ignored tests", breaches);
}

#[test]
fn unsafe_stands_in_one_reviewed_file() {
    let found = sources("src").into_iter().filter(|source| words(&source.code, "unsafe").next().is_some());
    none("`unsafe` outside src/sys.rs", found.map(|s| s.path).filter(|path| path != "src/sys.rs").collect());
}

#[test]
fn one_file_asks_the_time_and_the_command_line_alone_reads_the_environment() {
    let clocks = ["SystemTime::now", "Instant::now", "clock_gettime", "now_utc", "now_local"];
    let environment = ["env::var", "env::args", "env::set_var", "env::home_dir", "env::current_dir"];
    let mut breaches = Vec::new();
    for source in sources("src") {
        let asks = |names: &[&str]| names.iter().any(|name| source.product.contains(name));
        if asks(&clocks) && source.path != "src/time.rs" {
            breaches.push(format!("{}: asks the time", source.path));
        }
        if asks(&environment) && source.module().first() != Some(&"cli") {
            breaches.push(format!("{}: reads the environment", source.path));
        }
    }
    none("the time comes from time.rs, the environment from cli/", breaches);
}

#[test]
fn no_file_is_too_long_to_be_one_thing() {
    let all = ["src", "tests", "benches"].into_iter().flat_map(sources);
    let long = all.filter(|source| source.text.lines().count() > LINES);
    none(
        "files of more than 700 lines",
        long.map(|s| format!("{} ({})", s.path, s.text.lines().count())).collect(),
    );
}

#[test]
fn every_denial_is_named_by_a_test() {
    let tests: Vec<Source> =
        sources("tests").into_iter().filter(|source| !source.path.contains("architecture")).collect();
    let untested = portcullis::denial::Denial::ALL
        .iter()
        .map(|denial| denial.name())
        .filter(|name| !tests.iter().any(|source| words(&source.with_strings, name).next().is_some()));
    none("denials that nothing under tests/ names", untested.map(str::to_owned).collect());
}

/// No two denials may be explained alike: an operator could not tell them apart.
#[test]
fn every_denial_has_its_own_explanation() {
    let mut seen = BTreeMap::new();
    for denial in portcullis::denial::Denial::ALL {
        if let Some(other) = seen.insert(denial.explanation(), denial) {
            panic!("{other} and {denial} are explained alike");
        }
    }
}

fn declaration<'a>(sources: &'a [Source], witness: &str, stage: &str) -> &'a Source {
    let of_stage = sources.iter().filter(|source| source.module().first() == Some(&stage));
    let mut found: Vec<&Source> = of_stage.filter(|s| struct_at(&s.product, witness).is_some()).collect();
    assert_eq!(found.len(), 1, "`pub struct {witness}` stands once in `{stage}`");
    found.remove(0)
}

fn struct_at(code: &str, name: &str) -> Option<usize> {
    let declaration = format!("pub struct {name}");
    words(code, &declaration).next()
}

/// The places where a literal of `name` stands: `Name {`, not as a declaration, type, pattern or variant of an enum;
/// and `Self {` within its `impl`.
fn literals(source: &Source, name: &str) -> Vec<String> {
    let code = &source.product;
    let made = |at: usize, word: &str| {
        let (before, after) = (code[..at].trim_end(), code[at + word.len()..].trim_start());
        let types = ["struct", "impl", "for", "enum", "let", "->", "mod", ">"];
        let variant = before.strip_suffix("::").is_some_and(|path| {
            let last = path.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            last == "v1" || last.starts_with(char::is_uppercase)
        });
        after.starts_with('{') && !variant && !types.iter().any(|word| before.ends_with(word))
    };
    let line = |at: usize| format!("{}:{}", source.path, code[..at].lines().count());
    let by_name = words(code, name).filter(|at| made(*at, name)).map(line);
    let own = words(code, "impl").filter(|at| subject(&code[*at..]) == Some(name));
    let by_self = own.flat_map(|at| {
        let body = braces(code, at);
        let from = at + code[at..].find('{').unwrap_or_default();
        words(body, "Self")
            .filter(|inner| made(from + 1 + inner, "Self"))
            .map(move |inner| from + 1 + inner)
            .collect::<Vec<_>>()
    });
    by_name.chain(by_self.map(line)).collect()
}

/// The type that an `impl` is for.
fn subject(code: &str) -> Option<&str> {
    let head = code.split_once('{')?.0.trim_end();
    let head = head.split_once(" where ").map_or(head, |(head, _)| head);
    let name =
        head.rsplit_once(" for ").map_or(head.trim_start_matches("impl").trim(), |(_, name)| name.trim());
    Some(name.split('<').next().unwrap_or(name).rsplit("::").next().unwrap_or(name).trim())
}

fn implements(sources: &[Source], stage: &[&str], name: &str, witness: &str) -> bool {
    let of_stage = sources.iter().filter(|source| source.module().starts_with(stage));
    of_stage.into_iter().any(|source| {
        words(&source.product, "impl").any(|at| {
            let code = &source.product[at..];
            let head = code.split('{').next().unwrap_or_default();
            let of_trait =
                head.split_once(" for ").is_some_and(|(left, _)| words(left, name).next().is_some());
            of_trait && subject(code) == Some(witness)
        })
    })
}

/// What stands between the first `{` after `from` and its `}`.
fn braces(code: &str, from: usize) -> &str {
    let start = from + code[from..].find('{').expect("a brace") + 1;
    let mut depth = 1;
    for (at, character) in code[start..].char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 1 => return &code[start..start + at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    panic!("an unclosed brace")
}
