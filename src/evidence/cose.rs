//! What a COSE_Sign1 signature is over.
//!
//! *Takes* the parts as they came, never encoded anew. *Gives* the bytes of COSE's Sig_structure. *Denies* nothing itself.
//! *Source*: RFC 9052 §4.4.

use super::cbor::{self, Value};

/// The Sig_structure of a COSE_Sign1: protected header and payload are the contents of their byte strings.
pub fn signed_bytes(protected: &[u8], external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    cbor::write(&Value::Array(vec![
        Value::Text("Signature1"),
        Value::Bytes(protected),
        Value::Bytes(external_aad),
        Value::Bytes(payload),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_stand_in_their_order() {
        let bytes = signed_bytes(&[0xa0], b"x", b"yz");
        assert_eq!(hex::encode(bytes), format!("846a{}41a0417842797a", hex::encode("Signature1")));
    }
}
