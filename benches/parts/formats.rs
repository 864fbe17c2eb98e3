//! What verifying hardware evidence costs, beside the sum of its signature checks as stock libraries do them.
//!
//! The signatures are counted from each format's structure: root certificates are pinned, so nobody checks theirs.

use crate::support::hardware::{Machines, quote, tpm2};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use portcullis::evidence::nitro::{self, NitroTrust};
use portcullis::evidence::outcome::Checks;
use portcullis::evidence::sev_snp::{self, SevSnpTrust};
use portcullis::evidence::tdx::{self, TdxTrust};
use portcullis::evidence::tpm2::{self as tpm, AttestationKey, Counters, EnrolledAk, Tpm2Trust};
use portcullis::time::{BootTime, Now, WallTime};
use std::hint::black_box;

/// Each format: its name, microseconds to verify a document, and to check its signatures alone.
pub fn measure(wall: WallTime) -> Vec<(&'static str, f64, f64)> {
    let now = Now { wall, boot: BootTime(1) };
    let machines = Machines::at(wall);
    let bound = [0x5a; 64];
    let (p256, p384, pss) = (p256(), p384(), rsa_pss());
    vec![
        // Regional, zonal, instance and enclave certificates, and the document.
        ("nitro", nitro(&machines, &bound, now), 5.0 * p384),
        // ASK and VCEK, and the report.
        ("sev-snp", sev_snp(&machines, &bound, now), 2.0 * pss + p384),
        // PCK and its CA; the signer of TCB info and QE identity; both statements; both lists; the quoting enclave's report, and
        // the quote.
        ("tdx", tdx(&machines, &bound, now), 9.0 * p256),
        // The quote.
        ("tpm2", tpm2(&bound, now), p256),
    ]
}

fn nitro(machines: &Machines, bound: &[u8; 64], now: Now) -> f64 {
    let document = machines.nitro(bound, now.wall);
    let trust = NitroTrust::aws().unwrap().and_root("bench", &machines.nitro.root, None).unwrap();
    median(|| nitro::verify(&document.body, &[], bound, &trust, now, &mut Checks::new()).unwrap())
}

fn sev_snp(machines: &Machines, bound: &[u8; 64], now: Now) -> f64 {
    let document = machines.snp(bound);
    let mut trust = SevSnpTrust::amd();
    trust.add_root(&machines.snp.ark).unwrap();
    median(|| {
        let endorsements = &document.endorsements;
        sev_snp::verify(&document.body, endorsements, bound, &trust, now, &mut Checks::new()).unwrap()
    })
}

fn tdx(machines: &Machines, bound: &[u8; 64], now: Now) -> f64 {
    let document = machines.tdx(bound);
    let trust = TdxTrust::none().with_root(&machines.tdx.root_der).unwrap();
    median(|| {
        let endorsements = &document.endorsements;
        tdx::verify(&document.body, endorsements, bound, &trust, now, &mut Checks::new()).unwrap()
    })
}

fn tpm2(bound: &[u8; 64], now: Now) -> f64 {
    let ak = tpm2::Ak::p256();
    let document = quote(bound, &ak, |_| {});
    let enrolled = EnrolledAk {
        node: "bench".into(),
        key: AttestationKey::parse(&ak.public()).unwrap(),
        ek_sha256: [7; 32],
        counters: Counters::default(),
        enrolled_at: WallTime(0),
        not_after: now.wall.plus(86_400_000),
    };
    let trust = Tpm2Trust::new([enrolled], 1);
    median(|| tpm::verify(&document.body, &[], bound, &trust, &|_| None, now, &mut Checks::new()).unwrap())
}

fn p256() -> f64 {
    ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING, &signature::ECDSA_P256_SHA256_ASN1)
}

fn p384() -> f64 {
    ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING, &signature::ECDSA_P384_SHA384_ASN1)
}

fn ecdsa(
    signing: &'static signature::EcdsaSigningAlgorithm,
    verifying: &'static signature::EcdsaVerificationAlgorithm,
) -> f64 {
    let pair = EcdsaKeyPair::generate(signing).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &[7; 1000]).unwrap();
    let public = UnparsedPublicKey::new(verifying, pair.public_key().as_ref().to_vec());
    median(|| public.verify(&[7; 1000], signature.as_ref()).unwrap())
}

fn rsa_pss() -> f64 {
    let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&signature::RSA_PSS_SHA384, &SystemRandom::new(), &[7; 1000], &mut signature).unwrap();
    let public =
        UnparsedPublicKey::new(&signature::RSA_PSS_2048_8192_SHA384, pair.public_key().as_ref().to_vec());
    median(|| public.verify(&[7; 1000], &signature).unwrap())
}

/// Microseconds of one call: the median of many.
fn median<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut times: Vec<u64> = (0..1001)
        .map(|_| {
            let start = super::nanoseconds();
            black_box(call());
            super::nanoseconds() - start
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2] as f64 / 1000.0
}
