//! The Postgres of this test process, and its template database.
//!
//! It lives in a temporary folder, does not wait for the disk, and is guarded by the embedded server's lifeline: a
//! small shell that stops it and removes the folder once this process is gone, whichever way it went.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use oms::catalog_import::{read_rows, write_rows};
use oms::postgres::embedded::{EmbeddedOptions, EmbeddedServer, PORT, USER};
use sea_orm::{DatabaseConnection, SqlxPostgresConnector};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use uuid::Uuid;

/// What each test finds in its shop: the catalog of the demo.
const CATALOG: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../api/src/demo_catalog.csv"));

/// The database that each test's own is made from: the schema and the catalog.
pub(crate) const TEMPLATE: &str = "template_oms";

/// Every test process of a two-core machine together stays far below this.
const MAX_CONNECTIONS: u32 = 300;

/// A running cluster.
pub(crate) struct Cluster {
    options: PgConnectOptions,
    dir: PathBuf,
    /// Never dropped, since a static has no end of its own: the lifeline notices the end of the process.
    _server: EmbeddedServer,
}

/// Returns this process's cluster; the first caller starts it.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        // A thread of its own, because the caller's runtime may not be entered twice.
        std::thread::spawn(Cluster::start).join().expect("the tests need a Postgres; its reason is above")
    })
}

impl Cluster {
    fn start() -> Self {
        // The last digits of a UUIDv7 are its random ones.
        let random = Uuid::now_v7().simple().to_string();
        let dir = std::env::temp_dir().join(format!("oms-tests-{}-{}", std::process::id(), &random[24..]));
        let mut embedded = EmbeddedOptions::ephemeral(&dir);
        embedded.max_connections = MAX_CONNECTIONS;
        let settings = [
            // A hundred short-lived databases: nothing in them grows old enough to be vacuumed.
            ("autovacuum", "off"),
            ("max_wal_size", "256MB"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "0"),
        ];
        embedded.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let server = EmbeddedServer::join(&embedded).expect("Postgres starts");
        let options = PgConnectOptions::new_without_pgpass()
            .socket(server.socket_dir())
            .port(PORT)
            .username(USER)
            .database("postgres")
            .ssl_mode(PgSslMode::Disable);
        let cluster = Self { options, dir, _server: server };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime starts").block_on(cluster.make_template());
        cluster
    }

    async fn make_template(&self) {
        self.execute(format!("CREATE DATABASE {TEMPLATE}")).await;
        let pool = PgPoolOptions::new().max_connections(2).connect_with(self.connect_options(TEMPLATE)).await;
        let db = SqlxPostgresConnector::from_sqlx_postgres_pool(pool.expect("the template answers"));
        fill(&db).await;
        db.close().await.expect("the pool closes");
    }

    /// Makes a database that holds what `template` holds, and returns its name.
    pub(crate) async fn create_database(&self, template: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.execute(format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        self.open_door(&name);
        name
    }

    /// Removes a database, together with whoever is still connected to it.
    pub(crate) async fn drop_database(&self, name: &str) {
        self.execute(format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }

    /// Executes a statement on the cluster, outside of any test's database.
    pub(crate) async fn execute(&self, sql: String) {
        let mut connection = self.options.connect().await.expect("Postgres answers");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("Postgres does it");
        connection.close().await.expect("the connection closes");
    }

    pub(crate) fn connect_options(&self, database: &str) -> PgConnectOptions {
        self.options.clone().database(database)
    }

    /// URL of a database through its door, for the servers under test.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgresql:///{database}?host={}&user={USER}", self.door(database).display())
    }

    /// Opens a database's door: a folder of its own in which a link leads to the socket. Closing it is a lost network.
    pub(crate) fn open_door(&self, database: &str) {
        let socket = format!(".s.PGSQL.{PORT}");
        let door = self.door(database);
        std::fs::create_dir_all(&door).expect("the cluster's folder is ours");
        symlink(self.dir.join(&socket), door.join(&socket)).expect("the door was closed");
    }

    /// Closes a database's door; whoever is inside stays.
    pub(crate) fn close_door(&self, database: &str) {
        let link = self.door(database).join(format!(".s.PGSQL.{PORT}"));
        std::fs::remove_file(link).expect("the door was open");
    }

    fn door(&self, database: &str) -> PathBuf {
        self.dir.join("doors").join(database)
    }
}

/// Makes the schema and writes the catalog.
pub(crate) async fn fill(db: &DatabaseConnection) {
    migration::migrate(db).await.expect("the migrations run");
    let rows = read_rows(CATALOG.as_bytes()).expect("the demo catalog is well formed");
    write_rows(db, rows, |_| ()).await.expect("the demo catalog is written");
}
