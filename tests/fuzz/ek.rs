//! A TPM manufacturer with a root, a list, and one endorsement key that it certified.
//!
//! *Takes* nothing. *Gives* [`Certified`]. *Denies* nothing. *Source*: TCG EK Credential Profile 2.5 §3.

use portcullis::evidence::tpm2::enroll::{Manufacturers, Revocation};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    SerialNumber, date_time_ymd,
};

pub struct Certified {
    pub manufacturers: Manufacturers,
    pub certificate: Vec<u8>,
    /// DER and PEM.
    pub root: [Vec<u8>; 2],
    pub list: Vec<u8>,
}

impl Certified {
    pub fn new() -> Certified {
        let mut params = dated();
        params.distinguished_name.push(DnType::CommonName, "TPM root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 9, 1),
            next_update: date_time_ymd(2026, 12, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&root).unwrap().der().to_vec();
        let manufacturers = Manufacturers::none().and_roots(root.der(), Revocation::Demanded);
        let certificate = ek().signed_by(&KeyPair::generate().unwrap(), &root).unwrap().der().to_vec();
        Certified {
            manufacturers: manufacturers.unwrap().and_lists(&list).unwrap(),
            certificate,
            root: [root.der().to_vec(), root.pem().into_bytes()],
            list,
        }
    }
}

fn dated() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2036, 1, 1);
    params
}

fn ek() -> CertificateParams {
    let mut params = dated();
    params.serial_number = Some(SerialNumber::from(77_u64));
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params.is_ca = IsCa::ExplicitNoCa;
    let mut names = CustomExtension::from_oid_content(&[2, 5, 29, 17], directory_name());
    names.set_criticality(true);
    params.custom_extensions = vec![names];
    params
}

/// GeneralNames with one directoryName: manufacturer, model and version of the TPM (2.23.133.2.1 to 3).
fn directory_name() -> Vec<u8> {
    let attribute = |(last, text): (u8, &str)| {
        let oid = [0x06, 0x05, 0x67, 0x81, 0x05, 0x02, last];
        let text = [&[0x0c, text.len() as u8], text.as_bytes()].concat();
        tagged(0x31, &tagged(0x30, &[&oid[..], &text].concat()))
    };
    let sets: Vec<u8> =
        [(1, "id:54455354"), (2, "soft"), (3, "id:00010000")].into_iter().flat_map(attribute).collect();
    tagged(0x30, &tagged(0xa4, &tagged(0x30, &sets)))
}

/// Short contents alone.
fn tagged(tag: u8, contents: &[u8]) -> Vec<u8> {
    [&[tag, contents.len() as u8], contents].concat()
}
