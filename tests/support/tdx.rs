//! Synthetic TDX quotes and Intel collateral under a test root: what real hardware and Intel's service would give, so that a
//! whole release runs without either. Only a configuration that pins this root trusts it.
//!
//! *Takes* a [`Plan`], of which a test changes what it breaks. *Gives* [`Synthetic`]: root, quotes, collateral. *Denies*
//! nothing. *Source*: Intel quote formats 4 and 5; Intel PCS API version 4; Intel SGX PCK certificate profile.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "tests run on known input, and not every test uses all of it"
)]

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};

/// From when until when something holds, Unix seconds.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub begins: u64,
    pub ends: u64,
}

/// What is made. Everything may be changed before [`Plan::make`].
#[derive(Clone, Debug)]
pub struct Plan {
    pub root: Window,
    pub pck_ca: Window,
    pub pck: Window,
    pub signer: Window,
    pub root_crl: Window,
    pub pck_crl: Window,
    /// Which certificates the lists revoke.
    pub revoke_pck: bool,
    pub revoke_pck_ca: bool,
    pub revoke_signer: bool,
    /// TCB info and QE identity as they will be signed; the texts' own dates count.
    pub tcb_info: Value,
    pub qe_identity: Value,
    /// The platform.
    pub fmspc: [u8; 6],
    pub pce_id: [u8; 2],
    pub pce_svn: u8,
    pub cpu_svn: [u8; 16],
    pub pck_ca_name: &'static str,
    /// The quoting enclave.
    pub qe_svn: u16,
    pub qe_mrsigner: [u8; 32],
    pub qe_report_data_tail: u8,
    /// The trust domain.
    pub td: Td,
}

/// A trust domain; with `v15` in a quote of version 5, else 4.
#[derive(Clone, Debug)]
pub struct Td {
    pub tee_tcb_svn: [u8; 16],
    pub mrseam: [u8; 48],
    pub mrsignerseam: [u8; 48],
    pub seam_attributes: [u8; 8],
    pub td_attributes: [u8; 8],
    pub xfam: [u8; 8],
    pub mrtd: [u8; 48],
    pub mrconfigid: [u8; 48],
    pub mrowner: [u8; 48],
    pub mrownerconfig: [u8; 48],
    pub rtmr: [[u8; 48]; 4],
    /// TEE_TCB_SVN2 and MRSERVICETD.
    pub v15: Option<([u8; 16], [u8; 48])>,
    /// Zero bytes after the quote.
    pub padding: usize,
}

/// A platform with its root and its collateral.
pub struct Synthetic {
    plan: Plan,
    /// The root, DER: what a test's trust pins.
    pub root_der: Vec<u8>,
    /// Collateral as one endorsement.
    pub collateral: Vec<u8>,
    signer_key: EcdsaKeyPair,
    pck_key: EcdsaKeyPair,
    attestation_key: EcdsaKeyPair,
    pck_chain: String,
}

pub const DAY: u64 = 86_400;
pub const FMSPC: [u8; 6] = [0x00, 0x80, 0x6f, 0x05, 0x00, 0x00];

impl Plan {
    /// A platform and a TD that are all that they should be at `now`, Unix seconds.
    pub fn at(now: u64) -> Plan {
        let certificate = Window { begins: now - 10 * DAY, ends: now + 1000 * DAY };
        let list = Window { begins: now - 3600, ends: now + 30 * DAY };
        Plan {
            root: Window { begins: now - 1000 * DAY, ends: now + 9000 * DAY },
            pck_ca: certificate,
            pck: certificate,
            signer: certificate,
            root_crl: Window { ends: now + 300 * DAY, ..list },
            pck_crl: list,
            revoke_pck: false,
            revoke_pck_ca: false,
            revoke_signer: false,
            tcb_info: tcb_info(list),
            qe_identity: qe_identity(list),
            fmspc: FMSPC,
            pce_id: [0, 0],
            pce_svn: 13,
            cpu_svn: [5; 16],
            pck_ca_name: "Intel SGX PCK Platform CA",
            qe_svn: 8,
            qe_mrsigner: [0xdc; 32],
            qe_report_data_tail: 0,
            td: Td {
                tee_tcb_svn: svn([7, 1, 3]),
                mrseam: [0x5e; 48],
                mrsignerseam: [0; 48],
                seam_attributes: [0; 8],
                td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
                xfam: [0xe7, 0x18, 0x06, 0, 0, 0, 0, 0],
                mrtd: [0xa0; 48],
                mrconfigid: [0; 48],
                mrowner: [0; 48],
                mrownerconfig: [0; 48],
                rtmr: [[0xb0; 48], [0xb1; 48], [0xb2; 48], [0; 48]],
                v15: None,
                padding: 0,
            },
        }
    }

    /// The same platform with an enclave and Intel's word on enclaves.
    pub fn sgx_at(now: u64) -> Plan {
        let mut plan = Plan::at(now);
        plan.tcb_info["id"] = "SGX".into();
        plan.qe_identity["id"] = "QE".into();
        let info = plan.tcb_info.as_object_mut().unwrap();
        info.retain(|name, _| !name.starts_with("tdx"));
        for level in plan.tcb_info["tcbLevels"].as_array_mut().unwrap() {
            level["tcb"].as_object_mut().unwrap().remove("tdxtcbcomponents");
        }
        plan
    }

    /// Sets the dates of a statement.
    pub fn date(statement: &mut Value, window: Window) {
        statement["issueDate"] = rfc3339(window.begins).into();
        statement["nextUpdate"] = rfc3339(window.ends).into();
    }

    /// Makes keys, certificates, lists and statements.
    pub fn make(self) -> Synthetic {
        let root = Authority::root("Intel SGX Root CA", self.root);
        let pck_ca = root.issue(self.pck_ca_name, self.pck_ca, PCK_CA_SERIAL, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        });
        let extension = self.sgx_extension();
        let pck = pck_ca.issue("Intel SGX PCK Certificate", self.pck, PCK_SERIAL, |params| {
            let mut extension = CustomExtension::from_oid_content(SGX_EXTENSION, extension);
            extension.set_criticality(false);
            params.custom_extensions = vec![extension];
        });
        let signer = root.issue("Intel SGX TCB Signing", self.signer, SIGNER_SERIAL, |_| {});
        let of_root = [(self.revoke_pck_ca, PCK_CA_SERIAL), (self.revoke_signer, SIGNER_SERIAL)];
        let signer_key = raw_key(&signer.key());
        let issuer_chain = [&signer, &root].map(Authority::pem).concat();
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        let list_chain = [&pck_ca, &root].map(Authority::pem).concat();
        let collateral = json!({
            "pck_crl_issuer_chain": list_chain,
            "root_ca_crl": hex::encode(root.list(self.root_crl, &of_root)),
            "pck_crl": hex::encode(pck_ca.list(self.pck_crl, &[(self.revoke_pck, PCK_SERIAL)])),
            "tcb_info_issuer_chain": issuer_chain,
            "tcb_info_signature": hex::encode(sign(&signer_key, tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": issuer_chain,
            "qe_identity_signature": hex::encode(sign(&signer_key, qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        });
        Synthetic {
            root_der: root.der.clone(),
            collateral: collateral.to_string().into_bytes(),
            pck_key: raw_key(&pck.key()),
            attestation_key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            pck_chain: [&pck, &pck_ca, &root].map(Authority::pem).concat(),
            signer_key,
            plan: self,
        }
    }

    /// Intel's extension of a PCK certificate.
    fn sgx_extension(&self) -> Vec<u8> {
        let named = |path: &[u8], value: Vec<u8>| tlv(0x30, &[oid(path), value].concat());
        let octets = |bytes: &[u8]| tlv(0x04, bytes);
        let component = |(at, svn): (usize, &u8)| named(&[2, at as u8 + 1], tlv(0x02, &[*svn]));
        let mut tcb: Vec<u8> = self.cpu_svn.iter().enumerate().flat_map(component).collect();
        tcb.extend(named(&[2, 17], tlv(0x02, &[self.pce_svn])));
        tcb.extend(named(&[2, 18], octets(&self.cpu_svn)));
        let flag = |at: u8, value: u8| named(&[7, at], tlv(0x01, &[value]));
        let parts = [
            named(&[1], octets(&[0x11; 16])),
            named(&[2], tlv(0x30, &tcb)),
            named(&[3], octets(&self.pce_id)),
            named(&[4], octets(&self.fmspc)),
            named(&[5], tlv(0x0a, &[1])),
            named(&[6], octets(&[0x22; 16])),
            named(&[7], tlv(0x30, &[flag(1, 0xff), flag(2, 0), flag(3, 0xff)].concat())),
        ];
        tlv(0x30, &parts.concat())
    }
}

impl Synthetic {
    /// The collateral with another TCB info, signed by the same key.
    pub fn collateral_with(&self, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let mut tcb_info = self.plan.tcb_info.clone();
        change(&mut tcb_info);
        let tcb_info = tcb_info.to_string();
        let mut collateral: Value = serde_json::from_slice(&self.collateral).unwrap();
        collateral["tcb_info_signature"] = hex::encode(sign(&self.signer_key, tcb_info.as_bytes())).into();
        collateral["tcb_info"] = tcb_info.into();
        collateral.to_string().into_bytes()
    }

    /// A quote that carries `report_data`.
    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let td = &self.plan.td;
        let version: u16 = if td.v15.is_some() { 5 } else { 4 };
        let mut signed =
            [&version.to_le_bytes()[..], &2_u16.to_le_bytes(), &0x81_u32.to_le_bytes(), &[0; 4]].concat();
        signed.extend(INTEL);
        signed.extend([0x33; 20]);
        if td.v15.is_some() {
            signed.extend([&3_u16.to_le_bytes()[..], &648_u32.to_le_bytes()].concat());
        }
        let fixed = [
            &td.tee_tcb_svn[..],
            &td.mrseam,
            &td.mrsignerseam,
            &td.seam_attributes,
            &td.td_attributes,
            &td.xfam,
        ];
        signed.extend(fixed.concat());
        signed.extend([td.mrtd, td.mrconfigid, td.mrowner, td.mrownerconfig].concat());
        signed.extend(td.rtmr.concat());
        signed.extend(report_data);
        if let Some((svn, service_td)) = td.v15 {
            signed.extend(svn);
            signed.extend(service_td);
        }
        self.certified(signed, |qe| [&6_u16.to_le_bytes()[..], &(qe.len() as u32).to_le_bytes(), qe].concat())
    }

    /// A quote of an SGX enclave that carries `report_data`, version 3. Its collateral is that of [`Plan::sgx_at`].
    pub fn sgx_quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let header = [&3_u16.to_le_bytes()[..], &2_u16.to_le_bytes(), &[0; 4], &[8, 0, 13, 0]].concat();
        let mut attributes = [0; 16];
        (attributes[0], attributes[8]) = (0x05, 0xe7);
        let enclave = [
            &self.plan.cpu_svn[..],
            &[0; 32],
            &attributes,
            &[0xe1; 32],
            &[0; 32],
            &[0xe2; 32],
            &[0; 96],
            &7_u16.to_le_bytes(),
            &3_u16.to_le_bytes(),
            &[0; 60],
            report_data,
        ];
        let signed = [&header[..], &INTEL, &[0x33; 20], &enclave.concat()].concat();
        self.certified(signed, <[u8]>::to_vec)
    }

    /// What is signed with all that vouches for it; `wrap` puts the quoting enclave's part as the version has it.
    fn certified(&self, signed: Vec<u8>, wrap: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let plan = &self.plan;
        let key = &self.attestation_key.public_key().as_ref()[1..];
        let authentication = [0x44; 32];
        let hash = digest(&SHA256, &[key, &authentication[..]].concat());
        let qe_report = self.qe_report(hash.as_ref(), plan.qe_report_data_tail);
        let chain = [self.pck_chain.as_bytes(), &[0]].concat();
        let qe = [
            &qe_report[..],
            &sign(&self.pck_key, &qe_report),
            &32_u16.to_le_bytes(),
            &authentication,
            &5_u16.to_le_bytes(),
            &(chain.len() as u32).to_le_bytes(),
            &chain,
        ]
        .concat();
        let data = [&sign(&self.attestation_key, &signed)[..], key, &wrap(&qe)].concat();
        [&signed[..], &(data.len() as u32).to_le_bytes(), &data, &vec![0; plan.td.padding]].concat()
    }

    fn qe_report(&self, hash: &[u8], tail: u8) -> Vec<u8> {
        let mut attributes = [0; 16];
        (attributes[0], attributes[8]) = (0x11, 0xe7);
        [
            &self.plan.cpu_svn[..],
            &[0; 4],
            &[0; 28],
            &attributes,
            &[0x55; 32],
            &[0; 32],
            &self.plan.qe_mrsigner,
            &[0; 96],
            &2_u16.to_le_bytes(),
            &self.plan.qe_svn.to_le_bytes(),
            &[0; 60],
            hash,
            &[tail; 32],
        ]
        .concat()
    }
}

/// Sixteen components, of which the first three count here.
pub fn svn(first: [u8; 3]) -> [u8; 16] {
    let mut svn = [0; 16];
    svn[..3].copy_from_slice(&first);
    svn
}

fn components(svn: [u8; 16]) -> Value {
    svn.iter().map(|svn| json!({"svn": svn})).collect()
}

fn level(cpu: u8, tdx: [u8; 3], status: &str, advisories: &[&str]) -> Value {
    json!({
        "tcb": {
            "sgxtcbcomponents": components([cpu; 16]),
            "pcesvn": if cpu > 1 { 13 } else { 5 },
            "tdxtcbcomponents": components(svn(tdx)),
        },
        "tcbDate": "2025-01-01T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

fn tcb_info(window: Window) -> Value {
    let zeros = "00".repeat(48);
    let module = |id: &str, level: u8| {
        json!({
            "id": id, "mrsigner": zeros, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF",
            "tcbLevels": [
                {"tcb": {"isvsvn": level}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
                {"tcb": {"isvsvn": 2}, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-01036"]},
            ],
        })
    };
    json!({
        "id": "TDX", "version": 3, "issueDate": rfc3339(window.begins), "nextUpdate": rfc3339(window.ends),
        "fmspc": hex::encode_upper(FMSPC), "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 18,
        "tdxModule": {"mrsigner": zeros, "attributes": "0000000000000000", "attributesMask": "FFFFFFFFFFFFFFFF"},
        "tdxModuleIdentities": [module("TDX_03", 3), module("TDX_01", 6)],
        "tcbLevels": [
            level(5, [5, 0, 3], "UpToDate", &[]),
            level(3, [5, 0, 3], "ConfigurationNeeded", &["INTEL-SA-00615"]),
            level(2, [4, 0, 2], "OutOfDate", &["INTEL-SA-00837"]),
            level(1, [0, 0, 0], "Revoked", &[]),
        ],
    })
}

fn qe_identity(window: Window) -> Value {
    json!({
        "id": "TD_QE", "version": 2, "issueDate": rfc3339(window.begins), "nextUpdate": rfc3339(window.ends),
        "tcbEvaluationDataNumber": 18,
        "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "DC".repeat(32), "isvprodid": 2,
        "tcbLevels": [
            {"tcb": {"isvsvn": 6}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": "UpToDate"},
            {"tcb": {"isvsvn": 4}, "tcbDate": "2024-01-01T00:00:00Z", "tcbStatus": "OutOfDate", "advisoryIDs": ["INTEL-SA-01000"]},
        ],
    })
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: Vec<u8>,
}

/// Unix seconds, as rcgen wants them; a macro, as the type is another crate's.
macro_rules! date {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs($seconds)
    };
}

impl Authority {
    fn root(name: &str, window: Window) -> Authority {
        let mut params = params(name, window, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Authority { issuer: Issuer::new(params, key), der }
    }

    fn issue(
        &self,
        name: &str,
        window: Window,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Authority {
        let mut params = params(name, window, serial);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Authority { issuer: Issuer::new(params, key), der }
    }

    fn list(&self, window: Window, revoked: &[(bool, u64)]) -> Vec<u8> {
        let entry = |(_, serial): &(bool, u64)| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date!(window.begins),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date!(window.begins),
            next_update: date!(window.ends),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().filter(|(revoked, _)| *revoked).map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    fn key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// PEM in lines of 64, as Intel writes it.
    fn pem(&self) -> String {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(&self.der);
        let lines: Vec<&str> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }
}

fn params(name: &str, window: Window, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Portcullis tests");
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_before = date!(window.begins);
    params.not_after = date!(window.ends);
    params
}

fn raw_key(pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap()
}

/// r ‖ s.
fn sign(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

/// DER; contents of up to 65535 bytes.
fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len() as u16;
    let [high, low] = length.to_be_bytes();
    let head = match length {
        0..=0x7f => vec![tag, low],
        0x80..=0xff => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head, contents.to_vec()].concat()
}

/// 1.2.840.113741.1.13.1 and what follows it, as an OBJECT IDENTIFIER.
fn oid(path: &[u8]) -> Vec<u8> {
    tlv(0x06, &[&[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01], path].concat())
}

/// `2025-06-19T10:16:03Z`.
pub fn rfc3339(seconds: u64) -> String {
    let time = date!(seconds);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

const SGX_EXTENSION: &[u64] = &[1, 2, 840, 113741, 1, 13, 1];
const INTEL: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";
const PCK_CA_SERIAL: u64 = 2;
const SIGNER_SERIAL: u64 = 3;
const PCK_SERIAL: u64 = 4;
