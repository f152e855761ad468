//! How people and programs talk to the order management system: GraphQL over HTTP, and the command line.
//!
//! Start reading at [`serve`], which puts a process together.

// Both panic when the reader is gone, as in `oms schema | head`: `cli::print_line` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access;
pub mod app;
pub mod catalog_import;
pub mod cli;
pub mod config;
mod database_error;
pub mod event_feed;
pub mod graphql;
pub mod http;
mod operator;
pub mod placing;
pub mod postgres;
pub mod reader;
mod run_to_end;
pub mod serve;
pub mod shutdown;
pub mod telemetry;
