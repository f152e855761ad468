//! A server in this process, put together as `oms serve` does it.

use oms::config::ServeArgs;
use oms::serve::{self, Running};

use crate::client::Client;
use crate::database::TestDatabase;
use crate::wait::within;

/// Connections of each pool: enough to race, few enough for many servers on one cluster.
const POOL_SIZE: u32 = 5;

/// A serving process's parts, inside this one.
#[derive(Debug)]
pub struct Server(Running);

impl Server {
    /// Starts API and runner on a free port.
    pub async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, |_| ()).await
    }

    /// Starts with settings that differ.
    pub async fn start_with(database: &TestDatabase, change: impl FnOnce(&mut ServeArgs)) -> Self {
        let mut args = ServeArgs::default();
        args.database.database_url = Some(database.url());
        args.process.listen = "127.0.0.1:0".to_owned();
        args.process.pool_size = POOL_SIZE;
        args.runner.runner_pool_size = POOL_SIZE;
        args.gateway.delay_ms = 0;
        // Most tests are about something else than who calls.
        args.access.dev_anonymous = true;
        change(&mut args);
        Self(serve::start(&args).await.expect("the server starts"))
    }

    /// Makes a client of it.
    ///
    /// # Panics
    /// It is a runner alone.
    pub fn client(&self) -> Client {
        Client::new(self.0.addr().expect("this server has an API"))
    }

    /// Makes a client of the address that is set apart for its metrics.
    ///
    /// # Panics
    /// There is none.
    pub fn metrics_client(&self) -> Client {
        Client::new(self.0.metrics_addr().expect("the metrics have an address of their own"))
    }

    /// Stops it in order.
    pub async fn stop(self) {
        within("the server has stopped", self.0.stop()).await.expect("it stops");
    }
}
