//! What no code of ours can take away: two round trips on a socket and one durable record, with nothing in between.
//!
//! A release reads twice, answers twice, and waits for one record to be on disk, written by another thread. At one caller
//! nothing is shared with a neighbour: each step wakes a thread from idleness, and each sync is for one record. This is the
//! CPU that the same steps take in a server that does nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

/// Microseconds of CPU in the server's two threads for one such exchange, begun this far apart.
pub fn microseconds(directory: &Path, pace: Duration) -> f64 {
    let (records, written) = mpsc::channel::<oneshot::Sender<()>>();
    let file = zeros(&directory.join("floor"));
    let writer = std::thread::spawn(move || {
        let begun = cpu_ns();
        for (record, done) in written.iter().enumerate() {
            file.write_all_at(&[7; RECORD], (record * RECORD) as u64).unwrap();
            file.sync_data().unwrap();
            let _ = done.send(());
        }
        cpu_ns() - begun
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (stream, _) = listener.accept().unwrap();
        let begun = cpu_ns();
        runtime.block_on(serve(stream, records));
        cpu_ns() - begun
    });
    call(address, pace);
    (server.join().unwrap() + writer.join().unwrap()) as f64 / ROUNDS as f64 / 1000.0
}

async fn serve(stream: TcpStream, records: mpsc::Sender<oneshot::Sender<()>>) {
    stream.set_nonblocking(true).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..ROUNDS {
        stream.read_exact(&mut buffer[..OPEN]).await.unwrap();
        stream.write_all(&buffer[..CHALLENGE]).await.unwrap();
        stream.read_exact(&mut buffer[..EVIDENCE]).await.unwrap();
        let (done, durable) = oneshot::channel();
        records.send(done).unwrap();
        durable.await.unwrap();
        stream.write_all(&buffer[..RELEASED]).await.unwrap();
    }
}

fn call(address: std::net::SocketAddr, pace: Duration) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let begun = super::nanoseconds();
    for round in 0..ROUNDS {
        let due = begun + pace.as_nanos() as u64 * round;
        std::thread::sleep(Duration::from_nanos(due.saturating_sub(super::nanoseconds())));
        stream.write_all(&buffer[..OPEN]).unwrap();
        stream.read_exact(&mut buffer[..CHALLENGE]).unwrap();
        stream.write_all(&buffer[..EVIDENCE]).unwrap();
        stream.read_exact(&mut buffer[..RELEASED]).unwrap();
    }
}

/// As the log has it: space written before, so that a sync writes data alone.
fn zeros(path: &Path) -> std::fs::File {
    let file = std::fs::File::create(path).unwrap();
    file.write_all_at(&vec![0; RECORD * ROUNDS as usize], 0).unwrap();
    file.sync_all().unwrap();
    file
}

/// Nanoseconds of CPU that this thread has had.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

const ROUNDS: u64 = 2_000;
/// Bytes on the wire of each step of a release of one secret, TLS and HTTP/2 included, as measured.
pub const OPEN: usize = 260;
pub const CHALLENGE: usize = 330;
pub const EVIDENCE: usize = 880;
pub const RELEASED: usize = 420;
/// A record of such a release, bytes.
const RECORD: usize = 2_000;
