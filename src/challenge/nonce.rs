//! The nonce: 32 fresh random bytes that live in one stream's memory and die with it.

use crate::denial::Denial;
use crate::limits;

/// A challenge's nonce. It is not `Clone`, is kept in no table, and so cannot be accepted twice.
pub struct Nonce([u8; limits::NONCE_BYTES]);

impl Nonce {
    /// Draws one. **Denies** `Defect` where the system gives no randomness: a predictable nonce is none.
    pub fn draw() -> Result<Nonce, Denial> {
        let mut bytes = [0; limits::NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Denial::Defect)?;
        Ok(Nonce(bytes))
    }

    /// The 32 bytes, for the wire and the binding.
    pub fn as_bytes(&self) -> &[u8; limits::NONCE_BYTES] {
        &self.0
    }
}
