//! What the record will say of one request, gathered stage by stage. It proves nothing and opens nothing.
//!
//! Every witness carries its `Case`, so a denial anywhere knows whom and what it was about, and no stage is passed a
//! second request's facts.

use crate::denial::Denial;
use crate::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a request stood when it was decided; the order of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the module of that name")]
pub enum Stage {
    Transport,
    Challenge,
    Evidence,
    Freshness,
    Latch,
    Appraisal,
    Policy,
    Audit,
    Release,
}

impl Stage {
    /// Every stage, in the order of the flow.
    pub const ALL: [Stage; 9] = [
        Stage::Transport,
        Stage::Challenge,
        Stage::Evidence,
        Stage::Freshness,
        Stage::Latch,
        Stage::Appraisal,
        Stage::Policy,
        Stage::Audit,
        Stage::Release,
    ];

    /// The word for it in the audit log and in figures.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Transport => "transport",
            Stage::Challenge => "challenge",
            Stage::Evidence => "evidence",
            Stage::Freshness => "freshness",
            Stage::Latch => "latch",
            Stage::Appraisal => "appraisal",
            Stage::Policy => "policy",
            Stage::Audit => "audit",
            Stage::Release => "release",
        }
    }
}

/// One secret of a request, and the version that a grant names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathVersion {
    /// The path asked.
    pub path: String,
    /// The version granted; none before the policy stage knew one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// The facts of one request so far. No secret and no evidence body is among them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The last stage that was entered.
    pub stage: Stage,
    /// The peer's SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
    /// SHA-256 of the leaf's SPKI, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key_sha256: String,
    /// The leaf's serial number, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// What was asked, with versions once known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<PathVersion>,
    /// Seconds asked; 0 = the default.
    #[serde(default)]
    pub ttl_seconds: u32,
    /// Whether a held lease was asked.
    #[serde(default)]
    pub hold: bool,
    /// The challenge's round.
    #[serde(default)]
    pub round: u64,
    /// The held lease that a later round is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// The channel binding in use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub channel_binding: String,
    /// The formats of the evidence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// The node that vouched, once verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// SHA-256 of the verified claims, hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub claims_sha256: String,
    /// The verified claims that policy reads, by format.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, serde_json::Value>,
    /// The verified subject that a refusal would hold, hex of a SHA-256.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What the decision rests on: trust, nodes, reference, policy, secret versions, each by its epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub epochs: BTreeMap<String, u64>,
    /// The reference set and the policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Which secret a refusal is about, where it is about one; all of the request otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_secret: Option<String>,
    /// The parser's or verifier's own words, for the operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Case {
    /// An empty case, about nobody.
    pub fn new() -> Self {
        Case {
            stage: Stage::Transport,
            identity: None,
            key_sha256: String::new(),
            serial: String::new(),
            secrets: Vec::new(),
            ttl_seconds: 0,
            hold: false,
            round: 0,
            lease: None,
            channel_binding: String::new(),
            formats: Vec::new(),
            node: None,
            claims_sha256: String::new(),
            claims: BTreeMap::new(),
            subject: String::new(),
            epochs: BTreeMap::new(),
            rules: Vec::new(),
            refused_secret: None,
            detail: String::new(),
        }
    }

    /// Ends the request with `denial`; the case goes with it into the record.
    pub fn deny(self: Box<Self>, denial: Denial) -> Denied {
        Denied { denial, case: self }
    }

    /// The same, with the cause in the operator's words (bounded, never a secret).
    pub fn deny_because(mut self: Box<Self>, denial: Denial, detail: impl std::fmt::Display) -> Denied {
        self.detail = detail.to_string().chars().take(DETAIL_CHARACTERS).collect();
        self.deny(denial)
    }
}

impl Default for Case {
    fn default() -> Self {
        Case::new()
    }
}

/// A request that ended without a secret: why, and what it was about.
#[must_use]
#[derive(Debug)]
pub struct Denied {
    /// Why.
    pub denial: Denial,
    /// About what.
    pub case: Box<Case>,
}

/// A detail is for a person to read; more than this is a peer's attempt to fill the log.
const DETAIL_CHARACTERS: usize = 300;
