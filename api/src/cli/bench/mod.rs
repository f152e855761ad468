//! `oms bench`: how fast it is, measured on this machine.
//!
//! `place`, `read`, `watch` and `flash` drive a running server over real connections; `saga` fills a backlog and times
//! a runner in this process; `fill` makes a table large. Each needs the server's database as well as its address: for
//! the catalog, for the counters of commits and log bytes, and to check what became of the orders.
//!
//! The client shares the machine with what it measures, so it costs as little as it can: connections of its own, bodies
//! put together from prepared pieces, answers looked at and not parsed ([`client`]).
//!
//! Absent on purpose: any target but this machine. A load generator that can be pointed elsewhere is a weapon.

use std::time::Duration;

use clap::{Args, Subcommand};

use self::pacing::{Bound, Pace};
use self::report::Output;
use self::target::Target;
use crate::config::{DatabaseArgs, GatewayKind, ProcessArgs, RunnerArgs};

mod client;
mod database;
mod fill;
mod flash;
mod pacing;
mod place;
mod read;
mod report;
mod saga;
mod shop;
mod target;
mod watch;

/// The longest run, whatever was asked for by count.
const MAX_SECONDS: u64 = 3_600;

/// How long a run takes that nothing else bounds.
const DEFAULT_SECONDS: u64 = 10;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Place orders on a running server: requests per second, latency, and the time from accepted to CONFIRMED
    Place(place::PlaceArgs),
    /// Fill a backlog of orders and time a runner in this process until all are CONFIRMED
    ///
    /// No other runner may be at work on the database.
    Saga(saga::SagaArgs),
    /// Read orders by id from a running server, chosen at random
    Read(read::ReadArgs),
    /// Watch orders over WebSockets while they are placed: the time from commit to viewer
    Watch(watch::WatchArgs),
    /// Place more orders on one SKU than it has in stock; exactly its stock must be CONFIRMED
    Flash(flash::FlashArgs),
    /// Insert finished orders, to measure how the rest does on large tables
    Fill(fill::FillArgs),
}

pub(super) async fn run(command: &BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Place(args) => place::run(args).await,
        BenchCommand::Saga(args) => saga::run(args).await,
        BenchCommand::Read(args) => read::run(args).await,
        BenchCommand::Watch(args) => watch::run(args).await,
        BenchCommand::Flash(args) => flash::run(args).await,
        BenchCommand::Fill(args) => fill::run(args).await,
    }
}

/// Which server, and the database behind it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
struct ServerArgs {
    /// GraphQL of the server, on this machine [default: http://OMS_LISTEN/graphql]
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Where the server listens, if --url does not say
    #[arg(long, env = "OMS_LISTEN", value_name = "ADDRESS:PORT", default_value_t = ProcessArgs::default().listen, hide = true)]
    listen: String,

    /// API key to show to the server [default: one that is made in its database, good for a day]
    #[arg(long, env = "OMS_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Option<String>,

    #[command(flatten)]
    database: DatabaseArgs,
}

impl ServerArgs {
    async fn target(&self) -> anyhow::Result<Target> {
        match &self.url {
            Some(url) => Target::try_new(url).await,
            None => Target::at(&self.listen).await,
        }
    }
}

/// How hard to drive, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Load")]
struct LoadArgs {
    /// Connections, each with one request at a time [default: 64; 32 for read, 100 viewers for watch]
    #[arg(long, value_name = "CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..=2_000))]
    concurrency: Option<u32>,

    /// Requests begun per second, whether or not earlier ones are answered; latency counts from when each was due.
    /// Without it, each connection sends its next request when the last is answered
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Requests to measure; without it, as many as fit into --seconds
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: Option<u64>,

    /// Seconds to measure [default: 10, or as long as --orders takes]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: Option<u64>,

    /// Seconds of the same load before the measurement begins
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=600))]
    warmup: u64,
}

impl LoadArgs {
    fn pace(&self, default_concurrency: u32) -> Pace {
        let seconds = match (self.seconds, self.orders) {
            (Some(seconds), _) => seconds,
            (None, Some(_)) => MAX_SECONDS,
            (None, None) => DEFAULT_SECONDS,
        };
        Pace {
            concurrency: self.concurrency.unwrap_or(default_concurrency),
            rate: self.rate,
            bound: Bound { requests: self.orders.unwrap_or(u64::MAX), time: Duration::from_secs(seconds) },
            warm_up: Duration::from_secs(self.warmup),
        }
    }
}

/// How the result is told.
#[derive(Debug, Clone, Copy, Args)]
struct OutputArgs {
    /// Print one JSON object on standard output, and no progress bar
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    fn output(self) -> Output {
        Output::new(self.json)
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number from 0.1 to 100000".to_owned()),
    }
}

/// Marks this run's idempotency keys, so that its orders can be told from all others.
fn run_mark() -> String {
    format!("bench-{}", uuid::Uuid::now_v7().simple())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> LoadArgs {
        LoadArgs { concurrency: None, rate: None, orders: None, seconds: None, warmup: 0 }
    }

    #[test]
    fn every_run_is_bounded() {
        assert_eq!(load().pace(8).bound.time, Duration::from_secs(DEFAULT_SECONDS));
        let counted = LoadArgs { orders: Some(5), ..load() }.pace(8).bound;
        assert_eq!((counted.requests, counted.time), (5, Duration::from_secs(MAX_SECONDS)));
        let both = LoadArgs { orders: Some(5), seconds: Some(3), ..load() }.pace(8).bound;
        assert_eq!((both.requests, both.time), (5, Duration::from_secs(3)));
    }

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!(parse_rate("200"), Ok(200.0));
        for bad in ["0", "-1", "inf", "NaN", "fast"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
