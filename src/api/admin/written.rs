//! What administrators write: times, certificates, keys, names.
//!
//! *Takes* text of a request. *Gives* the parsed thing. *Denies* with INVALID_ARGUMENT and the cause.
//! *Source*: RFC 3339; RFC 7468; RFC 5280 §4.1.

use super::answer;
use crate::time::WallTime;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use tonic::Status;

/// An end that lies after `now`.
pub(super) fn not_after(text: &str, now: WallTime) -> Result<WallTime, Status> {
    let wrong = || answer::invalid("not_after is not a time in UTC, such as 2027-03-01T00:00:00Z");
    let time = WallTime::parse(text).ok_or_else(wrong)?;
    if time <= now {
        return Err(answer::invalid(format!("not_after {time} has passed")));
    }
    Ok(time)
}

/// The one certificate of a PEM text.
pub(super) fn certificate(pem: &str) -> Result<Vec<u8>, Status> {
    let parsed: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed.as_deref() {
        Ok([one]) => Ok(one.to_vec()),
        Ok([]) | Ok([_, _, ..]) => Err(answer::invalid("not exactly one certificate in PEM")),
        Err(_) => Err(answer::invalid("the certificate's PEM does not decode")),
    }
}

/// The one public key of a PEM text, as SPKI DER.
pub(super) fn public_key(pem: &str) -> Result<Vec<u8>, Status> {
    let parsed: Result<Vec<SubjectPublicKeyInfoDer<'_>>, _> =
        SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()).collect();
    match parsed.as_deref() {
        Ok([one]) => Ok(one.to_vec()),
        Ok([]) | Ok([_, _, ..]) => Err(answer::invalid("not exactly one public key in PEM")),
        Err(_) => Err(answer::invalid("the public key's PEM does not decode")),
    }
}

/// 32 bytes as 64 lower-case hex digits.
pub(super) fn digest(text: &str) -> Result<[u8; 32], Status> {
    let bytes = hex::decode(text).ok().filter(|_| !text.bytes().any(|byte| byte.is_ascii_uppercase()));
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| answer::invalid("a SHA-256 is 64 lower-case hex digits"))
}

/// 1 to 64 of `[A-Za-z0-9._-]`, or of those and `@`.
pub(super) fn name(text: &str, at_allowed: bool) -> Result<(), Status> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || (at_allowed && byte == b'@');
    match (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
        true => Ok(()),
        false => Err(answer::invalid("a name is 1 to 64 of [A-Za-z0-9._-]")),
    }
}

/// A reason for the log, in a person's words.
pub(super) fn why(text: &str) -> Result<String, Status> {
    let printable = !text.chars().any(char::is_control);
    match !text.trim().is_empty() && printable && text.len() <= WHY_BYTES {
        true => Ok(text.to_owned()),
        false => Err(answer::invalid("`why` is 1 to 300 bytes on one line")),
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(crate::transport::svid::sha256(bytes))
}

const NAME_BYTES: usize = 64;
const WHY_BYTES: usize = 300;
