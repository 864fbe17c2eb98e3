//! SIGTERM and SIGINT: whoever runs a broker asks it to end.
//!
//! *Takes* nothing. *Gives* [`Signals`]. *Denies* nothing. *Source*: signal(7); sd_notify(3), "READY=1": from then on a signal is
//! answered by a drain.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Heard from [`Signals::listen`] on: one that comes before anybody waits is kept. Until then they end the process, as a start
/// that hangs should be ended.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to hear. Say that you are ready after it, never before.
    pub fn listen() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Signals { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits until one of them came.
    pub async fn asked_to_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
