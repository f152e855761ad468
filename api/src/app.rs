//! What every request works with, and the tasks behind it.

use std::net::IpAddr;
use std::sync::Arc;

use domain::money::Currency;
use saga::engine::{Definitions, Presence, Wakeups};
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::Caller;
use crate::access::door::{Credential, Denied, Door};
use crate::access::streams::Streams;
use crate::config::{AccessArgs, ConnectionArgs, LimitArgs};
use crate::event_feed::EventFeed;
use crate::graphql::Executor;
use crate::placing::Placing;
use crate::reader::Reader;

/// What is particular to this shop.
#[derive(Debug, Clone)]
pub struct AppSettings {
    /// The currency of an amount that names none.
    pub currency: Currency,
    /// Origins whose pages may call.
    pub allowed_origins: Vec<String>,
    /// Whether a partial success has a status of its own.
    pub sends_294: bool,
    /// What a request may ask for.
    pub limits: LimitArgs,
    /// What a connection may take.
    pub connections: ConnectionArgs,
    /// Seconds' worth of points that a budget holds.
    pub burst_seconds: u32,
    /// Points that flow back in a second into the budget that an app's shoppers share; 0 for no limit.
    pub shopper_points_per_second: u32,
    /// Points that flow back in a second into the budget of an app without a number of its own; 0 for no limit.
    pub points_per_second: u32,
}

impl Default for AppSettings {
    fn default() -> Self {
        Self {
            currency: Currency::USD,
            allowed_origins: Vec::new(),
            sends_294: false,
            limits: LimitArgs::default(),
            connections: ConnectionArgs::default(),
            burst_seconds: AccessArgs::default().burst_seconds,
            shopper_points_per_second: AccessArgs::default().shopper_points_per_second,
            points_per_second: AccessArgs::default().points_per_second,
        }
    }
}

/// What resolvers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// The pool.
    pub db: DatabaseConnection,
    /// Reads orders on a caller's behalf.
    pub reader: Reader,
    /// Places orders.
    pub placing: Placing,
    /// Shows what happens to them.
    pub event_feed: EventFeed,
    /// The sagas that operators see and act on.
    pub definitions: Definitions,
    /// Wakes whoever waits for what an operator did.
    pub wakeups: Arc<Wakeups>,
    /// Tells who calls.
    pub door: Door,
    /// The shop.
    pub settings: AppSettings,
}

/// The running application. Cheap to clone, as it is for each request.
#[derive(Debug, Clone)]
pub struct App(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    db: DatabaseConnection,
    graphql: Executor,
    settings: AppSettings,
    door: Door,
    presence: Arc<Presence>,
    shutdown: CancellationToken,
    sockets: TaskTracker,
    streams: Streams,
}

impl App {
    /// Starts the tasks that place orders and feed viewers.
    ///
    /// The event feed and every open subscription end when `shutdown` fires; placing goes on for the requests that are
    /// still in flight and ends with the last clone of the application.
    pub fn start(
        db: DatabaseConnection,
        reader: Reader,
        wakeups: Arc<Wakeups>,
        definitions: Definitions,
        door: Door,
        settings: AppSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let event_feed = EventFeed::start(db.clone(), reader.clone(), &wakeups, shutdown.clone());
        let placing = Placing::start(db.clone(), reader.presence().clone(), wakeups.clone());
        let (own_settings, presence) = (settings.clone(), reader.presence().clone());
        let services = Services {
            db: db.clone(),
            reader,
            placing,
            event_feed,
            definitions,
            wakeups,
            door: door.clone(),
            settings,
        };
        let graphql = Executor::start(services);
        let connections = &own_settings.connections;
        let streams = Streams::new(connections.max_streams, connections.max_shopper_streams());
        Self(Arc::new(Parts {
            db,
            graphql,
            settings: own_settings,
            door,
            presence,
            shutdown,
            sockets: TaskTracker::new(),
            streams,
        }))
    }

    /// The pool.
    pub fn db(&self) -> &DatabaseConnection {
        &self.0.db
    }

    /// Executes GraphQL requests.
    pub fn graphql(&self) -> &Executor {
        &self.0.graphql
    }

    /// What is particular to this shop.
    pub(crate) fn settings(&self) -> &AppSettings {
        &self.0.settings
    }

    /// Whether a partial success has a status of its own.
    pub(crate) fn sends_294(&self) -> bool {
        self.0.settings.sends_294
    }

    /// Tells who calls, unless the database is silent.
    ///
    /// # Errors
    /// No credential that is good, or nobody can tell.
    pub(crate) async fn identify(
        &self,
        credential: Option<&Credential>,
        peer: IpAddr,
    ) -> Result<Caller, Denied> {
        let identified = self.0.presence.unless_silent(self.0.door.identify(credential, peer)).await;
        identified.unwrap_or(Err(Denied::Unavailable))
    }

    /// Tells who calls.
    pub(crate) fn door(&self) -> &Door {
        &self.0.door
    }

    /// Fires when the process is asked to stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// Counts the open WebSockets, which live outside the HTTP server's own count.
    pub(crate) fn sockets(&self) -> &TaskTracker {
        &self.0.sockets
    }

    /// Counts what each app holds open.
    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Waits until every WebSocket has said goodbye. They start to when `shutdown` fires; the HTTP server does not
    /// wait for them, so that the process does.
    pub async fn wait_for_sockets(&self) {
        self.0.sockets.close();
        self.0.sockets.wait().await;
    }
}
