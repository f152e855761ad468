//! `oms sagas`

use std::time::Duration;

use anyhow::Context;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use domain::id::OrderId;
use saga::engine::definition::CONCLUSION_NAME;
use saga::engine::operate::Filter;
use saga::engine::{Definitions, SagaStatus};
use saga::place_order;
use sea_orm::DatabaseConnection;

use crate::config::{DatabaseArgs, GatewayArgs};
use crate::postgres::{self, Database, PoolSettings};
use crate::serve;

mod act;
mod explain;
mod list;

const EXAMPLES: &str = "\
Examples:
  oms sagas list                                       what is on its way
  oms sagas list --stuck --older-than 5m               what a person should look at
  oms sagas explain order_01jx2v3q8kf0v8c9m5w6r7t2ab   where it is, why, and what happens next
  oms sagas retry --stuck --error \"server error\" --reason \"the gateway is back\" --dry-run
  oms sagas abandon order_01jx2v3q8kf0v8c9m5w6r7t2ab --reason \"the customer called\"
  oms sagas resolve order_01jx2v3q8kf0v8c9m5w6r7t2ab --succeeded capture_9f2c --evidence \"seen in the dashboard\"";

#[derive(Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub(super) enum SagasCommand {
    /// List the sagas on their way, the oldest first; with an end as --state those that are over, the newest first
    List(list::ListArgs),
    /// Say where an order's saga is, why, what happens next and when, and what it did so far
    Explain(explain::ExplainArgs),
    /// Try again now instead of at the time of the next attempt
    Retry(act::ActArgs),
    /// Let held sagas try again under the same keys
    ///
    /// The other system may have forgotten the key: you vouch that it does not carry the call out twice.
    Resume(act::ActArgs),
    /// Give up: what may have been done is undone, and the order fails as ABANDONED
    ///
    /// Refused past the point of no return, which is the capture of the payment, and while nobody knows whether that
    /// was passed: resolve it first.
    Abandon(act::ActArgs),
    /// Say how a call ended whose outcome is unknown; the saga goes on as if the other system had answered so
    ///
    /// Find out first, under the key that `oms sagas explain` shows: nobody checks what you say. A stuck call, such as a
    /// void that is refused again and again, can be said to have succeeded once its effect was seen to by other means.
    Resolve(act::ResolveArgs),
}

/// How a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// On its way forward.
    Running,
    /// Undoing what may have been done.
    Compensating,
    /// Waiting for a person.
    Held,
    /// Over: every step succeeded.
    Succeeded,
    /// Over: everything was undone.
    Compensated,
}

/// Which sagas.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Filter")]
#[group(id = FilterArgs::GROUP, multiple = true)]
struct FilterArgs {
    /// Those that stand like this
    #[arg(long, value_enum, ignore_case = true)]
    state: Option<State>,
    /// Those that a person should look at
    #[arg(long)]
    stuck: bool,
    /// Those at this step
    #[arg(long, value_name = "NAME", value_parser = step_names())]
    step: Option<String>,
    /// Those that have been at their step for at least this long, such as 90s, 5m, 2h or 1d
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    older_than: Option<Duration>,
    /// Those whose error or failure contains this text, whatever the case
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
}

impl FilterArgs {
    /// Present where at least one condition is.
    const GROUP: &'static str = "which";

    fn to_filter(&self) -> Filter {
        Filter {
            ids: None,
            status: self.state.map(SagaStatus::from),
            stuck: self.stuck,
            step: self.step.clone(),
            older_than: self.older_than,
            error_contains: self.error.clone(),
        }
    }
}

impl From<State> for SagaStatus {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Compensating => Self::Compensating,
            State::Held => Self::Held,
            State::Succeeded => Self::Succeeded,
            State::Compensated => Self::Compensated,
        }
    }
}

fn step_names() -> PossibleValuesParser {
    PossibleValuesParser::new(place_order::STEPS.into_iter().chain([CONCLUSION_NAME]))
}

/// Reads a number and its unit.
fn parse_time(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds_each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("give a number and s, m, h or d, such as 5m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "give a number and s, m, h or d, such as 5m".to_owned())?;
    number.checked_mul(seconds_each).map(Duration::from_secs).ok_or_else(|| "this is too long".to_owned())
}

pub(super) async fn run(command: &SagasCommand) -> anyhow::Result<()> {
    let site = match command {
        SagasCommand::List(args) => &args.site,
        SagasCommand::Explain(args) => &args.site,
        SagasCommand::Retry(args) | SagasCommand::Resume(args) | SagasCommand::Abandon(args) => args.site(),
        SagasCommand::Resolve(args) => args.site(),
    };
    let session = Session::open(site).await?;
    let result = match command {
        SagasCommand::List(args) => list::run(&session, args).await,
        SagasCommand::Explain(args) => explain::run(&session, args).await,
        SagasCommand::Retry(args) => args.run(&session, &act::Act::Retry).await,
        SagasCommand::Resume(args) => args.run(&session, &act::Act::Resume).await,
        SagasCommand::Abandon(args) => args.run(&session, &act::Act::Abandon).await,
        SagasCommand::Resolve(args) => args.run(&session).await,
    };
    session.close().await?;
    result
}

/// Where the sagas are, and which gateway they call: give the same as to `oms serve`.
#[derive(Debug, Clone, Args)]
struct SiteArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    gateway: GatewayArgs,
}

/// The database with the sagas, and what they consist of.
struct Session {
    database: Database,
    db: DatabaseConnection,
    definitions: Definitions,
}

impl Session {
    async fn open(args: &SiteArgs) -> anyhow::Result<Self> {
        let database = postgres::join(&args.database).await?;
        let db = database.connect(&PoolSettings::for_command("oms sagas")).await?;
        let pending = migration::pending(&db).await.context("cannot read the state of the schema")?;
        anyhow::ensure!(pending.is_empty(), "the schema is not up to date; run `oms migrate` first");
        // Nothing here makes a call, but payments are recorded under the gateway's name, and its time-out says until when
        // a call is repeated.
        let definitions = serve::definitions(&db, database.presence(), &args.gateway)?;
        Ok(Self { database, db, definitions })
    }

    async fn close(self) -> anyhow::Result<()> {
        // The connections go before the server does, whatever the outcome.
        self.db.close().await.context("cannot close the connections")?;
        Ok(self.database.close().await?)
    }
}

/// Makes a table without lines, which `awk` can read as well.
fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Prints a table, without the blanks that fill its last column.
fn print_table(table: &Table) -> anyhow::Result<()> {
    super::print_line(table.trim_fmt())
}

fn parse_order_id(text: &str) -> Result<OrderId, String> {
    text.parse().map_err(|_| "an order id looks like order_01jx2v3q8kf0v8c9m5w6r7t2ab".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        let seconds = |text| parse_time(text).map(|time| time.as_secs()).ok();
        assert_eq!(
            [seconds("90s"), seconds("5m"), seconds("2h"), seconds("1d")],
            [Some(90), Some(300), Some(7200), Some(86400)]
        );
        for text in ["", "5", "m", "5 m", "-5m", "5min", "1.5h", "18446744073709551615d"] {
            assert_eq!(seconds(text), None, "{text:?}");
        }
    }
}
