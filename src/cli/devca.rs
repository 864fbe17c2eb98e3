//! A development CA: a root, leaves and revocation lists made in memory, for `demo`, for `init`'s operators and for tests.
//!
//! *Takes* names and times. *Gives* PEM. *Denies* nothing. It is no mode of the broker: the broker is given its files like
//! those of any other CA. *Source*: `certs/README.md` (the profile); SPIFFE X.509-SVID; RFC 5280.

use crate::spiffe::SpiffeId;
use crate::time::WallTime;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use time::OffsetDateTime;

/// Making a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// rcgen refused.
    #[error(transparent)]
    Certificate(#[from] rcgen::Error),
    /// A time is out of range.
    #[error("a time is out of range")]
    Time,
}

/// A root that signs leaves and lists.
pub struct DevelopmentCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf with its key.
#[derive(Clone)]
pub struct Leaf {
    /// PEM, one certificate.
    pub certificate: String,
    /// PEM, PKCS#8.
    pub key: String,
    /// The serial number.
    pub serial: u64,
    /// SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
}

/// What a leaf is to be.
#[derive(Clone, Debug)]
pub struct LeafRequest {
    /// Its SPIFFE ID; none for an operator.
    pub id: Option<SpiffeId>,
    /// Its common name.
    pub name: String,
    /// DNS names or IP addresses.
    pub hosts: Vec<String>,
    /// The serial number.
    pub serial: u64,
    /// When it begins.
    pub not_before: WallTime,
    /// When it ends.
    pub not_after: WallTime,
}

impl DevelopmentCa {
    /// A new root of that name, valid for ten years around `now`.
    pub fn new(name: &str, now: WallTime) -> Result<Self, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = moment(WallTime(now.0.saturating_sub(DAY_MS)))?;
        params.not_after = moment(now.plus(DAY_MS.saturating_mul(3650)))?;
        if let Some(id) = name.strip_prefix("spiffe://") {
            params.subject_alt_names = vec![SanType::URI(format!("spiffe://{id}").try_into()?)];
        }
        Ok(DevelopmentCa { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The root, PEM: a trust bundle of one.
    pub fn root(&self) -> String {
        self.issuer.pem()
    }

    /// The root's private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a leaf with a new P-256 key.
    pub fn leaf(&self, request: &LeafRequest) -> Result<Leaf, CaError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(request.hosts.clone())?;
        params.distinguished_name.push(DnType::CommonName, request.name.as_str());
        if let Some(id) = &request.id {
            params.subject_alt_names.push(SanType::URI(id.as_str().try_into()?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(request.serial));
        params.use_authority_key_identifier_extension = true;
        params.not_before = moment(request.not_before)?;
        params.not_after = moment(request.not_after)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem(), serial: request.serial, spki })
    }

    /// Signs a revocation list, PEM.
    pub fn revocation_list(
        &self,
        number: u64,
        this_update: WallTime,
        next_update: WallTime,
        revoked: &[u64],
    ) -> Result<String, CaError> {
        let time = moment(this_update)?;
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: time,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: time,
            next_update: moment(next_update)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

fn moment(time: WallTime) -> Result<OffsetDateTime, CaError> {
    let seconds = i64::try_from(time.seconds()).map_err(|_| CaError::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::Time)
}

const DAY_MS: u64 = 86_400_000;
