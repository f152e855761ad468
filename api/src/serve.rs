//! Puts a serving process together, and takes it apart again in order.
//!
//! Starting: claim the data folder and bind the port (both quick, both the usual reasons to fail), start Postgres,
//! migrate, seed, start the runner, answer HTTP. Stopping is the reverse: what comes in stops first, the database
//! last.
//!
//! The tests and the demo start it in their own process, as `oms serve` does.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use domain::app::key::{NewKey, Secret};
use domain::app::{Scopes, store};
use domain::catalog;
use domain::id::local_app;
use domain::money::Currency;
use saga::engine::{Definitions, Presence, Runner, Wakeups};
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::access::door::Door;
use crate::access::jwt::TokenVerifier;
use crate::app::{App, AppSettings};
use crate::config::{ConnectionArgs, GatewayArgs, ServeArgs, is_loopback};
use crate::http::RenderMetrics;
use crate::postgres::{self, Database, PoolSettings};
use crate::reader::Reader;
use crate::reader::replica::Replica;
use crate::{catalog_import, http, telemetry};

/// What a fresh embedded database is filled with.
pub(crate) const DEMO_CATALOG: &str = include_str!("demo_catalog.csv");

/// What a part gets beyond the drain time, to write down what it has drained.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// How long closing a pool may take once its users were told to stop; a viewer may still hold a connection.
const POOL_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A serving process. End it with [`stop`](Self::stop); dropping it aborts what is in flight.
#[derive(Debug)]
pub struct Running {
    addr: Option<SocketAddr>,
    metrics_addr: Option<SocketAddr>,
    db: DatabaseConnection,
    /// Reads orders; none for a runner alone.
    reader: Option<Reader>,
    /// In the order in which they stop: requests may wait for the runner, the runner waits for no request.
    parts: Vec<Part>,
    drain: Duration,
    /// Tasks that hold nothing worth draining: wake-ups between processes, the embedded server's life, the look-out for
    /// the replica, the upkeep of the metrics and their listener.
    helpers: Vec<AbortOnDropHandle<()>>,
    first_key: Option<Secret>,
    /// The last field, so that it is dropped after everything that uses it.
    database: Database,
}

/// One part of the process, which runs until its token is canceled.
#[derive(Debug)]
struct Part {
    name: &'static str,
    db: DatabaseConnection,
    stop: CancellationToken,
    /// Taken once it has ended.
    task: Option<AbortOnDropHandle<anyhow::Result<()>>>,
}

/// Starts what the settings say; returns once it answers.
///
/// # Errors
/// Settings that do not go together, a data folder or a port that is taken, and each failure of the database, in
/// one line that names the remedy where there is one. Nothing is left running.
pub async fn start(args: &ServeArgs) -> anyhow::Result<Running> {
    args.check()?;
    let role = args.process.role;
    let claimed = postgres::claim(&args.database)?;
    let listener = match role.serves_api() {
        true => Some(bind(&args.process.listen, "--listen or OMS_LISTEN").await?),
        false => None,
    };
    let metrics_listener = match args.process.metrics_listen() {
        Some(listen) => Some(bind(listen, "--metrics-listen or OMS_METRICS_LISTEN").await?),
        None => None,
    };
    let [addr, metrics_addr] = [&listener, &metrics_listener].map(local_addr);
    let (addr, metrics_addr) = (addr?, metrics_addr?);

    let database = claimed.open().await?;
    prepare(&database, args).await?;
    // From here on something waits for the database.
    let mut helpers = vec![AbortOnDropHandle::new(tokio::spawn(database.watch_presence()))];
    let wakeups = Wakeups::new();
    let mut parts = Vec::new();
    let mut reader = None;
    if let Some(listener) = listener {
        let db = database.connect(&args.api_pool()).await?;
        let reader = reader.insert(open_reader(&database, args).await?);
        helpers.push(AbortOnDropHandle::new(tokio::spawn(reader.watch_replica())));
        parts.push(start_api(db, reader.clone(), listener, wakeups.clone(), args).await?);
    }
    if role.runs_sagas() {
        let db = database.connect(&args.runner_pool()).await?;
        parts.push(start_runner(db, database.presence(), wakeups.clone(), args)?);
    }
    // Each role has at least one part.
    let db = parts[0].db.clone();
    if !args.process.no_notifications {
        let link = link(db.clone(), database.presence(), wakeups);
        helpers.push(AbortOnDropHandle::new(tokio::spawn(link)));
    }
    helpers.extend([
        AbortOnDropHandle::new(tokio::spawn(database.keep_alive())),
        AbortOnDropHandle::new(tokio::spawn(telemetry::keep_metrics())),
    ]);
    if let Some(listener) = metrics_listener {
        helpers.push(AbortOnDropHandle::new(tokio::spawn(serve_metrics(listener, args.connections.clone()))));
    }
    let drain = Duration::from_secs(args.process.drain_seconds);
    // The last thing that may fail: a secret that is not shown is lost.
    let first_key = match database.is_embedded() && !args.access.dev_anonymous {
        true => make_first_key(&db).await.context("cannot make the administrator's key")?,
        false => None,
    };
    Ok(Running { addr, metrics_addr, db, reader, parts, drain, helpers, first_key, database })
}

impl Running {
    /// Where it answers; `None` for a runner alone.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Where the metrics are, if they have an address of their own.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// The administrator's key, if this start has made one: to be shown once.
    pub fn first_key(&self) -> Option<&Secret> {
        self.first_key.as_ref()
    }

    /// Its database.
    pub fn db(&self) -> &DatabaseConnection {
        &self.db
    }

    /// URL of its database, for another process.
    pub fn database_url(&self) -> &str {
        self.database.url()
    }

    /// Waits until a part ends by itself, which it never should.
    ///
    /// # Errors
    /// Always: what the part failed with, or that it ended.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let ends = self.parts.iter_mut().map(|part| Box::pin(part.end()));
        let (result, index, _) = futures_util::future::select_all(ends).await;
        let name = self.parts[index].name;
        result
            .and_then(|()| Err(anyhow::anyhow!("it ended by itself")))
            .with_context(|| format!("{name} failed"))
    }

    /// Stops in order: takes no more requests, finishes those in flight, drains the runner, closes the pools, and
    /// leaves Postgres. What outlasts the drain time is aborted; the rows are enough for the next process to go on.
    ///
    /// # Errors
    /// The embedded Postgres could not be stopped; the next start adopts it.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for part in &mut self.parts {
            part.stop.cancel();
            match tokio::time::timeout(self.drain + DRAIN_GRACE, part.end()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(part = part.name, error = format!("{error:#}"), "failed while stopping")
                }
                Err(_) => warn!(part = part.name, "still busy after the drain time; aborted"),
            }
        }
        self.helpers.clear();
        for part in self.parts.drain(..) {
            close(&part.db).await;
        }
        for pool in self.reader.iter().flat_map(Reader::pools) {
            close(&pool).await;
        }
        self.database.close().await.context("cannot stop the embedded Postgres")
    }
}

impl Part {
    fn spawn(
        name: &'static str,
        db: DatabaseConnection,
        stop: CancellationToken,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> Self {
        Self { name, db, stop, task: Some(AbortOnDropHandle::new(tokio::spawn(work))) }
    }

    /// Waits for the end, which happened already when the task is gone. Safe to drop and to call again.
    async fn end(&mut self) -> anyhow::Result<()> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let result = task.await;
        self.task = None;
        result.unwrap_or_else(|error| Err(anyhow::Error::new(error)))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The task itself is aborted by its handle; this reaches what it has spawned.
        self.stop.cancel();
    }
}

/// Binds an address; `setting` names where another one is chosen.
async fn bind(listen: &str, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{listen} is already in use; stop the other program, or choose another address with {setting}"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot listen on {listen}")),
    })
}

fn local_addr(listener: &Option<TcpListener>) -> anyhow::Result<Option<SocketAddr>> {
    listener.as_ref().map(TcpListener::local_addr).transpose().context("cannot tell the port")
}

/// Makes the schema current and fills a fresh embedded database.
async fn prepare(database: &Database, args: &ServeArgs) -> anyhow::Result<()> {
    // A pool of its own: a migration may take longer than any statement of a request.
    let db = database.connect(&PoolSettings::for_command("oms start")).await?;
    migration::migrate(&db).await.context("cannot bring the database schema up to date")?;
    if database.is_embedded() && !args.store.no_seed {
        seed(&db, args.store.currency).await.context("cannot write the demo catalog")?;
    }
    close(&db).await;
    Ok(())
}

/// Makes a key that opens everything, where there is no key yet.
async fn make_first_key(db: &DatabaseConnection) -> Result<Option<Secret>, DbErr> {
    if store::has_keys(db).await? {
        return Ok(None);
    }
    let secret = Secret::generate();
    let key = NewKey {
        app_id: local_app().uuid(),
        name: "administrator, made at the first start".to_owned(),
        scopes: Scopes::all(),
        expires_at: None,
        granted_apps: Vec::new(),
    };
    store::create_key(db, &key, &secret).await?;
    Ok(Some(secret))
}

/// Writes the demo catalog, in the store's currency, where there is no product yet.
async fn seed(db: &DatabaseConnection, currency: Currency) -> anyhow::Result<()> {
    if !catalog::store::list_products(db, None, 1).await?.is_empty() {
        return Ok(());
    }
    add_demo_products(db, currency).await
}

/// Writes those products of the demo catalog that are not there, in the store's currency; the others stay as they are.
pub(crate) async fn add_demo_products(db: &DatabaseConnection, currency: Currency) -> anyhow::Result<()> {
    if currency.decimals() != Currency::USD.decimals() {
        info!(%currency, "the demo catalog has no prices in this currency; the catalog stays empty");
        return Ok(());
    }
    let mut rows = catalog_import::read_rows(DEMO_CATALOG.as_bytes())?;
    for row in &mut rows {
        row.product.price.currency = currency;
    }
    let skus = rows.iter().map(|row| row.product.sku.as_str()).collect();
    let known = catalog::store::find_products(db, &skus).await?;
    rows.retain(|row| !known.contains_key(&row.product.sku));
    let count = rows.len();
    catalog_import::write_rows(db, rows, |_| ()).await?;
    if count > 0 {
        info!(products = count, "added the demo catalog");
    }
    Ok(())
}

/// Opens what orders are read over: a pool of the database, and one of its replica where there is one.
async fn open_reader(database: &Database, args: &ServeArgs) -> anyhow::Result<Reader> {
    let settings = args.reader_pool();
    let reader = Reader::new(database.connect_reader(&settings).await?).with_presence(database.presence());
    let Some(url) = args.process.read_url() else { return Ok(reader) };
    let max_lag = args.process.replica_max_lag_seconds.map(Duration::from_secs);
    let replica = Replica::open(database.replica(url, max_lag).await?, settings).await?;
    Ok(reader.with_replica(replica))
}

async fn start_api(
    db: DatabaseConnection,
    reader: Reader,
    listener: TcpListener,
    wakeups: Arc<Wakeups>,
    args: &ServeArgs,
) -> anyhow::Result<Part> {
    let stop = CancellationToken::new();
    let settings = AppSettings {
        currency: args.store.currency,
        allowed_origins: args.access.allowed_origins.clone(),
        sends_294: args.process.partial_status_294,
        limits: args.limits.clone(),
        connections: args.connections.clone(),
        burst_seconds: args.access.burst_seconds,
        shopper_points_per_second: args.access.shopper_points_per_second,
        points_per_second: args.access.points_per_second,
    };
    let definitions = definitions(&db, reader.presence().clone(), &args.gateway)?;
    let provider = args.oidc.settings()?.map(TokenVerifier::start).transpose()?;
    let door = Door::open(db.clone(), args.access.clone(), provider, stop.clone()).await;
    let door = door.context("cannot read what signs the access tokens of orders")?;
    let app = App::start(db.clone(), reader, wakeups, definitions, door, settings, stop.clone());
    // An address of their own is there so that they are nowhere else.
    let shows_metrics = args.process.metrics_listen().is_none() && is_loopback(&args.process.listen);
    let router = http::router(app.clone(), shows_metrics.then(render_metrics));
    let (connections, stopped) = (args.connections.clone(), stop.clone());
    let work = async move {
        http::serve(listener, router, connections, stopped).await;
        app.wait_for_sockets().await;
        Ok(())
    };
    Ok(Part::spawn("the HTTP server", db, stop, work))
}

fn render_metrics() -> RenderMetrics {
    RenderMetrics::new(|| telemetry::metrics().render())
}

/// Answers at the address of the metrics; never ends.
async fn serve_metrics(listener: TcpListener, connections: ConnectionArgs) {
    let router = http::metrics_router(render_metrics());
    http::serve(listener, router, connections, CancellationToken::new()).await;
}

/// Exchanges wake-ups with the other processes, over another connection whenever the database has been silent: the one that
/// listens may wait for a server that is gone. Never ends.
async fn link(db: DatabaseConnection, presence: Arc<Presence>, wakeups: Arc<Wakeups>) {
    loop {
        let link = wakeups.clone().link(db.get_postgres_connection_pool().clone(), CancellationToken::new());
        tokio::select! {
            () = link => return,
            () = presence.silence() => presence.answering().await,
        }
    }
}

fn start_runner(
    db: DatabaseConnection,
    presence: Arc<Presence>,
    wakeups: Arc<Wakeups>,
    args: &ServeArgs,
) -> anyhow::Result<Part> {
    let definitions = definitions(&db, presence.clone(), &args.gateway)?;
    let stop = CancellationToken::new();
    let settings = args.runner_settings();
    let runner =
        Runner::start_with_presence(db.clone(), presence, definitions, wakeups, settings, stop.clone());
    let work = async move {
        runner.stopped().await;
        Ok(())
    };
    Ok(Part::spawn("the saga runner", db, stop, work))
}

/// Declares every saga that this program knows.
///
/// # Errors
/// A saga breaks a rule that makes it safe to run.
pub(crate) fn definitions(
    db: &DatabaseConnection,
    presence: Arc<Presence>,
    gateway: &GatewayArgs,
) -> anyhow::Result<Definitions> {
    let place_order = place_order::definition(gateway.start(db, presence), gateway.saga_settings());
    Definitions::try_new([place_order]).context("a saga is not well defined")
}

/// Closes a pool, without waiting for those who do not give their connection back.
async fn close(db: &DatabaseConnection) {
    if tokio::time::timeout(POOL_CLOSE_TIMEOUT, db.clone().close()).await.is_err() {
        warn!("connections to the database are still in use; leaving them");
    }
}
