//! The store: ciphertext below, zeroized plaintext above.
