//! Making a `process` document, for the node's attester.
//!
//! *Takes* a [`Statement`] and a [`NodeSigner`]. *Gives* the document's body. *Denies* nothing: a signer that fails is
//! the attester's `ATTESTATION_NOT_POSSIBLE`.
//! *Source*: `protocol.md` "process"; RFC 9052 §4.4.

use super::node::{Algorithm, NodeKey};
use super::statement::{Executable, ProcessClaims, Program, Statement};
use super::{
    ALG_EDDSA, ALG_ES256, CLAIM_IAT, CLAIM_NONCE, CLAIM_PROFILE, EXTERNAL_AAD, HEADER_ALG, HEADER_KID,
    PROFILE,
};
use crate::evidence::cbor::{self, Value};

/// What holds a node's key: a file now, a TPM later. It signs what it is given; the attester alone calls it.
pub trait NodeSigner: Send + Sync {
    /// The public half, as it is to be enrolled.
    fn public_key(&self) -> &NodeKey;

    /// The signature over `message`, 64 bytes: r and s for ES256 (RFC 9053 §2.1), R and S for Ed25519.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// The key did not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node key did not sign")]
pub struct SignError;

/// The document's body: COSE_Sign1 over the statement, deterministically encoded.
pub fn sign(statement: &Statement, signer: &dyn NodeSigner) -> Result<Vec<u8>, SignError> {
    let protected = cbor::write(&protected_header(signer.public_key()));
    let payload = cbor::write(&payload(statement));
    let signature = signer.sign(&signed_bytes(&protected, &payload))?;
    let parts = vec![
        Value::Bytes(&protected),
        Value::Map(Vec::new()),
        Value::Bytes(&payload),
        Value::Bytes(&signature),
    ];
    Ok(cbor::write(&Value::Sign1(Box::new(Value::Array(parts)))))
}

/// What the signature is over: COSE's Sig_structure, made of the bytes as they are, never encoded anew.
pub(super) fn signed_bytes(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    cbor::write(&Value::Array(vec![
        Value::Text("Signature1"),
        Value::Bytes(protected),
        Value::Bytes(EXTERNAL_AAD),
        Value::Bytes(payload),
    ]))
}

fn protected_header(key: &NodeKey) -> Value<'_> {
    let algorithm = match key.algorithm() {
        Algorithm::Es256 => ALG_ES256,
        Algorithm::EdDsa => ALG_EDDSA,
    };
    Value::Map(vec![
        (Value::Unsigned(HEADER_ALG), Value::Negative(algorithm)),
        (Value::Unsigned(HEADER_KID), Value::Bytes(key.key_id_bytes())),
    ])
}

pub(super) fn payload(statement: &Statement) -> Value<'_> {
    Value::Map(vec![
        (Value::Unsigned(CLAIM_NONCE), Value::Bytes(&statement.binding)),
        (Value::Unsigned(CLAIM_IAT), Value::Unsigned(statement.iat)),
        (Value::Unsigned(CLAIM_PROFILE), Value::Text(PROFILE)),
        (Value::Text("node"), Value::Text(&statement.node)),
        (Value::Text("boot_id"), Value::Text(&statement.boot_id)),
        (Value::Text("process"), process(&statement.process)),
    ])
}

fn process(claims: &ProcessClaims) -> Value<'_> {
    let id = |id: &u32| Value::Unsigned(u64::from(*id));
    let mut entries = vec![
        (Value::Text("executable"), executable(&claims.executable)),
        (Value::Text("uid"), id(&claims.uid)),
        (Value::Text("gid"), id(&claims.gid)),
        (Value::Text("groups"), Value::Array(claims.groups.iter().map(id).collect())),
        (Value::Text("arguments-sha-256"), Value::Bytes(&claims.arguments_sha256)),
        (Value::Text("cgroup"), Value::Text(&claims.cgroup)),
        (Value::Text("start-time"), Value::Unsigned(claims.start_time)),
    ];
    for (key, value) in [("systemd-unit", &claims.systemd_unit), ("container-id", &claims.container_id)] {
        entries.extend(value.as_deref().map(|text| (Value::Text(key), Value::Text(text))));
    }
    if !claims.program.is_empty() {
        entries.push((Value::Text("program"), Value::Array(claims.program.iter().map(program).collect())));
    }
    Value::Map(entries)
}

fn executable(executable: &Executable) -> Value<'_> {
    let mut entries = vec![
        (Value::Text("path"), Value::Text(&executable.path)),
        (Value::Text("sha-256"), Value::Bytes(&executable.sha256)),
    ];
    if let Some(digest) = &executable.fs_verity {
        entries.push((Value::Text("fs-verity"), Value::Bytes(digest)));
    }
    Value::Map(entries)
}

fn program(program: &Program) -> Value<'_> {
    Value::Map(vec![
        (Value::Text("path"), Value::Text(&program.path)),
        (Value::Text("sha-256"), Value::Bytes(&program.sha256)),
    ])
}
