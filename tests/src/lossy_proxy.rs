//! Stands between a process and Postgres, and loses the answer to a commit when it is told to, or everything.
//!
//! It takes the next commit that passes. Whoever wants to lose a particular one sees to it that no other passes: what may
//! commit besides has a connection that does not lead through here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use oms::postgres::embedded::{PORT, USER};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::database::TestDatabase;

/// How a driver writes COMMIT: a simple query, its length, its text (PostgreSQL manual, "Message Formats").
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// How the server says that it has done so, before it says that it is ready for the next query.
const COMMITTED: &[u8] = b"COMMIT\0";

/// A proxy of one Postgres socket.
#[derive(Debug)]
pub struct LossyProxy {
    dir: PathBuf,
    url: String,
    to_lose: Arc<AtomicU32>,
    hearing: watch::Sender<Hearing>,
    task: JoinHandle<()>,
}

/// What passes.
#[derive(Debug, Clone, Copy, Default)]
struct Hearing {
    /// Of connections that were opened while it was lower, nothing.
    since: u32,
    /// Of new ones, nothing.
    is_silent: bool,
}

impl LossyProxy {
    /// Starts one before the server of a database.
    ///
    /// # Panics
    /// The server has no socket.
    pub fn before(database: &TestDatabase) -> Self {
        let options: PgConnectOptions = database.url().parse().expect("our own URL");
        Self::start(options.get_socket().expect("a socket"), options.get_database().unwrap_or_default())
    }

    fn start(server_dir: &Path, database: &str) -> Self {
        let random = Uuid::now_v7().simple().to_string();
        let dir = std::env::temp_dir().join(format!("oms-proxy-{}-{}", std::process::id(), &random[20..]));
        std::fs::create_dir(&dir).expect("a fresh folder");
        let socket = format!(".s.PGSQL.{PORT}");
        let listener = UnixListener::bind(dir.join(&socket)).expect("a fresh socket");
        let to_lose = Arc::new(AtomicU32::new(0));
        let hearing = watch::Sender::default();
        let (server, losing, heard) = (server_dir.join(socket), to_lose.clone(), hearing.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, losing, hearing) = (server.clone(), losing.clone(), heard.subscribe());
                tokio::spawn(async move {
                    if let Ok(server) = UnixStream::connect(server).await {
                        // However it ends, both sides see a closed connection.
                        let _ = forward(client, server, &losing, hearing).await;
                    }
                });
            }
        });
        let url = format!("postgresql:///{database}?host={}&user={USER}", dir.display());
        Self { dir, url, to_lose, hearing, task }
    }

    /// URL of the database through this proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Loses the answer to the next commit: the server commits, and the connection breaks.
    pub fn lose_next_commit(&self) {
        self.to_lose.store(1, Ordering::SeqCst);
    }

    /// Lets nothing pass any more, and closes nothing: as when the server's host is gone from the network.
    pub fn go_silent(&self) {
        self.hearing.send_modify(|hearing| *hearing = Hearing { since: hearing.since + 1, is_silent: true });
    }

    /// Lets new connections pass again; those of before lead nowhere, and nobody tells.
    pub fn speak_to_newcomers(&self) {
        self.hearing.send_modify(|hearing| *hearing = Hearing { since: hearing.since + 1, is_silent: false });
    }

    /// Whether it has lost what it was told to.
    pub fn has_lost(&self) -> bool {
        self.to_lose.load(Ordering::SeqCst) == 0
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.task.abort();
        // What is left in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn forward(
    mut client: UnixStream,
    mut server: UnixStream,
    to_lose: &AtomicU32,
    mut hearing: watch::Receiver<Hearing>,
) -> io::Result<()> {
    let Hearing { since, is_silent } = *hearing.borrow_and_update();
    if is_silent {
        return std::future::pending().await;
    }
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            biased;
            // It fails when the proxy is gone.
            is_gone = async { hearing.wait_for(|hearing| hearing.since != since).await.is_err() } => {
                return if is_gone { Ok(()) } else { std::future::pending().await };
            }
            read = client.read(&mut asked) => {
                let bytes = &asked[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                server.write_all(bytes).await?;
                if contains(bytes, COMMIT) && take_one(to_lose) {
                    return await_commit(&mut server).await;
                }
            }
            read = server.read(&mut answered) => {
                let bytes = &answered[..read?];
                if bytes.is_empty() {
                    return Ok(());
                }
                client.write_all(bytes).await?;
            }
        }
    }
}

async fn await_commit(server: &mut UnixStream) -> io::Result<()> {
    let (mut answer, mut chunk) = (Vec::new(), [0; 1024]);
    while !contains(&answer, COMMITTED) {
        match server.read(&mut chunk).await? {
            0 => return Ok(()),
            read => answer.extend_from_slice(&chunk[..read]),
        }
    }
    Ok(())
}

fn take_one(to_lose: &AtomicU32) -> bool {
    to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn contains(bytes: &[u8], pattern: &[u8]) -> bool {
    bytes.windows(pattern.len()).any(|window| window == pattern)
}
