//! The threads that serve connections: each has a runtime of its own, and a connection stays where it was put.
//!
//! *Takes* connections. *Gives* each to the thread with the fewest. *Denies* nothing itself. *Source*: measured: on a
//! work-stealing runtime every step of a request wakes a second thread to look for work, 11 context switches a release
//! against 5 here; RFC 9113 §5 (all of a connection's streams share its order of frames anyway).

use crate::limits;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A thread for each processor. Dropped, the threads end, and what still runs on them ends with them.
pub struct Shards(Vec<Shard>);

struct Shard {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    /// Dropped to end the thread.
    _until: oneshot::Sender<()>,
}

impl Shards {
    /// Starts a thread for each processor that this process may use.
    pub fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(limits::SHARDS);
        (0..count).map(Shard::start).collect::<io::Result<_>>().map(Shards)
    }

    /// Connections that are served now.
    pub fn connections(&self) -> usize {
        let each = self.0.iter().map(|shard| shard.connections.load(Ordering::Relaxed));
        each.fold(0, usize::saturating_add)
    }

    /// Runs what `make` makes on the thread with the fewest connections. `make` is called there, so that what it makes
    /// (sockets, timers) belongs to that thread.
    pub(super) fn spawn<F>(&self, tasks: &mut JoinSet<()>, make: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.0.iter().min_by_key(|shard| shard.connections.load(Ordering::Relaxed));
        let Some(shard) = fewest else { return };
        let counted = Counted::new(&shard.connections);
        let task = async move {
            let _counted = counted;
            make().await;
        };
        tasks.spawn_on(task, &shard.handle);
    }
}

impl Shard {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (until, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("connections-{number}"))
            // Requests are decided here, and a policy's depth is a stack's depth.
            .stack_size(limits::DECIDING_STACK_BYTES)
            .spawn(move || {
                runtime.spawn(tick());
                // An error says that the sender is gone, which is the sign to end.
                let _ended = runtime.block_on(ended);
                runtime.shutdown_background();
            })?;
        Ok(Shard { handle, connections: Arc::default(), _until: until })
    }
}

/// Keeps a timer set that ends before any that a request sets: one that is set to end first costs a system call, to tell a
/// poll under way (measured: two a release).
async fn tick() {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::SHARD_TICK_MS)).await;
    }
}

/// One connection of a shard, for as long as it lasts.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Counted(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn connections_go_where_the_fewest_are_and_stay_there() {
        let shards = Shards((0..2).map(|number| Shard::start(number).unwrap()).collect());
        let (mut tasks, mut names, mut ends) = (JoinSet::new(), Vec::new(), Vec::new());
        for _ in 0..4 {
            let (said, says) = oneshot::channel();
            let (end, until) = oneshot::channel::<()>();
            shards.spawn(&mut tasks, move || {
                let before = name();
                async move {
                    tokio::task::yield_now().await;
                    said.send((before, name())).unwrap();
                    let _ = until.await;
                }
            });
            let (before, after) = says.await.unwrap();
            assert_eq!(before, after);
            names.push(after);
            ends.push(end);
        }
        let on_first = names.iter().filter(|name| name.as_str() == "connections-0").count();
        assert_eq!((on_first, names.len()), (2, 4), "{names:?}");
        drop(ends);
        while tasks.join_next().await.is_some() {}
        assert!(shards.0.iter().all(|shard| shard.connections.load(Ordering::Relaxed) == 0));
    }

    #[tokio::test]
    async fn a_defect_on_one_connection_leaves_its_thread_serving() {
        let shards = Shards(vec![Shard::start(0).unwrap()]);
        let mut tasks = JoinSet::new();
        shards.spawn(&mut tasks, || async { panic!("a defect") });
        assert!(tasks.join_next().await.unwrap().unwrap_err().is_panic());
        let (said, says) = oneshot::channel();
        shards.spawn(&mut tasks, || async move { said.send(name()).unwrap() });
        assert_eq!(says.await.unwrap(), "connections-0");
    }
}
