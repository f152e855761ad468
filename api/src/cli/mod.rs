//! The command line: one file per subcommand.
//!
//! Exit codes: 0 done, 1 failed (one line on standard error says why), 2 used wrongly.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{DatabaseArgs, LogArgs, ServeArgs};
use crate::{shutdown, telemetry};

mod bench;
mod catalog;
mod database_url;
mod demo;
mod documents;
mod keys;
mod migrate;
mod sagas;
mod schema;
mod serve;
mod verify;

const EXAMPLES: &str = "\
Examples:
  oms demo                             five orders on an embedded Postgres, watched as they are carried out
  oms serve                            API and runner on an embedded Postgres, GraphQL on 127.0.0.1:8080
  oms serve --role api                 the API alone; run more of them on one DATABASE_URL
  oms keys create --scopes all         make an API key; callers need one
  oms documents allow --app shop *.graphql   register what the app may execute by name
  oms catalog import products.csv      add or replace products and their stock
  psql \"$(oms database-url)\"           look at the tables
  oms sagas list --stuck               what a person should look at
  oms verify                           re-derive stock and money from the ledgers

Every flag has a variable, shown in the help of each subcommand. Nothing has to be set to start.";

/// Order management: takes orders over GraphQL and carries each through reservation, payment and confirmation
///
/// One program and one Postgres. Without DATABASE_URL, an embedded Postgres keeps its data in .oms/ here.
#[derive(Debug, Parser)]
#[command(name = "oms", version, after_long_help = EXAMPLES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve GraphQL and run the sagas until Ctrl-C or SIGTERM
    ///
    /// Makes the schema current first. A fresh embedded database gets a small demo catalog.
    Serve(Box<ServeArgs>),
    /// Place five orders against a server in this process, and show what becomes of each
    ///
    /// Starts what `oms serve` starts, places the orders over HTTP, watches them over a WebSocket, checks the books,
    /// and keeps serving. The orders are real: they stay in the database.
    Demo(Box<demo::DemoArgs>),
    /// Measure how fast it is on this machine
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Bring the database schema up to date
    Migrate(DatabaseArgs),
    /// Print the GraphQL schema (SDL)
    Schema,
    /// See where sagas are, and act on those that need a person
    #[command(subcommand)]
    Sagas(sagas::SagasCommand),
    /// Make, list and revoke API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Register the documents that an app may execute
    #[command(subcommand)]
    Documents(documents::DocumentsCommand),
    /// Work on the catalog
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Re-derive stock, money and event numbers from the ledgers; exits 1 when something does not add up
    Verify(DatabaseArgs),
    /// Print the URL of the database, for psql, pgbench and further processes
    ///
    /// Does not start the embedded Postgres: it runs while `oms serve` does.
    DatabaseUrl(DatabaseArgs),
}

/// Runs the program with the arguments and the environment of this process.
pub fn run() -> ExitCode {
    match try_run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done where standard error is closed as well.
            let _ = writeln!(io::stderr(), "error: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Joins an error and its causes, leaving out a cause that the text before it quotes already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn try_run(cli: Cli) -> anyhow::Result<()> {
    let serves = matches!(cli.command, Command::Serve(_));
    telemetry::start_log(&cli.log, if serves { "info" } else { "warn" })?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads of this process")?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(&args).await,
            Command::Demo(args) => demo::run(&args).await,
            Command::Bench(command) => until_signal(bench::run(&command)).await,
            Command::Migrate(args) => until_signal(migrate::run(&args)).await,
            Command::Schema => schema::run(),
            Command::Sagas(command) => until_signal(sagas::run(&command)).await,
            Command::Keys(command) => until_signal(keys::run(&command)).await,
            Command::Documents(command) => until_signal(documents::run(&command)).await,
            Command::Catalog(command) => until_signal(catalog::run(&command)).await,
            Command::Verify(args) => until_signal(verify::run(&args)).await,
            Command::DatabaseUrl(args) => database_url::run(&args),
        }
    })
}

/// Runs a subcommand that Ctrl-C may end anywhere: dropping it rolls its transaction back and leaves the database.
async fn until_signal(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let signal = shutdown::on_signal().context("cannot listen for signals")?;
    tokio::select! {
        result = command => result,
        () = signal.cancelled() => anyhow::bail!("interrupted"),
    }
}

/// Writes a line to standard output. A reader that went away, as in `oms schema | head`, is no error.
fn print_line(line: impl Display) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_given_as_flags_arrive() {
        let cli =
            Cli::try_parse_from(["oms", "serve", "--listen", "[::1]:9", "--role", "api", "--log", "debug"]);
        let Ok(Cli { command: Command::Serve(args), log }) = cli else { panic!("{cli:?}") };
        assert_eq!((args.process.listen.as_str(), args.process.role), ("[::1]:9", crate::config::Role::Api));
        assert_eq!(log.filter.as_deref(), Some("debug"));
    }
}
