//! Role `operations`: a backup as a stream, and the acceptance of a restore.
//!
//! *Takes* nothing but the call. *Gives* pieces of a file, each read when the one before was sent, and what a restore did.
//! *Denies* a second backup at once, and one where the log cannot be written. *Source*: `durability.md`; catalogue row 39.
//! What leaves is what lies on the disk: sealed records under hidden names, and the keyring under the key source's key.

use super::access::{Caller, Plan};
use super::{AdminService, answer};
use crate::audit::record::Event;
use crate::limits;
use crate::proto::admin::backup_response::Step;
use crate::proto::admin::*;
use crate::registry::{not_accepted, prepare_acceptance};
use crate::store::backup::{Head, Trailer, Writer};
use crate::store::{Export, Part};
use aws_lc_rs::digest::{Context, SHA256};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde_json::json;
use tonic::Status;

/// The stream of one backup.
pub type Pieces = BoxStream<'static, Result<BackupResponse, Status>>;

/// Begins a backup. While it is begun no change is between its intent and its commit, so that what the log says from then on
/// is what may be missing in it.
pub(super) async fn begin(service: AdminService, caller: Caller) -> Result<Pieces, Status> {
    let vault = service.registry.vault().clone();
    let turn = vault.turn().await.map_err(|error| answer::store(&error))?;
    let log = service.registry.broker().recorder.log();
    let log_records = log.size();
    let unavailable = |error| {
        answer::refuse(answer::Refusal::AuditUnavailable, format!("the audit log cannot be written: {error}"))
    };
    let checkpoint = log.checkpoint().await.map_err(unavailable)?;
    let export = vault.export().await.map_err(|error| answer::store(&error))?;
    drop(turn);
    let head = Head {
        store: vault.store().id().to_string(),
        made: caller.at.wall,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        log_records,
        checkpoint,
    };
    let mut bytes = Vec::with_capacity(limits::BACKUP_PIECE_BYTES);
    let writer = Writer::begin(&head, &mut bytes).map_err(|error| answer::store(&error))?;
    let hash = Context::new(&SHA256);
    let backup = Backup { service, caller, export, writer: Some(writer), bytes, length: 0, hash, done: None };
    Ok(stream::unfold(Some(backup), next).boxed())
}

/// A backup under way.
struct Backup {
    service: AdminService,
    caller: Caller,
    export: Export,
    /// None once the trailer is written.
    writer: Option<Writer>,
    /// Written, and not sent.
    bytes: Vec<u8>,
    /// Sent, bytes.
    length: u64,
    hash: Context,
    done: Option<Trailer>,
}

async fn next(backup: Option<Backup>) -> Option<(Result<BackupResponse, Status>, Option<Backup>)> {
    let mut backup = backup?;
    match backup.step().await {
        // Nothing follows an error, nor the last message.
        Err(status) => Some((Err(status), None)),
        Ok(step @ Step::Done(_)) => Some((Ok(BackupResponse { step: Some(step) }), None)),
        Ok(step) => Some((Ok(BackupResponse { step: Some(step) }), Some(backup))),
    }
}

impl Backup {
    async fn step(&mut self) -> Result<Step, Status> {
        while self.bytes.len() < limits::BACKUP_PIECE_BYTES && self.writer.is_some() {
            self.read().await?;
        }
        if self.bytes.is_empty() {
            return self.end().await;
        }
        let rest = self.bytes.split_off(self.bytes.len().min(limits::BACKUP_PIECE_BYTES));
        let piece = std::mem::replace(&mut self.bytes, rest);
        self.hash.update(&piece);
        self.length = self.length.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        Ok(Step::Piece(piece))
    }

    async fn read(&mut self) -> Result<(), Status> {
        let failed = |error| answer::store(&error);
        match self.export.next().await.map_err(failed)? {
            Part::Items(items) => {
                let writer = self.writer.as_mut().ok_or_else(answer::defect)?;
                for (key, value) in items {
                    writer.item(&key, value.as_deref(), &mut self.bytes).map_err(failed)?;
                }
            }
            Part::End(commit) => {
                let writer = self.writer.take().ok_or_else(answer::defect)?;
                let vault = self.service.registry.vault();
                let trailer = writer.end(commit.0, |text| vault.vouch(text), &mut self.bytes);
                self.done = Some(trailer.map_err(failed)?);
            }
        }
        Ok(())
    }

    /// The log names every backup that left whole, by its digest.
    async fn end(&mut self) -> Result<Step, Status> {
        let trailer = self.done.take().ok_or_else(answer::defect)?;
        let sha256 = hex::encode(self.hash.clone().finish());
        let details = json!({
            "commit": trailer.commit, "items": trailer.items, "bytes": self.length, "sha256": sha256,
        });
        let act = self.caller.act(&format!("at commit {}", trailer.commit), details);
        let record = self.service.note(&self.caller, Event::AdminRead { act, refused: None }).await?;
        let (commit, items) = (trailer.commit, trailer.items);
        Ok(Step::Done(BackupDone { commit, items, bytes: self.length, sha256, record }))
    }
}

pub(super) async fn show_restore(
    service: &AdminService,
    _caller: &Caller,
    _request: ShowRestoreRequest,
) -> Result<ShowRestoreResponse, Status> {
    let restored = not_accepted(service.registry.vault()).await.map_err(|error| answer::store(&error))?;
    let Some(restored) = restored else { return Ok(ShowRestoreResponse::default()) };
    Ok(ShowRestoreResponse {
        pending: true,
        to: restored.to,
        made: restored.made.to_string(),
        restored: restored.at.to_string(),
        log_lost: restored.log_lost,
        lines: restored.lines,
        more: restored.more,
    })
}

/// It counts from the moment that it is on the disk and recorded; until then nothing is released.
pub(super) async fn accept_restore(
    service: &AdminService,
    caller: &Caller,
    _request: AcceptRestoreRequest,
) -> Result<ChangeResponse, Status> {
    let vault = service.registry.vault();
    let restored = not_accepted(vault).await.map_err(|error| answer::store(&error))?;
    let transaction = prepare_acceptance(vault).await.map_err(|error| answer::store(&error))?;
    let (Some(restored), Some(transaction)) = (restored, transaction) else {
        return Err(answer::not_found("no restore waits to be accepted"));
    };
    let plan = Plan {
        target: format!("restored to {}", restored.to),
        details: json!({ "made": restored.made.to_string(), "log_lost": restored.log_lost }),
        transaction,
        kinds: Vec::new(),
        rests: Vec::new(),
        keep_latches: true,
    };
    let change = service.change(caller, plan).await?;
    // A proposal accepts nothing: it waits for a second person.
    if change.proposal.is_empty() {
        service.registry.broker().recorder.withhold(false);
    }
    Ok(change)
}
