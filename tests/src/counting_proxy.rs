//! Stands between a program and Postgres, and counts the statements that pass.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oms::postgres::embedded::{PORT, USER};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::database::TestDatabase;

/// The body of a message that asks for TLS.
const WANTS_TLS: [u8; 4] = 80_877_103_u32.to_be_bytes();

/// A proxy of one Postgres socket.
#[derive(Debug)]
pub struct CountingProxy {
    dir: PathBuf,
    url: String,
    statements: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl CountingProxy {
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
        let dir = std::env::temp_dir().join(format!("oms-count-{}-{}", std::process::id(), &random[20..]));
        std::fs::create_dir(&dir).expect("a fresh folder");
        let socket = format!(".s.PGSQL.{PORT}");
        let listener = UnixListener::bind(dir.join(&socket)).expect("a fresh socket");
        let statements = Arc::new(AtomicU64::new(0));
        let (server, counted) = (server_dir.join(socket), statements.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counted) = (server.clone(), counted.clone());
                tokio::spawn(async move {
                    if let Ok(server) = UnixStream::connect(server).await {
                        // However it ends, both sides see a closed connection.
                        let _ = forward(client, server, &counted).await;
                    }
                });
            }
        });
        let url = format!("postgresql:///{database}?host={}&user={USER}", dir.display());
        Self { dir, url, statements, task }
    }

    /// The URL of the database, by way of this proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many statements have passed: simple queries, and executions of prepared ones.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        self.task.abort();
        // What stays behind is a folder among the temporary files.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn forward(client: UnixStream, server: UnixStream, counted: &AtomicU64) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let back = tokio::io::copy(&mut from_server, &mut to_client);
    let there = async {
        // Messages at the beginning have no type (PostgreSQL manual, "Message Formats"): one that asks for TLS, which
        // a Unix socket does not have, and the one that names the user.
        while pass(&mut from_client, &mut to_server).await? == WANTS_TLS {}
        loop {
            let kind = from_client.read_u8().await?;
            if matches!(kind, b'Q' | b'E') {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            to_server.write_u8(kind).await?;
            pass(&mut from_client, &mut to_server).await?;
        }
    };
    tokio::select! {
        ended = back => ended.map(drop),
        ended = there => ended,
    }
}

/// Passes on a length and as much as it says, itself included; returns what followed it.
async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let mut body = vec![0; length.saturating_sub(4) as usize];
    from.read_exact(&mut body).await?;
    to.write_u32(length).await?;
    to.write_all(&body).await?;
    to.flush().await?;
    Ok(body)
}
