//! Why policy decides as it does, and what would change it: for operators, never in a caller's path.
//!
//! *Takes* a question. *Gives* [`Explanation`]. *Denies* nothing: it never meets a request.
//! *Source*: the policies' own conditions, clause by clause, evaluated by Cedar itself.

use super::cedar::{Decision, Evaluation, PolicySet, Rule};
use super::index::Scope;
use super::question::{Asked, Question};
use cedar_policy::{Effect, Policy};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;

/// Why a question is decided as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What is decided.
    pub decision: Decision,
    /// The policies whose scope names both the workload and the secret, ascending by name.
    pub in_scope: Vec<InScope>,
    /// Permits whose scope names one of the two, and another of the other; at most 16.
    pub near: Vec<Near>,
    /// What would be needed for a permit, in words; what permits, where one does.
    pub needed: Vec<String>,
}

/// A policy whose scope names both the workload and the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InScope {
    /// The policy.
    pub rule: String,
    /// Whether it permits or forbids where it holds.
    pub permits: bool,
    /// What its condition comes to.
    #[serde(flatten)]
    pub condition: Condition,
}

/// What a policy's condition comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "condition", rename_all = "kebab-case")]
pub enum Condition {
    /// It holds, or there is none.
    Holds,
    /// It does not hold, because of this clause, the first that does not.
    Lacks {
        /// As Cedar text.
        clause: String,
    },
    /// It cannot be evaluated.
    Fails {
        /// Cedar's words.
        cause: String,
    },
}

/// A permit whose scope came close.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Near {
    /// The policy.
    pub rule: String,
    /// Whether it names the workload (and other secrets) or the secret (and other workloads).
    pub names_workload: bool,
    /// What it names instead.
    pub instead: String,
}

impl PolicySet {
    /// Explains a decision; costs an evaluation of every policy, clause by clause.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let decision = self.decide(question);
        let folders =
            (question.identity_folders().collect::<Vec<_>>(), question.secret_folders().collect::<Vec<_>>());
        let names_workload = |rule: &Rule| rule.principal.names(question.principal.as_str(), &folders.0);
        let names_secret = |rule: &Rule| rule.resource.names(question.secret.path.as_str(), &folders.1);
        let asked = Asked::new(&self.words, question, &folders.0, &folders.1);
        let in_scope = self.rules.iter().filter(|(_, rule)| names_workload(rule) && names_secret(rule));
        let in_scope: Vec<InScope> = match &asked {
            Ok(asked) => in_scope.map(|(name, rule)| self.in_scope(name, rule, asked)).collect(),
            Err(_) => Vec::new(),
        };
        let permits = self.rules.iter().filter(|(_, rule)| rule.policy.effect() == Effect::Permit);
        let near: Vec<Near> = permits
            .filter_map(|(name, rule)| near(name, rule, names_workload(rule), names_secret(rule)))
            .take(NEAR)
            .collect();
        let needed = needed(&decision, &in_scope, &near);
        Explanation { decision, in_scope, near, needed }
    }

    fn in_scope(&self, name: &str, rule: &Rule, asked: &Asked) -> InScope {
        let condition = match self.evaluate(&rule.policy, asked) {
            Evaluation::Holds => Condition::Holds,
            Evaluation::Fails(cause) => Condition::Fails { cause },
            Evaluation::DoesNotHold => Condition::Lacks { clause: self.lacking(&rule.policy, asked) },
        };
        InScope { rule: name.to_owned(), permits: rule.policy.effect() == Effect::Permit, condition }
    }

    /// The first clause that does not hold, as text; the whole policy where none alone is to blame.
    fn lacking(&self, policy: &Policy, asked: &Asked) -> String {
        let clauses = clauses(policy);
        let lacking = clauses.iter().find(|clause| self.evaluate(clause, asked) != Evaluation::Holds);
        lacking.map_or_else(|| policy.to_string(), clause_text)
    }
}

/// Each part of a policy's conditions that must hold by itself, as a policy of open scope.
fn clauses(policy: &Policy) -> Vec<Policy> {
    let json = policy.to_json().unwrap_or_default();
    let conditions = json.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut clauses = Vec::new();
    for condition in &conditions {
        let (Some(kind), Some(body)) = (condition.get("kind"), condition.get("body")) else { continue };
        // `when { a && b }` needs both of a and b; `unless { a || b }` needs neither.
        let joint = if kind == "unless" { "||" } else { "&&" };
        let mut parts = Vec::new();
        split(body, joint, &mut parts);
        clauses.extend(parts.into_iter().filter_map(|body| clause(kind, body)));
    }
    clauses
}

fn split<'a>(body: &'a Value, joint: &str, parts: &mut Vec<&'a Value>) {
    match body.get(joint).and_then(|both| Some((both.get("left")?, both.get("right")?))) {
        Some((left, right)) => {
            split(left, joint, parts);
            split(right, joint, parts);
        }
        None => parts.push(body),
    }
}

fn clause(kind: &Value, body: &Value) -> Option<Policy> {
    let open = json!({ "op": "All" });
    let alone = json!({
        "effect": "permit", "principal": open, "action": open, "resource": open,
        "conditions": [{ "kind": kind, "body": body }]
    });
    Policy::from_json(None, alone).ok()
}

/// The condition of a policy of open scope, on one line.
fn clause_text(clause: &Policy) -> String {
    let text = clause.to_string();
    let line = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let (negated, body) = match line.split_once(" when {") {
        Some((_, body)) => (false, body),
        None => (true, line.split_once(" unless {").map_or(line.as_str(), |(_, body)| body)),
    };
    let body = body.trim_end_matches(';').trim_end().strip_suffix('}').unwrap_or(body).trim();
    let body = inside_parentheses(body);
    if negated { format!("not ({body})") } else { body.to_owned() }
}

/// What one pair of parentheses around the whole encloses: Cedar prints every operation in its own.
fn inside_parentheses(body: &str) -> &str {
    let Some(inner) = body.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) else { return body };
    let mut depth = 0_i64;
    for character in inner.chars() {
        depth = match character {
            '(' => depth.saturating_add(1),
            ')' => depth.saturating_sub(1),
            // A text may hold parentheses of its own: then all are left as they are.
            '"' => return body,
            _ => depth,
        };
        if depth < 0 {
            return body;
        }
    }
    inner
}

fn near(name: &str, rule: &Rule, names_workload: bool, names_secret: bool) -> Option<Near> {
    let (matched, instead) = match (names_workload, names_secret) {
        (true, false) => (&rule.principal, rule.resource.to_string()),
        (false, true) => (&rule.resource, rule.principal.to_string()),
        (true, true) | (false, false) => return None,
    };
    // A scope that is open on this side names nobody in particular.
    (*matched != Scope::Any).then(|| Near { rule: name.to_owned(), names_workload, instead })
}

fn needed(decision: &Decision, in_scope: &[InScope], near: &[Near]) -> Vec<String> {
    match decision {
        Decision::Permitted { rules } => {
            rules.iter().map(|rule| format!("policy `{rule}` permits")).collect()
        }
        Decision::Forbidden { rules } => {
            rules.iter().map(|rule| format!("policy `{rule}` forbids, and no permit lifts that")).collect()
        }
        Decision::Unevaluable { errors } => errors.iter().map(failing).collect(),
        Decision::Silent => {
            let lacking: Vec<String> = in_scope.iter().filter_map(lacking_permit).collect();
            if !lacking.is_empty() {
                return lacking;
            }
            let mut words = vec!["no permit's scope names this workload and this secret".to_owned()];
            words.extend(near.iter().map(nearly));
            words
        }
    }
}

fn failing((rule, cause): &(String, String)) -> String {
    match rule.is_empty() {
        true => format!("the claims cannot be put to policy: {cause}"),
        false => format!(
            "policy `{rule}` cannot be evaluated ({cause}): until it is mended, nothing in its scope is released"
        ),
    }
}

fn lacking_permit(considered: &InScope) -> Option<String> {
    match &considered.condition {
        Condition::Lacks { clause } if considered.permits => {
            Some(format!("policy `{}` would permit if this held: {clause}", considered.rule))
        }
        Condition::Lacks { .. } | Condition::Holds | Condition::Fails { .. } => None,
    }
}

fn nearly(near: &Near) -> String {
    let (named, other) = if near.names_workload { ("workload", "secrets") } else { ("secret", "workloads") };
    format!("policy `{}` names this {named}, for other {other}: {}", near.rule, near.instead)
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.decision)?;
        self.needed.iter().try_for_each(|words| write!(formatter, "\n  {words}"))
    }
}

/// As many as a person reads.
const NEAR: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appraisal::claims::{self, AttestedClaims, AttestedProcess};
    use crate::policy::question::SecretFacts;
    use crate::request::{ChannelBinding, SecretPath};
    use crate::spiffe::SpiffeId;

    fn explain_with(text: &str, claims: &AttestedClaims) -> Explanation {
        let principal = SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap();
        let path = SecretPath::parse("kv/payments/stripe").unwrap();
        let set = PolicySet::compile(text).unwrap_or_else(|error| panic!("{error}"));
        set.explain(&Question {
            principal: &principal,
            secret: SecretFacts::stand_in(&path),
            claims,
            channel_binding: ChannelBinding::TlsExporter,
            ttl_seconds: 300,
            hold: false,
        })
    }

    fn explain(text: &str) -> Explanation {
        let process = Some(AttestedProcess::new(&claims::tests::process(), "pay-2"));
        explain_with(text, &AttestedClaims { process, ..AttestedClaims::default() })
    }

    fn permit_when(condition: &str) -> String {
        format!("@id(\"p\") permit (principal, action, resource) {condition};")
    }

    #[test]
    fn the_first_clause_that_does_not_hold_is_named() {
        for (condition, clause) in [
            (
                "when { context has process && context.process.node == \"n2\" && context.hold }",
                "context.process.node == \"n2\"",
            ),
            (
                "when { context.ttl_seconds < 400 } when { context.ttl_seconds < 60 }",
                "context.ttl_seconds < 60",
            ),
            (
                "when { (context.hold || context.ttl_seconds < 60) }",
                "context.hold || (context.ttl_seconds < 60)",
            ),
            ("unless { context.hold || context.ttl_seconds > 60 }", "not (context.ttl_seconds > 60)"),
            (
                "when { resource.hasTag(\"a (b\") && resource.getTag(\"a (b\") == \"c\" }",
                "resource.hasTag(\"a (b\")",
            ),
        ] {
            let explanation = explain(&permit_when(condition));
            assert_eq!(explanation.decision, Decision::Silent);
            let found = explanation.needed.join("|").replace("policy `p` would permit if this held: ", "");
            assert_eq!(found, clause, "{condition}");
        }
    }

    #[test]
    fn without_claims_the_missing_attestation_is_named() {
        let text = permit_when("when { context has process && context.process.uid == 1000 }");
        let explanation = explain_with(&text, &AttestedClaims::default());
        assert_eq!(explanation.needed, ["policy `p` would permit if this held: context has process"]);
        assert!(matches!(explain(&text).decision, Decision::Permitted { .. }));
    }

    #[test]
    fn near_misses_say_what_they_name_instead() {
        let explanation = explain(
            "@id(\"a\") permit (principal == Workload::\"spiffe://example.org/ns/payments/api\", action, resource in Folder::\"kv/x\");
             @id(\"b\") permit (principal in IdentityFolder::\"spiffe://example.org/ns/web\", action, resource in Folder::\"kv\");
             @id(\"c\") permit (principal, action, resource in Folder::\"pki\");
             @id(\"d\") forbid (principal, action, resource == Secret::\"kv/y\");",
        );
        assert_eq!(explanation.in_scope, []);
        assert_eq!(
            explanation.needed,
            [
                "no permit's scope names this workload and this secret",
                "policy `a` names this workload, for other secrets: all below `kv/x`",
                "policy `b` names this secret, for other workloads: all below `spiffe://example.org/ns/web`",
            ]
        );
    }

    #[test]
    fn forbids_and_errors_are_named() {
        let forbids = "@id(\"f\") forbid (principal, action, resource); @id(\"p\") permit (principal, action, resource);";
        assert_eq!(explain(forbids).needed, ["policy `f` forbids, and no permit lifts that"]);
        let failing = explain(&permit_when("when { context.ttl_seconds * 9223372036854775807 > 0 }"));
        assert!(matches!(failing.in_scope[0].condition, Condition::Fails { .. }));
        assert!(
            failing.needed[0].starts_with("policy `p` cannot be evaluated (integer overflow"),
            "{failing}"
        );
    }

    #[test]
    fn a_permit_is_explained_too_and_all_of_it_is_json() {
        let explanation = explain(&permit_when(""));
        assert_eq!(explanation.to_string(), "permitted by p\n  policy `p` permits");
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["decision"]["decision"], "permitted");
        assert_eq!(json["in_scope"][0]["condition"], "holds");
    }
}
