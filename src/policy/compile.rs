//! Cedar text to named, validated policies.
//!
//! *Takes* text. *Gives* policies that the index may file. *Denies* nothing itself: a text with one fault is refused whole,
//! with its lines. *Source*: Cedar language 4, strict validation; RFC 76 of Cedar (level validation).

use super::question::Vocabulary;
use super::structure;
use crate::limits;
use crate::request::SecretPath;
use crate::spiffe::{SpiffeId, TrustDomain};
use cedar_policy::{PolicyId, PolicySet as CedarSet, Schema, ValidationMode, Validator};
use miette::Diagnostic;
use std::fmt;

/// The policies of a text, under their own names; see `PolicySet::compile`.
pub(super) fn policies(text: &str, words: &Vocabulary) -> Result<CedarSet, PolicyError> {
    if text.len() > limits::POLICY_BYTES {
        return Err(PolicyError::one(Cause::TooLong, format!("more than {} bytes", limits::POLICY_BYTES)));
    }
    structure::check(text).map_err(PolicyError::of)?;
    let parsed: CedarSet = text.parse().map_err(|errors| PolicyError::syntax(text, &errors))?;
    if let Some(template) = parsed.templates().next() {
        let line = line_of(text, &template.to_string());
        let message = format!("a template is no policy: say what `{}` is", slots(template));
        return Err(PolicyError::of(Fault { cause: Cause::Template, rule: None, line, message }));
    }
    let all = named(text, &parsed)?;
    validate(text, &all)?;
    check_literals(text, words, &all)?;
    Ok(all)
}

/// Why a text is no policy set: everything that is wrong with it at the first step that finds fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyError {
    /// Never empty.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Of what kind.
    pub cause: Cause,
    /// The policy, where it has a name.
    pub rule: Option<String>,
    /// The line of the text, from 1, where known.
    pub line: Option<usize>,
    /// In words.
    pub message: String,
}

/// Of what kind a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The text is too long.
    TooLong,
    /// A policy nests deeper, or has more parts, than any that a person writes.
    TooDeep,
    /// It does not parse.
    Syntax,
    /// It holds a template.
    Template,
    /// A policy has no `@id`, or one that is not 1 to 64 of `[A-Za-z0-9._-]`.
    Name,
    /// Two policies share an `@id`.
    NameRepeated,
    /// Strict validation found an error.
    Invalid,
    /// Strict validation found something suspicious.
    Suspicious,
    /// A name that no workload, secret or folder can have.
    Literal,
    /// The schema of this program itself.
    Schema,
    /// The text could not be checked at all.
    Unchecked,
}

impl PolicyError {
    fn of(fault: Fault) -> Self {
        PolicyError { faults: vec![fault] }
    }

    pub(super) fn one(cause: Cause, message: String) -> Self {
        PolicyError::of(Fault { cause, rule: None, line: None, message })
    }

    pub(super) fn schema(error: &dyn fmt::Display) -> Self {
        PolicyError::one(Cause::Schema, error.to_string())
    }

    fn syntax(text: &str, errors: &cedar_policy::ParseErrors) -> Self {
        let fault = |error: &dyn Diagnostic| Fault {
            cause: Cause::Syntax,
            rule: None,
            line: line_at(text, error),
            message: described(error),
        };
        PolicyError { faults: errors.iter().map(|error| fault(error)).collect() }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, fault) in self.faults.iter().enumerate() {
            if position > 0 {
                writeln!(formatter)?;
            }
            if let Some(line) = fault.line {
                write!(formatter, "line {line}: ")?;
            }
            if let Some(rule) = &fault.rule {
                write!(formatter, "policy `{rule}`: ")?;
            }
            formatter.write_str(&fault.message)?;
        }
        Ok(())
    }
}

/// The same policies under their own names.
fn named(text: &str, parsed: &CedarSet) -> Result<CedarSet, PolicyError> {
    let mut all = CedarSet::new();
    for policy in parsed.policies() {
        let fault = |cause, message: &str| {
            let line = line_of(text, &policy.to_string());
            PolicyError::of(Fault { cause, rule: None, line, message: message.to_owned() })
        };
        let name =
            policy.annotation("id").ok_or_else(|| fault(Cause::Name, "a policy has no @id(\"name\")"))?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || name.len() > limits::POLICY_NAME_BYTES || !name.bytes().all(allowed) {
            return Err(fault(Cause::Name, "an @id is not 1 to 64 of [A-Za-z0-9._-]"));
        }
        let renamed = policy.new_id(PolicyId::new(name));
        all.add(renamed)
            .map_err(|_| fault(Cause::NameRepeated, &format!("two policies are named `{name}`")))?;
    }
    Ok(all)
}

/// Strict, and to level 1: a policy may look at the request's workload and secret, at no other entity. So the two are all
/// that a question must carry.
fn validate(text: &str, all: &CedarSet) -> Result<(), PolicyError> {
    let (schema, warnings) =
        Schema::from_cedarschema_str(SCHEMA).map_err(|error| PolicyError::schema(&error))?;
    if let Some(warning) = warnings.into_iter().next() {
        return Err(PolicyError::schema(&warning));
    }
    let result = Validator::new(schema).validate_with_level(all, ValidationMode::Strict, 1);
    let fault = |cause, policy: &PolicyId, diagnostic: &dyn Diagnostic| Fault {
        cause,
        rule: Some(policy.to_string()),
        line: line_at(text, diagnostic)
            .or_else(|| line_of(text, &all.policy(policy).map(ToString::to_string)?)),
        message: described(diagnostic),
    };
    let errors = result.validation_errors().map(|error| fault(Cause::Invalid, error.policy_id(), error));
    let warnings =
        result.validation_warnings().map(|warning| fault(Cause::Suspicious, warning.policy_id(), warning));
    let faults: Vec<Fault> = errors.chain(warnings).collect();
    match result.validation_passed_without_warnings() {
        true => Ok(()),
        false => Err(PolicyError { faults }),
    }
}

fn check_literals(text: &str, words: &Vocabulary, all: &CedarSet) -> Result<(), PolicyError> {
    let mut faults = Vec::new();
    for policy in all.policies() {
        for uid in policy.entity_literals() {
            let (kind, id) = (uid.type_name(), uid.id().unescaped());
            let possible = if *kind == words.workload {
                SpiffeId::parse(id).is_ok()
            } else if *kind == words.identity_folder {
                is_identity_folder(id)
            } else if *kind == words.secret || *kind == words.folder {
                SecretPath::parse(id).is_ok()
            } else {
                true
            };
            if !possible {
                faults.push(Fault {
                    cause: Cause::Literal,
                    rule: Some(policy.id().to_string()),
                    line: line_of(text, &policy.to_string()),
                    message: format!("nothing can ever be named `{uid}`"),
                });
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(PolicyError { faults }) }
}

fn is_identity_folder(id: &str) -> bool {
    let domain = id.strip_prefix("spiffe://").unwrap_or_default();
    TrustDomain::parse(domain).is_ok() || SpiffeId::parse(id).is_ok()
}

fn slots(template: &cedar_policy::Template) -> String {
    template.slots().map(ToString::to_string).collect::<Vec<_>>().join("`, `")
}

/// A diagnostic and its advice.
fn described(diagnostic: &dyn Diagnostic) -> String {
    match diagnostic.help() {
        Some(help) => format!("{diagnostic} ({help})"),
        None => diagnostic.to_string(),
    }
}

fn line_at(text: &str, diagnostic: &dyn Diagnostic) -> Option<usize> {
    let label = diagnostic.labels()?.next()?;
    Some(line_of_offset(text, label.offset()))
}

fn line_of(text: &str, part: &str) -> Option<usize> {
    text.find(part).map(|offset| line_of_offset(text, offset))
}

fn line_of_offset(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count().saturating_add(1)
}

const SCHEMA: &str = include_str!("schema.cedarschema");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cedar::PolicySet;

    fn causes(text: &str) -> Vec<(Cause, Option<usize>)> {
        match PolicySet::compile(text) {
            Ok(set) => panic!("compiled {} policies", set.len()),
            Err(error) => error.faults.iter().map(|fault| (fault.cause, fault.line)).collect(),
        }
    }

    const GOOD: &str = "@id(\"a\")\npermit (principal, action, resource);\n";

    #[test]
    fn a_good_text_compiles_and_an_empty_one_says_nothing() {
        assert_eq!(PolicySet::compile(GOOD).unwrap().len(), 1);
        assert!(PolicySet::compile("").unwrap().is_empty());
    }

    #[test]
    fn a_syntax_error_is_refused_with_its_line() {
        assert_eq!(
            causes(&format!("{GOOD}\npermit (principal, action resource);")),
            [(Cause::Syntax, Some(4))]
        );
    }

    #[test]
    fn a_template_is_refused() {
        let text = format!("{GOOD}@id(\"b\")\npermit (principal == ?principal, action, resource);");
        assert_eq!(causes(&text), [(Cause::Template, Some(3))]);
    }

    #[test]
    fn a_policy_needs_its_own_proper_name() {
        assert_eq!(causes(&format!("{GOOD}forbid (principal, action, resource);")), [(Cause::Name, Some(3))]);
        for name in ["", "two words", "é", &"a".repeat(65)] {
            let text = format!("@id(\"{name}\")\nforbid (principal, action, resource);");
            assert_eq!(causes(&text), [(Cause::Name, Some(1))], "{name}");
        }
        assert_eq!(
            causes(&format!("{GOOD}@id(\"a\") forbid (principal, action, resource);")),
            [(Cause::NameRepeated, Some(3))]
        );
    }

    #[test]
    fn what_strict_validation_refuses_is_refused() {
        let refused = [
            // A name that is not in the schema.
            ("context.proces.node == \"a\"", Cause::Invalid),
            // An optional format, and an optional claim, read without `has`.
            ("context.process.node == \"a\"", Cause::Invalid),
            ("context has process && context.process.systemd_unit == \"a\"", Cause::Invalid),
            // A label read without `hasTag`.
            ("resource.getTag(\"tier\") == \"a\"", Cause::Invalid),
            // Different types compared.
            ("context.ttl_seconds == \"60\"", Cause::Invalid),
            // An extension value that might not parse.
            ("ip(principal.path).isLoopback()", Cause::Invalid),
            // Another entity than the request's own (level 1).
            ("Secret::\"kv/a\".engine == \"kv\"", Cause::Invalid),
            ("Folder::\"kv/a\" in Folder::\"kv\"", Cause::Invalid),
            // A condition that can never hold: a warning, which counts.
            ("principal == Workload::\"spiffe://a/b\" && false", Cause::Suspicious),
            // Letters of two scripts.
            ("resource.path == \"kv/p\u{430}y\"", Cause::Suspicious),
        ];
        for (condition, cause) in refused {
            let text =
                format!("{GOOD}@id(\"b\")\npermit (principal, action, resource)\nwhen {{ {condition} }};");
            let found = causes(&text);
            assert!(
                !found.is_empty() && found.iter().all(|(found, _)| *found == cause),
                "{condition}: {found:?}"
            );
            assert!(
                found.iter().all(|(_, line)| line.is_some_and(|line| line >= 3)),
                "{condition}: {found:?}"
            );
        }
    }

    #[test]
    fn scopes_of_the_wrong_kind_are_refused() {
        for scope in [
            "principal == IdentityFolder::\"spiffe://a/b\", action, resource",
            "principal, action, resource in IdentityFolder::\"spiffe://a\"",
            "principal, action == Action::\"read\", resource",
            "principal is Secret, action, resource",
        ] {
            let found = causes(&format!("@id(\"b\") permit ({scope});"));
            assert!(
                found.iter().all(|(cause, _)| matches!(cause, Cause::Invalid | Cause::Suspicious)),
                "{scope}"
            );
        }
    }

    #[test]
    fn a_name_that_nothing_can_have_is_refused() {
        for scope in [
            "principal == Workload::\"payments\", action, resource",
            "principal in IdentityFolder::\"spiffe://a/\", action, resource",
            "principal, action, resource == Secret::\"kv/Pay\"",
            "principal, action, resource in Folder::\"kv/\"",
        ] {
            let text = format!("{GOOD}@id(\"b\") forbid ({scope});");
            assert_eq!(causes(&text), [(Cause::Literal, Some(3))], "{scope}");
        }
    }

    #[test]
    fn an_oversized_text_is_refused_unread() {
        assert_eq!(causes(&" ".repeat(limits::POLICY_BYTES + 1)), [(Cause::TooLong, None)]);
    }
}
