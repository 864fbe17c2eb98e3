//! `portcullis admin collateral …`

use super::output::{Lines, or};
use super::{Failure, Operators};
use crate::limits;
use crate::proto::admin::accept_collateral_request::What as Accepted;
use crate::proto::admin::import_collateral_request::What;
use crate::proto::admin::*;
use std::io::Read;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show what is held of vendors' certificates, lists and statements, until when it may be used, and how the services fare.
    ///
    /// Example: portcullis admin collateral status --output json
    Status,
    /// Ask for newer lists and statements now.
    ///
    /// Example: portcullis admin collateral refresh
    Refresh,
    /// Hand in a file that was fetched elsewhere. It is verified before it is kept.
    ///
    /// Example: portcullis admin collateral import --kind sev-snp-vcek-list milan.crl
    Import {
        /// What the file is.
        #[arg(long, value_enum)]
        kind: Kind,
        /// The file.
        file: PathBuf,
    },
    /// Take a list or statements even where their numbers or dates went back: for an authority that was rebuilt.
    ///
    /// Example: portcullis admin collateral accept --kind sev-snp-vcek-list milan.crl
    Accept {
        /// What the file is.
        #[arg(long, value_enum)]
        kind: Dated,
        /// The file.
        file: PathBuf,
    },
}

/// What an accepted file is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Dated {
    /// AMD's revocation list from the `vcek` address, DER or PEM.
    SevSnpVcekList,
    /// AMD's revocation list from the `vlek` address, DER or PEM.
    SevSnpVlekList,
    /// Intel's collateral, JSON.
    Dcap,
}

/// What an imported file is.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum Kind {
    /// A VCEK's certificate, DER.
    SevSnpCertificate,
    /// An ASK or ASVK: DER, or the PEM chain as AMD's service has it.
    SevSnpIntermediate,
    /// AMD's revocation list from the `vcek` address, DER or PEM.
    SevSnpVcekList,
    /// AMD's revocation list from the `vlek` address, DER or PEM.
    SevSnpVlekList,
    /// Intel's collateral, JSON.
    Dcap,
}

pub(super) async fn run(command: Command, operators: &Operators) -> Result<(), Failure> {
    match command {
        Command::Status => {
            operators.answer(operators.open().await?.collateral_status(CollateralStatusRequest {})).await
        }
        Command::Refresh => {
            operators.answer(operators.open().await?.refresh_collateral(RefreshCollateralRequest {})).await
        }
        Command::Import { kind, file } => {
            let bytes = read(&file)?;
            let what = match kind {
                Kind::SevSnpCertificate => What::SevSnpCertificate(bytes),
                Kind::SevSnpIntermediate => What::SevSnpIntermediate(bytes),
                Kind::SevSnpVcekList => What::SevSnpVcekList(bytes),
                Kind::SevSnpVlekList => What::SevSnpVlekList(bytes),
                Kind::Dcap => What::Dcap(bytes),
            };
            let request = ImportCollateralRequest { what: Some(what) };
            operators.answer(operators.open().await?.import_collateral(request)).await
        }
        Command::Accept { kind, file } => {
            let bytes = read(&file)?;
            let what = match kind {
                Dated::SevSnpVcekList => Accepted::SevSnpVcekList(bytes),
                Dated::SevSnpVlekList => Accepted::SevSnpVlekList(bytes),
                Dated::Dcap => Accepted::Dcap(bytes),
            };
            let request = AcceptCollateralRequest { what: Some(what) };
            operators.answer(operators.open().await?.accept_collateral(request)).await
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
    let most = limits::SEV_SNP_LIST_BYTES.max(limits::DCAP_COLLATERAL_BYTES);
    let bounded = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(bounded).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() > most { Err(failed(&format!("larger than {most} bytes"))) } else { Ok(bytes) }
}

impl Lines for CollateralStatusResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.held.iter().map(line).collect();
        lines.extend(self.services.iter().map(|service| {
            let failed = service.failed.as_ref();
            let failed = failed.map(|one| format!("; failed at {}: {}: {}", one.when, one.what, one.why));
            let waits = match service.backing_off_ms {
                0 => String::new(),
                left => format!("; left alone for {left} ms"),
            };
            let answered = or(&service.answered, "not since the start");
            let failed = failed.unwrap_or_default();
            format!("service {} {}: answered {answered}{failed}{waits}", service.service, service.address)
        }));
        if self.services.is_empty() {
            lines.push("no service is configured: nothing is fetched".to_owned());
        }
        lines
            .extend(self.faults.iter().map(|fault| format!("DOES NOT COUNT: {}: {}", fault.file, fault.why)));
        lines.push(format!("{} held, {} under way", self.held.len(), self.under_way));
        lines
    }
}

impl Lines for RefreshCollateralResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.failed.iter().map(|one| format!("NOT TO BE HAD: {}: {}", one.what, one.why)).collect();
        let how = if self.goes_on { "it goes on; see `status`" } else { "asked for all that is held" };
        lines.push(format!("{how} (record {})", self.record));
        lines
    }
}

impl Lines for ImportCollateralResponse {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("imported (record {})", self.record)];
        lines.extend(self.imported.iter().map(line));
        if !self.durable {
            lines.push("no `collateral.directory` is configured: gone with the next restart".to_owned());
        }
        lines
    }
}

fn line(item: &CollateralItem) -> String {
    let ended = if item.current { "" } else { " (ENDED: denies)" };
    format!(
        "{} until {}{ended}, issued {}, {} at {}",
        item.what, item.ends, item.issued, item.origin, item.obtained
    )
}
