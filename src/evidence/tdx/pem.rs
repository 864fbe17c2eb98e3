//! Certificate chains in PEM, in the one spelling that Intel uses.
//!
//! *Takes* text. *Gives* the certificates' DER. *Denies* nothing itself: what is spelled otherwise is no chain, as its
//! other bytes would stand outside every signature. *Source*: RFC 7468 §3 (lines of 64), §5.1.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;

/// The certificates of a chain that is spelled as [`written`] spells it; the last line feed may be missing, and one NUL
/// may end it, as real quotes have both.
pub(super) fn read(text: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.strip_suffix('\0').unwrap_or(text);
    let mut certificates = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (base64, after) = rest.strip_prefix(BEGIN)?.split_once(END)?;
        let base64: String = base64.split('\n').collect();
        certificates.push(CertificateDer::from(STANDARD.decode(base64).ok()?));
        rest = after.strip_prefix('\n').unwrap_or(after);
        if certificates.len() > CERTIFICATES {
            return None;
        }
    }
    let canonical = written(&certificates);
    let same = text == canonical || canonical.strip_suffix('\n') == Some(text);
    (same && !certificates.is_empty()).then_some(certificates)
}

/// The first certificate of a chain that [`read`] read.
pub(super) fn first(chain: &str) -> String {
    chain.split_once(END).map_or_else(String::new, |(first, _)| [first, END, "\n"].concat())
}

/// A chain in PEM: lines of 64 characters, one line feed after each, nothing between the certificates.
pub(super) fn written(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let base64 = STANDARD.encode(certificate);
        text.push_str(BEGIN);
        let mut rest = base64.as_str();
        while let Some((line, after)) = rest.split_at_checked(LINE).or(Some((rest, ""))) {
            text.push('\n');
            text.push_str(line);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        text.push_str(END);
        text.push('\n');
    }
    text
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "\n-----END CERTIFICATE-----";
/// Characters of a line (RFC 7468 §2).
const LINE: usize = 64;
/// More than any chain of Intel's has.
const CERTIFICATES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<CertificateDer<'static>> {
        [1_usize, 47, 48, 49, 500].iter().take(3).map(|n| CertificateDer::from(vec![0x30; *n])).collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = written(&chain());
        assert_eq!(read(text.as_bytes()), Some(chain()));
        assert_eq!(read(text.trim_end().as_bytes()), Some(chain()));
        assert_eq!(read(format!("{text}\0").as_bytes()), Some(chain()));
    }

    #[test]
    fn another_spelling_of_the_same_certificates_is_refused() {
        let text = written(&chain());
        let spellings = [
            format!("\n{text}"),
            format!("{text}\n"),
            format!("{text}\0\0"),
            format!("{text} "),
            format!("subject=x\n{text}"),
            text.replace('\n', "\r\n"),
            text.replace("-----END CERTIFICATE-----\n-----BEGIN", "-----END CERTIFICATE-----\n\n-----BEGIN"),
            text.replacen("MD", "MD\n", 1),
            text.replacen("MA==", "MB==", 1),
            text.replacen("MA==", "MA", 1),
            text.replace("CERTIFICATE", "X509 CERTIFICATE"),
            String::new(),
            "\0".to_owned(),
        ];
        for spelling in spellings {
            assert_eq!(read(spelling.as_bytes()), None, "{spelling:?}");
        }
        let many: Vec<_> = (0..5).map(|_| CertificateDer::from(vec![0x30; 3])).collect();
        assert_eq!(read(written(&many).as_bytes()), None);
    }
}
