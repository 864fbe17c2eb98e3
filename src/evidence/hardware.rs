//! What hardware evidence is held against: a trust value for each format that this broker takes.
//!
//! *Takes* roots, lists and collateral, as configured and kept. *Gives* [`Hardware`], one snapshot. *Denies*
//! `EvidenceFormatNotOffered`, `CollateralUnavailable`.
//! *Source*: RFC 9334 §8.2 (endorsements); `evidence.md` §1.

use super::nitro::{self, NitroTrust};
use super::outcome::Refusal;
use super::sev_snp::{self, SevSnpTrust};
use super::tdx::{self, TdxTrust};
use super::tpm2::enroll::Manufacturers;
use super::tpm2::{self, Tpm2Trust};
use crate::denial::Denial;
use crate::request::Document;
use crate::spiffe::SpiffeId;
use crate::time::Now;
use std::pin::Pin;
use std::sync::Arc;

/// What is known of one format's trust. The zero value takes nothing.
#[derive(Clone, Debug, Default)]
pub enum Held<T> {
    /// The format is not configured: it is not offered, and refused where it comes all the same.
    #[default]
    NotTaken,
    /// It is configured, and what it needs could not be read: nothing of it can be decided.
    Unknown(String),
    /// What evidence of the format is held against.
    Known(T),
}

impl<T> Held<T> {
    /// The trust, where it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Held::Known(trust) => Some(trust),
            Held::NotTaken | Held::Unknown(_) => None,
        }
    }

    /// The trust. **Denies** `EvidenceFormatNotOffered`, `CollateralUnavailable`.
    pub fn get(&self, format: &str) -> Result<&T, Refusal> {
        self.get_or(format, Denial::CollateralUnavailable)
    }

    /// The trust. **Denies** `EvidenceFormatNotOffered`, and `unknown` where it could not be read.
    pub fn get_or(&self, format: &str, unknown: Denial) -> Result<&T, Refusal> {
        match self {
            Held::NotTaken => Err(Refusal::new(Denial::EvidenceFormatNotOffered, format!("`{format}`"))),
            Held::Unknown(why) => Err(Refusal::new(unknown, why.clone())),
            Held::Known(trust) => Ok(trust),
        }
    }
}

/// The trust of one moment.
#[derive(Clone, Default)]
pub struct Hardware {
    /// For `tpm2`: the enrolled keys.
    pub tpm2: Held<Tpm2Trust>,
    /// For the enrolment of those: the TPMs' manufacturers. No release rests on them.
    pub manufacturers: Held<Arc<Manufacturers>>,
    /// For `nitro`.
    pub nitro: Held<NitroTrust>,
    /// For `sev-snp`.
    pub sev_snp: Held<SevSnpTrust>,
    /// For `tdx`.
    pub tdx: Held<TdxTrust>,
}

/// What is kept of vendors' collateral beside what is configured, and where more of it is asked for.
pub trait Supply: Send + Sync {
    /// Asks for what these documents need that neither came along nor is held; it ends within its own bound, and gives what
    /// could not be had, each with the reason. None where nothing is missing. The documents are untrusted.
    fn supply<'a>(
        &'a self,
        identity: &'a SpiffeId,
        documents: &'a [Document],
        now: Now,
    ) -> Option<Supplying<'a>>;

    /// The configured trust, with what is held for one `sev-snp` document.
    fn sev_snp(&self, body: &[u8], now: Now) -> SevSnpTrust;

    /// The configured trust, with what is held for one `tdx` document.
    fn tdx(&self, body: &[u8], now: Now) -> TdxTrust;

    /// Swaps the configured trust, where it is known; what it does not vouch for is let go. Blocks.
    fn set_trust(&self, sev_snp: Option<SevSnpTrust>, tdx: Option<TdxTrust>);

    /// Changes whenever what is held may refuse what it did not refuse before.
    fn epoch(&self) -> u64;
}

/// See [`Supply::supply`].
pub type Supplying<'a> = Pin<Box<dyn Future<Output = Vec<String>> + Send + 'a>>;

impl Hardware {
    /// The formats that are configured and cannot be decided, and why.
    pub fn unknown(&self) -> Vec<(&'static str, String)> {
        fn why<T>(format: &'static str, held: &Held<T>) -> Option<(&'static str, String)> {
            match held {
                Held::Unknown(why) => Some((format, why.clone())),
                Held::NotTaken | Held::Known(_) => None,
            }
        }
        let all = [
            why(tpm2::FORMAT, &self.tpm2),
            why(tpm2::FORMAT, &self.manufacturers),
            why(nitro::FORMAT, &self.nitro),
            why(sev_snp::FORMAT, &self.sev_snp),
            why(tdx::FORMAT, &self.tdx),
        ];
        all.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_configured_is_not_taken_and_what_cannot_be_read_is_undecided() {
        let denial = |held: Held<()>| held.get("nitro").copied().map_err(|refusal| refusal.denial);
        assert_eq!(denial(Held::default()), Err(Denial::EvidenceFormatNotOffered));
        assert_eq!(denial(Held::Unknown("a file".into())), Err(Denial::CollateralUnavailable));
        assert_eq!(denial(Held::Known(())), Ok(()));
    }
}
