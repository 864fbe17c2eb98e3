//! What `deploy/` says of the figures is what a running broker says: the list, the labels, and the rules over them.

use crate::probe::Figures;
use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};

const LIST: &str = include_str!("../../deploy/metrics.md");
const RULES: &str = include_str!("../../deploy/alerts.yml");

/// Type and labels by name, of each row of the list.
fn listed() -> BTreeMap<&'static str, (&'static str, BTreeSet<&'static str>)> {
    let rows = LIST.lines().filter(|line| line.starts_with("| `portcullis_"));
    let row = |line: &'static str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels =
            cells[3].split(", ").filter(|label| !label.is_empty()).map(|label| label.trim_matches('`'));
        assert!(!cells[4].is_empty(), "{line}");
        (cells[1].trim_matches('`'), (cells[2], labels.collect()))
    };
    let all: Vec<_> = rows.map(row).collect();
    let listed: BTreeMap<_, _> = all.iter().cloned().collect();
    assert_eq!(listed.len(), all.len(), "a figure stands twice");
    listed
}

#[test]
fn every_figure_is_listed_with_its_type_and_labels_and_no_other_is() {
    let world = World::bare();
    let Figures(found, _) = Figures::scrape(&world.operations_address);
    let listed = listed();
    let names = |name: &&&str| !found.contains_key(**name);
    assert_eq!(listed.keys().filter(names).collect::<Vec<_>>(), Vec::<&&str>::new(), "not there");
    for (name, family) in &found {
        let (kind, labels) = listed.get(name.as_str()).unwrap_or_else(|| panic!("`{name}` is not listed"));
        assert_eq!(family.kind, *kind, "{name}");
        // What this broker does not keep has no sample here.
        if !family.samples.is_empty() {
            let found: BTreeSet<&str> = family.labels.iter().map(String::as_str).collect();
            assert_eq!(found, *labels, "{name}");
        }
    }
}

/// The rules, as far as their form goes: `promtool` reads the whole of them in `tests/run`.
fn rules() -> Vec<BTreeMap<&'static str, &'static str>> {
    let mut rules: Vec<BTreeMap<&str, &str>> = Vec::new();
    for line in RULES.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let line = line.trim();
        let Some((key, value)) = line.split_once(':') else { panic!("no key: {line}") };
        match (key.trim_start_matches("- "), value.trim()) {
            ("alert", name) => rules.push(BTreeMap::from([("alert", name)])),
            ("groups" | "name" | "rules" | "labels" | "annotations", _) => {}
            (key, value) => {
                let rule = rules.last_mut().unwrap_or_else(|| panic!("before any rule: {line}"));
                assert!(rule.insert(key, value).is_none(), "twice in one rule: {line}");
            }
        }
    }
    rules
}

/// Words of an expression, quoted parts left out.
fn words(expression: &str) -> Vec<&str> {
    let bare = expression.split('"').step_by(2);
    let word = |one: &char| one.is_ascii_alphanumeric() || *one == '_';
    bare.flat_map(|part| part.split(|one: char| !word(&one))).filter(|word| !word.is_empty()).collect()
}

#[test]
fn every_rule_has_its_parts_and_names_figures_and_labels_that_exist() {
    let listed = listed();
    let rules = rules();
    assert!(rules.len() >= 20);
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"]).collect();
    assert_eq!(names.len(), rules.len(), "a rule stands twice");
    for rule in &rules {
        let name = rule["alert"];
        assert!(name.starts_with("Portcullis"), "{name}");
        assert!(["page", "ticket"].contains(&rule["severity"]), "{name}");
        assert!(!rule["summary"].is_empty() && !rule["action"].is_empty(), "{name}");
        let (mut labels, mut figures) = (BTreeSet::from(["instance", "le"]), 0);
        for word in words(rule["expr"]).iter().filter(|word| word.starts_with("portcullis_")) {
            let plain = word.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum");
            let (_, own) = listed.get(plain).unwrap_or_else(|| panic!("{name}: `{word}` is no figure"));
            labels.extend(own.iter().copied());
            figures += 1;
        }
        assert!(figures > 0, "{name}");
        let functions = [
            "absent",
            "and",
            "by",
            "d",
            "h",
            "histogram_quantile",
            "increase",
            "m",
            "offset",
            "on",
            "or",
            "rate",
            "sum",
        ];
        for word in words(rule["expr"]) {
            let number = word.starts_with(|first: char| first.is_ascii_digit());
            let known = number || functions.contains(&word) || word.starts_with("portcullis_");
            assert!(known || labels.contains(word), "{name}: `{word}`");
        }
        for label in rule["summary"].split("$labels.").skip(1) {
            assert!(labels.contains(words(label)[0]), "{name}: {label}");
        }
    }
}

#[test]
fn each_value_that_a_rule_asks_for_is_one_that_there_is() {
    let world = World::bare();
    let Figures(_, text) = Figures::scrape(&world.operations_address);
    for rule in rules() {
        for matcher in rule["expr"].split(['{', ',']).filter(|part| part.contains("=\"")) {
            let (label, rest) = matcher.split_once("=\"").unwrap();
            let value = rest.split('"').next().unwrap();
            let label = label.trim_end_matches('!');
            assert!(text.contains(&format!("{label}=\"{value}\"")), "{}: {label}=\"{value}\"", rule["alert"]);
        }
    }
}
