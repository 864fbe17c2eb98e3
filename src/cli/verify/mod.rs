//! `portcullis verify`: whether stored evidence would be believed, offline, by the broker's own code.
//!
//! *Takes* a document, what vouches for it, a time, and reference values, all from files. *Gives* each check with its outcome,
//! the claims, until when the verdict could hold, and an exit code. *Denies* by that code: 1 refused, 2 undecided.
//! *Source*: the issue, point 1; RFC 9334 §5.2 (a verifier apart from the relying party); `evidence.md` §1.
//!
//! Nothing is fetched, kept or released. There is no second implementation: each format's `examine` is what its `verify` is
//! made of, and reference values are the broker's types.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command speaks to its terminal")]

mod appraise;
mod claims;
mod dcap;
mod files;
mod nitro;
mod process;
mod reference;
mod report;
mod sev_snp;
mod tpm2;

use crate::challenge::binding::Binding;
use crate::cli::exit;
use crate::denial::Denial;
use crate::evidence::outcome::{Checks, Ends, Refusal};
use crate::limits;
use crate::time::{BootTime, Now, SystemTime, TimeSource};
use claims::Claims;
use report::{Part, Report};
use std::path::PathBuf;

/// Verify stored evidence offline, and say what it claims; nothing is fetched.
///
/// Exit codes: 0 verified and acceptable; 1 refused; 2 undecided, as something is missing or stale; 64 usage, such as a file
/// of your own that does not read. `deploy/attestation/README.md` says more.
///
/// Example: portcullis verify --format process document.cbor --node-key node-1.example=node-1.pem
///
/// Example: portcullis verify --format nitro document.cbor --at 2026-11-01T12:00:00Z --reference values.toml
///
/// Example: portcullis verify --format sev-snp report.bin --endorsement vcek.der --binding 6f1c…
///
/// Example: portcullis verify --format tdx quote.bin --collateral collateral.json --output json
///
/// Example: portcullis verify --format sgx quote.bin --endorsement collateral.json --at 2026-11-01T12:00:00Z
///
/// Example: portcullis verify --format tpm2 quote.pb --ak node-1.example=ak.pub --composite-with process.cbor
///          --node-key node-1.example=node-1.pem --binding 6f1c…
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The document: its body, as it would be sent.
    document: PathBuf,
    /// What the document is.
    #[arg(long, value_enum)]
    format: Format,
    /// What the attester passes along, untrusted: certificates (sev-snp), collateral (tdx, sgx). In its order.
    #[arg(long, value_name = "FILE")]
    endorsement: Vec<PathBuf>,
    /// The binding that is due, 64 bytes in hex; without it freshness is not shown. For tpm2 its SHA-256 must stand in the
    /// quote, beside a `process` document what the protocol derives from both.
    #[arg(long, value_name = "HEX", conflicts_with = "nonce")]
    binding: Option<String>,
    /// In place of --binding, for evidence made for others: the very bytes that must stand where the binding belongs.
    #[arg(long, value_name = "HEX", conflicts_with = "composite_with")]
    nonce: Option<String>,
    /// The `process` document that the hardware evidence stands beside and vouches for.
    #[arg(long, value_name = "PROCESS_DOCUMENT", requires = "node_key")]
    composite_with: Option<PathBuf>,
    /// The time to verify at, RFC 3339, UTC; now if left out.
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Reference values, TOML or JSON, `[[set]]` as `admin reference put` takes them; one set must fit, whole.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Only the set of this name.
    #[arg(long, value_name = "NAME", requires = "reference")]
    set: Option<String>,
    /// Collateral of your own: certificates of signing keys and intermediates (sev-snp), collateral (tdx, sgx).
    #[arg(long, value_name = "FILE")]
    collateral: Vec<PathBuf>,
    /// A revocation list, DER or PEM (sev-snp, tdx, sgx). For sev-snp none is needed; one that is given must be current.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// A directory of root certificates to trust in place of the vendor's that are compiled in (nitro, sev-snp, tdx, sgx).
    #[arg(long, value_name = "DIR")]
    roots: Option<PathBuf>,
    /// A node's name and key, for `process`: SubjectPublicKeyInfo, PEM or DER.
    #[arg(long, value_name = "NAME=FILE")]
    node_key: Vec<String>,
    /// The attestation key, for tpm2: TPM2B_PUBLIC or TPMT_PUBLIC, as tpm2_createak -u writes it; with --composite-with, the
    /// name of its node before it.
    #[arg(long, value_name = "[NAME=]FILE")]
    ak: Option<String>,
    /// How to print.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A node's statement about a process.
    Process,
    /// AWS Nitro Enclaves.
    Nitro,
    /// AMD SEV-SNP.
    SevSnp,
    /// Intel TDX.
    Tdx,
    /// Intel SGX; offline only.
    Sgx,
    /// A quote of a TPM 2.0.
    Tpm2,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// Lines for a person.
    #[default]
    Text,
    /// One JSON object, `deploy/attestation/README.md` has its keys.
    Json,
}

/// What must stand where the binding belongs.
enum Due {
    /// Nobody said.
    Unknown,
    /// The *bound* of a challenge (`protocol.md`).
    Bound([u8; limits::BINDING_BYTES]),
    /// These bytes.
    Literal(Vec<u8>),
}

/// Why there is no verdict: the command line, or a file of the operator's own.
#[derive(Debug)]
struct Usage(String);

/// Why a format ends without claims.
enum Stop {
    Usage(Usage),
    Refused(Refusal),
}

/// A document that verified.
struct Examined {
    claims: Claims,
    ends: Ends,
}

/// Runs the command; gives its exit code.
pub async fn run(args: Args) -> u8 {
    // Files and signatures: no work for the runtime's own threads.
    let outcome = tokio::task::spawn_blocking(move || dispatch(&args)).await;
    match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(Usage(text))) => {
            eprintln!("portcullis: {}", report::printable(&text));
            exit::USAGE
        }
        Err(_) => exit::INTERNAL,
    }
}

fn dispatch(args: &Args) -> Result<u8, Usage> {
    let report = verify(args)?;
    match args.output {
        Output::Json => println!("{:#}", report.json()),
        Output::Text => report.lines().iter().for_each(|line| println!("{}", report::printable(line))),
    }
    Ok(report.verdict().exit())
}

fn verify(args: &Args) -> Result<Report, Usage> {
    check_options(args)?;
    let now = args.now()?;
    let sets =
        args.reference.as_deref().map(|path| reference::read(path, args.set.as_deref())).transpose()?;
    let body = files::body(&args.document)?;
    let beside = args.composite_with.as_deref().map(files::body).transpose()?;
    let mut parts = Vec::new();
    let mut due = args.due()?;
    if let Some(beside) = &beside {
        let part = examine(args, Format::Process, beside, &due, now)?;
        due = due.beside(beside, &part);
        parts.push(part);
    }
    parts.push(examine(args, args.format, &body, &due, now)?);
    Ok(Report::new(args, now, parts, sets.as_deref()))
}

/// Verifies one document by its format's own code.
fn examine(args: &Args, format: Format, body: &[u8], due: &Due, now: Now) -> Result<Part, Usage> {
    let mut checks = Checks::new();
    let examined = match format {
        Format::Process => process::examine(args, body, due, now, &mut checks),
        Format::Nitro => nitro::examine(args, body, due, now, &mut checks),
        Format::SevSnp => sev_snp::examine(args, body, due, now, &mut checks),
        Format::Tdx | Format::Sgx => dcap::examine(args, format, body, due, now, &mut checks),
        Format::Tpm2 => tpm2::examine(args, body, due, now, &mut checks),
    };
    match examined {
        Ok(examined) => Ok(Part { format, checks, outcome: Ok(examined), never: None }),
        Err(Stop::Usage(usage)) => Err(usage),
        Err(Stop::Refused(refusal)) => {
            let never = dcap::never_acceptable(format, body, &refusal);
            Ok(Part { format, checks, outcome: Err(refusal), never })
        }
    }
}

/// What a format does not read is not passed over in silence.
fn check_options(args: &Args) -> Result<(), Usage> {
    use Format::{Nitro, Process, SevSnp, Sgx, Tdx, Tpm2};
    let composite = args.composite_with.is_some();
    let given: [(&str, bool, &[Format]); 7] = [
        ("--endorsement", !args.endorsement.is_empty(), &[SevSnp, Tdx, Sgx]),
        ("--collateral", !args.collateral.is_empty(), &[SevSnp, Tdx, Sgx]),
        ("--crl", !args.crl.is_empty(), &[SevSnp, Tdx, Sgx]),
        ("--roots", args.roots.is_some(), &[Nitro, SevSnp, Tdx, Sgx]),
        ("--ak", args.ak.is_some(), &[Tpm2]),
        ("--composite-with", composite, &[Nitro, SevSnp, Tdx, Tpm2]),
        ("--node-key", !args.node_key.is_empty() && !composite, &[Process]),
    ];
    let not_read = |(_, given, read_by): &&(&str, bool, &[Format])| *given && !read_by.contains(&args.format);
    match given.iter().find(not_read) {
        Some((option, ..)) => Err(usage(format!("--format {} does not read {option}", args.format.name()))),
        None => Ok(()),
    }
}

impl Args {
    fn now(&self) -> Result<Now, Usage> {
        let wall = match &self.at {
            Some(text) => crate::time::WallTime::parse(text)
                .ok_or_else(|| usage("--at is a time in UTC, such as 2027-03-01T00:00:00Z"))?,
            None => SystemTime.wall().ok_or_else(|| usage("the clock cannot be read: say --at"))?,
        };
        Ok(Now { wall, boot: BootTime(0) })
    }

    fn due_is_unknown(&self) -> bool {
        self.binding.is_none() && self.nonce.is_none()
    }

    fn due(&self) -> Result<Due, Usage> {
        if let Some(nonce) = &self.nonce {
            return files::hex("--nonce", nonce).map(Due::Literal);
        }
        let Some(binding) = &self.binding else { return Ok(Due::Unknown) };
        let bytes: Result<[u8; limits::BINDING_BYTES], _> = files::hex("--binding", binding)?.try_into();
        bytes.map(Due::Bound).map_err(|_| {
            usage("--binding is 64 bytes; for evidence that was made for others there is --nonce")
        })
    }
}

impl Due {
    /// What it becomes for evidence that stands beside a `process` document. Where no binding is known, that document's own
    /// shows that both belong together, though not of when they are.
    fn beside(self, process_body: &[u8], process: &Part) -> Due {
        let carried = process.outcome.as_ref().ok().and_then(|examined| examined.claims.process_binding());
        let binding = match self {
            Due::Bound(bytes) => Some(bytes),
            Due::Unknown | Due::Literal(_) => carried,
        };
        match binding {
            Some(bytes) => Due::Bound(Binding::from(bytes).bound_to_process(process_body)),
            None => self,
        }
    }

    /// The bytes where they stand as they are.
    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Due::Unknown => None,
            Due::Bound(bytes) => Some(bytes),
            Due::Literal(bytes) => Some(bytes),
        }
    }

    /// The same for a field of 64 bytes.
    fn fixed(&self) -> Result<Option<&[u8; limits::BINDING_BYTES]>, Usage> {
        let wrong = |_| usage("this format has room for exactly 64 bytes: --nonce is not that long");
        self.bytes().map(TryFrom::try_from).transpose().map_err(wrong)
    }
}

impl Format {
    const ALL: [Format; 6] =
        [Format::Process, Format::Nitro, Format::SevSnp, Format::Tdx, Format::Sgx, Format::Tpm2];

    fn name(self) -> &'static str {
        match self {
            Format::Process => crate::evidence::process::FORMAT,
            Format::Nitro => crate::evidence::nitro::FORMAT,
            Format::SevSnp => crate::evidence::sev_snp::FORMAT,
            Format::Tdx => crate::evidence::tdx::FORMAT,
            Format::Sgx => crate::evidence::tdx::FORMAT_SGX,
            Format::Tpm2 => crate::evidence::tpm2::FORMAT,
        }
    }
}

impl From<Usage> for Stop {
    fn from(usage: Usage) -> Self {
        Stop::Usage(usage)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Stop::Refused(refusal)
    }
}

fn usage(text: impl Into<String>) -> Usage {
    Usage(text.into())
}

/// An endorsement past its bounds is the attester's doing, so it refuses.
fn check_endorsements(endorsements: &[Vec<u8>], checks: &mut Checks) -> Result<(), Refusal> {
    let too_long = endorsements.iter().any(|endorsement| endorsement.len() > limits::DOCUMENT_BYTES);
    let wrong = too_long || endorsements.len() > limits::ENDORSEMENTS;
    let refusal =
        || Refusal::new(Denial::EvidenceMalformed, "more or longer endorsements than a document has");
    checks.note("endorsement-size", if wrong { Err(refusal()) } else { Ok(()) })
}
