//! A table of questions and the decisions that they must get: `admin policy test`.
//!
//! *Takes* TOML or JSON, and policies. *Gives* pass or fail, case by case. *Denies* nothing: it never meets a request.
//! *Source*: the words are those of `schema.cedarschema`; an example stands in `deploy/examples/policy-cases.toml`.

use super::cedar::{Decision, PolicySet};
use super::question::{Question, SecretFacts};
use crate::appraisal::claims::AttestedClaims;
use crate::limits;
use crate::request::{ChannelBinding, SecretPath};
use crate::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Cases, each a question and what must be decided.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    #[serde(rename = "case")]
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    principal: SpiffeId,
    secret: SecretPath,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    claims: AttestedClaims,
    #[serde(default)]
    channel_binding: Binding,
    #[serde(default = "default_lease")]
    ttl_seconds: u32,
    #[serde(default)]
    hold: bool,
    expect: Expected,
    /// The policies that must have decided, no other; not looked at where absent.
    #[serde(default)]
    rules: Option<BTreeSet<String>>,
}

/// What a case must end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// `Decision::Permitted`.
    Permit,
    /// `Decision::Forbidden`.
    Forbid,
    /// `Decision::Silent`.
    Silent,
    /// `Decision::Unevaluable`.
    Error,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Binding {
    #[default]
    TlsExporter,
    None,
}

/// Why a text is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// It does not parse, or a case lacks something, or has something unknown.
    #[error("{0}")]
    Malformed(String),
    /// It has no case: a test that cannot fail.
    #[error("the table has no case")]
    Empty,
    /// Two cases have one name.
    #[error("two cases are named `{0}`")]
    NameRepeated(String),
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The case's name.
    pub name: String,
    /// Whether it was decided as it must be.
    pub passed: bool,
    /// What was expected.
    pub expected: Expected,
    /// The policies expected, where the case names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_rules: Option<BTreeSet<String>>,
    /// What was decided.
    pub decided: Decision,
}

impl Table {
    /// Parses `[[case]]` tables.
    pub fn parse_toml(text: &str) -> Result<Table, TableError> {
        toml::from_str(text)
            .map_err(|error| TableError::Malformed(error.to_string()))
            .and_then(Table::checked)
    }

    /// Parses `{"case": [ … ]}`.
    pub fn parse_json(text: &str) -> Result<Table, TableError> {
        serde_json::from_str(text)
            .map_err(|error| TableError::Malformed(error.to_string()))
            .and_then(Table::checked)
    }

    /// Puts every case to the policies, in the table's order.
    pub fn run(&self, policies: &PolicySet) -> Vec<Outcome> {
        self.cases.iter().map(|case| case.run(policies)).collect()
    }

    fn checked(self) -> Result<Table, TableError> {
        let mut names = BTreeSet::new();
        match self.cases.iter().find(|case| !names.insert(case.name.as_str())) {
            Some(case) => Err(TableError::NameRepeated(case.name.clone())),
            None if self.cases.is_empty() => Err(TableError::Empty),
            None => Ok(self),
        }
    }
}

impl Case {
    fn run(&self, policies: &PolicySet) -> Outcome {
        let decided = policies.decide(&Question {
            principal: &self.principal,
            secret: SecretFacts { path: &self.secret, labels: &self.labels },
            claims: &self.claims,
            channel_binding: match self.channel_binding {
                Binding::TlsExporter => ChannelBinding::TlsExporter,
                Binding::None => ChannelBinding::None,
            },
            ttl_seconds: self.ttl_seconds,
            hold: self.hold,
        });
        let (kind, rules) = kind_and_rules(&decided);
        let passed = kind == self.expect && self.rules.as_ref().is_none_or(|expected| *expected == rules);
        Outcome {
            name: self.name.clone(),
            passed,
            expected: self.expect,
            expected_rules: self.rules.clone(),
            decided,
        }
    }
}

fn kind_and_rules(decision: &Decision) -> (Expected, BTreeSet<String>) {
    match decision {
        Decision::Permitted { rules } => (Expected::Permit, rules.iter().cloned().collect()),
        Decision::Forbidden { rules } => (Expected::Forbid, rules.iter().cloned().collect()),
        Decision::Silent => (Expected::Silent, BTreeSet::new()),
        Decision::Unevaluable { errors } => {
            (Expected::Error, errors.iter().map(|(rule, _)| rule.clone()).collect())
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed { "ok    " } else { "FAILED" };
        write!(formatter, "{verdict} {}: {}", self.name, self.decided)?;
        if self.passed {
            return Ok(());
        }
        write!(formatter, "; expected {}", self.expected)?;
        match &self.expected_rules {
            Some(rules) => write!(formatter, " by {}", rules.iter().cloned().collect::<Vec<_>>().join(", ")),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Expected::Permit => "permit",
            Expected::Forbid => "forbid",
            Expected::Silent => "silent",
            Expected::Error => "error",
        })
    }
}

fn default_lease() -> u32 {
    limits::LEASE_DEFAULT_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICIES: &str = "@id(\"pay\") permit (principal, action, resource in Folder::\"kv/pay\");
        @id(\"exporter\") forbid (principal, action, resource) when { context.channel_binding == \"none\" };
        @id(\"long\") permit (principal, action, resource)
        when { resource.hasTag(\"long\") && context.ttl_seconds * 9223372036854775807 > 0 };";

    fn case(name: &str, rest: &str) -> String {
        format!(
            "[[case]]\nname = \"{name}\"\nprincipal = \"spiffe://a.org/x\"\nsecret = \"kv/pay/key\"\n{rest}\n"
        )
    }

    fn run(text: &str) -> Vec<(bool, Decision)> {
        let outcomes = Table::parse_toml(text).unwrap().run(&PolicySet::compile(POLICIES).unwrap());
        outcomes.into_iter().map(|outcome| (outcome.passed, outcome.decided)).collect()
    }

    #[test]
    fn every_kind_of_decision_can_be_expected() {
        let text = case("permitted", "expect = \"permit\"\nrules = [\"pay\"]")
            + &case("forbidden", "expect = \"forbid\"\nchannel_binding = \"none\"\nrules = [\"exporter\"]")
            + &case("silent", "expect = \"silent\"\nrules = []").replace("kv/pay/", "kv/")
            + &case("failing", "expect = \"error\"\nlabels = { long = \"\" }\nrules = [\"long\"]");
        assert!(run(&text).iter().all(|(passed, _)| *passed), "{:?}", run(&text));
    }

    #[test]
    fn another_decision_than_expected_fails_and_is_shown() {
        for wrong in ["forbid", "silent", "error"] {
            let text = case("a", &format!("expect = \"{wrong}\""));
            assert_eq!(run(&text), [(false, Decision::Permitted { rules: vec!["pay".into()] })], "{wrong}");
        }
        let outcomes = Table::parse_toml(&case("a", "expect = \"forbid\"")).unwrap();
        let outcomes = outcomes.run(&PolicySet::compile(POLICIES).unwrap());
        assert_eq!(outcomes[0].to_string(), "FAILED a: permitted by pay; expected forbid");
    }

    #[test]
    fn other_rules_than_expected_fail() {
        for rules in ["[]", "[\"long\"]", "[\"long\", \"pay\"]"] {
            let text = case("a", &format!("expect = \"permit\"\nrules = {rules}"));
            assert!(!run(&text)[0].0, "{rules}");
        }
    }

    #[test]
    fn a_table_that_is_not_sound_is_refused() {
        let twice = case("a", "expect = \"permit\"") + &case("a", "expect = \"permit\"");
        assert_eq!(Table::parse_toml(&twice).unwrap_err(), TableError::NameRepeated("a".into()));
        assert_eq!(Table::parse_toml("case = []").unwrap_err(), TableError::Empty);
        assert_eq!(Table::parse_json("{\"case\": []}").unwrap_err(), TableError::Empty);
        for rest in [
            "",
            "expect = \"allow\"",
            "expect = \"permit\"\nlabel = {}",
            "expect = \"permit\"\nchannel_binding = \"tls\"",
        ] {
            let error = Table::parse_toml(&case("a", rest)).unwrap_err();
            assert!(matches!(error, TableError::Malformed(_)), "{rest}");
        }
    }

    #[test]
    fn the_example_policies_decide_as_the_example_table_says() {
        let policies = include_str!("../../deploy/examples/release.cedar");
        let table = include_str!("../../deploy/examples/policy-cases.toml");
        let policies = PolicySet::compile(policies).unwrap_or_else(|error| panic!("{error}"));
        let outcomes = Table::parse_toml(table).unwrap().run(&policies);
        let failed: Vec<_> =
            outcomes.iter().filter(|outcome| !outcome.passed).map(ToString::to_string).collect();
        assert_eq!((outcomes.len(), failed), (6, vec![]));
    }
}
