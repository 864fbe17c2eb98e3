//! The challenge stage: a nonce of this stream alone, and the binding that evidence must carry.

pub mod binding;
