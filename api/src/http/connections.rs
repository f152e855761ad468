//! Accepts connections, and serves HTTP/1.1 over them until it is told to stop.
//!
//! A client has a bounded time for the head of a request, so that whoever sends one byte after another holds a connection no
//! longer than that. It runs from the head's first byte, and for a connection's first head from its beginning. Between
//! requests a connection may be silent for [longer](IDLE_TIMEOUT).

use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// How long a connection may be silent between two requests. Longer than the minute after which common proxies let go of
/// theirs: a connection that we close first may be closed under a request that is on its way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long to wait where no connection can be accepted, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves the routes. When `stop` fires it accepts no more, and returns when the requests in flight are answered. Dropping it
/// closes every connection but those that have become WebSockets.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_one(stream, router.clone(), header_timeout, stop.clone()));
                }
                // The client has left before it was its turn.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn serve_one(stream: TcpStream, router: Router, header_timeout: Duration, stop: CancellationToken) {
    let clock = Arc::new(HeadClock::default());
    let seen = Arc::clone(&clock);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            seen.note_bytes();
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(HeadTimer { clock, header_timeout }).header_read_timeout(header_timeout);
    let service = TowerToHyperService::new(router);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection has ended badly");
    }
}

/// When the first byte of the head came that is being waited for.
#[derive(Debug, Default)]
struct HeadClock(Mutex<Head>);

#[derive(Debug, Default, Clone, Copy)]
struct Head {
    /// Whether it is the connection's first.
    is_later: bool,
    first_byte_at: Option<Instant>,
}

impl HeadClock {
    fn lock(&self) -> std::sync::MutexGuard<'_, Head> {
        // Held for a look or a write.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_bytes(&self) {
        self.lock().first_byte_at.get_or_insert_with(Instant::now);
    }

    /// Begins to wait for another head, and returns when the wait is over if no byte of it comes.
    fn begin(&self, now: Instant, header_timeout: Duration) -> Instant {
        let mut head = self.lock();
        head.first_byte_at = None;
        match std::mem::replace(&mut head.is_later, true) {
            true => now + IDLE_TIMEOUT,
            false => now + header_timeout,
        }
    }
}

/// The timer of one connection. The library asks it for one thing alone: to wait for the head of a request.
#[derive(Debug)]
struct HeadTimer {
    clock: Arc<HeadClock>,
    header_timeout: Duration,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    /// What the library names is the header timeout from now on; the end may be later or, once a byte comes, sooner.
    fn sleep_until(&self, _deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let deadline = self.clock.begin(Instant::now(), self.header_timeout);
        let sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
        let (clock, header_timeout) = (Arc::clone(&self.clock), self.header_timeout);
        Box::pin(HeadSleep { clock, header_timeout, sleep, deadline })
    }
}

/// Waits until a head has taken too long.
#[derive(Debug)]
struct HeadSleep {
    clock: Arc<HeadClock>,
    header_timeout: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
    deadline: Instant,
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    /// Is polled whenever bytes have come that do not complete the head.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let first_byte_at = self.clock.lock().first_byte_at;
        let from_first_byte = first_byte_at.map(|at| at + self.header_timeout);
        if let Some(sooner) = from_first_byte.filter(|sooner| *sooner < self.deadline) {
            self.deadline = sooner;
            self.sleep.as_mut().reset(sooner.into());
        }
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_head_is_expected_at_once_and_later_ones_when_they_begin() {
        let (clock, now) = (HeadClock::default(), Instant::now());
        let header_timeout = Duration::from_secs(1);
        assert_eq!(clock.begin(now, header_timeout), now + header_timeout);
        clock.note_bytes();
        assert!(clock.lock().first_byte_at.is_some());
        assert_eq!(clock.begin(now, header_timeout), now + IDLE_TIMEOUT);
        assert_eq!(clock.lock().first_byte_at, None, "those were another head's");
    }
}
