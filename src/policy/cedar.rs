//! Compiled policies, and what they decide.
//!
//! *Takes* Cedar text, then a [`Question`]. *Gives* [`PolicySet`], then a [`Decision`]. *Denies* by anything but
//! `Decision::Permitted`: `PolicyForbids`, `PolicySilent`, `PolicyUnevaluable` are the stage's names for the rest.
//! *Source*: Cedar language 4; NIST SP 800-53 AC-3, SC-24 (fail in a known state).

use super::compile::{self, PolicyError};
use super::index::{Index, Scope, principal_scope, resource_scope};
use super::question::{Asked, Question, Vocabulary};
use super::structure;
use cedar_policy::{Authorizer, Decision as CedarDecision, Policy, PolicySet as CedarSet};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What policy says to one question. Only a permit goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "decision", rename_all = "kebab-case")]
pub enum Decision {
    /// At least one policy permits, none forbids, none in scope failed.
    Permitted {
        /// The policies that permit, ascending.
        rules: Vec<String>,
    },
    /// A policy forbids.
    Forbidden {
        /// The policies that forbid, ascending.
        rules: Vec<String>,
    },
    /// No policy permits.
    Silent,
    /// A policy in scope could not be evaluated, or the question has no form in Cedar: what it would have said is not
    /// known, so no permit beside it counts.
    Unevaluable {
        /// Policy and cause, ascending; the policy is empty where it was the question itself.
        errors: Vec<(String, String)>,
    },
}

impl fmt::Display for Decision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Permitted { rules } => write!(formatter, "permitted by {}", rules.join(", ")),
            Decision::Forbidden { rules } => write!(formatter, "forbidden by {}", rules.join(", ")),
            Decision::Silent => formatter.write_str("no policy permits"),
            Decision::Unevaluable { errors } => {
                let errors = errors.iter().map(|(rule, cause)| format!("{rule}: {cause}"));
                write!(formatter, "undecided, for an error: {}", errors.collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// Policies, compiled, validated and indexed; immutable.
pub struct PolicySet {
    pub(super) words: Vocabulary,
    pub(super) rules: BTreeMap<String, Rule>,
    pub(super) index: Index,
    all: CedarSet,
    authorizer: Authorizer,
}

/// One policy.
pub(super) struct Rule {
    pub(super) policy: Policy,
    pub(super) principal: Scope,
    pub(super) resource: Scope,
}

impl PolicySet {
    /// Compiles Cedar text. Each policy carries `@id("name")`, 1 to 64 of `[A-Za-z0-9._-]`, unique. Templates are refused;
    /// so is whatever strict validation, to level 1, has an error or a warning about, and a literal that no workload,
    /// secret or folder can have as its name (a forbid of it would never speak). An empty text is a set that says nothing.
    pub fn compile(text: &str) -> Result<PolicySet, PolicyError> {
        structure::on_ample_stack(|| {
            let words = Vocabulary::new().map_err(|error| PolicyError::schema(&error))?;
            let all = compile::policies(text, &words)?;
            PolicySet::build(words, all)
        })
    }

    /// What policy says. Only policies whose scope names the question's workload and secret are evaluated.
    ///
    /// A forbid that speaks beats an error, and an error beats a permit: either way it is a denial.
    pub fn decide(&self, question: &Question<'_>) -> Decision {
        let folders = self.index.folders(question);
        self.decide_by(question, self.index.candidates(question, &folders), &folders)
    }

    /// The same, by evaluating every policy: for the property test, and for those who distrust the index.
    pub fn decide_unindexed(&self, question: &Question<'_>) -> Decision {
        let folders = (question.identity_folders().collect(), question.secret_folders().collect());
        self.decide_by(question, std::iter::once(&self.all), &folders)
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none: then everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Their names, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(String::as_str)
    }

    /// Each policy's own text, by its name, ascending: for people who compare two sets.
    pub fn texts(&self) -> impl Iterator<Item = (&str, String)> {
        self.rules.iter().map(|(name, rule)| (name.as_str(), rule.policy.to_string()))
    }

    fn build(words: Vocabulary, all: CedarSet) -> Result<PolicySet, PolicyError> {
        let mut index = Index::default();
        let mut rules = BTreeMap::new();
        for policy in all.policies() {
            index.add(&words, policy).map_err(|error| PolicyError::schema(&error))?;
            let principal = principal_scope(&words, policy);
            let resource = resource_scope(&words, policy);
            let rule = Rule { policy: policy.clone(), principal, resource };
            rules.insert(policy.id().to_string(), rule);
        }
        Ok(PolicySet { words, rules, index, all, authorizer: Authorizer::new() })
    }

    fn decide_by<'a>(
        &self,
        question: &Question<'_>,
        sets: impl Iterator<Item = &'a CedarSet>,
        folders: &(Vec<&str>, Vec<&str>),
    ) -> Decision {
        let asked = match Asked::new(&self.words, question, &folders.0, &folders.1) {
            Ok(asked) => asked,
            Err(cause) => return Decision::Unevaluable { errors: vec![(String::new(), cause)] },
        };
        let mut tally = Tally::default();
        sets.for_each(|set| tally.add(&self.authorizer, &asked, set));
        tally.decision()
    }

    /// What this one policy does on a question already put in Cedar's terms.
    pub(super) fn evaluate(&self, policy: &Policy, asked: &Asked) -> Evaluation {
        let Ok(alone) = CedarSet::from_policies([policy.clone()]) else {
            return Evaluation::Fails("cannot stand alone".to_owned());
        };
        let mut tally = Tally::default();
        tally.add(&self.authorizer, asked, &alone);
        match tally.errors.into_iter().next() {
            Some((_, cause)) => Evaluation::Fails(cause),
            None if tally.permits.is_empty() && tally.forbids.is_empty() => Evaluation::DoesNotHold,
            None => Evaluation::Holds,
        }
    }
}

/// What one policy does on one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Evaluation {
    Holds,
    DoesNotHold,
    Fails(String),
}

/// What the policies asked so far say.
#[derive(Default)]
struct Tally {
    permits: BTreeSet<String>,
    forbids: BTreeSet<String>,
    errors: BTreeSet<(String, String)>,
}

impl Tally {
    /// Cedar names the permits of a set only where no forbid of it speaks: then they do not matter.
    fn add(&mut self, authorizer: &Authorizer, asked: &Asked, set: &CedarSet) {
        let response = authorizer.is_authorized(&asked.request, set, &asked.entities);
        let reasons = response.diagnostics().reason().map(ToString::to_string);
        match response.decision() {
            CedarDecision::Allow => self.permits.extend(reasons),
            CedarDecision::Deny => self.forbids.extend(reasons),
        }
        self.errors.extend(response.diagnostics().errors().map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => {
                (error.policy_id().to_string(), error.inner().to_string())
            }
        }));
    }

    fn decision(self) -> Decision {
        if !self.forbids.is_empty() {
            return Decision::Forbidden { rules: self.forbids.into_iter().collect() };
        }
        if !self.errors.is_empty() {
            return Decision::Unevaluable { errors: self.errors.into_iter().collect() };
        }
        if self.permits.is_empty() {
            return Decision::Silent;
        }
        Decision::Permitted { rules: self.permits.into_iter().collect() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::appraisal::claims::{self, AttestedClaims, AttestedProcess};
    use crate::policy::question::SecretFacts;
    use crate::request::{ChannelBinding, SecretPath};
    use crate::spiffe::SpiffeId;

    #[derive(Debug)]
    pub(in crate::policy) struct Facts {
        pub(in crate::policy) principal: SpiffeId,
        pub(in crate::policy) path: SecretPath,
        pub(in crate::policy) labels: BTreeMap<String, String>,
        pub(in crate::policy) claims: AttestedClaims,
        pub(in crate::policy) ttl_seconds: u32,
    }

    impl Facts {
        pub(in crate::policy) fn question(&self) -> Question<'_> {
            Question {
                principal: &self.principal,
                secret: SecretFacts { path: &self.path, labels: &self.labels },
                claims: &self.claims,
                channel_binding: ChannelBinding::TlsExporter,
                ttl_seconds: self.ttl_seconds,
                hold: false,
            }
        }
    }

    pub(in crate::policy) fn facts() -> Facts {
        Facts {
            principal: SpiffeId::parse("spiffe://example.org/ns/payments/api").unwrap(),
            path: SecretPath::parse("kv/payments/stripe").unwrap(),
            labels: BTreeMap::from([("tier".into(), "gold".into())]),
            claims: AttestedClaims {
                process: Some(AttestedProcess::new(&claims::tests::process(), "pay-2")),
                ..AttestedClaims::default()
            },
            ttl_seconds: 60,
        }
    }

    fn decide(text: &str, facts: &Facts) -> Decision {
        let set = PolicySet::compile(text).unwrap_or_else(|error| panic!("{error}"));
        let decision = set.decide(&facts.question());
        assert_eq!(decision, set.decide_unindexed(&facts.question()));
        decision
    }

    fn rules(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    const ANY: &str = "@id(\"any\") permit (principal, action, resource);";
    const OVERFLOWS: &str = "context.ttl_seconds * 9223372036854775807 > 0";

    #[test]
    fn silence_denies() {
        assert_eq!(decide("", &facts()), Decision::Silent);
        let other = "@id(\"o\") permit (principal, action, resource == Secret::\"kv/payments\");";
        assert_eq!(decide(other, &facts()), Decision::Silent);
    }

    #[test]
    fn every_kind_of_scope_meets_its_question() {
        let mut names = Vec::new();
        let mut text = String::new();
        let principals = [
            "principal",
            "principal is Workload",
            "principal == Workload::\"spiffe://example.org/ns/payments/api\"",
            "principal in Workload::\"spiffe://example.org/ns/payments/api\"",
            "principal in IdentityFolder::\"spiffe://example.org\"",
            "principal is Workload in IdentityFolder::\"spiffe://example.org/ns/payments\"",
        ];
        let resources = [
            "resource",
            "resource is Secret",
            "resource == Secret::\"kv/payments/stripe\"",
            "resource in Folder::\"kv\"",
            "resource is Secret in Folder::\"kv/payments\"",
        ];
        for (row, principal) in principals.iter().enumerate() {
            for (column, resource) in resources.iter().enumerate() {
                let name = format!("{row}.{column}");
                text += &format!(
                    "@id(\"{name}\") permit ({principal}, action == Action::\"release\", {resource});\n"
                );
                names.push(name);
            }
        }
        assert_eq!(decide(&text, &facts()), Decision::Permitted { rules: names });
    }

    #[test]
    fn a_folder_does_not_reach_its_namesakes() {
        let text = "@id(\"a\") permit (principal in IdentityFolder::\"spiffe://example.org/ns/pay\", action, resource);
            @id(\"b\") permit (principal, action, resource in Folder::\"kv/pay\");
            @id(\"c\") permit (principal, action, resource in Folder::\"kv/payments/stripe\");
            @id(\"d\") permit (principal in IdentityFolder::\"spiffe://example.org/ns/payments/api\", action, resource);";
        assert_eq!(decide(text, &facts()), Decision::Silent);
    }

    #[test]
    fn a_forbid_beats_a_permit_and_an_error() {
        let text = format!(
            "{ANY} @id(\"no\") forbid (principal, action, resource in Folder::\"kv/payments\");
             @id(\"broken\") permit (principal, action, resource) when {{ {OVERFLOWS} }};"
        );
        assert_eq!(decide(&text, &facts()), Decision::Forbidden { rules: rules(&["no"]) });
    }

    #[test]
    fn erroring_forbid_denies() {
        let text =
            format!("{ANY} @id(\"broken\") forbid (principal, action, resource) when {{ {OVERFLOWS} }};");
        match decide(&text, &facts()) {
            Decision::Unevaluable { errors } => {
                assert_eq!(errors.len(), 1);
                assert_eq!(errors[0].0, "broken");
                assert!(errors[0].1.contains("overflow"), "{}", errors[0].1);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_erroring_permit_beside_a_permit_denies() {
        let text =
            format!("{ANY} @id(\"broken\") permit (principal, action, resource) when {{ {OVERFLOWS} }};");
        assert!(matches!(decide(&text, &facts()), Decision::Unevaluable { .. }));
    }

    #[test]
    fn an_error_out_of_scope_is_nobody_elses() {
        let text = format!(
            "{ANY} @id(\"broken\") forbid (principal, action, resource in Folder::\"pki\") when {{ {OVERFLOWS} }};"
        );
        assert_eq!(decide(&text, &facts()), Decision::Permitted { rules: rules(&["any"]) });
    }

    #[test]
    fn a_claim_without_form_in_cedar_denies() {
        let mut facts = facts();
        facts.claims.process.as_mut().unwrap().uid = u64::MAX;
        assert_eq!(
            decide(ANY, &facts),
            Decision::Unevaluable {
                errors: vec![(String::new(), format!("{} is above what a policy can count to", u64::MAX))]
            }
        );
    }

    #[test]
    fn every_word_of_the_schema_is_answered() {
        let condition = "principal.trust_domain == \"example.org\" && principal.path == \"/ns/payments/api\"
            && resource.path == \"kv/payments/stripe\" && resource.engine == \"kv\"
            && resource.hasTag(\"tier\") && resource.getTag(\"tier\") == \"gold\" && !resource.hasTag(\"other\")
            && context.channel_binding == \"tls-exporter\" && context.ttl_seconds == 60 && !context.hold
            && context has process && context.process.node == \"n1\"
            && context.process.executable_path == \"/usr/bin/pay\" && context.process.executable_sha256 like \"aaaa*\"
            && !(context.process has fs_verity) && context.process.uid == 1000 && context.process.gid == 1000
            && context.process.groups == [1000, 27] && context.process.cgroup like \"/system.slice/*\"
            && context.process has systemd_unit && context.process.systemd_unit == \"pay.service\"
            && !(context.process has container_id) && context.process.program_sha256.isEmpty()
            && context.process.program_paths.isEmpty() && context.process.reference_set == \"pay-2\"";
        let text = format!("@id(\"whole\") permit (principal, action, resource) when {{ {condition} }};");
        assert_eq!(decide(&text, &facts()), Decision::Permitted { rules: rules(&["whole"]) });
    }

    #[test]
    fn questions_conform_to_the_schema() {
        let (schema, _) =
            cedar_policy::Schema::from_cedarschema_str(include_str!("schema.cedarschema")).unwrap();
        let set = PolicySet::compile("").unwrap();
        let mut facts = facts();
        let process = facts.claims.process.as_mut().unwrap();
        process.fs_verity = Some("ab".into());
        process.container_id = Some("c".into());
        process.program_sha256.insert("ab".into());
        for claims in [facts.claims.clone(), AttestedClaims::default()] {
            facts.claims = claims;
            let stand_in = Question { secret: SecretFacts::stand_in(&facts.path), ..facts.question() };
            for question in [facts.question(), stand_in] {
                let folders: (Vec<_>, Vec<_>) =
                    (question.identity_folders().collect(), question.secret_folders().collect());
                assert_eq!(folders.0.len(), 3);
                assert_eq!(folders.1, ["kv", "kv/payments"]);
                let asked = Asked::new(&set.words, &question, &folders.0, &folders.1).unwrap();
                let entities = asked.entities.iter().cloned();
                cedar_policy::Entities::from_entities(entities, Some(&schema)).unwrap();
                let (request, context) = (&asked.request, asked.request.context().unwrap().clone());
                cedar_policy::Request::new(
                    request.principal().unwrap().clone(),
                    request.action().unwrap().clone(),
                    request.resource().unwrap().clone(),
                    context,
                    Some(&schema),
                )
                .unwrap();
            }
        }
    }

    #[test]
    fn unknown_secret_is_decided_like_one_without_labels() {
        let text = format!(
            "{ANY} @id(\"gold\") forbid (principal, action, resource)
             unless {{ resource.hasTag(\"tier\") && resource.getTag(\"tier\") == \"gold\" }};"
        );
        let set = PolicySet::compile(&text).unwrap();
        let facts = facts();
        let stand_in = Question { secret: SecretFacts::stand_in(&facts.path), ..facts.question() };
        assert_eq!(set.decide(&stand_in), Decision::Forbidden { rules: rules(&["gold"]) });
        assert_eq!(set.decide(&facts.question()), Decision::Permitted { rules: rules(&["any"]) });
    }
}
