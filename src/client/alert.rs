//! The TLS alert by which a broker refuses our certificate. A client of TLS 1.3 is done before the server has judged, so the
//! alert comes with the first read; and of that, HTTP/2 keeps a text alone.
//!
//! *Takes* a TLS stream whose peer is verified. *Gives* the same stream, and [`CertificateRefused`] once its peer has said
//! so. *Denies* nothing itself. *Source*: RFC 8446 §4.4.2.4, §6.2; `protocol.md` "A refused handshake".

use super::error::CertificateRefused;
use rustls::AlertDescription;
use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What was heard of a refusal; a clone hears the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<OnceLock<CertificateRefused>>);

impl Heard {
    /// Why our certificate was refused, where it was.
    pub(crate) fn refusal(&self) -> Option<CertificateRefused> {
        self.0.get().copied()
    }

    /// The error of a request that got no answer: the refusal, where there was one, in place of "connection lost".
    pub(crate) fn or(&self, error: hyper::Error) -> Box<dyn Error + Send + Sync> {
        match self.refusal() {
            Some(refusal) => Box::new(refusal),
            None => Box::new(error),
        }
    }

    fn note(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::AlertReceived(alert)) = tls
            && let Some(refusal) = of_alert(*alert)
        {
            // The first word counts; there is no second in TLS.
            let _ = self.0.set(refusal);
        }
    }
}

/// The refusal that a status of our own side was made of.
pub(crate) fn refusal_in(status: &tonic::Status) -> Option<CertificateRefused> {
    status.source().and_then(|cause| cause.downcast_ref::<CertificateRefused>()).copied()
}

/// A byte stream that listens for the alert in whatever it carries.
pub(crate) struct Listening<S> {
    stream: S,
    heard: Heard,
    /// A write failed, and is told once everything is read that came before.
    failed: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Listening<S> {
    /// The stream, and where to ask what was heard.
    pub(crate) fn to(stream: S) -> (Self, Heard) {
        let heard = Heard::default();
        (Listening { stream, heard: heard.clone(), failed: None }, heard)
    }

    /// Writes. It may fail, as the peer has closed, before the alert was read that says why, and nobody else reads on after
    /// that. So the failure waits for the end of what there is to read, which has come as well, or is about to.
    fn write<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let failed = match self.failed.take() {
            Some(failed) => failed,
            None => match write(Pin::new(&mut self.stream), context) {
                Poll::Ready(Err(failed)) => failed,
                outcome => return outcome,
            },
        };
        if self.read_on(context).is_pending() {
            self.failed = Some(failed);
            return Poll::Pending;
        }
        Poll::Ready(Err(failed))
    }

    fn read_on(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; READ_ON_BYTES];
        for _ in 0..READ_ON_TIMES {
            let mut buffer = ReadBuf::new(&mut bytes);
            match std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => break,
                Ok(()) => {}
                Err(error) => {
                    self.heard.note(&error);
                    break;
                }
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Listening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &outcome {
            self.heard.note(error);
        }
        outcome
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Listening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(context, AsyncWrite::poll_shutdown)
    }
}

/// The alerts with which a broker refuses a certificate. Any other ends a connection and says nothing of us.
fn of_alert(alert: AlertDescription) -> Option<CertificateRefused> {
    Some(match alert {
        AlertDescription::CertificateRevoked => CertificateRefused::Revoked,
        AlertDescription::CertificateExpired => CertificateRefused::OutOfTime,
        AlertDescription::UnknownCA => CertificateRefused::IssuerUnknown,
        AlertDescription::BadCertificate => CertificateRefused::Malformed,
        AlertDescription::AccessDenied => CertificateRefused::AccessDenied,
        _ => return None,
    })
}

/// What a peer had under way when it refused: a SETTINGS frame of some 50 bytes at most; this is ample.
const READ_ON_BYTES: usize = 4 * 1024;
const READ_ON_TIMES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Reads what it is told to, the last first; none: not yet. Writing fails.
    struct Closed(Vec<Option<io::Result<&'static [u8]>>>);

    impl AsyncRead for Closed {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.0.pop() {
                Some(Some(Ok(bytes))) => buffer.put_slice(bytes),
                Some(Some(Err(error))) => return Poll::Ready(Err(error)),
                Some(None) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => {}
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn alert(alert: AlertDescription) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, rustls::Error::AlertReceived(alert))
    }

    #[tokio::test]
    async fn each_alert_about_a_certificate_is_heard_and_no_other() {
        for (description, expected) in [
            (AlertDescription::CertificateRevoked, Some(CertificateRefused::Revoked)),
            (AlertDescription::CertificateExpired, Some(CertificateRefused::OutOfTime)),
            (AlertDescription::UnknownCA, Some(CertificateRefused::IssuerUnknown)),
            (AlertDescription::BadCertificate, Some(CertificateRefused::Malformed)),
            (AlertDescription::AccessDenied, Some(CertificateRefused::AccessDenied)),
            (AlertDescription::InternalError, None),
            (AlertDescription::HandshakeFailure, None),
            (AlertDescription::CloseNotify, None),
        ] {
            let (mut stream, heard) = Listening::to(Closed(vec![Some(Err(alert(description)))]));
            assert_eq!(heard.refusal(), None);
            assert!(stream.read_u8().await.is_err());
            assert_eq!(heard.refusal(), expected, "{description:?}");
        }
    }

    #[tokio::test]
    async fn an_alert_that_a_failed_write_overtook_is_heard() {
        let late = || {
            let alert = Some(Err(alert(AlertDescription::CertificateRevoked)));
            vec![alert, None, Some(Ok(&b"settings"[..])), None]
        };
        let (mut stream, heard) = Listening::to(Closed(late()));
        assert_eq!(stream.write_u8(1).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(heard.refusal(), Some(CertificateRefused::Revoked));
        let (mut stream, heard) = Listening::to(Closed(late()));
        assert!(stream.flush().await.is_err());
        assert_eq!(heard.refusal(), Some(CertificateRefused::Revoked));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_without_an_alert_is_no_refusal() {
        let (mut stream, heard) =
            Listening::to(Closed(vec![Some(Err(io::ErrorKind::ConnectionReset.into())), None]));
        assert!(stream.write_u8(1).await.is_err());
        assert_eq!(heard.refusal(), None);
        let (mut stream, heard) = Listening::to(Closed(vec![]));
        assert!(stream.write_u8(1).await.is_err() && stream.read_u8().await.is_err());
        assert_eq!(heard.refusal(), None);
    }
}
