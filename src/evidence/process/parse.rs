//! The shape of a `process` document, to the byte.
//!
//! *Takes* the body as received, untrusted. *Gives* [`SignedStatement`], of which nothing is verified yet. *Denies*
//! nothing itself; each [`ParseError`] is `EvidenceMalformed`.
//! *Source*: `protocol.md` "process"; RFC 9052 §4.2.

use super::node::{Algorithm, KeyId};
use super::statement::{Executable, ProcessClaims, Program, Statement};
use super::{ALG_EDDSA, ALG_ES256, CLAIM_IAT, CLAIM_NONCE, CLAIM_PROFILE, HEADER_ALG, HEADER_KID, PROFILE};
use crate::evidence::cbor::{self, Value};
use crate::limits;

/// A document taken apart. The signature is over `protected` and `payload` as received.
#[derive(Debug)]
pub struct SignedStatement<'a> {
    /// The algorithm that it says it is signed with.
    pub algorithm: Algorithm,
    /// The key that it says it is signed with.
    pub key_id: KeyId,
    /// The protected header's own bytes.
    pub protected: &'a [u8],
    /// The payload's own bytes.
    pub payload: &'a [u8],
    /// The signature.
    pub signature: [u8; 64],
    /// What the payload says.
    pub statement: Statement,
}

/// Why a body is no `process` document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than a document may be.
    #[error("longer than {} bytes", limits::DOCUMENT_BYTES)]
    TooLong,
    /// Not deterministic CBOR.
    #[error("{part}: {error}")]
    Encoding {
        /// Of which part.
        part: &'static str,
        /// What is wrong with it.
        error: cbor::Error,
    },
    /// Not tag 18 around an array of four.
    #[error("not a tagged COSE_Sign1")]
    NotSign1,
    /// The unprotected header holds something.
    #[error("the unprotected header is not empty")]
    Unprotected,
    /// A key that the format does not have, or one of another type.
    #[error("`{0}` holds a key that the format does not have")]
    UnknownKey(&'static str),
    /// A key that must be there is not.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// A value has the wrong type, length or range.
    #[error("`{0}` has the wrong type, length or range")]
    Wrong(&'static str),
}

/// Takes a document apart and checks every rule that needs nothing but its bytes.
pub fn parse(body: &[u8]) -> Result<SignedStatement<'_>, ParseError> {
    if body.len() > limits::DOCUMENT_BYTES {
        return Err(ParseError::TooLong);
    }
    let Value::Sign1(array) = read("body", body)? else { return Err(ParseError::NotSign1) };
    let Value::Array(parts) = *array else { return Err(ParseError::NotSign1) };
    let [Value::Bytes(protected), Value::Map(unprotected), Value::Bytes(payload), Value::Bytes(signature)] =
        parts.as_slice()
    else {
        return Err(ParseError::NotSign1);
    };
    if !unprotected.is_empty() {
        return Err(ParseError::Unprotected);
    }
    let (algorithm, key_id) = protected_header(protected)?;
    let signature = (*signature).try_into().map_err(|_| ParseError::Wrong("signature"))?;
    let statement = statement(payload)?;
    Ok(SignedStatement { algorithm, key_id, protected, payload, signature, statement })
}

fn protected_header(bytes: &[u8]) -> Result<(Algorithm, KeyId), ParseError> {
    let mut header = Fields::of("protected header", read("protected header", bytes)?)?;
    let algorithm = match header.required(Value::Unsigned(HEADER_ALG), "alg")? {
        Value::Negative(ALG_ES256) => Algorithm::Es256,
        Value::Negative(ALG_EDDSA) => Algorithm::EdDsa,
        _ => return Err(ParseError::Wrong("alg")),
    };
    let key_id = array(header.required(Value::Unsigned(HEADER_KID), "kid")?, "kid")?;
    header.end()?;
    Ok((algorithm, key_id))
}

fn statement(payload: &[u8]) -> Result<Statement, ParseError> {
    let mut claims = Fields::of("payload", read("payload", payload)?)?;
    let binding = array(claims.required(Value::Unsigned(CLAIM_NONCE), "eat_nonce")?, "eat_nonce")?;
    let iat = unsigned(claims.required(Value::Unsigned(CLAIM_IAT), "iat")?, "iat")?;
    let profile = text(claims.required(Value::Unsigned(CLAIM_PROFILE), "eat_profile")?, "eat_profile")?;
    if profile != PROFILE {
        return Err(ParseError::Wrong("eat_profile"));
    }
    let node = text(claims.text_key("node")?, "node")?;
    let boot_id = text(claims.text_key("boot_id")?, "boot_id")?;
    if !is_boot_id(&boot_id) {
        return Err(ParseError::Wrong("boot_id"));
    }
    let process = process(claims.text_key("process")?)?;
    claims.end()?;
    Ok(Statement { binding, iat, node, boot_id, process })
}

fn process(value: Value<'_>) -> Result<ProcessClaims, ParseError> {
    let mut claims = Fields::of("process", value)?;
    let process = ProcessClaims {
        executable: executable(claims.text_key("executable")?)?,
        uid: id(claims.text_key("uid")?, "uid")?,
        gid: id(claims.text_key("gid")?, "gid")?,
        groups: groups(claims.text_key("groups")?)?,
        arguments_sha256: array(claims.text_key("arguments-sha-256")?, "arguments-sha-256")?,
        cgroup: text(claims.text_key("cgroup")?, "cgroup")?,
        systemd_unit: claims.optional("systemd-unit").map(|value| text(value, "systemd-unit")).transpose()?,
        container_id: claims.optional("container-id").map(|value| text(value, "container-id")).transpose()?,
        start_time: unsigned(claims.text_key("start-time")?, "start-time")?,
        program: claims.optional("program").map(programs).transpose()?.unwrap_or_default(),
    };
    claims.end()?;
    Ok(process)
}

fn executable(value: Value<'_>) -> Result<Executable, ParseError> {
    let mut claims = Fields::of("executable", value)?;
    let path = text(claims.text_key("path")?, "executable path")?;
    // What is deleted is not attested, so no attester says this.
    if path.ends_with(DELETED) {
        return Err(ParseError::Wrong("executable path"));
    }
    let sha256 = array(claims.text_key("sha-256")?, "executable sha-256")?;
    let fs_verity = claims.optional("fs-verity").map(fs_verity).transpose()?;
    claims.end()?;
    Ok(Executable { path, sha256, fs_verity })
}

fn fs_verity(value: Value<'_>) -> Result<Vec<u8>, ParseError> {
    match value {
        Value::Bytes(digest) if matches!(digest.len(), 32 | 64) => Ok(digest.to_vec()),
        _ => Err(ParseError::Wrong("fs-verity")),
    }
}

fn programs(value: Value<'_>) -> Result<Vec<Program>, ParseError> {
    let Value::Array(elements) = value else { return Err(ParseError::Wrong("program")) };
    // They are of `program_fds`, and of those there are at most so many.
    if elements.len() > limits::ATTEST_PROGRAM_FDS {
        return Err(ParseError::Wrong("program"));
    }
    elements.into_iter().map(program).collect()
}

fn program(value: Value<'_>) -> Result<Program, ParseError> {
    let mut claims = Fields::of("program", value)?;
    let path = text(claims.text_key("path")?, "program path")?;
    let sha256 = array(claims.text_key("sha-256")?, "program sha-256")?;
    claims.end()?;
    Ok(Program { path, sha256 })
}

fn groups(value: Value<'_>) -> Result<Vec<u32>, ParseError> {
    let Value::Array(elements) = value else { return Err(ParseError::Wrong("groups")) };
    let groups = elements.into_iter().map(|value| id(value, "groups")).collect::<Result<Vec<_>, _>>()?;
    if !groups.is_sorted_by(|a, b| a < b) {
        return Err(ParseError::Wrong("groups"));
    }
    Ok(groups)
}

/// A map whose entries are taken out one by one; what is left at the end is unknown.
struct Fields<'a> {
    name: &'static str,
    entries: Vec<(Value<'a>, Value<'a>)>,
}

impl<'a> Fields<'a> {
    fn of(name: &'static str, value: Value<'a>) -> Result<Self, ParseError> {
        match value {
            Value::Map(entries) => Ok(Fields { name, entries }),
            _ => Err(ParseError::Wrong(name)),
        }
    }

    fn take(&mut self, key: &Value<'_>) -> Option<Value<'a>> {
        let at = self.entries.iter().position(|(found, _)| found == key)?;
        Some(self.entries.swap_remove(at).1)
    }

    fn required(&mut self, key: Value<'_>, name: &'static str) -> Result<Value<'a>, ParseError> {
        self.take(&key).ok_or(ParseError::Missing(name))
    }

    fn text_key(&mut self, key: &'static str) -> Result<Value<'a>, ParseError> {
        self.required(Value::Text(key), key)
    }

    fn optional(&mut self, key: &str) -> Option<Value<'a>> {
        self.take(&Value::Text(key))
    }

    fn end(self) -> Result<(), ParseError> {
        self.entries.is_empty().then_some(()).ok_or(ParseError::UnknownKey(self.name))
    }
}

fn read<'a>(part: &'static str, bytes: &'a [u8]) -> Result<Value<'a>, ParseError> {
    cbor::read(bytes).map_err(|error| ParseError::Encoding { part, error })
}

fn array<const N: usize>(value: Value<'_>, name: &'static str) -> Result<[u8; N], ParseError> {
    match value {
        Value::Bytes(bytes) => bytes.try_into().map_err(|_| ParseError::Wrong(name)),
        _ => Err(ParseError::Wrong(name)),
    }
}

fn unsigned(value: Value<'_>, name: &'static str) -> Result<u64, ParseError> {
    match value {
        Value::Unsigned(number) => Ok(number),
        _ => Err(ParseError::Wrong(name)),
    }
}

/// A user or group id: 32 bits on Linux.
fn id(value: Value<'_>, name: &'static str) -> Result<u32, ParseError> {
    u32::try_from(unsigned(value, name)?).map_err(|_| ParseError::Wrong(name))
}

/// Text that says something: every text of the format is a name or a path, and none of those is empty.
fn text(value: Value<'_>, name: &'static str) -> Result<String, ParseError> {
    match value {
        Value::Text(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(ParseError::Wrong(name)),
    }
}

/// As `/proc/sys/kernel/random/boot_id` has it: 8-4-4-4-12 hexadecimal digits.
fn is_boot_id(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// What the kernel appends to the link of a file that has no name any more.
const DELETED: &str = " (deleted)";
