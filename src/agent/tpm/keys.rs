//! The TPM's keys: endorsement keys by the profile's templates, attestation keys by ours, and the EK's certificate.
//!
//! *Takes* an open [`Tpm`]. *Gives* [`Loaded`] keys. *Denies* nothing itself. *Source*: TCG EK Credential Profile 2.5 §B.3, §B.4
//! (templates and NV indices); TCG TPM 2.0 Library part 3 §12, §24.1, §31.

use super::command::{Auth, Command, TpmError, code, handle};
use super::{CREATE_MS, Tpm};
use crate::evidence::tpm2::wire::{Reader, sized};
use crate::evidence::tpm2::{AkName, AttestationKey, PublicArea};
use crate::limits;
use serde::{Deserialize, Serialize};

/// An endorsement key's template. Its key is the same after every boot: it is derived from a seed in the TPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EkKind {
    /// RSA 2048, template L-1: what nearly every TPM has a certificate for.
    Rsa2048,
    /// P-256, template L-2.
    EccP256,
    /// P-384, template H-3: what swtpm's own authority certifies beside RSA.
    EccP384,
}

/// An attestation key's scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AkKind {
    /// ECDSA on P-256 with SHA-256: the fastest.
    EcdsaP256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384,
    /// RSASSA of 2048 bits with SHA-256.
    RsaSsa2048,
    /// RSASSA-PSS of 2048 bits with SHA-256. Some TPMs salt longer than any verifier takes.
    RsaPss2048,
}

/// A key that the TPM has loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    handle: u32,
    public: Vec<u8>,
    qualified_by_policy: bool,
}

/// An AK outside its TPM, which alone can load it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrappedAk {
    /// The EK that it is below.
    pub ek: EkKind,
    /// TPMT_PUBLIC, hex.
    #[serde(with = "hex_text")]
    pub public: Vec<u8>,
    /// TPM2B_PRIVATE without its length, encrypted by the TPM, hex.
    #[serde(with = "hex_text")]
    pub private: Vec<u8>,
}

impl Loaded {
    /// Its handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// Its TPMT_PUBLIC, as the TPM gave it.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Whether it goes with a flush or a reset; a persistent one stays.
    pub fn is_transient(&self) -> bool {
        self.handle >> 24 == 0x80
    }

    /// Its Name, where it is a key of the kinds taken.
    pub fn name(&self) -> Result<AkName, TpmError> {
        Ok(PublicArea::parse(&self.public)?.name())
    }
}

impl Tpm {
    /// Makes the endorsement key of this template, the same each time.
    pub fn endorsement_key(&mut self, kind: EkKind) -> Result<Loaded, TpmError> {
        let mut loaded = self.create_primary(&kind.template())?;
        // The high-range templates let the key's own, empty, authorisation do; the low-range ones demand the policy.
        loaded.qualified_by_policy = kind != EkKind::EccP384;
        Ok(loaded)
    }

    /// The certificate of that key, as it stands in the TPM, padding and all; none where there is none.
    pub fn ek_certificate(&mut self, kind: EkKind) -> Result<Option<Vec<u8>>, TpmError> {
        let index = kind.certificate_index();
        let public = match self.run(Command::new("NV_ReadPublic", code::NV_READ_PUBLIC).handle(index)) {
            // TPM_RC_HANDLE of the first handle: there is no such index.
            Err(TpmError::Refused { code: NO_SUCH_HANDLE, .. }) => return Ok(None),
            outcome => outcome?,
        };
        let mut reader = Reader::new(&public.parameters, "TPM2B_NV_PUBLIC");
        let mut reader = Reader::new(reader.sized(64)?, "TPMS_NV_PUBLIC");
        let (_, _, attributes) = (reader.u32()?, reader.u16()?, reader.u32()?);
        reader.sized(64)?;
        let size = reader.u16()?;
        if usize::from(size) > limits::TPM2_EK_CERTIFICATE_BYTES {
            return Err(TpmError::Malformed("an EK certificate of impossible length"));
        }
        // Read by its own authorisation, which is empty, or else the owner's.
        let by = if attributes & NV_AUTHREAD != 0 { index } else { handle::OWNER };
        let mut certificate: Vec<u8> = Vec::new();
        while let Some(left @ 1..) = usize::from(size).checked_sub(certificate.len()) {
            let length = u16::try_from(left.min(NV_CHUNK)).unwrap_or(u16::MAX);
            let offset = u16::try_from(certificate.len()).unwrap_or(u16::MAX);
            let read = Command::new("NV_Read", code::NV_READ)
                .authorised(by, Auth::empty())
                .handle(index)
                .u16(length)
                .u16(offset);
            let response = self.run(read)?;
            let mut reader = Reader::new(&response.parameters, "TPM2B_MAX_NV_BUFFER");
            let piece = reader.sized(NV_CHUNK)?;
            if piece.is_empty() {
                return Err(TpmError::Malformed("an EK certificate that does not go on"));
            }
            certificate.extend_from_slice(piece);
        }
        Ok(Some(certificate))
    }

    /// Makes a new AK below the EK. It is not loaded, and kept by whoever asked.
    pub fn create_ak(&mut self, ek: &Loaded, kind: EkKind, ak: AkKind) -> Result<WrappedAk, TpmError> {
        let (key, auth) = self.authorised(ek)?;
        let create = Command::new("Create", code::CREATE).authorised(key, auth).within(CREATE_MS);
        let response = self.run(creation(create, &ak.template()))?;
        let mut reader = Reader::new(&response.parameters, "Create");
        let private = reader.sized(PRIVATE_BYTES)?.to_vec();
        let public = reader.sized(limits::TPM_RESPONSE_BYTES)?.to_vec();
        AttestationKey::parse(&public)?;
        Ok(WrappedAk { ek: kind, public, private })
    }

    /// Loads an AK that [`Tpm::create_ak`] made, below the same EK.
    pub fn load_ak(&mut self, ek: &Loaded, wrapped: &WrappedAk) -> Result<Loaded, TpmError> {
        let (key, auth) = self.authorised(ek)?;
        let load = Command::new("Load", code::LOAD)
            .authorised(key, auth)
            .sized(&wrapped.private)
            .sized(&wrapped.public)
            .giving_handle();
        let response = self.run(load)?;
        Ok(Loaded { handle: response.handle, public: wrapped.public.clone(), qualified_by_policy: false })
    }

    /// The AK that the endorsement hierarchy's seed gives for our template: the same each time, and nothing to keep.
    pub fn primary_ak(&mut self, kind: AkKind) -> Result<Loaded, TpmError> {
        let loaded = self.create_primary(&kind.template())?;
        AttestationKey::parse(&loaded.public)?;
        Ok(loaded)
    }

    /// A persistent AK, as `tpm2_evictcontrol` keeps one.
    pub fn persistent_ak(&mut self, handle: u32) -> Result<Loaded, TpmError> {
        let response = self.run(Command::new("ReadPublic", code::READ_PUBLIC).handle(handle))?;
        let mut reader = Reader::new(&response.parameters, "ReadPublic");
        let public = reader.sized(limits::TPM_RESPONSE_BYTES)?.to_vec();
        AttestationKey::parse(&public)?;
        Ok(Loaded { handle, public, qualified_by_policy: false })
    }

    fn create_primary(&mut self, template: &[u8]) -> Result<Loaded, TpmError> {
        let (hierarchy, auth) = self.endorsement();
        let create = Command::new("CreatePrimary", code::CREATE_PRIMARY)
            .authorised(hierarchy, auth)
            .giving_handle()
            .within(CREATE_MS);
        let response = self.run(creation(create, template))?;
        let mut reader = Reader::new(&response.parameters, "CreatePrimary");
        let public = reader.sized(limits::TPM_RESPONSE_BYTES)?.to_vec();
        Ok(Loaded { handle: response.handle, public, qualified_by_policy: false })
    }

    /// What a use of this key takes: its empty authorisation, or a session in which its policy was fulfilled.
    pub(super) fn authorised(&mut self, key: &Loaded) -> Result<(u32, Auth), TpmError> {
        let auth = match key.qualified_by_policy {
            true => Auth::Policy(self.endorsement_policy_session()?),
            false => Auth::empty(),
        };
        Ok((key.handle, auth))
    }
}

/// The parameters of Create and CreatePrimary: no authorisation of its own, this template, nothing else.
fn creation(command: Command, template: &[u8]) -> Command {
    command.sized(&[0; 4]).sized(template).sized(&[]).u32(0)
}

impl EkKind {
    /// TPMT_PUBLIC.
    fn template(self) -> Vec<u8> {
        let zeros = |bytes| sized(&vec![0; bytes]);
        match self {
            EkKind::Rsa2048 => {
                let head = ek_head(0x0001, 0x000b, LOW_RANGE, &POLICY_A_SHA256, 128);
                [head, vec![0x08, 0x00, 0, 0, 0, 0], zeros(256)].concat()
            }
            EkKind::EccP256 => {
                let head = ek_head(0x0023, 0x000b, LOW_RANGE, &POLICY_A_SHA256, 128);
                [head, vec![0x00, 0x03, 0x00, 0x10], zeros(32), zeros(32)].concat()
            }
            EkKind::EccP384 => {
                let head = ek_head(0x0023, 0x000c, HIGH_RANGE, &POLICY_B_SHA384, 256);
                [head, vec![0x00, 0x04, 0x00, 0x10], zeros(0), zeros(0)].concat()
            }
        }
    }

    /// The NV index of its certificate.
    fn certificate_index(self) -> u32 {
        match self {
            EkKind::Rsa2048 => 0x01c0_0002,
            EkKind::EccP256 => 0x01c0_000a,
            EkKind::EccP384 => 0x01c0_0016,
        }
    }
}

/// Type, Name hash, attributes, policy, AES in CFB mode, no scheme.
fn ek_head(kind: u16, hash: u16, attributes: u32, policy: &[u8], aes_bits: u16) -> Vec<u8> {
    let mut head = [&kind.to_be_bytes()[..], &hash.to_be_bytes(), &attributes.to_be_bytes()].concat();
    head.extend_from_slice(&sized(policy));
    for part in [0x0006, aes_bits, 0x0043, 0x0010] {
        head.extend_from_slice(&part.to_be_bytes());
    }
    head
}

impl AkKind {
    /// TPMT_PUBLIC: no policy, no children, one scheme.
    fn template(self) -> Vec<u8> {
        let (kind, scheme, hash): (u16, u16, u16) = match self {
            AkKind::EcdsaP256 => (0x0023, 0x0018, 0x000b),
            AkKind::EcdsaP384 => (0x0023, 0x0018, 0x000c),
            AkKind::RsaSsa2048 => (0x0001, 0x0014, 0x000b),
            AkKind::RsaPss2048 => (0x0001, 0x0016, 0x000b),
        };
        let mut template = [&kind.to_be_bytes()[..], &[0x00, 0x0b], &AK_ATTRIBUTES.to_be_bytes()].concat();
        template.extend_from_slice(&sized(&[]));
        template.extend_from_slice(&[0x00, 0x10]);
        template.extend_from_slice(&[scheme.to_be_bytes(), hash.to_be_bytes()].concat());
        match self {
            AkKind::EcdsaP256 => template.extend_from_slice(&[0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0]),
            AkKind::EcdsaP384 => template.extend_from_slice(&[0x00, 0x04, 0x00, 0x10, 0, 0, 0, 0]),
            AkKind::RsaSsa2048 | AkKind::RsaPss2048 => {
                template.extend_from_slice(&[0x08, 0x00, 0, 0, 0, 0, 0, 0]);
            }
        }
        template
    }
}

mod hex_text {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}

/// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt (§B.3.2).
const LOW_RANGE: u32 = 0x0003_00b2;
/// The same and userWithAuth (§B.4.2).
const HIGH_RANGE: u32 = 0x0003_00f2;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign. Without noDA, whoever guesses wrongly at
/// another key's authorisation would lock this one.
const AK_ATTRIBUTES: u32 = 0x0005_0472;

/// PolicyA: PolicySecret of the endorsement hierarchy (§B.6.2).
const POLICY_A_SHA256: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd,
    0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// PolicyB: PolicyA, or one that the owner may set in NV (§B.6.4).
const POLICY_B_SHA384: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07,
    0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47,
    0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

/// TPM_RC_HANDLE with the first handle's number.
const NO_SUCH_HANDLE: u32 = 0x18b;
/// TPMA_NV_AUTHREAD.
const NV_AUTHREAD: u32 = 1 << 18;
/// Bytes of one NV_Read: every TPM takes this much (TPM_PT_NV_BUFFER_MAX is 512 at least).
const NV_CHUNK: usize = 512;
/// A TPM2B_PRIVATE is some 200 bytes here.
const PRIVATE_BYTES: usize = 2048;
