//! Accepts connections, and serves HTTP/1.1 over them until it is told to stop.
//!
//! A client has a bounded time for the head of a request, so that whoever sends one byte after another holds a connection no
//! longer than that. It runs from the head's first byte, and for a connection's first head from its beginning. Between
//! requests a connection may be silent for [longer](IDLE_TIMEOUT) once a good credential was shown over it, and for
//! [a while](IDLE_TIMEOUT_OF_STRANGERS) until then. Whoever does not take what is written is [given up](Impatient).
//!
//! So many connections are open at a time, WebSockets among them; those beyond wait to be accepted, where the system keeps
//! them, until another one ends. One address has a part of them at most: those beyond are closed, so that nobody takes all of
//! them.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::time::Instant as StdInstant;

use axum::Router;
use axum::response::Response;
use hyper::rt::{Sleep, Timer};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::io::InspectReader;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::impatient::Impatient;
use crate::access::address::Address;
use crate::config::ConnectionArgs;
use crate::telemetry::chain;

/// How long a connection may be silent between two requests. Longer than the minute after which common proxies let go of
/// theirs: a connection that we close first may be closed under a request that is on its way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// The same before a good credential was shown: for a browser's next request, and a pause between two looks at whether we are
/// alive.
const IDLE_TIMEOUT_OF_STRANGERS: Duration = Duration::from_secs(15);

/// How long to wait where no connection can be accepted, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of a head that are read before it is complete; what comes with the last of them may go beyond. Room for a credential of
/// 8 kB and a query in the URL.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How long the last words of an answer may take whose client is shut out.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Belongs to an answer that goes on: when it fires, the connection is closed even if the client takes nothing of it.
#[derive(Debug, Clone)]
pub(super) struct ShutOut(pub(super) CancellationToken);

/// The connection that a request has come over: among the request's extensions.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// The address at its other end.
    pub(super) peer: IpAddr,
    is_trusted: Arc<AtomicBool>,
}

impl Connection {
    fn new(peer: IpAddr) -> Self {
        Self { peer, is_trusted: Arc::default() }
    }

    /// Notes that a good credential was shown over it.
    pub(super) fn trust(&self) {
        self.is_trusted.store(true, Ordering::Relaxed);
    }

    fn idle_timeout(&self) -> Duration {
        match self.is_trusted.load(Ordering::Relaxed) {
            true => IDLE_TIMEOUT,
            false => IDLE_TIMEOUT_OF_STRANGERS,
        }
    }
}

/// How many connections each address has open.
#[derive(Debug, Clone)]
struct Addresses {
    max: u32,
    /// Without those that have none.
    open: Arc<Mutex<HashMap<Address, u32>>>,
}

/// One of an address's connections, for as long as it lives.
#[derive(Debug)]
struct PlaceOfAddress {
    address: Address,
    addresses: Addresses,
}

impl Addresses {
    fn new(max: u32) -> Self {
        Self { max, open: Arc::default() }
    }

    /// Counts another one; `None` where there are too many.
    fn take(&self, address: Address) -> Option<PlaceOfAddress> {
        let mut open = self.lock();
        let count = open.entry(address).or_default();
        // One that has none has room: the most is at least one.
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(PlaceOfAddress { address, addresses: self.clone() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Address, u32>> {
        // Held for a look and a write.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PlaceOfAddress {
    fn drop(&mut self) {
        let mut open = self.addresses.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Serves the routes. When `stop` fires it accepts no more, and returns when the requests in flight are answered. Dropping it
/// closes every connection but those that have become WebSockets.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionArgs,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.max_connections as usize));
    let addresses = Addresses::new(limits.max_connections_per_address());
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed; were it, there would be no bound.
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            listener.accept().await.map(|(stream, peer)| (stream, peer.ip(), place))
        };
        tokio::select! {
            accepted = accept => match accepted {
                Ok((stream, peer, place)) => match addresses.take(Address::of(peer)) {
                    Some(of_address) => {
                        // Given back in this order: whoever is accepted for the place finds that of the address free.
                        let places = (of_address, place);
                        let stream = Impatient::new(stream, limits.write_timeout(), places);
                        let connection = Connection::new(peer);
                        let (router, stop) = (router.clone(), stop.clone());
                        connections.spawn(serve_one(stream, connection, router, limits.header_timeout(), stop));
                    }
                    // Not one of the first: those go on.
                    None => debug!(%peer, "closed a connection of an address that has too many"),
                },
                // The client has left before it was its turn.
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    warn!(error = chain(&error), "cannot accept a connection");
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

async fn serve_one<S>(
    stream: S,
    peer: Connection,
    router: Router,
    header_timeout: Duration,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let clock = Arc::new(HeadClock::new(peer.clone()));
    let seen = Arc::clone(&clock);
    let stream = InspectReader::new(stream, move |bytes: &[u8]| {
        if !bytes.is_empty() {
            seen.note_bytes();
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(HeadTimer { clock, header_timeout }).header_read_timeout(header_timeout);
    builder.max_buf_size(MAX_HEAD_BYTES);
    let (shut_out, is_shut_out) = watch::channel(None);
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let (answering, shut_out) = (routes.call(request), shut_out.clone());
        async move {
            let mut answer: Response = answering.await?;
            shut_out.send_replace(answer.extensions_mut().remove::<ShutOut>());
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = wait_until_shut_out(is_shut_out) => {
            // No other request may follow, which would be cut off.
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_WORDS, connection).await {
                Ok(ended) => ended,
                Err(_) => return debug!("closed the connection of a client that is shut out"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(error = chain(&error), "a connection has ended badly");
    }
}

/// Waits until the client is shut out of what it is being answered.
async fn wait_until_shut_out(mut answers: watch::Receiver<Option<ShutOut>>) {
    loop {
        let answer = answers.borrow_and_update().clone();
        let fires = async {
            match answer {
                Some(ShutOut(token)) => token.cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = fires => return,
            changed = answers.changed() => if changed.is_err() {
                // Nothing more will be answered: what is on its way ends by itself.
                std::future::pending::<()>().await;
            },
        }
    }
}

/// Until when the head has to be there that is being waited for.
#[derive(Debug)]
struct HeadClock {
    connection: Connection,
    head: Mutex<Head>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Head {
    /// Heads that have been waited for, this one included.
    count: u64,
    first_byte_at: Option<Instant>,
}

impl HeadClock {
    fn new(connection: Connection) -> Self {
        Self { connection, head: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Head> {
        // Held for a look or a write.
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_bytes(&self) {
        self.lock().first_byte_at.get_or_insert_with(Instant::now);
    }

    /// Begins to wait for another head, and returns when the wait is over if no byte of it comes.
    fn begin(&self, now: Instant, header_timeout: Duration) -> Instant {
        let mut head = self.lock();
        head.first_byte_at = None;
        head.count += 1;
        if head.count > 1 { now + self.connection.idle_timeout() } else { now + header_timeout }
    }

    /// Returns when the wait is over for a head that has begun to come. The connection's first is waited for from the
    /// connection's beginning, whenever it begins.
    fn end_of_begun(&self, header_timeout: Duration) -> Option<Instant> {
        let head = *self.lock();
        head.first_byte_at.filter(|_| head.count > 1).map(|at| at + header_timeout)
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
        self.sleep_until(StdInstant::now() + duration)
    }

    /// What the library names is the header timeout from now on; the end is another one, and once a byte comes again another.
    fn sleep_until(&self, _deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        let deadline = self.clock.begin(Instant::now(), self.header_timeout);
        let sleep = Box::pin(tokio::time::sleep_until(deadline));
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
        let deadline = self.clock.end_of_begun(self.header_timeout);
        if let Some(deadline) = deadline.filter(|deadline| *deadline != self.deadline) {
            self.deadline = deadline;
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use futures_util::{FutureExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    fn stranger() -> Connection {
        Connection::new(IpAddr::from([192, 0, 2, 1]))
    }

    fn trusted() -> Connection {
        let connection = stranger();
        connection.trust();
        connection
    }

    #[test]
    fn a_connection_without_a_good_credential_is_silent_for_a_shorter_time() {
        let (connection, now) = (stranger(), Instant::now());
        let clock = HeadClock::new(connection.clone());
        assert_eq!(clock.begin(now, HEADER_TIMEOUT), now + HEADER_TIMEOUT);
        assert_eq!(clock.begin(now, HEADER_TIMEOUT), now + IDLE_TIMEOUT_OF_STRANGERS);
        connection.trust();
        assert_eq!(clock.begin(now, HEADER_TIMEOUT), now + IDLE_TIMEOUT);
    }

    #[test]
    fn an_address_has_its_part_and_gives_it_back() {
        let addresses = Addresses::new(2);
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(|address| Address::of(address.into()));
        let held = [addresses.take(one), addresses.take(one)];
        assert!(held.iter().all(Option::is_some));
        assert!(addresses.take(one).is_none());
        assert!(addresses.take(other).is_some());
        drop(held);
        assert!(addresses.take(one).is_some());
        assert!(addresses.lock().is_empty());
    }

    #[test]
    fn the_first_head_is_expected_at_once_and_later_ones_when_they_begin() {
        let (clock, now) = (HeadClock::new(trusted()), Instant::now());
        assert_eq!(clock.begin(now, HEADER_TIMEOUT), now + HEADER_TIMEOUT);
        clock.note_bytes();
        assert_eq!(clock.end_of_begun(HEADER_TIMEOUT), None, "the wait has begun with the connection");
        assert_eq!(clock.begin(now, HEADER_TIMEOUT), now + IDLE_TIMEOUT);
        assert_eq!(clock.end_of_begun(HEADER_TIMEOUT), None, "those bytes were another head's");
        clock.note_bytes();
        assert!(clock.end_of_begun(HEADER_TIMEOUT).is_some_and(|end| end >= now + HEADER_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_however_late_that_comes() {
        let clock = Arc::new(HeadClock::new(trusted()));
        let timer = HeadTimer { clock: Arc::clone(&clock), header_timeout: HEADER_TIMEOUT };
        for first_byte_after in [Duration::from_secs(3), IDLE_TIMEOUT - Duration::from_secs(1)] {
            drop(timer.sleep(HEADER_TIMEOUT));
            let mut wait = timer.sleep(HEADER_TIMEOUT);
            tokio::time::advance(first_byte_after).await;
            clock.note_bytes();
            assert!(wait.as_mut().now_or_never().is_none());
            let begun = Instant::now();
            wait.await;
            // The timer counts in milliseconds.
            let waited = begun.elapsed().as_secs_f64();
            assert!((10.0..10.01).contains(&waited), "{first_byte_after:?}: {waited}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_shut_out_is_closed_even_if_it_takes_nothing() {
        let token = CancellationToken::new();
        let shut_out = ShutOut(token.clone());
        let endless = stream::repeat(Ok::<_, std::convert::Infallible>("again and again"));
        let answer = async move || {
            let mut answer = Response::new(Body::from_stream(endless));
            answer.extensions_mut().insert(shut_out);
            answer
        };
        let router = Router::new().route("/", get(answer));
        let (server, mut client) = tokio::io::duplex(1_000);
        client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("a request");
        let serving =
            tokio::spawn(serve_one(server, stranger(), router, HEADER_TIMEOUT, CancellationToken::new()));
        client.read_exact(&mut [0; 10]).await.expect("the answer has begun");
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!serving.is_finished());
        token.cancel();
        let begun = Instant::now();
        serving.await.expect("no panic");
        assert!(begun.elapsed() < LAST_WORDS * 2);
    }
}
