//! `oms demo`: five orders, each with a story of its own, watched as they are carried out.
//!
//! The whole server runs in this process, and the demo talks to it from outside: HTTP to place and to read, a
//! WebSocket to watch. Nothing here reaches into the server but the check of the books at the end.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use domain::books::Report;
use domain::money::Currency;
use sea_orm::DatabaseConnection;
use uuid::Uuid;

use self::client::{Client, Order, Update};
use self::scenario::{SCENARIOS, Scenario};
use self::screen::Screen;
use super::{print_line, verify};
use crate::config::{AccessArgs, DatabaseArgs, GatewayArgs, ProcessArgs, ServeArgs};
use crate::serve::{self, Running};
use crate::shutdown;

mod client;
mod scenario;
mod screen;

/// How long all orders together may take. They take about three seconds; a machine that compiles something else
/// meanwhile gets time to breathe.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Settings of the demo; the rest is as `oms serve` has it by default.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Leave after the table; the exit code is 0 only if each order ended as it must and the books are clean
    #[arg(long)]
    exit: bool,

    /// Address and port of GraphQL; port 0 takes a free one
    #[arg(long, env = "OMS_LISTEN", value_name = "ADDRESS:PORT", default_value_t = ProcessArgs::default().listen)]
    listen: String,

    /// Milliseconds the simulated gateway takes to answer: slow enough to watch
    #[arg(long, env = "OMS_GATEWAY_DELAY_MS", value_name = "MS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(0..=60_000))]
    gateway_delay_ms: u64,

    #[command(flatten)]
    database: DatabaseArgs,
}

impl DemoArgs {
    fn to_serve_args(&self) -> ServeArgs {
        ServeArgs {
            database: self.database.clone(),
            process: ProcessArgs { listen: self.listen.clone(), ..ProcessArgs::default() },
            gateway: GatewayArgs { delay_ms: self.gateway_delay_ms, ..GatewayArgs::default() },
            // What it prints to be pasted needs no key.
            access: AccessArgs { dev_anonymous: true, ..AccessArgs::default() },
            ..ServeArgs::default()
        }
    }
}

pub(super) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let signal = shutdown::on_signal().context("cannot listen for signals")?;
    print_line("Starting Postgres, the API and the runner in this process ...")?;
    let serve_args = args.to_serve_args();
    let mut running = tokio::select! {
        started = serve::start(&serve_args) => started?,
        () = signal.cancelled() => return Ok(()),
    };
    let shown = tokio::select! {
        shown = show(&running) => shown,
        () = signal.cancelled() => Err(anyhow::anyhow!("interrupted")),
    };
    let ended = match shown {
        Ok(hints) if !args.exit => {
            print_line(format_args!("{hints}\n\nStill serving. Ctrl-C stops it."))?;
            tokio::select! {
                () = signal.cancelled() => Ok(()),
                ended = running.ended() => ended,
            }
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    let stopped = running.stop().await;
    ended.and(stopped)
}

/// Runs the orders, checks the books, and returns what can be done next.
///
/// # Errors
/// An order did not end as it must, the books do not add up, or the server did not answer.
async fn show(running: &Running) -> anyhow::Result<String> {
    let addr = running.addr().context("the demo's server does not listen")?;
    // Whatever else the database sells, the demo's orders are for these.
    serve::add_demo_products(running.db(), Currency::USD).await.context("cannot write the demo catalog")?;
    let client = Client::try_new(addr)?;
    print_line(format_args!("GraphQL answers at {}. Placing {} orders.\n", client.url(), SCENARIOS.len()))?;

    let runs = tokio::time::timeout(TIME_LIMIT, run_orders(&client))
        .await
        .with_context(|| format!("the orders were not settled within {} s", TIME_LIMIT.as_secs()))??;
    print_line(format_args!("\n{}\n", screen::table(&runs)))?;

    let wrong = runs.iter().filter_map(Run::complaint).collect::<Vec<_>>();
    for complaint in &wrong {
        print_line(complaint)?;
    }
    let report = check_books(running.db()).await?;
    ensure!(wrong.is_empty(), "{} of {} orders did not end as they must", wrong.len(), runs.len());
    ensure!(report.is_clean(), "{} things do not add up in the books", report.violations.len());
    Ok(screen::what_next(client.url(), &runs[0].order.id))
}

/// One order of the demo, once it is over.
struct Run {
    scenario: &'static Scenario,
    order: Order,
    took: Duration,
}

impl Run {
    /// Says what is wrong with the end, if anything is.
    fn complaint(&self) -> Option<String> {
        let Self { scenario, order, .. } = self;
        scenario.complaint(order).map(|reason| format!("{} ({}): {reason}", scenario.title, order.id))
    }
}

/// Places every order and watches until the last is settled.
async fn run_orders(client: &Client) -> anyhow::Result<Vec<Run>> {
    let mut watcher = client.watch().await?;
    let screen = Screen::new(SCENARIOS.iter().map(|scenario| scenario.title));
    let run_id = Uuid::now_v7();
    let mut order_ids = Vec::new();
    for (index, scenario) in SCENARIOS.iter().enumerate() {
        // A fresh key for each run: the key of the last run would return the last run's order.
        let order_id = client.place_order(scenario.input(&format!("demo-{run_id}-{index}"))).await?;
        watcher.subscribe(index, &order_id).await?;
        order_ids.push(order_id);
    }

    let mut seen: Vec<Vec<Update>> = SCENARIOS.iter().map(|_| Vec::new()).collect();
    let mut open = SCENARIOS.len();
    while open > 0 {
        let (index, update) = watcher.next().await?;
        let (scenario, updates) = (&SCENARIOS[index], &mut seen[index]);
        let Some(update) = update else {
            open -= 1;
            let ended_well = updates.last().is_some_and(|update| update.status == scenario.status);
            screen.finish(index, ended_well);
            continue;
        };
        let expected = updates.last().map_or(1, |last| last.sequence + 1);
        if update.sequence != expected {
            bail!("{}: event {} came where {expected} was due", scenario.title, update.sequence);
        }
        updates.push(update);
        screen.show(index, updates)?;
    }
    screen.leave()?;

    let mut runs = Vec::new();
    for ((scenario, order_id), updates) in SCENARIOS.iter().zip(order_ids).zip(seen) {
        let order = client.get_order(&order_id).await?;
        runs.push(Run { scenario, order, took: screen::time_taken(&updates) });
    }
    Ok(runs)
}

async fn check_books(db: &DatabaseConnection) -> anyhow::Result<Report> {
    let report = verify::verify(db).await?;
    for violation in &report.violations {
        print_line(format_args!("does not hold: {}: {}", violation.rule, violation.detail))?;
    }
    if report.is_clean() {
        let count =
            |name| report.counts.iter().find(|(found, _)| *found == name).map_or(0, |(_, count)| *count);
        print_line(format_args!(
            "The books add up: {} orders, {} events, {} payments, {} attempts of steps.",
            count("orders"),
            count("events"),
            count("payments"),
            count("attempts in the history"),
        ))?;
    }
    Ok(report)
}
