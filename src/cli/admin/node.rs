//! `portcullis admin node …`

use super::output::{Lines, changed, more};
use super::{End, Failure, Operators, read_text};
use crate::cli::enrolment_files::{self, ChallengeFile, EnrolmentFile, NewFile, ProofFile, RequestFile};
use crate::proto::admin::enrol_node_request::PublicKey;
use crate::proto::admin::*;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Enrol a node: whose key it is, what it may vouch for, until when. Then, where it has a TPM, that TPM's key, in two steps.
    ///
    /// Example: portcullis admin node enroll node-1 --public-key node-1.pem --days 90
    ///          --may-vouch-for 'spiffe://example.org/ns/payments/*'
    ///
    /// Example: portcullis admin node enroll node-1 --tpm node-1.request --out node-1.challenge
    ///
    /// Example: portcullis admin node enroll node-1 --proof node-1.proof
    #[command(alias = "enrol")]
    Enroll(Box<Enroll>),
    /// Remove a node: its word counts no more, nor do its TPM's quotes.
    ///
    /// Example: portcullis admin node remove node-1
    Remove {
        /// The node's name.
        name: String,
        /// Remove this attestation key of its TPM alone, by its Name, as `node list` shows it.
        #[arg(long, value_name = "NAME")]
        ak: Option<String>,
        /// Let holds that rest on this node go on.
        #[arg(long)]
        keep_latches: bool,
    },
    /// List nodes with their keys.
    ///
    /// Example: portcullis admin node list
    List {
        /// Where an earlier page said that more follow.
        #[arg(long, default_value = "")]
        after: String,
        /// At most so many.
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("step").required(true).args(["public_key", "tpm", "proof"])))]
pub(super) struct Enroll {
    /// The node's name, as its attester is configured.
    name: String,
    /// The node's own key: what `portcullis agent --print-public-key` printed there, in a file.
    #[arg(long, requires = "may_vouch_for")]
    public_key: Option<PathBuf>,
    /// Its TPM, the first step: what `portcullis agent tpm request` wrote there. Makes the challenge for `--out`.
    #[arg(long, value_name = "REQUEST", requires = "out")]
    tpm: Option<PathBuf>,
    /// Its TPM, the second step: what `portcullis agent tpm activate` wrote there, within ten minutes of the first.
    #[arg(long)]
    proof: Option<PathBuf>,
    /// Where the challenge goes, with `--tpm`; a new file.
    #[arg(long, value_name = "CHALLENGE", requires = "tpm")]
    out: Option<PathBuf>,
    /// Approve this endorsement key, with `--tpm`, without a certificate: SHA-256 of its SubjectPublicKeyInfo.
    #[arg(long = "ek-sha256", value_name = "HEX", requires = "tpm")]
    approved_eks: Vec<String>,
    /// When it ends: RFC 3339, UTC, such as 2027-03-01T00:00:00Z. A TPM's key ends with the node's own, where neither is said.
    #[arg(long, conflicts_with_all = ["days", "proof"])]
    not_after: Option<String>,
    /// When it ends: days from now.
    #[arg(long, conflicts_with = "proof")]
    days: Option<u16>,
    /// A SPIFFE ID that it may vouch for, or `…/*` for all below one; never all by default.
    #[arg(long, requires = "public_key")]
    may_vouch_for: Vec<String>,
    /// Hardware evidence that its statements must come with: FORMAT=HEX of nitro (PCR0), sev-snp (MEASUREMENT) or tdx (MRTD),
    /// several of one format being alternatives; or `tpm2`, a quote of a key of its TPM.
    #[arg(long = "measurement", value_name = "FORMAT=HEX", requires = "public_key")]
    measurements: Vec<String>,
    /// Take the place of an enrolment of this name; with `--tpm`, of the keys of its TPM.
    #[arg(long, conflicts_with = "proof")]
    replace: bool,
    /// Let holds that rest on this node go on.
    #[arg(long, conflicts_with = "tpm")]
    keep_latches: bool,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Enroll(enroll) => {
            let Enroll { public_key, tpm, proof, .. } = &*enroll;
            match (public_key.clone(), tpm.clone(), proof.clone()) {
                (Some(public_key), _, _) => own_key(*enroll, &public_key, operators).await,
                (_, Some(request), _) => begin(*enroll, &request, operators).await,
                (_, _, Some(proof)) => finish(*enroll, &proof, operators).await,
                (None, None, None) => Err(Failure::usage("say --public-key, --tpm or --proof")),
            }
        }
        Command::Remove { name, ak, keep_latches } => {
            let request = RemoveNodeRequest { name, keep_latches, ak_name: ak.unwrap_or_default() };
            operators.answer(operators.open().await?.remove_node(request)).await
        }
        Command::List { after, limit } => {
            operators.answer(operators.open().await?.list_nodes(ListNodesRequest { after, limit })).await
        }
    }
}

/// The key that signs the node's statements.
async fn own_key(enroll: Enroll, public_key: &Path, operators: &Operators) -> Result<(), Failure> {
    let request = EnrolNodeRequest {
        name: enroll.name,
        public_key: Some(PublicKey::Pem(read_text(public_key)?)),
        not_after: End { not_after: enroll.not_after, days: enroll.days }.text()?,
        may_vouch_for: enroll.may_vouch_for,
        measurements: enroll.measurements,
        replace: enroll.replace,
        keep_latches: enroll.keep_latches,
    };
    operators.answer(operators.open().await?.enrol_node(request)).await
}

/// A TPM's request becomes a challenge.
async fn begin(enroll: Enroll, request: &Path, operators: &Operators) -> Result<(), Failure> {
    let said: RequestFile = enrolment_files::read(request).map_err(Failure::usage)?;
    let bytes = |name: &str, text: &str| {
        enrolment_files::bytes(name, text)
            .map_err(|error| Failure::usage(format!("{}: {error}", request.display())))
    };
    let certificate = said.ek_certificate.as_deref().map(|text| bytes("ek_certificate", text)).transpose()?;
    let not_after = match (&enroll.not_after, enroll.days) {
        (None, None) => String::new(),
        (_, days) => End { not_after: enroll.not_after.clone(), days }.text()?,
    };
    let asked = BeginTpmEnrolmentRequest {
        node: enroll.name,
        ek_public: bytes("ek_public", &said.ek_public)?,
        ek_certificate: certificate.unwrap_or_default(),
        issuers: Vec::new(),
        ak_public: bytes("ak_public", &said.ak_public)?,
        approved_ek_sha256: enroll.approved_eks.iter().map(|hash| hash.to_ascii_lowercase()).collect(),
        not_after,
        replace: enroll.replace,
    };
    let out = enroll.out.ok_or_else(|| Failure::usage("say --out"))?;
    let out = NewFile::create(&out).map_err(Failure::usage)?;
    let answer = operators.wait(operators.open().await?.begin_tpm_enrolment(asked)).await?;
    let challenge = ChallengeFile {
        kind: ChallengeFile::KIND.to_owned(),
        id: answer.id.clone(),
        ek: said.ek,
        ak_name: answer.ak_name.clone(),
        id_object: hex::encode(&answer.id_object),
        encrypted_secret: hex::encode(&answer.encrypted_secret),
        answer_before: answer.answer_before.clone(),
    };
    out.write(&challenge).map_err(Failure::internal)?;
    operators.output.show(&answer)
}

/// The proof enrols the key.
async fn finish(enroll: Enroll, proof: &Path, operators: &Operators) -> Result<(), Failure> {
    let proof_file: ProofFile = enrolment_files::read(proof).map_err(Failure::usage)?;
    let answer = enrolment_files::bytes("answer", &proof_file.answer);
    let answer = answer.map_err(|error| Failure::usage(format!("{}: {error}", proof.display())))?;
    let request = FinishTpmEnrolmentRequest {
        id: proof_file.id,
        node: enroll.name,
        answer,
        keep_latches: enroll.keep_latches,
    };
    operators.answer(operators.open().await?.finish_tpm_enrolment(request)).await
}

impl Lines for BeginTpmEnrolmentResponse {
    fn lines(&self) -> Vec<String> {
        vec![
            format!("challenged attestation key {} (record {})", self.ak_name, self.record),
            format!("endorsement key sha256 {}, {}", self.ek_sha256, self.vouched_by),
            format!(
                "on the node: `portcullis agent tpm activate CHALLENGE --out PROOF`, then `node enroll … --proof PROOF` here, \
                 before {}, once; a restart of the broker forgets it",
                self.answer_before
            ),
        ]
    }
}

impl Lines for FinishTpmEnrolmentResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = changed("enrolled".to_owned(), self.change.as_ref());
        lines.extend(self.attestation_key.iter().map(key_line));
        lines
    }
}

fn key_line(key: &AttestationKey) -> String {
    let ended = if key.ended { " (ended)" } else { "" };
    format!(
        "  attestation key {} ({}) until {}{ended}, {}, endorsement key sha256 {}, by {} at {}, {} resets and {} restarts seen",
        key.name,
        key.algorithm,
        key.not_after,
        key.vouched_by,
        key.ek_sha256,
        key.enrolled_by,
        key.enrolled_at,
        key.reset_count,
        key.restart_count
    )
}

impl Lines for EnrolNodeResponse {
    fn lines(&self) -> Vec<String> {
        changed(format!("enrolled, key sha256 {}", self.key_sha256), self.change.as_ref())
    }
}

impl Lines for ListNodesResponse {
    fn lines(&self) -> Vec<String> {
        let line = |node: &Node| {
            let ended = if node.ended { " (ended)" } else { "" };
            let patterns = node.may_vouch_for.join(" ");
            let with: Vec<String> =
                node.measurements.iter().map(|one| format!(", comes with {one}")).collect();
            format!(
                "{} until {}{ended} for {patterns}, key sha256 {}{}",
                node.name,
                node.not_after,
                node.key_sha256,
                with.concat()
            )
        };
        let mut lines = Vec::new();
        for node in &self.nodes {
            lines.push(line(node));
            lines.extend(node.attestation_keys.iter().map(key_line));
        }
        more(&mut lines, &self.next);
        lines
    }
}
