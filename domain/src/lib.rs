//! What an order is and what may happen to it.
//!
//! One folder per noun. Inside a noun, `mod.rs` holds the types and the pure rules, `entity.rs` the rows, `store.rs`
//! the queries; those that show orders to somebody are in `order/read.rs` and `payment/read.rs`. Queries are plain functions over a
//! connection, so that they join the caller's transaction; on the path that every order takes they work on many orders
//! per statement.
//!
//! Absent on purpose: no saga, no gateway, no GraphQL, no clock of its own (time is the database's) and no
//! repository traits (there is one database, and the tests use the real one).

pub mod app;
pub mod books;
pub mod catalog;
pub mod id;
pub mod input;
pub mod money;
pub mod order;
pub mod payment;
pub mod pricing;
mod sql;
pub mod stock;
