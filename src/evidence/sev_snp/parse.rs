//! The shape of an attestation report, to the byte.
//!
//! *Takes* the body as received, untrusted. *Gives* [`Report`], of which nothing is verified yet. *Denies*
//! `EvidenceMalformed`. *Source*: AMD 56860 "ATTESTATION_REPORT" (versions 2, 3, 5), "GUEST_POLICY", "PLATFORM_INFO".

use super::product::SigningKey;
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::limits;

/// A report taken apart. Fields that AMD calls reserved were zero, or it would not be here: a newer firmware says what it
/// added by a higher version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    /// 2, 3 or 5.
    pub version: u32,
    /// The guest's own security version, from its ID block.
    pub guest_svn: u32,
    /// What the guest was launched under.
    pub policy: GuestPolicy,
    /// From the ID block; zero without one.
    pub family_id: [u8; 16],
    /// From the ID block; zero without one.
    pub image_id: [u8; 16],
    /// The privilege level it was asked for from, 0 the highest; [`HOST_REQUESTED`] where the host asked, not the guest.
    pub vmpl: u32,
    /// What runs now.
    pub current_tcb: [u8; 8],
    /// The platform's state.
    pub platform_info: PlatformInfo,
    /// Whether `author_key_digest` is of a key.
    pub author_key_enabled: bool,
    /// Whether the platform was told not to use its chip's key.
    pub chip_key_masked: bool,
    /// With what it says it is signed; none where it says that it is not.
    pub signing_key: Option<SigningKey>,
    /// Where the binding stands.
    pub report_data: [u8; 64],
    /// The launch measurement.
    pub measurement: [u8; 48],
    /// What the host added at launch.
    pub host_data: [u8; 32],
    /// SHA-384 of the key that signed the ID block; zero without one.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that certified the ID key.
    pub author_key_digest: [u8; 48],
    /// The guest's instance.
    pub report_id: [u8; 32],
    /// Its migration agent's instance; all ones without one.
    pub report_id_ma: [u8; 32],
    /// What the signing key is derived for.
    pub reported_tcb: [u8; 8],
    /// The processor; from version 3 on.
    pub cpuid: Option<Cpuid>,
    /// The chip; zero where it is masked, or where the key is a VLEK.
    pub chip_id: [u8; 64],
    /// What it cannot go back behind.
    pub committed_tcb: [u8; 8],
    /// The SNP firmware that runs: major, minor, build.
    pub current_firmware: [u8; 3],
    /// The SNP firmware that it cannot go back behind.
    pub committed_firmware: [u8; 3],
    /// What ran when the guest was launched.
    pub launch_tcb: [u8; 8],
    /// The mitigations that were in force at launch; from version 5 on.
    pub launch_mitigations: Option<u64>,
    /// The mitigations in force now; from version 5 on.
    pub current_mitigations: Option<u64>,
    /// The bytes that the signature is over, as received.
    pub signed: &'a [u8],
    /// r and s, 48 bytes each, big-endian.
    pub signature: [u8; 96],
}

/// The processor by CPUID, family and model combined with their extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpuid {
    /// Family.
    pub family: u8,
    /// Model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// GUEST_POLICY, as launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPolicy(pub u64);

/// PLATFORM_INFO, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlatformInfo(pub u64);

/// VMPL of a report that the host asked for, without the guest.
pub const HOST_REQUESTED: u32 = u32::MAX;

impl Report<'_> {
    /// What stands where the binding belongs: all of REPORT_DATA.
    pub fn carried_binding(&self) -> &[u8; limits::BINDING_BYTES] {
        &self.report_data
    }
}

impl GuestPolicy {
    /// Whether this bit is set.
    pub fn bit(self, bit: u32) -> bool {
        self.0.checked_shr(bit).is_some_and(|shifted| shifted & 1 == 1)
    }

    /// Bits that are set and have no meaning in the tables that this was written from.
    pub fn unknown(self) -> u64 {
        self.0 & !0x03ff_ffff
    }
}

impl PlatformInfo {
    /// Whether this bit is set.
    pub fn bit(self, bit: u32) -> bool {
        self.0.checked_shr(bit).is_some_and(|shifted| shifted & 1 == 1)
    }
}

/// Takes a report apart and checks every rule that needs nothing but its bytes. **Denies** `EvidenceMalformed`.
pub fn parse(body: &[u8]) -> Result<Report<'_>, Refusal> {
    if body.len() != limits::SEV_SNP_REPORT_BYTES {
        return Err(malformed(format!("{} bytes, not {}", body.len(), limits::SEV_SNP_REPORT_BYTES)));
    }
    let (signed, signature) = body.split_at_checked(SIGNED_BYTES).ok_or_else(|| malformed("too short"))?;
    let mut fields = Fields(signed);
    let version = fields.u32()?;
    if !VERSIONS.contains(&version) {
        return Err(malformed(format!("version {version} is not known")));
    }
    let guest_svn = fields.u32()?;
    let policy = policy(fields.u64()?)?;
    let (family_id, image_id) = (fields.take()?, fields.take()?);
    let vmpl = vmpl(fields.u32()?)?;
    if fields.u32()? != ECDSA_P384_SHA384 {
        return Err(malformed("SIGNATURE_ALGO is not ECDSA P-384 with SHA-384"));
    }
    let (current_tcb, platform_info) = (fields.take()?, PlatformInfo(fields.u64()?));
    let flags = fields.u32()?;
    let signing_key = signing_key(flags)?;
    fields.zeros::<4>("0x4c")?;
    let (report_data, measurement, host_data) = (fields.take()?, fields.take()?, fields.take()?);
    let (id_key_digest, author_key_digest) = (fields.take()?, fields.take()?);
    let (report_id, report_id_ma, reported_tcb) = (fields.take()?, fields.take()?, fields.take()?);
    let cpuid = cpuid(&mut fields, version)?;
    fields.zeros::<21>("0x18b")?;
    let (chip_id, committed_tcb) = (fields.take()?, fields.take()?);
    let current_firmware = firmware(&mut fields)?;
    let committed_firmware = firmware(&mut fields)?;
    let launch_tcb = fields.take()?;
    let (launch_mitigations, current_mitigations) = mitigations(&mut fields, version)?;
    fields.zeros::<152>("0x208")?;
    Ok(Report {
        version,
        guest_svn,
        policy,
        family_id,
        image_id,
        vmpl,
        current_tcb,
        platform_info,
        author_key_enabled: flags & 1 == 1,
        chip_key_masked: flags & 2 == 2,
        signing_key,
        report_data,
        measurement,
        host_data,
        id_key_digest,
        author_key_digest,
        report_id,
        report_id_ma,
        reported_tcb,
        cpuid,
        chip_id,
        committed_tcb,
        current_firmware,
        committed_firmware,
        launch_tcb,
        launch_mitigations,
        current_mitigations,
        signed,
        signature: parse_signature(signature)?,
    })
}

/// Bit 17 is reserved and one (AMD 56860, GUEST_POLICY).
fn policy(bits: u64) -> Result<GuestPolicy, Refusal> {
    let policy = GuestPolicy(bits);
    if policy.bit(17) { Ok(policy) } else { Err(malformed("POLICY bit 17 is not set")) }
}

fn vmpl(vmpl: u32) -> Result<u32, Refusal> {
    match vmpl {
        0..=3 | HOST_REQUESTED => Ok(vmpl),
        _ => Err(malformed(format!("VMPL {vmpl} does not exist"))),
    }
}

/// SIGNING_KEY stands in bits 2 to 4; what follows is reserved.
fn signing_key(flags: u32) -> Result<Option<SigningKey>, Refusal> {
    match flags & !3 {
        0 => Ok(Some(SigningKey::Vcek)),
        0b0_0100 => Ok(Some(SigningKey::Vlek)),
        0b1_1100 => Ok(None),
        _ => Err(malformed("SIGNING_KEY, or a reserved flag, is not known")),
    }
}

/// Reserved in version 2.
fn cpuid(fields: &mut Fields<'_>, version: u32) -> Result<Option<Cpuid>, Refusal> {
    if version < 3 {
        return fields.zeros::<3>("0x188").map(|()| None);
    }
    let [family, model, stepping] = fields.take()?;
    Ok(Some(Cpuid { family, model, stepping }))
}

/// Build, minor, major, and a reserved byte.
fn firmware(fields: &mut Fields<'_>) -> Result<[u8; 3], Refusal> {
    let [build, minor, major] = fields.take()?;
    fields.zeros::<1>("a firmware version")?;
    Ok([major, minor, build])
}

/// Reserved before version 5.
fn mitigations(fields: &mut Fields<'_>, version: u32) -> Result<(Option<u64>, Option<u64>), Refusal> {
    if version < 5 {
        return fields.zeros::<16>("0x1f8").map(|()| (None, None));
    }
    Ok((Some(fields.u64()?), Some(fields.u64()?)))
}

/// r and s are little-endian in 72 bytes each, of which P-384 needs 48; nothing may hide in the others, nor after them.
fn parse_signature(bytes: &[u8]) -> Result<[u8; 96], Refusal> {
    let mut fields = Fields(bytes);
    let mut both = [0; 96];
    for half in both.chunks_exact_mut(48) {
        let mut number: [u8; 48] = fields.take()?;
        fields.zeros::<24>("the signature")?;
        number.reverse();
        half.copy_from_slice(&number);
    }
    fields.zeros::<368>("0x330")?;
    Ok(both)
}

/// The fields that are still to be read.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (field, rest) = self.0.split_first_chunk().ok_or_else(|| malformed("too short"))?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, Refusal> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        self.take().map(u64::from_le_bytes)
    }

    fn zeros<const N: usize>(&mut self, place: &str) -> Result<(), Refusal> {
        match self.take::<N>()? {
            field if field == [0; N] => Ok(()),
            _ => Err(malformed(format!("reserved bytes at {place} are not zero"))),
        }
    }
}

fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EvidenceMalformed, detail)
}

/// Versions whose tables were read: 1.51 to 1.58 of AMD 56860.
const VERSIONS: [u32; 3] = [2, 3, 5];
/// SIGNATURE_ALGO.
const ECDSA_P384_SHA384: u32 = 1;
/// The signature is over bytes 0 to 0x29f.
const SIGNED_BYTES: usize = 0x2a0;
