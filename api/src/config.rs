//! Every setting: its flag, its variable, its unit, its default and what it does.
//!
//! The defaults are the `Default` of each struct, so that tests and the demo can start from them; the command line
//! reads them from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use domain::money::Currency;
use saga::engine::{Presence, RunnerSettings};
use saga::payment_gateway::PaymentGateway;
use saga::payment_gateway::instant::InstantGateway;
use saga::payment_gateway::simulated::SimulatedGateway;
use saga::place_order;
use sea_orm::DatabaseConnection;

use crate::access::jwt::OidcSettings;
use crate::postgres::PoolSettings;
use crate::postgres::embedded::MAX_CONNECTIONS;

/// Which database, for every subcommand.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseArgs {
    /// Postgres to use, such as postgresql://user:password@host:5432/oms
    ///
    /// Without it, an embedded Postgres runs in the data folder, from the server programs that are installed on
    /// this machine (or in the folder that PG_BIN_DIR names).
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,

    /// Folder of the embedded Postgres [default: .oms in the working folder]
    ///
    /// Its data survives restarts. It is made when missing, and not used with a database URL. Run by root, where
    /// the Postgres account cannot enter the working folder, the default is a folder under /var/lib/oms.
    #[arg(long, env = "OMS_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The given URL; an empty variable counts as none.
    pub fn url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.is_empty())
    }
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// The log, for every subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// What to log: a level, or levels by module [default: info for serve, warn for the rest]
    ///
    /// error, warn, info, debug or trace; or a list such as info,saga=debug,sqlx=warn.
    #[arg(long = "log", env = "OMS_LOG", value_name = "FILTER", global = true)]
    pub filter: Option<String>,

    /// How to write the log, to standard error
    #[arg(long = "log-format", env = "OMS_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub format: LogFormat,
}

/// Which parts of the system a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// GraphQL over HTTP only.
    Api,
    /// The saga runner only.
    Runner,
    /// Both.
    All,
}

impl Role {
    /// Whether this process answers HTTP.
    pub fn serves_api(self) -> bool {
        matches!(self, Self::Api | Self::All)
    }

    /// Whether this process carries orders through their steps.
    pub fn runs_sagas(self) -> bool {
        matches!(self, Self::Runner | Self::All)
    }
}

/// Everything `oms serve` needs.
#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    /// The database.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// What this process does.
    #[command(flatten)]
    pub process: ProcessArgs,
    /// The shop.
    #[command(flatten)]
    pub store: StoreArgs,
    /// The runner.
    #[command(flatten)]
    pub runner: RunnerArgs,
    /// The payment gateway.
    #[command(flatten)]
    pub gateway: GatewayArgs,
    /// Who may call.
    #[command(flatten)]
    pub access: AccessArgs,
    /// What a request may ask for.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What a connection may take.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// The identity provider.
    #[command(flatten)]
    pub oidc: OidcArgs,
}

/// What a serving process does and where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Process")]
pub struct ProcessArgs {
    /// Which parts run in this process
    #[arg(long, env = "OMS_ROLE", value_enum, default_value_t = Self::default().role)]
    pub role: Role,

    /// Address and port of GraphQL; port 0 takes a free one
    #[arg(long, env = "OMS_LISTEN", value_name = "ADDRESS:PORT", default_value_t = Self::default().listen)]
    pub listen: String,

    /// Address and port of the metrics alone, for any role; port 0 takes a free one [default: none]
    ///
    /// Without it, /metrics is answered beside GraphQL if OMS_LISTEN is a loopback address, and nowhere otherwise: metrics
    /// tell what the shop turns over.
    #[arg(long, env = "OMS_METRICS_LISTEN", value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<String>,

    /// Most database connections of the API; a request that gets none within --acquire-timeout-ms is answered 503
    #[arg(long, env = "OMS_POOL_SIZE", value_name = "CONNECTIONS", default_value_t = Self::default().pool_size,
          value_parser = clap::value_parser!(u32).range(4..=1000))]
    pub pool_size: u32,

    /// Streaming replica of the database that callers' reads of orders come from, as far as it has got; a Postgres URL
    /// [default: none, they come from the database itself]
    ///
    /// While it is away they come from the database. Everything else always does.
    #[arg(
        long,
        env = "OMS_READ_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        help_heading = "Database"
    )]
    pub read_database_url: Option<String>,

    /// Seconds that the newest change on the replica may be old; then reads come from the database until it is newer
    /// [default: any age]
    #[arg(long, env = "OMS_REPLICA_MAX_LAG_SECONDS", value_name = "SECONDS", help_heading = "Database",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub replica_max_lag_seconds: Option<u64>,

    /// Milliseconds a request waits for a database connection
    #[arg(long, env = "OMS_ACQUIRE_TIMEOUT_MS", value_name = "MS", default_value_t = Self::default().acquire_timeout_ms,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub acquire_timeout_ms: u64,

    /// Milliseconds one statement may run before Postgres cancels it
    #[arg(long, env = "OMS_STATEMENT_TIMEOUT_MS", value_name = "MS",
          default_value_t = Self::default().statement_timeout_ms,
          value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub statement_timeout_ms: u64,

    /// Seconds a stopping process waits for requests and gateway calls in flight; what is left is taken up by the
    /// next process
    #[arg(long, env = "OMS_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = Self::default().drain_seconds,
          value_parser = clap::value_parser!(u64).range(0..=600))]
    pub drain_seconds: u64,

    /// Neither send nor listen to notifications of Postgres: for a connection pooler that does not pass them on
    ///
    /// Processes then learn of each other's work by looking: viewers within a second, runners within
    /// OMS_RUNNER_POLL_INTERVAL_MS.
    #[arg(long, env = "OMS_NO_NOTIFICATIONS", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_notifications: bool,

    /// Answer data beside errors with the status 294 instead of 200, to clients that accept application/graphql-response+json
    #[arg(long, env = "OMS_PARTIAL_STATUS_294", value_parser = clap::builder::FalseyValueParser::new())]
    pub partial_status_294: bool,
}

impl Default for ProcessArgs {
    fn default() -> Self {
        Self {
            role: Role::All,
            listen: "127.0.0.1:8080".to_owned(),
            metrics_listen: None,
            pool_size: 20,
            read_database_url: None,
            replica_max_lag_seconds: None,
            acquire_timeout_ms: 2_000,
            statement_timeout_ms: 30_000,
            drain_seconds: 10,
            no_notifications: false,
            partial_status_294: false,
        }
    }
}

impl ProcessArgs {
    /// The given address of the metrics; an empty variable counts as none.
    pub fn metrics_listen(&self) -> Option<&str> {
        self.metrics_listen.as_deref().filter(|listen| !listen.is_empty())
    }

    /// The given URL of the replica; an empty variable counts as none.
    pub fn read_url(&self) -> Option<&str> {
        self.read_database_url.as_deref().filter(|url| !url.is_empty())
    }
}

/// What is particular to the shop.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Currency of the store, an ISO 4217 code; an order that names none is in this one
    #[arg(long, env = "OMS_CURRENCY", value_name = "CODE", default_value = "USD")]
    pub currency: Currency,

    /// Leave an embedded database without products empty instead of filling it with the demo catalog
    #[arg(long, env = "OMS_NO_SEED", value_parser = clap::builder::FalseyValueParser::new())]
    pub no_seed: bool,
}

impl Default for StoreArgs {
    fn default() -> Self {
        Self { currency: Currency::USD, no_seed: false }
    }
}

/// How the saga runner works.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Runner")]
pub struct RunnerArgs {
    /// Most sagas advanced in one transaction; more is faster and makes each wait longer
    #[arg(long = "runner-batch-size", env = "OMS_RUNNER_BATCH_SIZE", value_name = "SAGAS", default_value_t = Self::default().batch_size,
          value_parser = clap::value_parser!(u32).range(1..=5_000))]
    pub batch_size: u32,

    /// Most gateway calls in flight at a time in this process
    #[arg(long = "runner-max-open-calls", env = "OMS_RUNNER_MAX_OPEN_CALLS", value_name = "CALLS", default_value_t = Self::default().max_open_calls,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_open_calls: u32,

    /// Seconds without a heartbeat after which another process takes over what this one was doing
    #[arg(long = "runner-worker-lease-seconds", env = "OMS_RUNNER_WORKER_LEASE_SECONDS", value_name = "SECONDS",
          default_value_t = Self::default().worker_lease_seconds,
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub worker_lease_seconds: u64,

    /// Milliseconds between two looks for work that no notification announced
    #[arg(long = "runner-poll-interval-ms", env = "OMS_RUNNER_POLL_INTERVAL_MS", value_name = "MS", default_value_t = Self::default().poll_interval_ms,
          value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub poll_interval_ms: u64,

    /// Most database connections of the runner
    #[arg(long, env = "OMS_RUNNER_POOL_SIZE", value_name = "CONNECTIONS", default_value_t = Self::default().runner_pool_size,
          value_parser = clap::value_parser!(u32).range(4..=200))]
    pub runner_pool_size: u32,

    /// Commit after each step of each order instead of after each blocking of a batch, as an engine without batches
    /// would: for comparison
    #[arg(long, env = "OMS_ONE_COMMIT_PER_STEP", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub one_commit_per_step: bool,
}

impl Default for RunnerArgs {
    fn default() -> Self {
        Self {
            batch_size: 500,
            max_open_calls: 2_000,
            worker_lease_seconds: 5,
            poll_interval_ms: 500,
            runner_pool_size: 10,
            one_commit_per_step: false,
        }
    }
}

/// Transactions at a time, of each of the two kinds, when each advances one saga by one step: with fewer the commits
/// would wait for each other instead of sharing a flush.
const PARALLEL_SINGLE_STEPS: u32 = 16;

impl RunnerArgs {
    /// What the runner takes from these settings.
    pub fn settings(&self) -> RunnerSettings {
        let settings = RunnerSettings {
            batch_size: self.batch_size,
            max_open_calls: self.max_open_calls,
            poll_interval: Duration::from_millis(self.poll_interval_ms),
            worker_lease: Duration::from_secs(self.worker_lease_seconds),
            ..RunnerSettings::default()
        };
        if !self.one_commit_per_step {
            return settings;
        }
        RunnerSettings {
            batch_size: 1,
            parallel_batches: PARALLEL_SINGLE_STEPS,
            one_step_per_commit: true,
            ..settings
        }
    }

    /// How many connections the runner needs.
    pub fn pool_size(&self) -> u32 {
        match self.one_commit_per_step {
            // One for each transaction, and some for the sweeper and the heartbeat.
            true => self.runner_pool_size.max(2 * PARALLEL_SINGLE_STEPS + 4),
            false => self.runner_pool_size,
        }
    }
}

/// Who answers when a payment is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GatewayKind {
    /// Behaves as its card tokens say, and keeps books of its own in the database.
    Simulated,
    /// Approves everything at once and keeps no books.
    Instant,
}

/// How the payment gateway behaves.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Payment gateway")]
pub struct GatewayArgs {
    /// Which gateway: simulated behaves as its card tokens say; instant approves everything, for measuring
    #[arg(long = "gateway", env = "OMS_GATEWAY", value_enum, default_value_t = Self::default().kind)]
    pub kind: GatewayKind,

    /// Milliseconds the simulated gateway takes to answer
    #[arg(long = "gateway-delay-ms", env = "OMS_GATEWAY_DELAY_MS", value_name = "MS", default_value_t = Self::default().delay_ms,
          value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub delay_ms: u64,

    /// Milliseconds to wait for the gateway's answer; the outcome is then unknown and asked for again
    #[arg(long = "gateway-timeout-ms", env = "OMS_GATEWAY_TIMEOUT_MS", value_name = "MS",
          default_value_t = Self::default().timeout_ms, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub timeout_ms: u64,
}

impl Default for GatewayArgs {
    fn default() -> Self {
        Self { kind: GatewayKind::Simulated, delay_ms: 20, timeout_ms: 10_000 }
    }
}

impl GatewayArgs {
    /// Starts the gateway; the simulated one keeps its books in `db`.
    pub fn start(&self, db: &DatabaseConnection, presence: Arc<Presence>) -> Arc<dyn PaymentGateway> {
        match self.kind {
            GatewayKind::Simulated => {
                let delay = Duration::from_millis(self.delay_ms);
                SimulatedGateway::start_with_presence(db.clone(), presence, delay)
            }
            GatewayKind::Instant => Arc::new(InstantGateway),
        }
    }

    /// What the saga takes from these settings.
    pub fn saga_settings(&self) -> place_order::Settings {
        place_order::Settings {
            gateway_time_out: Duration::from_millis(self.timeout_ms),
            ..place_order::Settings::default()
        }
    }
}

/// Who may call.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Let everybody on this machine do everything without a key: for developing, with a loopback address only
    #[arg(long, env = "OMS_DEV_ANONYMOUS", value_parser = clap::builder::FalseyValueParser::new())]
    pub dev_anonymous: bool,

    /// Origins whose pages may call, such as `https://shop.example`, with commas between them [default: none]
    ///
    /// Each as browsers send it: scheme, host, a port where it is not the scheme's, and nothing else.
    #[arg(long, env = "OMS_ALLOWED_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub allowed_origins: Vec<String>,

    /// Days for which the access token of an order, which placeOrder returns once, opens that order
    #[arg(long, env = "OMS_ORDER_TOKEN_DAYS", value_name = "DAYS", default_value_t = Self::default().order_token_days,
          value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub order_token_days: u32,

    /// Points that flow back into the budget of an app in a second, where the app has no number of its own; 0 for no limit
    ///
    /// What a request costs is in extensions.cost of its answer. Callers with the scope apps:manage have no limit.
    #[arg(long, env = "OMS_POINTS_PER_SECOND", value_name = "POINTS", default_value_t = Self::default().points_per_second,
          value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub points_per_second: u32,

    /// Points that flow back in a second into the budget that all holders of access tokens of an app's orders share; 0 for
    /// no limit
    ///
    /// What they ask comes out of it and out of a budget of the order's own, which is as large as OMS_POINTS_PER_SECOND
    /// says. The app's own is another one. Where an app has a number of its own, this one is multiplied by that number over
    /// OMS_POINTS_PER_SECOND.
    #[arg(long, env = "OMS_SHOPPER_POINTS_PER_SECOND", value_name = "POINTS",
          default_value_t = Self::default().shopper_points_per_second,
          value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub shopper_points_per_second: u32,

    /// Seconds' worth of points that a budget holds, so that a page can be put together at once
    #[arg(long, env = "OMS_BURST_SECONDS", value_name = "SECONDS", default_value_t = Self::default().burst_seconds,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub burst_seconds: u32,
}

impl Default for AccessArgs {
    fn default() -> Self {
        Self {
            dev_anonymous: false,
            allowed_origins: Vec::new(),
            order_token_days: 30,
            points_per_second: 100,
            shopper_points_per_second: 1_000,
            burst_seconds: 10,
        }
    }
}

/// What a request may ask for. Each is refused before it is executed, in time linear in its size.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Tokens of a query
    #[arg(long, env = "OMS_MAX_TOKENS", value_name = "COUNT", default_value_t = Self::default().max_tokens,
          value_parser = clap::value_parser!(u32).range(100..=10_000))]
    pub max_tokens: u32,

    /// Levels of a query; a look at the schema may go deeper
    #[arg(long, env = "OMS_MAX_DEPTH", value_name = "LEVELS", default_value_t = Self::default().max_depth,
          value_parser = clap::value_parser!(u32).range(5..=30))]
    pub max_depth: u32,

    /// Aliases of a document
    #[arg(long, env = "OMS_MAX_ALIASES", value_name = "COUNT", default_value_t = Self::default().max_aliases,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub max_aliases: u32,

    /// Fields at the root of an operation
    #[arg(long, env = "OMS_MAX_ROOT_FIELDS", value_name = "COUNT", default_value_t = Self::default().max_root_fields,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub max_root_fields: u32,

    /// Directives of a document
    #[arg(long, env = "OMS_MAX_DIRECTIVES", value_name = "COUNT", default_value_t = Self::default().max_directives,
          value_parser = clap::value_parser!(u32).range(0..=1_000))]
    pub max_directives: u32,

    /// Fragment spreads of a document
    #[arg(long, env = "OMS_MAX_SPREADS", value_name = "COUNT", default_value_t = Self::default().max_spreads,
          value_parser = clap::value_parser!(u32).range(0..=500))]
    pub max_spreads: u32,

    /// Fields of a document's operations once its fragments are put in their places, each fragment among them; the standard look
    /// at the schema has about 180
    #[arg(long, env = "OMS_MAX_FIELDS", value_name = "COUNT", default_value_t = Self::default().max_fields,
          value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub max_fields: u32,

    /// Points that one request may cost, whoever asks
    #[arg(long, env = "OMS_MAX_COST", value_name = "POINTS", default_value_t = Self::default().max_cost,
          value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub max_cost: u32,

    /// Fields that one request may resolve, each as often as the lists above it can have items; the standard look at the schema
    /// is taken for 31,000
    #[arg(long, env = "OMS_MAX_RESOLUTIONS", value_name = "COUNT", default_value_t = Self::default().max_resolutions,
          value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub max_resolutions: u32,

    /// Milliseconds that a query may take; a mutation may take 10 seconds more, because placeOrder may be told to wait so long
    #[arg(long, env = "OMS_QUERY_TIMEOUT_MS", value_name = "MS", default_value_t = Self::default().query_timeout_ms,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub query_timeout_ms: u64,
}

impl Default for LimitArgs {
    fn default() -> Self {
        Self {
            max_tokens: 1_000,
            max_depth: 10,
            max_aliases: 15,
            max_root_fields: 10,
            max_directives: 50,
            max_spreads: 100,
            max_fields: 3_000,
            max_cost: 1_000,
            max_resolutions: 50_000,
            query_timeout_ms: 10_000,
        }
    }
}

/// What a connection may take, before and while anything is executed over it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionArgs {
    /// Connections that clients have open at a time, WebSockets included; further ones wait until another one ends
    ///
    /// The process needs as many file descriptors, and some for the database.
    #[arg(long, env = "OMS_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = Self::default().max_connections,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Connections that one address has open among those; further ones are closed [default: half of OMS_MAX_CONNECTIONS]
    ///
    /// An address of IPv6 is a network of 64 bits. Behind a reverse proxy all come from its address: give it as many as
    /// OMS_MAX_CONNECTIONS, and let the proxy hold its own clients to a part of them.
    #[arg(long, env = "OMS_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections_per_address: Option<u32>,

    /// Milliseconds that a client may take nothing of what is written to it; then the connection is closed
    #[arg(long, env = "OMS_WRITE_TIMEOUT_MS", value_name = "MS", default_value_t = Self::default().write_timeout_ms,
          value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub write_timeout_ms: u64,

    /// Bytes of the body of an HTTP request; an order of 250 lines needs 20 kB
    #[arg(long, env = "OMS_MAX_BODY_BYTES", value_name = "BYTES", default_value_t = Self::default().max_body_bytes,
          value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub max_body_bytes: u32,

    /// Milliseconds for the head of an HTTP request, from its first byte; then the connection is closed
    #[arg(long, env = "OMS_HEADER_TIMEOUT_MS", value_name = "MS", default_value_t = Self::default().header_timeout_ms,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub header_timeout_ms: u64,

    /// Bytes of a WebSocket message from a client
    #[arg(long, env = "OMS_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = Self::default().max_message_bytes,
          value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub max_message_bytes: u32,

    /// Operations of a WebSocket at a time
    #[arg(long, env = "OMS_MAX_OPERATIONS", value_name = "COUNT", default_value_t = Self::default().max_operations,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_operations: u32,

    /// Milliseconds that the client of a WebSocket may take to introduce itself
    #[arg(long, env = "OMS_INIT_TIMEOUT_MS", value_name = "MS", default_value_t = Self::default().init_timeout_ms,
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub init_timeout_ms: u64,

    /// WebSockets and event streams that an app holds open in this process at a time
    ///
    /// The holders of one order's access tokens have as many among them, but 100 at most. Those are not the app's.
    #[arg(long, env = "OMS_MAX_STREAMS", value_name = "COUNT", default_value_t = Self::default().max_streams,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_streams: u32,

    /// WebSockets and event streams that all holders of access tokens of an app's orders have open in this process at a time
    /// [default: half of OMS_MAX_CONNECTIONS]
    ///
    /// With the default no app's shoppers take all connections.
    #[arg(long, env = "OMS_MAX_SHOPPER_STREAMS", value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_shopper_streams: Option<u32>,
}

impl Default for ConnectionArgs {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_address: None,
            write_timeout_ms: 30_000,
            max_body_bytes: 100_000,
            header_timeout_ms: 10_000,
            max_message_bytes: 64 * 1024,
            max_operations: 100,
            init_timeout_ms: 3_000,
            max_streams: 1_000,
            max_shopper_streams: None,
        }
    }
}

impl ConnectionArgs {
    /// Connections that one address may have open.
    pub(crate) fn max_connections_per_address(&self) -> u32 {
        self.max_connections_per_address.unwrap_or(self.max_connections / 2).max(1)
    }

    /// Sockets and streams that all shoppers of an app may have open.
    pub(crate) fn max_shopper_streams(&self) -> u32 {
        self.max_shopper_streams.unwrap_or(self.max_connections / 2).max(1)
    }

    /// Time for the head of a request.
    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// Time for which a client may take nothing.
    pub(crate) fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    /// Time for a client to introduce itself.
    pub(crate) fn init_timeout(&self) -> Duration {
        Duration::from_millis(self.init_timeout_ms)
    }
}

/// Whose tokens open the API, besides keys of its own.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Identity provider")]
pub struct OidcArgs {
    /// Issuer of access tokens, the exact `iss` in them [default: none, only keys of this API are taken]
    ///
    /// An https URL, or an http URL of this machine.
    #[arg(long = "oidc-issuer", env = "OMS_OIDC_ISSUER", value_name = "URL")]
    pub issuer: Option<String>,

    /// Name of this API at the identity provider, which a token's `aud` must contain; needed with an issuer
    #[arg(long = "oidc-audience", env = "OMS_OIDC_AUDIENCE", value_name = "NAME")]
    pub audience: Option<String>,

    /// Where the issuer's public keys are [default: what ISSUER/.well-known/openid-configuration says]
    #[arg(long = "oidc-jwks-url", env = "OMS_OIDC_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,

    /// Claim of a token that lists its scopes, as words in one string or as a list of strings [default: scope]
    #[arg(long = "oidc-scope-claim", env = "OMS_OIDC_SCOPE_CLAIM", value_name = "CLAIM")]
    pub scope_claim: Option<String>,
}

/// The claim of RFC 8693 and RFC 9068.
const DEFAULT_SCOPE_CLAIM: &str = "scope";

impl OidcArgs {
    /// What the verifier of tokens takes from these settings; none without an issuer. An empty variable counts as none.
    ///
    /// # Errors
    /// An issuer without an audience, and the other settings without an issuer.
    pub fn settings(&self) -> Result<Option<OidcSettings>, SettingsError> {
        let given = |setting: &Option<String>| setting.clone().filter(|value| !value.is_empty());
        let Some(issuer) = given(&self.issuer) else {
            let others = [&self.audience, &self.jwks_url, &self.scope_claim];
            return match others.into_iter().any(|setting| given(setting).is_some()) {
                true => Err(SettingsError::OidcWithoutIssuer),
                false => Ok(None),
            };
        };
        Ok(Some(OidcSettings {
            issuer,
            audience: given(&self.audience).ok_or(SettingsError::OidcWithoutAudience)?,
            jwks_url: given(&self.jwks_url),
            scope_claim: given(&self.scope_claim).unwrap_or_else(|| DEFAULT_SCOPE_CLAIM.to_owned()),
        }))
    }
}

/// Whether this is an origin as browsers write it (RFC 6454, section 6.2): compared as text, it matches nothing otherwise.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_lower = |text: &str| !text.chars().any(|c| c.is_ascii_uppercase());
    let is_fit = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let is_usual_port =
        (scheme == "https" && host.ends_with(":443")) || (scheme == "http" && host.ends_with(":80"));
    matches!(scheme, "http" | "https")
        && !host.is_empty()
        && is_lower(host)
        && host.chars().all(is_fit)
        && !is_usual_port
}

/// Whether only programs on this machine reach the address.
pub(crate) fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
/// Most connections that read orders on callers' behalf. Reads are batched, so that few are enough, and whoever sees the same
/// has half of them at most. They are among the spare ones.
const MAX_READER_CONNECTIONS: u32 = 16;

/// Connections that the pools leave to subcommands, `psql`, listeners and the superuser.
const SPARE_CONNECTIONS: u32 = 30;

/// Points of a mutation that returns next to nothing (`crate::graphql`).
const CHEAPEST_MUTATION: u32 = 10;

/// Two settings that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The runner would be taken for dead between two looks at its work.
    #[error(
        "OMS_RUNNER_POLL_INTERVAL_MS ({poll_ms} ms) must be at most a third of OMS_RUNNER_WORKER_LEASE_SECONDS \
         ({lease_seconds} s), or a live runner is taken for dead"
    )]
    PollSlowerThanLease {
        /// The poll interval.
        poll_ms: u64,
        /// The lease.
        lease_seconds: u64,
    },
    /// The pools would take more connections than the embedded server has.
    #[error(
        "OMS_POOL_SIZE and OMS_RUNNER_POOL_SIZE come to {total} connections and the embedded Postgres has {} to spare; \
         lower them, or set DATABASE_URL to a server with more",
        MAX_CONNECTIONS - SPARE_CONNECTIONS
    )]
    TooManyConnections {
        /// Both together.
        total: u32,
    },
    /// A caller would wait for a connection longer than its statement may run.
    #[error(
        "OMS_ACQUIRE_TIMEOUT_MS ({acquire_ms} ms) must be less than OMS_STATEMENT_TIMEOUT_MS ({statement_ms} ms), so \
         that a busy pool is reported before its statements are canceled"
    )]
    AcquireSlowerThanStatement {
        /// The wait for a connection.
        acquire_ms: u64,
        /// The limit of a statement.
        statement_ms: u64,
    },
    /// Everybody in the network could do everything.
    #[error(
        "OMS_DEV_ANONYMOUS lets everybody in who reaches {listen}, which is not a loopback address; leave it away and \
         make keys with `oms keys create`, or listen on 127.0.0.1"
    )]
    AnonymousBeyondLoopback {
        /// Where it listens.
        listen: String,
    },
    /// No browser sends such an origin, so that no page would be let in.
    #[error(
        "OMS_ALLOWED_ORIGINS has {origin:?}, which no browser sends; name each origin as https://shop.example, in lower case, \
         without a path or a slash at its end, and without a wildcard"
    )]
    NoOrigin {
        /// What was set.
        origin: String,
    },
    /// No app without a number of its own could change anything.
    #[error(
        "OMS_POINTS_PER_SECOND ({points_per_second}) and OMS_BURST_SECONDS ({burst_seconds}) make budgets that hold {} \
         points, and a mutation costs at least {CHEAPEST_MUTATION}; raise one of them, or set OMS_POINTS_PER_SECOND to 0 \
         for no limit",
        points_per_second.saturating_mul(*burst_seconds)
    )]
    BudgetTooSmall {
        /// What flows back in a second.
        points_per_second: u32,
        /// Seconds' worth that it holds.
        burst_seconds: u32,
    },
    /// Tokens for any other API of the provider would be taken.
    #[error(
        "OMS_OIDC_ISSUER needs OMS_OIDC_AUDIENCE, or a token for any other API of the issuer would open this one"
    )]
    OidcWithoutAudience,
    /// Settings about tokens, and nobody whose tokens are taken.
    #[error(
        "OMS_OIDC_AUDIENCE, OMS_OIDC_JWKS_URL and OMS_OIDC_SCOPE_CLAIM do nothing without OMS_OIDC_ISSUER"
    )]
    OidcWithoutIssuer,
}

impl ServeArgs {
    /// Checks the relations between settings.
    ///
    /// # Errors
    /// The first pair that does not go together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (poll_ms, lease_seconds) = (self.runner.poll_interval_ms, self.runner.worker_lease_seconds);
        if poll_ms * 3 > lease_seconds * 1_000 {
            return Err(SettingsError::PollSlowerThanLease { poll_ms, lease_seconds });
        }
        let (acquire_ms, statement_ms) = (self.process.acquire_timeout_ms, self.process.statement_timeout_ms);
        if acquire_ms >= statement_ms {
            return Err(SettingsError::AcquireSlowerThanStatement { acquire_ms, statement_ms });
        }
        let total = self.process.pool_size + self.runner.pool_size();
        if self.database.url().is_none() && total > MAX_CONNECTIONS - SPARE_CONNECTIONS {
            return Err(SettingsError::TooManyConnections { total });
        }
        self.oidc.settings()?;
        let mut origins = self.access.allowed_origins.iter();
        if let Some(origin) = origins.find(|origin| !origin.is_empty() && !is_origin(origin)) {
            return Err(SettingsError::NoOrigin { origin: origin.clone() });
        }
        let AccessArgs { points_per_second, burst_seconds, .. } = self.access;
        if (1..CHEAPEST_MUTATION).contains(&points_per_second.saturating_mul(burst_seconds)) {
            return Err(SettingsError::BudgetTooSmall { points_per_second, burst_seconds });
        }
        if self.access.dev_anonymous && !is_loopback(&self.process.listen) {
            return Err(SettingsError::AnonymousBeyondLoopback { listen: self.process.listen.clone() });
        }
        Ok(())
    }

    /// The pool of the API.
    pub fn api_pool(&self) -> PoolSettings {
        self.pool("oms api", self.process.pool_size)
    }

    /// The pool that orders are read over on a caller's behalf, apart from the API's: it can only read. As many
    /// connections again lead to a replica, where they are nobody else's.
    pub fn reader_pool(&self) -> PoolSettings {
        // A connection whose caller has left is taken until its statement ends: not longer than anybody would have waited.
        let statement_timeout_ms = self.process.statement_timeout_ms.min(self.limits.query_timeout_ms);
        PoolSettings {
            statement_timeout: Some(Duration::from_millis(statement_timeout_ms)),
            ..self.pool("oms reader", self.process.pool_size.min(MAX_READER_CONNECTIONS))
        }
    }

    /// The pool of the runner, apart from the API's, so that neither can starve the other.
    pub fn runner_pool(&self) -> PoolSettings {
        // A runner has nothing better to do than wait. But the longer a pool may wait, the longer it pauses between two
        // tries of a server that is away: up to a fifth of the time, and work is to go on within 5 s of its return.
        PoolSettings {
            acquire_timeout: Duration::from_secs(5),
            ..self.pool("oms runner", self.runner.pool_size())
        }
    }

    /// What the runner takes from these settings.
    pub fn runner_settings(&self) -> RunnerSettings {
        let drain_time = Duration::from_secs(self.process.drain_seconds);
        RunnerSettings { drain_time, ..self.runner.settings() }
    }

    fn pool(&self, name: &'static str, max_connections: u32) -> PoolSettings {
        PoolSettings {
            name,
            max_connections,
            acquire_timeout: Duration::from_millis(self.process.acquire_timeout_ms),
            statement_timeout: Some(Duration::from_millis(self.process.statement_timeout_ms)),
            // A process that stands still in a transaction holds locks that others wait for, so that taking its work
            // over means taking its locks as well.
            idle_in_transaction_timeout: Duration::from_secs(self.runner.worker_lease_seconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_go_together() {
        assert_eq!(ServeArgs::default().check(), Ok(()));
    }

    #[test]
    fn a_poll_slower_than_the_lease_is_refused() {
        let mut args = ServeArgs::default();
        args.runner.poll_interval_ms = 20_000;
        assert!(matches!(args.check(), Err(SettingsError::PollSlowerThanLease { .. })));
    }

    #[test]
    fn pools_larger_than_the_embedded_server_are_refused() {
        let mut args = ServeArgs::default();
        args.process.pool_size = 500;
        assert_eq!(args.check(), Err(SettingsError::TooManyConnections { total: 510 }));
        args.database.database_url = Some("postgresql://elsewhere/oms".to_owned());
        assert_eq!(args.check(), Ok(()));
    }

    #[test]
    fn an_empty_replica_is_none_and_its_connections_are_not_the_primarys() {
        let mut args = ServeArgs::default();
        assert_eq!(args.process.read_url(), None);
        args.process.read_database_url = Some(String::new());
        assert_eq!(args.process.read_url(), None);
        args.process.read_database_url = Some("postgresql://replica/oms".to_owned());
        args.process.pool_size = MAX_CONNECTIONS - SPARE_CONNECTIONS - args.runner.pool_size();
        assert_eq!((args.process.read_url(), args.check()), (Some("postgresql://replica/oms"), Ok(())));
    }

    #[test]
    fn nobody_is_anonymous_beyond_this_machine() {
        let mut args = ServeArgs::default();
        args.access.dev_anonymous = true;
        for (listen, fits) in
            [("127.0.0.1:8080", true), ("[::1]:0", true), ("0.0.0.0:8080", false), ("shop:80", false)]
        {
            args.process.listen = listen.to_owned();
            assert_eq!(args.check().is_ok(), fits, "{listen}");
        }
    }

    #[test]
    fn a_budget_that_holds_no_mutation_is_refused() {
        let mut args = ServeArgs::default();
        for (points_per_second, burst_seconds, fits) in
            [(1, 10, true), (1, 9, false), (9, 1, false), (0, 1, true), (1_000_000, 3_600, true)]
        {
            args.access.points_per_second = points_per_second;
            args.access.burst_seconds = burst_seconds;
            assert_eq!(args.check().is_ok(), fits, "{points_per_second} {burst_seconds}");
        }
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused() {
        let mut args = ServeArgs::default();
        for (origin, fits) in [
            ("https://shop.example", true),
            ("http://localhost:3000", true),
            ("http://[::1]:3000", true),
            ("", true),
            ("*", false),
            ("null", false),
            ("shop.example", false),
            ("https://", false),
            ("https://shop.example/", false),
            ("https://shop.example/cart", false),
            ("https://*.shop.example", false),
            ("https://Shop.example", false),
            ("https://shop.example:443", false),
            (" https://shop.example", false),
        ] {
            args.access.allowed_origins = vec![origin.to_owned()];
            assert_eq!(args.check().is_ok(), fits, "{origin:?}");
        }
    }

    #[test]
    fn an_issuer_comes_with_an_audience() {
        let some = |value: &str| Some(value.to_owned());
        let mut args = OidcArgs::default();
        assert_eq!(args.settings(), Ok(None));
        args.audience = some("oms");
        assert_eq!(args.settings(), Err(SettingsError::OidcWithoutIssuer));
        args.issuer = some("https://login.example");
        let settings = args.settings().expect("they go together").expect("an issuer");
        assert_eq!((settings.scope_claim.as_str(), settings.jwks_url), ("scope", None));
        for audience in [None, some("")] {
            let serve = ServeArgs { oidc: OidcArgs { audience, ..args.clone() }, ..ServeArgs::default() };
            assert_eq!(serve.check(), Err(SettingsError::OidcWithoutAudience));
        }
    }
}
