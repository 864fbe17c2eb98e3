//! One question to policy: who asks, for which secret, on what attestation result.
//!
//! *Takes* proven facts. *Gives* [`Question`], and its form in Cedar's terms. *Denies* nothing itself.
//! *Source*: `policy/schema.cedarschema`, whose words these are; NIST SP 800-162 §3 (subject, object, environment).

use crate::appraisal::claims::{AttestedClaims, AttestedProcess};
use crate::request::{ChannelBinding, SecretPath};
use crate::spiffe::SpiffeId;
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use std::collections::BTreeMap;

/// What policy may know of one secret.
#[derive(Clone, Copy, Debug)]
pub struct SecretFacts<'a> {
    /// Its path, as asked.
    pub path: &'a SecretPath,
    /// Its labels, set by administrators.
    pub labels: &'a BTreeMap<String, String>,
}

impl<'a> SecretFacts<'a> {
    /// What stands in for a secret that does not exist, so that policy is asked about it like about any other.
    ///
    /// The schema's attributes of a secret, `path` and `engine`, both follow from the path, so the stand-in has every one
    /// of them, and no policy can fail on it that would not fail on a secret. Labels are tags, which no secret is bound
    /// to have: strict validation lets a policy read one only behind `hasTag`, so their absence is a plain "no" and never
    /// an error. Whatever is then decided, a permit included, the caller of this function denies `SecretUnknown`, which
    /// reads `NOT_RELEASED` like `PolicyForbids`, `PolicySilent` and `PolicyUnevaluable`: nothing outside differs.
    pub fn stand_in(path: &'a SecretPath) -> Self {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        SecretFacts { path, labels: &NONE }
    }
}

/// A question to policy. Every part was proven or checked by an earlier stage.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub principal: &'a SpiffeId,
    /// For what.
    pub secret: SecretFacts<'a>,
    /// On what attestation results.
    pub claims: &'a AttestedClaims,
    /// How the evidence was tied to the connection.
    pub channel_binding: ChannelBinding,
    /// Seconds that the lease would have; the default where the caller named none.
    pub ttl_seconds: u32,
    /// Whether the lease would be held.
    pub hold: bool,
}

impl Question<'_> {
    /// The beginnings of the workload's ID that an `IdentityFolder` can name, shortest first.
    pub(super) fn identity_folders(&self) -> impl Iterator<Item = &str> {
        beginnings(self.principal.as_str(), SCHEME.len())
    }

    /// The beginnings of the secret's path that a `Folder` can name, shortest first.
    pub(super) fn secret_folders(&self) -> impl Iterator<Item = &str> {
        beginnings(self.secret.path.as_str(), 0)
    }
}

/// The schema's names, parsed once.
pub(super) struct Vocabulary {
    pub(super) workload: EntityTypeName,
    pub(super) identity_folder: EntityTypeName,
    pub(super) secret: EntityTypeName,
    pub(super) folder: EntityTypeName,
    release: EntityUid,
}

impl Vocabulary {
    pub(super) fn new() -> Result<Self, String> {
        let kind = |name: &str| name.parse::<EntityTypeName>().map_err(in_words);
        let release = EntityUid::from_type_name_and_id(kind("Action")?, EntityId::new("release"));
        Ok(Vocabulary {
            workload: kind("Workload")?,
            identity_folder: kind("IdentityFolder")?,
            secret: kind("Secret")?,
            folder: kind("Folder")?,
            release,
        })
    }
}

/// A question in Cedar's terms.
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) entities: Entities,
}

impl Asked {
    /// The question, with those folders as parents that some policy names; no other could make a difference, since
    /// compiled policies look at nothing but the request's own workload and secret (validation level 1).
    ///
    /// Fails, with the cause in words, where a claim has no form in Cedar: a number above 2^63 − 1.
    pub(super) fn new(
        words: &Vocabulary,
        question: &Question<'_>,
        identity_folders: &[&str],
        secret_folders: &[&str],
    ) -> Result<Self, String> {
        let workload = uid(&words.workload, question.principal.as_str());
        let secret = uid(&words.secret, question.secret.path.as_str());
        let request = Request::new(
            workload.clone(),
            words.release.clone(),
            secret.clone(),
            context(question)?,
            // The context is built field by field from the schema's own list; a test holds the two together.
            None,
        );
        let workload = Entity::new_with_tags(
            workload,
            workload_attributes(question.principal),
            identity_folders.iter().map(|id| uid(&words.identity_folder, id)),
            [],
        );
        let secret = Entity::new_with_tags(
            secret,
            [
                ("path".to_owned(), text(question.secret.path.as_str())),
                ("engine".to_owned(), text(question.secret.path.engine())),
            ],
            secret_folders.iter().map(|id| uid(&words.folder, id)),
            question.secret.labels.iter().map(|(key, value)| (key.clone(), text(value))),
        );
        let pair = [workload.map_err(in_words)?, secret.map_err(in_words)?];
        Ok(Asked {
            request: request.map_err(in_words)?,
            entities: Entities::from_entities(pair, None).map_err(in_words)?,
        })
    }
}

fn workload_attributes(id: &SpiffeId) -> [(String, RestrictedExpression); 2] {
    let trust_domain = id.trust_domain().as_str();
    let whole = id.as_str();
    let path =
        whole.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix(trust_domain)).unwrap_or_default();
    [("trust_domain".to_owned(), text(trust_domain)), ("path".to_owned(), text(path))]
}

fn context(question: &Question<'_>) -> Result<Context, String> {
    let mut pairs = vec![
        ("channel_binding".to_owned(), text(question.channel_binding.name())),
        ("ttl_seconds".to_owned(), RestrictedExpression::new_long(question.ttl_seconds.into())),
        ("hold".to_owned(), RestrictedExpression::new_bool(question.hold)),
    ];
    if let Some(process) = &question.claims.process {
        pairs.push(("process".to_owned(), process_record(process)?));
    }
    pairs.extend(super::hardware::records(question.claims)?);
    Context::from_pairs(pairs).map_err(in_words)
}

fn process_record(process: &AttestedProcess) -> Result<RestrictedExpression, String> {
    let groups = process.groups.iter().map(|group| long(*group)).collect::<Result<Vec<_>, _>>()?;
    let texts = |values: &std::collections::BTreeSet<String>| {
        RestrictedExpression::new_set(values.iter().map(|value| text(value)))
    };
    let mut fields = vec![
        ("node", text(&process.node)),
        ("executable_path", text(&process.executable_path)),
        ("executable_sha256", text(&process.executable_sha256)),
        ("uid", long(process.uid)?),
        ("gid", long(process.gid)?),
        ("groups", RestrictedExpression::new_set(groups)),
        ("cgroup", text(&process.cgroup)),
        ("program_sha256", texts(&process.program_sha256)),
        ("program_paths", texts(&process.program_paths)),
        ("reference_set", text(&process.reference_set)),
    ];
    let optional = [
        ("fs_verity", &process.fs_verity),
        ("systemd_unit", &process.systemd_unit),
        ("container_id", &process.container_id),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| Some((name, text(value.as_ref()?)))));
    record(fields)
}

pub(super) fn record(fields: Vec<(&str, RestrictedExpression)>) -> Result<RestrictedExpression, String> {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).map_err(in_words)
}

pub(super) fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

pub(super) fn long(value: u64) -> Result<RestrictedExpression, String> {
    let value = i64::try_from(value).map_err(|_| format!("{value} is above what a policy can count to"))?;
    Ok(RestrictedExpression::new_long(value))
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What stands before each slash of `whole` from byte `from` on.
fn beginnings(whole: &str, from: usize) -> impl Iterator<Item = &str> {
    let slashes = whole.match_indices('/').map(|(position, _)| position);
    slashes.filter(move |position| *position >= from).filter_map(|position| whole.get(..position))
}

const SCHEME: &str = "spiffe://";
