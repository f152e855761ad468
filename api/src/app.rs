//! What every request works with, and the tasks behind it.

use std::sync::Arc;

use domain::money::Currency;
use saga::engine::{Definitions, Wakeups};
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event_feed::EventFeed;
use crate::graphql;
use crate::placing::Placing;

/// What is particular to this shop.
#[derive(Debug, Clone)]
pub struct AppSettings {
    /// The currency of an amount that names none.
    pub currency: Currency,
}

impl Default for AppSettings {
    fn default() -> Self {
        Self { currency: Currency::USD }
    }
}

/// What resolvers work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Services {
    /// The pool.
    pub db: DatabaseConnection,
    /// Places orders.
    pub placing: Placing,
    /// Shows what happens to them.
    pub event_feed: EventFeed,
    /// The sagas that operators see and act on.
    pub definitions: Definitions,
    /// Wakes whoever waits for what an operator did.
    pub wakeups: Arc<Wakeups>,
    /// The shop.
    pub settings: AppSettings,
}

/// The running application. Cheap to clone.
#[derive(Clone)]
pub struct App {
    services: Services,
    schema: graphql::Schema,
    shutdown: CancellationToken,
    sockets: TaskTracker,
}

impl App {
    /// Starts the tasks that place orders and feed viewers.
    ///
    /// The event feed and every open subscription end when `shutdown` fires; placing goes on for the requests that are
    /// still in flight and ends with the last clone of the application.
    pub fn start(
        db: DatabaseConnection,
        wakeups: Arc<Wakeups>,
        definitions: Definitions,
        settings: AppSettings,
        shutdown: CancellationToken,
    ) -> Self {
        let event_feed = EventFeed::start(db.clone(), &wakeups, shutdown.clone());
        let placing = Placing::start(db.clone(), wakeups.clone());
        let services = Services { db, placing, event_feed, definitions, wakeups, settings };
        let schema = graphql::schema(services.clone());
        Self { services, schema, shutdown, sockets: TaskTracker::new() }
    }

    /// The pool.
    pub fn db(&self) -> &DatabaseConnection {
        &self.services.db
    }

    /// The GraphQL schema.
    pub fn schema(&self) -> &graphql::Schema {
        &self.schema
    }

    /// Fires when the process is asked to stop.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Counts the open WebSockets, which live outside the HTTP server's own count.
    pub(crate) fn sockets(&self) -> &TaskTracker {
        &self.sockets
    }

    /// Waits until every WebSocket has said goodbye. They start to when `shutdown` fires; the HTTP server does not
    /// wait for them, so that the process does.
    pub async fn wait_for_sockets(&self) {
        self.sockets.close();
        self.sockets.wait().await;
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("services", &self.services).finish_non_exhaustive()
    }
}
