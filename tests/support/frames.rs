//! The frames that the broker sent, as they stood on the wire (RFC 9113 §4.1).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const GOAWAY: u8 = 7;
/// Of RST_STREAM: what gRPC libraries and proxies send again by themselves.
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A response's end: the status alone, or trailers.
    pub fn is_status_of(&self, stream: u32) -> bool {
        self.kind == HEADERS && self.stream == stream && self.flags & END_STREAM != 0
    }

    /// The number at `at` of the payload: the error code of RST_STREAM at 0; of GOAWAY the last stream at 0.
    pub fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

/// All that was read through a [`Tap`].
#[derive(Clone, Default)]
pub struct Tapped(Arc<Mutex<Vec<u8>>>);

impl Tapped {
    /// The whole frames, in order.
    pub fn frames(&self) -> Vec<Frame> {
        let bytes = self.0.lock().unwrap();
        let (mut rest, mut frames) = (bytes.as_slice(), Vec::new());
        while rest.len() >= HEADER {
            let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
            let Some(payload) = rest.get(HEADER..HEADER + length) else { break };
            let stream = u32::from_be_bytes(rest[5..HEADER].try_into().unwrap()) & LAST_STREAM;
            frames.push(Frame { kind: rest[3], flags: rest[4], stream, payload: payload.to_vec() });
            rest = &rest[HEADER + length..];
        }
        frames
    }
}

/// A stream whose reader is listened to.
pub struct Tap<S> {
    pub inner: S,
    pub tapped: Tapped,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.tapped.0.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

const HEADER: usize = 9;
const END_STREAM: u8 = 1;
/// Stream ids have 31 bits.
const LAST_STREAM: u32 = u32::MAX >> 1;
