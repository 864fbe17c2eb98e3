//! How a node's TPM is used, and `portcullis agent tpm …`: its part in its own enrolment, which needs no credential.
//!
//! *Takes* a TPM's address, then an administrator's challenge. *Gives* a request, then the proof. *Denies* nothing: what cannot be
//! used is refused with its cause. *Source*: `evidence.md` §3 ("AK enrolment"); TCG TPM 2.0 Library part 1 §24.

use crate::agent::tpm::{Address, AkKind, AkSource, EkKind, Quoter, QuoterConfig, Selection, TpmError};
use crate::cli::enrolment_files::{self, ChallengeFile, EnrolmentFile, NewFile, ProofFile, RequestFile};
use crate::cli::exit;
use crate::evidence::tpm2::enroll::Credential;
use crate::evidence::tpm2::{EndorsementKey, PublicArea};
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// How the TPM is used.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct QuoteArgs {
    /// Which PCRs are quoted, such as `sha256:0,1,7+sha384:4`: those that the broker's reference values name, and no other bank.
    #[arg(
        long,
        env = "PORTCULLIS_TPM_PCRS",
        default_value = "sha256:0,1,2,3,4,5,6,7",
        value_name = "BANK:PCRS"
    )]
    tpm_pcrs: String,
    /// The firmware's event log, to come along with each quote, such as /sys/kernel/security/tpm0/binary_bios_measurements.
    #[arg(long, env = "PORTCULLIS_TPM_EVENT_LOG", value_name = "FILE")]
    tpm_event_log: Option<PathBuf>,
    #[command(flatten)]
    key: KeyArgs,
}

/// Which key it quotes with.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct KeyArgs {
    /// The attestation key: `ecdsa-p256`, `ecdsa-p384`, `rsassa-2048`, `rsapss-2048`, which the TPM derives from its endorsement
    /// seed, the same after each boot; or the handle of a persistent one, such as 0x81010002.
    #[arg(long, env = "PORTCULLIS_TPM_AK", default_value = "ecdsa-p256", value_name = "KIND|HANDLE")]
    tpm_ak: String,
    /// The endorsement hierarchy's authorisation, in a file, where its owner set one.
    #[arg(long, env = "PORTCULLIS_TPM_ENDORSEMENT_AUTH_FILE", value_name = "FILE")]
    tpm_endorsement_auth_file: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write what an administrator needs to challenge this TPM; nothing of it is secret.
    ///
    /// Example: portcullis agent tpm request --tpm device --out node-1.request
    Request {
        /// The TPM, as with `portcullis agent --tpm`.
        #[arg(long, env = "PORTCULLIS_TPM", value_name = "ADDRESS")]
        tpm: String,
        /// Which endorsement key: `rsa-2048`, `ecc-p256`, `ecc-p384`. One that the TPM has a certificate for, unless the
        /// administrator approves its hash.
        #[arg(long, default_value = "rsa-2048", value_name = "KIND")]
        ek: String,
        /// A new file; standard output where it is not said.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        key: KeyArgs,
    },
    /// Open the administrator's challenge, which only this TPM can, and write the proof.
    ///
    /// Example: portcullis agent tpm activate node-1.challenge --tpm device --out node-1.proof
    Activate {
        /// What `portcullis admin node enroll … --tpm` wrote.
        challenge: PathBuf,
        /// The TPM, as with `portcullis agent --tpm`.
        #[arg(long, env = "PORTCULLIS_TPM", value_name = "ADDRESS")]
        tpm: String,
        /// A new file; standard output where it is not said.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        key: KeyArgs,
    },
}

/// Why nothing was written.
enum Failed {
    /// What was said cannot be.
    Usage(String),
    /// The TPM did not do it.
    Tpm(TpmError),
    /// It could not be written.
    Output(String),
}

impl From<TpmError> for Failed {
    fn from(error: TpmError) -> Self {
        Failed::Tpm(error)
    }
}

/// Runs the command; gives its exit code.
pub(super) async fn run(command: Command) -> u8 {
    let ran = tokio::task::spawn_blocking(move || match command {
        Command::Request { tpm, ek, out, key } => request(&tpm, &ek, out.as_deref(), &key),
        Command::Activate { challenge, tpm, out, key } => activate(&challenge, &tpm, out.as_deref(), &key),
    });
    match ran.await {
        Ok(Ok(())) => exit::OK,
        Ok(Err(Failed::Usage(why))) => said(&why, exit::USAGE),
        Ok(Err(Failed::Tpm(error @ TpmError::Refused { command: "ActivateCredential", .. }))) => said(
            &format!("{error}: the challenge was made for another TPM, or for another key of it"),
            exit::REFUSED,
        ),
        Ok(Err(Failed::Tpm(error))) => said(&error.to_string(), exit::NOT_POSSIBLE),
        Ok(Err(Failed::Output(why))) => said(&why, exit::INTERNAL),
        Err(_) => exit::INTERNAL,
    }
}

fn said(why: &str, code: u8) -> u8 {
    eprintln!("portcullis: {why}");
    code
}

fn request(tpm: &str, ek: &str, out: Option<&Path>, key: &KeyArgs) -> Result<(), Failed> {
    let ek = ek_kind(ek).map_err(Failed::Usage)?;
    let mut quoter = Quoter::new(key.config(tpm, Selection::of_firmware(), None).map_err(Failed::Usage)?);
    let out = out.map(NewFile::create).transpose().map_err(Failed::Usage)?;
    let enrolment = quoter.enrolment(ek)?;
    quoter.close();
    let ek_sha256 = EndorsementKey::parse(&enrolment.ek_public).map_err(TpmError::Key)?.sha256();
    let ak_name = PublicArea::parse(&enrolment.ak_public).map_err(TpmError::from)?.name();
    let request = RequestFile {
        kind: RequestFile::KIND.to_owned(),
        ek,
        ek_public: hex::encode(enrolment.ek_public),
        ek_certificate: enrolment.ek_certificate.map(hex::encode),
        ek_sha256: hex::encode(ek_sha256),
        ak_public: hex::encode(enrolment.ak_public),
        ak_name: hex::encode(ak_name.as_bytes()),
    };
    let certificate = if request.ek_certificate.is_some() { "with" } else { "without" };
    eprintln!(
        "portcullis: attestation key {}; endorsement key sha256 {}, {certificate} a certificate",
        request.ak_name, request.ek_sha256
    );
    written(out, &request)
}

fn activate(challenge: &Path, tpm: &str, out: Option<&Path>, key: &KeyArgs) -> Result<(), Failed> {
    let ChallengeFile { id, ek, ak_name, id_object, encrypted_secret, .. } =
        enrolment_files::read(challenge).map_err(Failed::Usage)?;
    let bytes = |name, text: &str| {
        enrolment_files::bytes(name, text)
            .map_err(|error| Failed::Usage(format!("{}: {error}", challenge.display())))
    };
    let credential = Credential {
        id_object: bytes("id_object", &id_object)?,
        encrypted_secret: bytes("encrypted_secret", &encrypted_secret)?,
    };
    let mut quoter = Quoter::new(key.config(tpm, Selection::of_firmware(), None).map_err(Failed::Usage)?);
    let out = out.map(NewFile::create).transpose().map_err(Failed::Usage)?;
    let own = hex::encode(quoter.ak_name()?.as_bytes());
    if own != ak_name {
        let why = format!("the challenge is for attestation key {ak_name}, and this TPM's is {own}");
        return Err(Failed::Usage(format!("{why}: say the same --tpm-ak as with `tpm request`")));
    }
    let answer = quoter.activated(ek, &credential)?;
    quoter.close();
    let proof = ProofFile { kind: ProofFile::KIND.to_owned(), id, answer: hex::encode(answer.as_slice()) };
    written(out, &proof)
}

fn written<T: EnrolmentFile>(out: Option<NewFile>, content: &T) -> Result<(), Failed> {
    match out {
        Some(out) => out.write(content).map_err(Failed::Output),
        None => {
            print!("{}", enrolment_files::text(content).map_err(Failed::Output)?);
            Ok(())
        }
    }
}

impl QuoteArgs {
    /// How the attester quotes; in words what cannot be.
    pub(super) fn config(&self, address: &str) -> Result<QuoterConfig, String> {
        let selection = Selection::parse(&self.tpm_pcrs).ok_or_else(|| {
            let given = &self.tpm_pcrs;
            format!("--tpm-pcrs `{given}`: not banks with PCRs 0 to 23, such as sha256:0,1,7+sha384:4; SHA-1 is not taken")
        })?;
        self.key.config(address, selection, self.tpm_event_log.clone())
    }
}

impl KeyArgs {
    fn config(
        &self,
        address: &str,
        selection: Selection,
        event_log: Option<PathBuf>,
    ) -> Result<QuoterConfig, String> {
        let address: Address = address.parse().map_err(|error| format!("--tpm `{address}`: {error}"))?;
        let endorsement_auth = match &self.tpm_endorsement_auth_file {
            None => Zeroizing::new(Vec::new()),
            Some(path) => auth(path).map_err(|error| format!("{}: {error}", path.display()))?,
        };
        Ok(QuoterConfig { address, ak: ak_source(&self.tpm_ak)?, selection, event_log, endorsement_auth })
    }
}

/// The whole file but one line end, as an editor leaves it.
fn auth(path: &Path) -> Result<Zeroizing<Vec<u8>>, std::io::Error> {
    let mut auth = Zeroizing::new(Vec::new());
    std::fs::File::open(path)?.take(AUTH_BYTES).read_to_end(&mut auth)?;
    if auth.last() == Some(&b'\n') {
        auth.pop();
    }
    Ok(auth)
}

fn ak_source(text: &str) -> Result<AkSource, String> {
    let kind = match text {
        "ecdsa-p256" => AkKind::EcdsaP256,
        "ecdsa-p384" => AkKind::EcdsaP384,
        "rsassa-2048" => AkKind::RsaSsa2048,
        "rsapss-2048" => AkKind::RsaPss2048,
        other => {
            let handle = other.strip_prefix("0x").and_then(|hex| u32::from_str_radix(hex, 16).ok());
            // TPM_HT_PERSISTENT: TCG TPM 2.0 Library part 2 §7.2.
            let handle = handle.filter(|handle| handle >> 24 == 0x81).ok_or_else(|| {
                format!("--tpm-ak `{other}`: not ecdsa-p256, ecdsa-p384, rsassa-2048, rsapss-2048 or a handle 0x81…")
            })?;
            return Ok(AkSource::Persistent(handle));
        }
    };
    Ok(AkSource::Primary(kind))
}

fn ek_kind(text: &str) -> Result<EkKind, String> {
    match text {
        "rsa-2048" => Ok(EkKind::Rsa2048),
        "ecc-p256" => Ok(EkKind::EccP256),
        "ecc-p384" => Ok(EkKind::EccP384),
        other => Err(format!("--ek `{other}`: not rsa-2048, ecc-p256 or ecc-p384")),
    }
}

/// An authorisation is as long as a digest at most.
const AUTH_BYTES: u64 = 65;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_by_kind_or_by_a_persistent_handle() {
        assert_eq!(ak_source("rsapss-2048"), Ok(AkSource::Primary(AkKind::RsaPss2048)));
        assert_eq!(ak_source("0x81010002"), Ok(AkSource::Persistent(0x8101_0002)));
        for text in ["", "81010002", "0x80000000", "0x8101000200", "rsa"] {
            assert!(ak_source(text).is_err(), "{text}");
        }
        assert_eq!(ek_kind("ecc-p384"), Ok(EkKind::EccP384));
        assert!(ek_kind("ecc").is_err());
    }

    #[test]
    fn an_authorisation_is_the_file_without_its_last_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth");
        std::fs::write(&path, "pass\n").unwrap();
        assert_eq!(auth(&path).unwrap().as_slice(), b"pass");
        assert!(auth(Path::new("/nonexistent")).is_err());
    }
}
