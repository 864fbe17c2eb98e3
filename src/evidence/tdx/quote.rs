//! The shape of a DCAP quote, to the byte.
//!
//! *Takes* a body as received, untrusted. *Gives* [`Quote`], of which nothing is verified yet. *Denies* `EvidenceMalformed`.
//! *Source*: Intel, "SGX Data Center Attestation Primitives: ECDSA Quote Library API" (quote format 3), "TDX DCAP Quoting
//! Library API" (quote formats 4 and 5); `evidence.md` §5.

use super::pem;
use crate::denial::Denial;
use crate::evidence::outcome::Refusal;
use crate::limits;
use rustls::pki_types::CertificateDer;

/// A quote taken apart. The signature is over `signed` as received.
#[derive(Debug)]
pub struct Quote<'a> {
    /// 3 (SGX), 4 or 5 (TDX).
    pub version: u16,
    /// The first 16 bytes of the header's user data: which QE made the quote.
    pub qe_id: &'a [u8; 16],
    /// What is attested.
    pub report: Report<'a>,
    /// Header and report, the bytes that the attestation key signs.
    pub signed: &'a [u8],
    /// ECDSA P-256 over `signed`, r ‖ s.
    pub signature: &'a [u8; 64],
    /// The attestation key, x ‖ y.
    pub attestation_key: &'a [u8; 64],
    /// The quoting enclave's report.
    pub qe_report: EnclaveReport<'a>,
    /// ECDSA P-256 over the quoting enclave's report by the PCK certificate, r ‖ s.
    pub qe_report_signature: &'a [u8; 64],
    /// What the quoting enclave hashed with the attestation key.
    pub qe_authentication: &'a [u8; 32],
    /// PCK certificate, its CA, the root.
    pub pck_chain: [CertificateDer<'static>; 3],
    /// The quote without its padding.
    pub bytes: &'a [u8],
    /// Zero bytes after it.
    pub padding: usize,
}

/// What a quote attests.
#[derive(Clone, Copy, Debug)]
pub enum Report<'a> {
    /// A trust domain.
    Td(TdReport<'a>),
    /// An SGX enclave.
    Enclave(EnclaveReport<'a>),
}

/// A TD report, TDX 1.0, 1.5 or 1.5 extended; integers little-endian, measurements SHA-384.
#[derive(Clone, Copy, Debug)]
pub struct TdReport<'a> {
    /// TEE_TCB_SVN at launch.
    pub tee_tcb_svn: &'a [u8; 16],
    /// Measurement of the TDX module.
    pub mrseam: &'a [u8; 48],
    /// Signer of the TDX module; zero is Intel.
    pub mrsignerseam: &'a [u8; 48],
    /// SEAMATTRIBUTES.
    pub seam_attributes: &'a [u8; 8],
    /// TDATTRIBUTES.
    pub td_attributes: &'a [u8; 8],
    /// XFAM.
    pub xfam: &'a [u8; 8],
    /// Measurement of the TD's initial content.
    pub mrtd: &'a [u8; 48],
    /// Chosen by the owner for a TD's configuration.
    pub mrconfigid: &'a [u8; 48],
    /// Chosen by the owner.
    pub mrowner: &'a [u8; 48],
    /// Chosen by the owner, for what is not of this run alone.
    pub mrownerconfig: &'a [u8; 48],
    /// RTMR0 to RTMR3.
    pub rtmr: [&'a [u8; 48]; 4],
    /// REPORTDATA.
    pub report_data: &'a [u8; 64],
    /// What TDX 1.5 adds.
    pub v15: Option<Td15<'a>>,
    /// What TDX 1.5 extended adds.
    pub v15_extended: Option<Td15Extended<'a>>,
}

/// What a TDX 1.5 report adds.
#[derive(Clone, Copy, Debug)]
pub struct Td15<'a> {
    /// TEE_TCB_SVN of now, after updates that preserve the TD.
    pub tee_tcb_svn2: &'a [u8; 16],
    /// Hash of the bound service TDs; zero without one.
    pub mrservicetd: &'a [u8; 48],
}

/// What a TDX 1.5 extended report adds, so far as it is read: service TDs and the TD's own identity.
#[derive(Clone, Copy, Debug)]
pub struct Td15Extended<'a> {
    /// 0 for a TD that is not partitioned.
    pub vm_id: u8,
    /// Unique to a launch.
    pub td_id: &'a [u8; 32],
    /// Hash of the device information.
    pub device_info: &'a [u8; 48],
    /// Hash of the service TDs that are bound now.
    pub current_service_td: &'a [u8; 48],
}

/// An SGX enclave's report.
#[derive(Clone, Copy, Debug)]
pub struct EnclaveReport<'a> {
    /// All 384 bytes.
    pub bytes: &'a [u8; 384],
    /// MISCSELECT.
    pub misc_select: &'a [u8; 4],
    /// ATTRIBUTES: flags and XFRM.
    pub attributes: &'a [u8; 16],
    /// MRENCLAVE.
    pub mrenclave: &'a [u8; 32],
    /// MRSIGNER.
    pub mrsigner: &'a [u8; 32],
    /// ISVPRODID.
    pub isv_prod_id: u16,
    /// ISVSVN.
    pub isv_svn: u16,
    /// REPORTDATA.
    pub report_data: &'a [u8; 64],
}

/// Takes a quote apart, SGX or TDX. After it only zeros may follow, as buffers of configfs-tsm and of cloud services end
/// so; any other byte there, or between its parts, is refused.
pub fn parse(body: &[u8]) -> Result<Quote<'_>, Refusal> {
    if body.len() > limits::DCAP_QUOTE_BYTES {
        return Err(malformed(format!("{} bytes, more than {}", body.len(), limits::DCAP_QUOTE_BYTES)));
    }
    let mut reader = Reader(body);
    let (version, tee_type, qe_id) = header(&mut reader)?;
    let report = match (version, tee_type) {
        (SGX_VERSION, TEE_SGX) => Report::Enclave(enclave(&mut reader)?),
        (4, TEE_TDX) => Report::Td(td_report(&mut reader, TdKind::V10)?),
        (5, TEE_TDX) => Report::Td(described_report(&mut reader)?),
        _ => return Err(malformed(format!("version {version} with TEE type {tee_type:#x}"))),
    };
    let signed = before(body, reader.0);
    let length = reader.u32("length of the signature data")?;
    let mut data = Reader(reader.slice(length, "signature data")?);
    let bytes = before(body, reader.0);
    if reader.0.iter().any(|byte| *byte != 0) {
        return Err(malformed("other bytes than zeros after the quote"));
    }
    let signature = data.array("signature")?;
    let attestation_key = data.array("attestation key")?;
    let certification = certification(&mut data, version)?;
    data.end("signature data")?;
    Ok(Quote {
        version,
        qe_id,
        report,
        signed,
        signature,
        attestation_key,
        qe_report: certification.report,
        qe_report_signature: certification.signature,
        qe_authentication: certification.authentication,
        pck_chain: certification.chain,
        bytes,
        padding: reader.0.len(),
    })
}

impl Quote<'_> {
    /// What stands where the binding belongs: REPORTDATA.
    pub fn carried_binding(&self) -> &[u8; limits::BINDING_BYTES] {
        match &self.report {
            Report::Td(report) => report.report_data,
            Report::Enclave(report) => report.report_data,
        }
    }

    /// Whether it attests a trust domain.
    pub fn is_tdx(&self) -> bool {
        matches!(self.report, Report::Td(_))
    }
}

fn header<'a>(reader: &mut Reader<'a>) -> Result<(u16, u32, &'a [u8; 16]), Refusal> {
    let version = reader.u16("version")?;
    let key_type = reader.u16("attestation key type")?;
    let tee_type = reader.u32("TEE type")?;
    let _svns: &[u8; 4] = reader.array("SVNs")?;
    let vendor: &[u8; 16] = reader.array("QE vendor")?;
    let qe_id = reader.array("QE id")?;
    let _user_data: &[u8; 4] = reader.array("user data")?;
    if key_type != ECDSA_P256 {
        return Err(malformed(format!("attestation key type {key_type}, not ECDSA P-256")));
    }
    if *vendor != INTEL {
        return Err(malformed("the QE vendor is not Intel"));
    }
    Ok((version, tee_type, qe_id))
}

enum TdKind {
    V10,
    V15,
    V15Extended,
}

/// The report of a version 5 quote, with its type and length before it.
fn described_report<'a>(reader: &mut Reader<'a>) -> Result<TdReport<'a>, Refusal> {
    let kind = reader.u16("report type")?;
    let length = reader.u32("report length")?;
    let kind = match (kind, length) {
        (2, 584) => TdKind::V10,
        (3, 648) => TdKind::V15,
        (4, 885) => TdKind::V15Extended,
        _ => return Err(malformed(format!("report type {kind} of {length} bytes"))),
    };
    td_report(reader, kind)
}

fn td_report<'a>(reader: &mut Reader<'a>, kind: TdKind) -> Result<TdReport<'a>, Refusal> {
    const PART: &str = "TD report";
    let mut report = TdReport {
        tee_tcb_svn: reader.array(PART)?,
        mrseam: reader.array(PART)?,
        mrsignerseam: reader.array(PART)?,
        seam_attributes: reader.array(PART)?,
        td_attributes: reader.array(PART)?,
        xfam: reader.array(PART)?,
        mrtd: reader.array(PART)?,
        mrconfigid: reader.array(PART)?,
        mrowner: reader.array(PART)?,
        mrownerconfig: reader.array(PART)?,
        rtmr: [reader.array(PART)?, reader.array(PART)?, reader.array(PART)?, reader.array(PART)?],
        report_data: reader.array(PART)?,
        v15: None,
        v15_extended: None,
    };
    if matches!(kind, TdKind::V15 | TdKind::V15Extended) {
        report.v15 = Some(Td15 { tee_tcb_svn2: reader.array(PART)?, mrservicetd: reader.array(PART)? });
    }
    if matches!(kind, TdKind::V15Extended) {
        report.v15_extended = Some(extended(reader)?);
    }
    Ok(report)
}

fn extended<'a>(reader: &mut Reader<'a>) -> Result<Td15Extended<'a>, Refusal> {
    const PART: &str = "extended TD report";
    let [vm_id]: [u8; 1] = *reader.array(PART)?;
    let td_id = reader.array(PART)?;
    let device_info = reader.array(PART)?;
    // Service TDs and TCB at the TD's creation: 48 + 8 + 16 + 16 + 12.
    reader.slice(100, PART)?;
    let current_service_td = reader.array(PART)?;
    // Attributes of the bound service TD.
    reader.slice(8, PART)?;
    Ok(Td15Extended { vm_id, td_id, device_info, current_service_td })
}

fn enclave<'a>(reader: &mut Reader<'a>) -> Result<EnclaveReport<'a>, Refusal> {
    const PART: &str = "enclave report";
    let bytes: &[u8; 384] = reader.array(PART)?;
    let mut fields = Reader(bytes);
    let _cpu_svn: &[u8; 16] = fields.array(PART)?;
    let misc_select = fields.array(PART)?;
    fields.slice(28, PART)?;
    let attributes = fields.array(PART)?;
    let mrenclave = fields.array(PART)?;
    fields.slice(32, PART)?;
    let mrsigner = fields.array(PART)?;
    fields.slice(96, PART)?;
    let isv_prod_id = fields.u16(PART)?;
    let isv_svn = fields.u16(PART)?;
    fields.slice(60, PART)?;
    let report_data = fields.array(PART)?;
    Ok(EnclaveReport {
        bytes,
        misc_select,
        attributes,
        mrenclave,
        mrsigner,
        isv_prod_id,
        isv_svn,
        report_data,
    })
}

struct Certification<'a> {
    report: EnclaveReport<'a>,
    signature: &'a [u8; 64],
    authentication: &'a [u8; 32],
    chain: [CertificateDer<'static>; 3],
}

/// The quoting enclave's report and the PCK chain; from version 4 on within certification data of type 6.
fn certification<'a>(data: &mut Reader<'a>, version: u16) -> Result<Certification<'a>, Refusal> {
    if version == SGX_VERSION {
        return qe_certification(data);
    }
    let kind = data.u16("certification data type")?;
    let length = data.u32("length of the certification data")?;
    let mut inner = Reader(data.slice(length, "certification data")?);
    if kind != QE_REPORT_CERTIFICATION {
        return Err(malformed(format!("certification data of type {kind}, not {QE_REPORT_CERTIFICATION}")));
    }
    let certification = qe_certification(&mut inner)?;
    inner.end("certification data")?;
    Ok(certification)
}

fn qe_certification<'a>(data: &mut Reader<'a>) -> Result<Certification<'a>, Refusal> {
    let report = enclave(data)?;
    let signature = data.array("QE report signature")?;
    if data.u16("length of the QE authentication data")? != 32 {
        return Err(malformed("QE authentication data is not 32 bytes"));
    }
    let authentication = data.array("QE authentication data")?;
    let kind = data.u16("certification data type")?;
    let length = data.u32("length of the PCK chain")?;
    let chain = data.slice(length, "PCK chain")?;
    if kind != PCK_CHAIN {
        let detail =
            format!("certification data of type {kind}: only a PCK certificate chain, type {PCK_CHAIN}");
        return Err(malformed(detail));
    }
    let chain = pem::read(chain).and_then(|chain| chain.try_into().ok());
    let chain = chain.ok_or_else(|| malformed("the PCK chain is not three certificates in plain PEM"))?;
    Ok(Certification { report, signature, authentication, chain })
}

pub(super) fn malformed(detail: impl Into<String>) -> Refusal {
    Refusal::new(Denial::EvidenceMalformed, detail)
}

/// What of `whole` stands before `rest`, its end.
fn before<'a>(whole: &'a [u8], rest: &[u8]) -> &'a [u8] {
    let length = whole.len().saturating_sub(rest.len());
    whole.get(..length).unwrap_or_default()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, part: &str) -> Result<&'a [u8; N], Refusal> {
        let (array, rest) = self.0.split_first_chunk().ok_or_else(|| cut(part))?;
        self.0 = rest;
        Ok(array)
    }

    fn slice(&mut self, length: u32, part: &str) -> Result<&'a [u8], Refusal> {
        let length = usize::try_from(length).map_err(|_| cut(part))?;
        let (slice, rest) = self.0.split_at_checked(length).ok_or_else(|| cut(part))?;
        self.0 = rest;
        Ok(slice)
    }

    fn u16(&mut self, part: &str) -> Result<u16, Refusal> {
        self.array(part).map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn u32(&mut self, part: &str) -> Result<u32, Refusal> {
        self.array(part).map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn end(&self, part: &str) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(malformed(format!("bytes after the {part}"))) }
    }
}

fn cut(part: &str) -> Refusal {
    malformed(format!("it ends within: {part}"))
}

/// ECDSA-256 with P-256 curve.
const ECDSA_P256: u16 = 2;
/// Intel's quoting enclaves.
const INTEL: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";
const TEE_SGX: u32 = 0;
const TEE_TDX: u32 = 0x81;
/// The version of SGX quotes; TDX has 4 and 5.
const SGX_VERSION: u16 = 3;
/// Certification data: QE report, its signature, its authentication data, and certification data of its own.
const QE_REPORT_CERTIFICATION: u16 = 6;
/// Certification data: the PCK certificate and its chain, PEM.
const PCK_CHAIN: u16 = 5;
