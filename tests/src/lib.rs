//! What the tests stand on: a Postgres of their own, a database for each test, servers in this process and in others,
//! and clients that speak to them as anybody else would.
//!
//! A test opens a [`Shop`], acts through its [`Client`], asserts, and closes it; closing waits for every order to be
//! settled and re-derives the books. Tests with several servers put [`TestDatabase`], [`Server`] and [`OmsProcess`]
//! together themselves.
//!
//! The Postgres is started by the first test that needs it and goes away with the test process, however that ends; so
//! does each server process.

mod client;
mod cluster;
pub mod counting_proxy;
mod database;
pub mod disturb;
pub mod fail_points;
mod identity_provider;
mod keys;
pub mod load;
pub mod lossy_proxy;
mod order_input;
pub mod own_postgres;
mod process;
pub mod runner_under_test;
pub mod schema_walk;
mod server;
mod shop;
mod sse;
mod standby;
pub mod subject;
mod wait;
mod websocket;

pub use client::{Client, Placed};
pub use database::{GatewayPayment, TestDatabase, uuid_of};
pub use identity_provider::{IdentityProvider, seconds_since_1970};
pub use keys::{AppWithKey, app_with_key, key_of};
pub use order_input::{OrderInput, order};
pub use process::{OmsProcess, is_on_a_leash, oms_command, run_oms_on_a_leash};
pub use server::Server;
pub use shop::Shop;
pub use sse::watch_over_sse;
pub use standby::Standby;
pub use wait::{PATIENCE, eventually, within};
pub use websocket::{Socket, watch_over_websocket};
