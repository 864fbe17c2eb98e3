//! Role `audit`: why an identity gets a secret, or does not; never in a caller's path, one at a time.
//!
//! *Takes* an identity and a secret, or a recorded decision. *Gives* the decision, how each stage stands now, what policy
//! says of the claims, and what would be needed. *Denies* what is neither. *Source*: the "explain"; AU-6, AU-7.

use super::access::Caller;
use super::needed::needed;
use super::{AdminService, answer, decision, operations, policy};
use crate::appraisal::claims::AttestedClaims;
use crate::audit::record::{Event, Record};
use crate::case::Case;
use crate::policy::cedar::Decision as Decided;
use crate::policy::explain::Explanation;
use crate::policy::question::{Question, SecretFacts};
use crate::proto::admin::*;
use crate::release::kv::SecretMetadata;
use crate::request::{ChannelBinding, SecretPath};
use crate::spiffe::SpiffeId;
use crate::{audit, limits};
use tonic::Status;

mod standing;

pub(super) async fn explain(
    service: &AdminService,
    caller: &Caller,
    request: ExplainRequest,
) -> Result<ExplainResponse, Status> {
    let _alone = service.explaining.lock().await;
    let record = match request.decision_id.as_str() {
        "" => None,
        id => Some(decision::find(service.audit_directory.clone(), id.to_owned()).await?),
    };
    let decision = record.as_ref().map(described).transpose()?;
    let mut response = ExplainResponse { decision, ..Default::default() };
    if let Some(denial) = record.as_ref().and_then(Record::denial) {
        response.needed.push(needed(denial).to_owned());
    }
    let case = record.as_ref().and_then(Record::case);
    let Some(about) = About::of(&request, case)? else { return Ok(response) };
    let metadata = service.kv.metadata(&about.secret).await.map_err(|error| answer::store(&error))?;
    let found = standing::look(service, caller, &about, metadata.as_ref()).await?;
    let obstacles = found.findings.iter().filter(|finding| finding.obstacle);
    response.needed.extend(obstacles.map(|finding| finding.words.clone()));
    let put = match case.filter(|case| !case.claims.is_empty()) {
        Some(case) => vec![recorded(&request.decision_id, case)?],
        None => found.least_claims,
    };
    response.findings = found.findings;
    let explained = ask(service, about, metadata, put).await?;
    let permitted = explained.iter().any(|(_, one)| matches!(one.decision, Decided::Permitted { .. }));
    if !permitted {
        response.needed.extend(explained.iter().flat_map(|(_, one)| one.needed.iter().cloned()));
    }
    response.policy = explained.into_iter().map(|(of, one)| policy_answer(of, &one)).collect();
    let mut seen = std::collections::BTreeSet::new();
    response.needed.retain(|words| seen.insert(words.clone()));
    Ok(response)
}

/// What a call is about, for the log.
pub(super) fn target(request: &ExplainRequest) -> String {
    let parts = [&request.decision_id, &request.identity, &request.secret];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Whom and what is asked about.
pub(super) struct About {
    pub(super) identity: SpiffeId,
    pub(super) secret: SecretPath,
}

impl About {
    /// None where a decision is asked about that names no identity or no secret.
    fn of(request: &ExplainRequest, case: Option<&Case>) -> Result<Option<Self>, Status> {
        let identity = match (request.identity.as_str(), case.and_then(|case| case.identity.as_ref())) {
            ("", None) => None,
            ("", Some(recorded)) => Some(recorded.clone()),
            (asked, Some(recorded)) if asked != recorded.as_str() => {
                return Err(answer::invalid(format!("the decision is about `{recorded}`")));
            }
            (asked, _) => Some(operations::identity(asked)?),
        };
        let recorded = case.and_then(|case| {
            let first = case.secrets.first().map(|secret| secret.path.as_str());
            case.refused_secret.as_deref().or(first)
        });
        let secret = if request.secret.is_empty() { recorded } else { Some(request.secret.as_str()) };
        let secret = secret.map(|path| {
            SecretPath::parse(path)
                .map_err(|_| answer::invalid("the secret is no path of segments [a-z0-9._-]"))
        });
        match (identity, secret.transpose()?) {
            (Some(identity), Some(secret)) => Ok(Some(About { identity, secret })),
            _ if case.is_some() => Ok(None),
            _ => Err(answer::invalid("say an identity and a secret, or a decision")),
        }
    }
}

/// Claims that are put to policy, with whose they are.
pub(super) struct Put {
    pub(super) claims_of: String,
    pub(super) claims: AttestedClaims,
    pub(super) channel_binding: ChannelBinding,
    /// 0: the secret's default.
    pub(super) ttl_seconds: u32,
    pub(super) hold: bool,
}

fn recorded(id: &str, case: &Case) -> Result<Put, Status> {
    let claims = AttestedClaims::from_json(&case.claims).map_err(|error| {
        answer::invalid(format!("the recorded claims are not known to this version: {error}"))
    })?;
    let none = case.channel_binding == ChannelBinding::None.name();
    Ok(Put {
        claims_of: format!("decision {id}"),
        claims,
        channel_binding: if none { ChannelBinding::None } else { ChannelBinding::TlsExporter },
        ttl_seconds: case.ttl_seconds,
        hold: case.hold,
    })
}

/// Puts all of them to the stored policy, where it keeps no release waiting.
async fn ask(
    service: &AdminService,
    about: About,
    metadata: Option<SecretMetadata>,
    put: Vec<Put>,
) -> Result<Vec<(String, Explanation)>, Status> {
    let (_, text) = policy::stored(service.registry.vault()).await?;
    let set = policy::compile(text).await?;
    let asked = move || {
        let facts = match &metadata {
            Some(metadata) => SecretFacts { path: &about.secret, labels: &metadata.labels },
            None => SecretFacts::stand_in(&about.secret),
        };
        let default =
            metadata.as_ref().map_or(limits::LEASE_DEFAULT_SECONDS, |known| known.lease_default_seconds);
        let explain = |put: Put| {
            let question = Question {
                principal: &about.identity,
                secret: facts,
                claims: &put.claims,
                channel_binding: put.channel_binding,
                ttl_seconds: if put.ttl_seconds == 0 { default } else { put.ttl_seconds },
                hold: put.hold,
            };
            let explanation = set.explain(&question);
            (put.claims_of, explanation)
        };
        put.into_iter().map(explain).collect()
    };
    tokio::task::spawn_blocking(asked).await.map_err(|_| answer::defect())
}

fn policy_answer(claims_of: String, explanation: &Explanation) -> PolicyAnswer {
    let decision = match &explanation.decision {
        Decided::Permitted { .. } => "permitted",
        Decided::Forbidden { .. } => "forbidden",
        Decided::Silent => "silent",
        Decided::Unevaluable { .. } => "unevaluable",
    };
    PolicyAnswer {
        claims_of,
        decision: decision.to_owned(),
        words: explanation.to_string(),
        json: serde_json::to_string(explanation).unwrap_or_default(),
    }
}

/// A record that is a decision, in the answer's words.
fn described(record: &Record) -> Result<Decision, Status> {
    let case = record.case().ok_or_else(|| answer::invalid("the record of this id is no decision"))?;
    let denial = record.denial();
    let repeats = match &record.event {
        Event::Denied { repeats, .. } => repeats.clone().unwrap_or_default(),
        _ => String::new(),
    };
    let versioned = |secret: &crate::case::PathVersion| match secret.version {
        Some(version) => format!("{}@{version}", secret.path),
        None => secret.path.clone(),
    };
    let stage = serde_json::to_value(case.stage).ok();
    Ok(Decision {
        decision_id: record.id.clone(),
        time: record.time.to_string(),
        outcome: audit::show::kind(&record.event).to_owned(),
        stage: stage.and_then(|stage| stage.as_str().map(str::to_owned)).unwrap_or_default(),
        denial: denial.map(|denial| denial.name().to_owned()).unwrap_or_default(),
        class: denial.map(|denial| denial.class().name().to_owned()).unwrap_or_default(),
        reason: denial.map(|denial| denial.reason().name().to_owned()).unwrap_or_default(),
        explanation: denial.map(|denial| denial.explanation().to_owned()).unwrap_or_default(),
        detail: case.detail.clone(),
        identity: case.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        node: case.node.clone().unwrap_or_default(),
        secrets: case.secrets.iter().map(versioned).collect(),
        refused_secret: case.refused_secret.clone().unwrap_or_default(),
        rules: case.rules.clone(),
        epochs: case.epochs.clone(),
        repeats,
        claims: match case.claims.is_empty() {
            true => String::new(),
            false => serde_json::to_string(&case.claims).unwrap_or_default(),
        },
    })
}
