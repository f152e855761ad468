//! What most tests need: one database, one server, one client.

use std::ops::Deref;

use oms::config::ServeArgs;

use crate::client::Client;
use crate::database::TestDatabase;
use crate::server::Server;

/// A running shop. It is its own client: `shop.place(..)`.
#[derive(Debug)]
pub struct Shop {
    /// Its database.
    pub db: TestDatabase,
    client: Client,
    server: Server,
}

impl Shop {
    /// Opens a shop with the demo catalog.
    pub async fn open() -> Self {
        Self::open_with(|_| ()).await
    }

    /// Opens one whose gateway may take this long for an answer.
    pub async fn open_with_gateway_timeout(timeout_ms: u64) -> Self {
        Self::open_with(|args| args.gateway.timeout_ms = timeout_ms).await
    }

    /// Opens one with settings that differ.
    pub async fn open_with(change: impl FnOnce(&mut ServeArgs)) -> Self {
        let db = TestDatabase::create().await;
        let server = Server::start_with(&db, change).await;
        Self { client: server.client(), db, server }
    }

    /// Waits until every order is settled, asserts that the books balance, and closes.
    pub async fn close(self) {
        self.db.wait_until_settled().await;
        self.close_with_pending_orders().await;
    }

    /// Asserts that the books balance, and closes; for tests that leave an order pending on purpose.
    pub async fn close_with_pending_orders(self) {
        self.server.stop().await;
        self.db.close_with_pending_orders().await;
    }
}

impl Deref for Shop {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
