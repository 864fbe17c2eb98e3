//! What the service manager is told: ready, stopping, still alive.
//!
//! *Takes* `NOTIFY_SOCKET` and `WATCHDOG_USEC`. *Gives* datagrams. *Denies* nothing: without a manager, nobody is told.
//! *Source*: sd_notify(3), "Standalone Implementations"; systemd.service(5) `WatchdogSec=`.

use crate::telemetry::Telemetry;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

/// Tells the manager `state`, where there is one. A manager that cannot be told is said once in the log.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, state, "the service manager could not be told");
    }
}

/// Tells it that the broker lives, for as long as it does: a thread that hangs lets the watchdog end the process.
pub async fn watchdog(telemetry: Arc<Telemetry>) {
    let asked = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
    let Some(microseconds) = asked.filter(|microseconds| *microseconds > 0) else { return };
    // Twice as often as it must be, as sd_watchdog_enabled(3) advises.
    let pause = Duration::from_micros(microseconds / 2);
    loop {
        match telemetry.lives() {
            Ok(()) => tell("WATCHDOG=1"),
            Err(thread) => {
                tracing::error!(thread, "does not answer: the watchdog is not told that all is well")
            }
        }
        tokio::time::sleep(pause).await;
    }
}

fn send(socket: &OsString, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().split_first() {
        Some((b'@', name)) => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
