//! A CoRIM's reference triple as reference values for `nitro`.
//!
//! *Takes* a [`ReferenceTriple`]. *Gives* [`NitroReference`]. *Denies* nothing itself; what cannot be said by PCRs is an error.
//! *Source*: draft-ietf-rats-corim §5.1.4 (digests, integrity-registers); AWS "Cryptographic attestation" (PCRs).

use super::{Digest, DigestAlgorithm, Identifier, Measurement, ReferenceTriple};
use crate::appraisal::nitro_reference::{NitroReference, PcrIndex, PcrValue};

/// Why a triple is no reference for `nitro`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNitro {
    /// A measurement that is of no PCR.
    #[error("`{0}` is not the number of a PCR, 0 to 31")]
    Index(String),
    /// A PCR's digest by something else, or by nothing.
    #[error("PCR{0} has no SHA-384, or a digest beside it")]
    Digest(PcrIndex),
    /// A PCR twice: one triple means all of its measurements at once.
    #[error("PCR{0} stands twice")]
    Repeated(PcrIndex),
    /// A condition that PCRs cannot say.
    #[error("a measurement holds `{0}`, which no PCR can say")]
    Beyond(&'static str),
}

impl TryFrom<&ReferenceTriple> for NitroReference {
    type Error = NotNitro;

    /// Each measurement is a PCR by its key, or some by their registers, with one SHA-384. The environment is not in the values:
    /// which workload the triple speaks of is the administrator's word. Check the shape of what comes out.
    fn try_from(triple: &ReferenceTriple) -> Result<Self, NotNitro> {
        let mut reference = NitroReference::default();
        for measurement in &triple.measurements {
            check_conditions(measurement)?;
            let by_key = measurement.key.as_ref().filter(|_| !measurement.digests.is_empty());
            let by_key = by_key.map(|key| (key, &measurement.digests));
            let by_register = measurement.registers.iter().map(|(id, digests)| (id, digests));
            for (id, digests) in by_key.into_iter().chain(by_register) {
                let (index, value) = pcr(id, digests)?;
                if reference.pcrs.insert(index, [value].into()).is_some() {
                    return Err(NotNitro::Repeated(index));
                }
            }
        }
        Ok(reference)
    }
}

fn pcr(id: &Identifier, digests: &[Digest]) -> Result<(PcrIndex, PcrValue), NotNitro> {
    let index = id.as_number().and_then(PcrIndex::new).ok_or_else(|| NotNitro::Index(id.to_string()))?;
    match digests {
        [Digest { algorithm: DigestAlgorithm::Sha384, value }] => {
            PcrValue::new(value).map(|value| (index, value)).ok_or(NotNitro::Digest(index))
        }
        _ => Err(NotNitro::Digest(index)),
    }
}

fn check_conditions(measurement: &Measurement) -> Result<(), NotNitro> {
    let conditions = [
        ("raw-value", measurement.raw_value.is_some()),
        ("svn", measurement.svn.is_some()),
        ("version", measurement.version.is_some()),
        ("digests of no element", measurement.key.is_none() && !measurement.digests.is_empty()),
        ("neither digests nor registers", measurement.digests.is_empty() && measurement.registers.is_empty()),
    ];
    match conditions.into_iter().find(|(_, stands)| *stands) {
        Some((name, _)) => Err(NotNitro::Beyond(name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, Svn};
    use super::*;

    fn sha384(byte: u8) -> Digest {
        Digest { algorithm: DigestAlgorithm::Sha384, value: vec![byte; 48] }
    }

    fn of_pcr(index: u64, digests: Vec<Digest>) -> Measurement {
        Measurement { key: Some(Identifier::Number(index)), digests, ..Measurement::default() }
    }

    fn outcome(measurements: Vec<Measurement>) -> Result<NitroReference, NotNitro> {
        NitroReference::try_from(&ReferenceTriple { environment: Environment::default(), measurements })
    }

    #[test]
    fn pcrs_come_by_key_and_by_register() {
        let registers = vec![(Identifier::Number(8), vec![sha384(2)])];
        let by_register = Measurement { registers, ..Measurement::default() };
        let reference = outcome(vec![of_pcr(0, vec![sha384(1)]), by_register]).unwrap();
        assert_eq!(reference.check_shape(), Ok(()));
        let index = |number| PcrIndex::new(number).unwrap();
        assert_eq!(reference.pcrs[&index(0)], [PcrValue::new(&[1; 48]).unwrap()].into());
        assert_eq!(reference.pcrs[&index(8)], [PcrValue::new(&[2; 48]).unwrap()].into());
        assert!(!reference.allow_debug);
    }

    #[test]
    fn what_pcrs_cannot_say_is_an_error() {
        let index = PcrIndex::new(0).unwrap();
        let sha256 = Digest { algorithm: DigestAlgorithm::Sha256, value: vec![1; 32] };
        assert_eq!(outcome(vec![of_pcr(0, vec![sha256.clone()])]), Err(NotNitro::Digest(index)));
        assert_eq!(outcome(vec![of_pcr(0, vec![sha384(1), sha256])]), Err(NotNitro::Digest(index)));
        assert_eq!(outcome(vec![of_pcr(32, vec![sha384(1)])]), Err(NotNitro::Index("32".into())));
        let twice = vec![of_pcr(0, vec![sha384(1)]), of_pcr(0, vec![sha384(2)])];
        assert_eq!(outcome(twice), Err(NotNitro::Repeated(index)));
        let named = Measurement { key: Some(Identifier::Text("PCR0".into())), ..of_pcr(0, vec![sha384(1)]) };
        assert_eq!(outcome(vec![named]), Err(NotNitro::Index("PCR0".into())));
        let with_svn = Measurement { svn: Some(Svn::AtLeast(1)), ..of_pcr(0, vec![sha384(1)]) };
        assert_eq!(outcome(vec![with_svn]), Err(NotNitro::Beyond("svn")));
        let keyless = Measurement { key: None, ..of_pcr(0, vec![sha384(1)]) };
        assert_eq!(outcome(vec![keyless]), Err(NotNitro::Beyond("digests of no element")));
        assert_eq!(outcome(vec![of_pcr(0, vec![])]), Err(NotNitro::Beyond("neither digests nor registers")));
        assert!(outcome(vec![]).unwrap().check_shape().is_err());
    }
}
