//! What is held, until when, and how the services fare: for an operator, plain and serialisable.
//!
//! *Takes* nothing. *Gives* [`Status`]. *Denies* nothing. *Source*: issue 5, `admin collateral status`.

use super::item::Service;
use crate::time::WallTime;
use serde::Serialize;

/// All of it, at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Each item that is held; what ends first stands first.
    pub held: Vec<HeldItem>,
    /// Each service that is configured.
    pub services: Vec<ServiceStatus>,
    /// Files of the directory that could not be read or written, or are damaged: absent, until they are fetched anew.
    pub faults: Vec<FileFault>,
    /// Items that are being fetched.
    pub under_way: usize,
}

/// An item that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldItem {
    /// What it is.
    pub what: String,
    /// Whose it is.
    pub service: Service,
    /// Where it is from.
    pub origin: Origin,
    /// thisUpdate or issueDate; when it was taken in, where it has neither.
    pub issued: WallTime,
    /// When it was taken in.
    pub obtained: WallTime,
    /// Its end, exclusive.
    pub ends: WallTime,
    /// Whether it may still be used; what has ended denies.
    pub current: bool,
}

/// Where an item is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Its service.
    Fetched,
    /// An administrator's file.
    Imported,
    /// The directory, at a start.
    Directory,
    /// An attester's evidence, which it came along with.
    Brought,
}

impl Origin {
    /// In words, for people.
    pub fn name(self) -> &'static str {
        match self {
            Origin::Fetched => "fetched",
            Origin::Imported => "imported",
            Origin::Directory => "read from the directory",
            Origin::Brought => "brought along with evidence",
        }
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceStatus {
    /// Which.
    pub service: Service,
    /// Its base address.
    pub address: String,
    /// Milliseconds for which it is still left alone after a failure; 0 where it may be asked.
    pub backing_off_ms: u64,
    /// When it last answered with what was asked for; none since the start.
    pub answered: Option<WallTime>,
    /// The last item that could not be had of it, when, and why; none where nothing failed after it last answered.
    pub failed: Option<(String, WallTime, String)>,
}

/// A file of the directory that does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileFault {
    /// Its name.
    pub file: String,
    /// Why.
    pub why: String,
}
