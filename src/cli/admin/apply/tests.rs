//! The plan: what differs, and in which order it is put right.

use super::directory::Wanted;
use super::plan::{Action, How, Plan};
use super::state::Present;
use super::steps::{Call, Phase};
use super::{directory, entries};
use crate::proto::admin::{Node, ReferenceSet, Secret, ShowPolicyResponse};
use crate::time::WallTime;
use std::collections::BTreeMap;
use std::path::Path;

const HOW: How = How { prune: true, keep_latches: false, now: WallTime(1_800_000_000_000) };

fn secret(text: &str) -> Wanted {
    let text = format!("[[secret]]\npath = \"kv/a\"\n{text}\n");
    let entries = entries::secrets(Path::new("s.toml"), &text).unwrap();
    let entries = entries.into_iter().map(|(place, entry)| (entry.path.to_string(), (place, entry)));
    Wanted { secrets: Some(entries.collect()), ..Wanted::default() }
}

fn stored(change: impl Fn(&mut Secret)) -> Present {
    let mut secret = Secret {
        path: "kv/a".to_owned(),
        lease_default_seconds: 300,
        lease_maximum_seconds: 300,
        current_version: 1,
        ..Secret::default()
    };
    change(&mut secret);
    Present { secrets: BTreeMap::from([("kv/a".to_owned(), secret)]), ..Present::default() }
}

fn sets(text: &str) -> Wanted {
    let sets = entries::sets(Path::new("r.toml"), text).unwrap();
    let sets = sets.into_iter().map(|(place, set)| (set.name.clone(), (place, set)));
    Wanted { sets: Some(sets.collect()), ..Wanted::default() }
}

fn set(name: &str, workload: &str, year: u32) -> String {
    let sha256 = "6b1f0c2e8a4d4c6f9e3b7a5d2c1f0e9d8b7a6c5f4e3d2c1b0a9f8e7d6c5b4a39";
    format!(
        "[[set]]\nname = \"{name}\"\nworkload = \"spiffe://example.org/{workload}\"\nnot_after = {year}-01-01T00:00:00Z\n\
         [set.process]\nexecutables = [{{ sha256 = \"{sha256}\" }}]\n"
    )
}

fn with_sets(text: &str) -> Present {
    let mut present = Present::default();
    for (name, (_, set)) in sets(text).sets.unwrap() {
        let json = serde_json::to_string(&set).unwrap();
        let workload = set.workload.to_string();
        let stored = ReferenceSet { name: name.clone(), workload, json, ..ReferenceSet::default() };
        present.sets.insert(name, stored);
    }
    present
}

fn phases(wanted: &Wanted, present: &Present) -> Vec<(Phase, String)> {
    let plan = Plan::of(wanted, present, HOW).unwrap();
    plan.steps.into_iter().map(|step| (step.phase, step.what)).collect()
}

#[test]
fn what_a_file_leaves_out_is_left_as_it_is() {
    let present = stored(|secret| {
        secret.disabled = true;
        secret.exporter_demanded = true;
        secret.labels.insert("a".to_owned(), "b".to_owned());
    });
    assert_eq!(Plan::of(&secret(""), &present, HOW).unwrap(), Plan::default());
    let none = Plan::of(&secret("labels = {}"), &present, HOW).unwrap();
    assert_eq!(none.changes[0].difference, ["- labels.a: b"]);
}

#[test]
fn terms_that_narrow_and_terms_that_widen_are_two_steps_and_each_is_sound() {
    let steps = |stored_maximum, text: &str| {
        let present = stored(|secret| {
            secret.lease_default_seconds = 300;
            secret.lease_maximum_seconds = stored_maximum;
        });
        let plan = Plan::of(&secret(text), &present, HOW).unwrap();
        let terms = |call: Call| match call {
            Call::Configure(request) => (request.lease_default_seconds, request.lease_maximum_seconds),
            other => panic!("{other:?}"),
        };
        plan.steps.into_iter().map(|step| (step.phase, terms(step.call))).collect::<Vec<_>>()
    };
    let (narrows, widens) = (Phase::Narrows, Phase::Widens);
    assert_eq!(
        steps(300, "lease_default_seconds = 60\nlease_maximum_seconds = 900"),
        [(narrows, (60, 0)), (widens, (0, 900))]
    );
    assert_eq!(
        steps(900, "lease_default_seconds = 400\nlease_maximum_seconds = 400"),
        [(narrows, (0, 400)), (widens, (400, 0))]
    );
    assert_eq!(steps(900, "lease_default_seconds = 60\nlease_maximum_seconds = 60"), [(narrows, (60, 60))]);
    let longer = Plan::of(&secret("lease_default_seconds = 400"), &stored(|_| ()), HOW).unwrap_err();
    assert!(longer.to_string().starts_with("s.toml:1: "), "{longer}");
}

#[test]
fn a_secret_that_is_not_there_is_never_made() {
    let plan = Plan::of(&secret("disabled = false"), &Present::default(), HOW).unwrap();
    assert_eq!((plan.changes[0].action, plan.steps.len()), (Action::Missing, 0));
}

#[test]
fn the_last_set_of_a_workload_goes_after_its_successor_came() {
    let present = with_sets(&[set("a-1", "a", 2097), set("b-1", "b", 2097), set("b-2", "b", 2097)].concat());
    let wanted = sets(&[set("a-2", "a", 2097), set("b-2", "b", 2097)].concat());
    let expected = [
        (Phase::Narrows, "remove reference set b-1"),
        (Phase::Widens, "put reference sets a-2"),
        (Phase::Uncovers, "remove reference set a-1"),
    ];
    assert_eq!(phases(&wanted, &present), expected.map(|(phase, what)| (phase, what.to_owned())));
}

#[test]
fn an_earlier_end_alone_narrows_and_one_that_has_passed_is_refused_only_where_it_is_new() {
    let present = with_sets(&set("a", "a", 2097));
    assert_eq!(phases(&sets(&set("a", "a", 2096)), &present)[0].0, Phase::Narrows);
    assert_eq!(phases(&sets(&set("a", "a", 2098)), &present)[0].0, Phase::Widens);
    assert_eq!(phases(&sets(&set("a", "a", 2001)), &with_sets(&set("a", "a", 2001))), []);
    let ended = Plan::of(&sets(&set("a", "a", 2001)), &present, HOW).unwrap_err();
    assert!(ended.to_string().starts_with("r.toml:1: set `a`: not_after"), "{ended}");
}

#[test]
fn many_sets_are_put_in_as_few_calls_as_take_them() {
    let text: String = (0..300).map(|number| set(&format!("s-{number:03}"), "a", 2097)).collect();
    let plan = Plan::of(&sets(&text), &Present::default(), HOW).unwrap();
    let counts: Vec<usize> = plan.steps.iter().map(|step| step.what.matches("s-").count()).collect();
    assert_eq!(counts, [128, 128, 44]);
}

#[test]
fn a_policy_names_the_text_that_it_takes_the_place_of() {
    let permit = "@id(\"a\")\npermit (principal, action, resource in Folder::\"kv/a\");\n";
    let wanted = Wanted { policy: Some(format!("// why\n{permit}")), ..Wanted::default() };
    let there = ShowPolicyResponse { text: permit.to_owned(), sha256: "ab".to_owned() };
    let plan = Plan::of(&wanted, &Present { policy: there, ..Present::default() }, HOW).unwrap();
    assert_eq!(plan.changes[0].difference, ["the same policies: comments, order or spaces alone"]);
    let Call::PutPolicy(request) = &plan.steps[0].call else { panic!("{plan:?}") };
    assert_eq!(request.expected_sha256, "ab");
    let other = permit.replace("\"a\")", "\"b\")");
    let there = ShowPolicyResponse { text: other, sha256: "cd".to_owned() };
    let plan = Plan::of(&wanted, &Present { policy: there, ..Present::default() }, HOW).unwrap();
    let shown = plan.changes[0].difference.join("\n");
    assert!(shown.contains("+ a: permit") && shown.contains("- b: permit"), "{shown}");
}

#[test]
fn a_node_that_may_vouch_for_less_narrows_and_the_order_of_lists_says_nothing() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/apply");
    let nodes = directory::read(Path::new(directory)).unwrap().nodes;
    let (place, entry) = nodes.as_ref().unwrap()["pay-node-1"].clone();
    let wanted = Wanted { nodes, ..Wanted::default() };
    let stored = |patterns: &[&str], not_after: &str| {
        let node = Node {
            name: "pay-node-1".to_owned(),
            key_sha256: entry.key_sha256(&place).unwrap(),
            not_after: not_after.to_owned(),
            may_vouch_for: patterns.iter().map(|one| (*one).to_owned()).collect(),
            ..Node::default()
        };
        Present { nodes: BTreeMap::from([(node.name.clone(), node)]), ..Present::default() }
    };
    let (all, end) = ("spiffe://example.org/ns/payments/*", &*entry.not_after.to_string());
    let before = HOW.now;
    let how = How { now: WallTime(0), ..HOW };
    let phase =
        |present: &Present| Plan::of(&wanted, present, how).unwrap().steps.first().map(|step| step.phase);
    assert_eq!(phase(&stored(&[all, all], end)), None);
    assert_eq!(phase(&stored(&["spiffe://example.org/x", all], end)), Some(Phase::Narrows));
    assert_eq!(phase(&stored(&[all], "2028-03-01T00:00:00Z")), Some(Phase::Narrows));
    assert_eq!(phase(&stored(&["spiffe://example.org/x"], end)), Some(Phase::Widens));
    assert_eq!(phase(&stored(&[all], "2026-12-01T00:00:00Z")), Some(Phase::Widens));
    let late = How { now: before.plus(400 * 86_400_000), ..HOW };
    assert!(Plan::of(&wanted, &Present::default(), late).unwrap_err().to_string().contains("has passed"));
}
