//! How messages go over gRPC: by prost, out of small buffers.
//!
//! *Takes* messages. *Gives* bytes, and back. *Denies* nothing. *Source*: gRPC over HTTP/2.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// As `tonic_prost::ProstCodec`, with buffers of one usual message. Its own of 8 KiB in each direction are most of what a held
/// stream would cost; larger messages make a buffer grow as they need.
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        SmallCodec(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::new(settings())
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstDecoder::new(settings())
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// A message of a release, the largest of them some 900 bytes.
const BUFFER_BYTES: usize = 1024;
/// Bytes after which what is encoded is handed on; tonic's own figure.
const YIELD_BYTES: usize = 32 * 1024;
