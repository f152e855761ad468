//! `oms bench flash`

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;

use super::database::{BenchDatabase, RunOrders, count_of};
use super::pacing::{Bound, Pace};
use super::place::{Buyer, Lines};
use super::report::{Output, Report};
use super::shop::Shop;
use super::target::Target;
use super::{MAX_SECONDS, OutputArgs, ServerArgs, run_mark};

#[derive(Debug, Args)]
pub(in crate::cli) struct FlashArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Orders of one unit each
    #[arg(long, value_name = "COUNT", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    orders: u64,

    /// Units in stock
    #[arg(long, value_name = "UNITS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    stock: u64,

    /// Products over which orders and stock are spread, to compare
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    skus: u32,

    /// Connections, each with one request at a time
    #[arg(long, value_name = "CONNECTIONS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    concurrency: u32,

    /// Most seconds until every order is settled
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,
}

pub(super) async fn run(args: &FlashArgs) -> anyhow::Result<()> {
    let mut target = args.server.target().await?;
    target.probe().await?;
    let database = BenchDatabase::join(&args.server.database).await?;
    target.use_key(args.server.api_key.as_deref(), &database.db).await?;
    let measured = measure(args, &target, &database, args.output.output()).await;
    database.leave().await?;
    let report = measured?;
    args.output.output().tell(&report)?;
    check(args, &report)
}

async fn measure(
    args: &FlashArgs,
    target: &Target,
    database: &BenchDatabase,
    output: Output,
) -> anyhow::Result<Report> {
    ensure!(!database.live_workers().await?.is_empty(), "no runner is at work; start one with `oms serve`");
    let mark = run_mark();
    let shop = Arc::new(Shop::scarce(&database.db, &mark, args.skus, args.stock).await?);
    let environment = database.environment().await?;
    let time = Duration::from_secs(args.seconds);
    let bound = Bound { requests: args.orders, time };
    let pace = Pace { concurrency: args.concurrency, rate: None, bound, warm_up: Duration::ZERO };
    let buyers = Buyer::open_all(target, &shop, Lines::One, &mark, pace.concurrency).await?;
    database.checkpoint().await;

    let orders = RunOrders::from_now(&mark);
    let before = database.counters().await?;
    let begin = Instant::now();
    let progress = output.progress("placing", Some(args.orders));
    let (_, driven) = pace.drive(buyers, &progress).await;
    progress.finish();
    let progress = output.progress("settling", Some(args.orders));
    orders.settled(&database.db, time.saturating_sub(begin.elapsed()), &progress).await?;
    progress.finish();
    let elapsed = begin.elapsed();
    let usage = database.counters().await?.since(before, driven.succeeded());

    let placed_per_second = driven.succeeded() as f64 / driven.elapsed.as_secs_f64();
    let report = Report::of("flash", "orders", &driven, environment.clone());
    Ok(Report {
        seconds: elapsed.as_secs_f64(),
        rate: driven.succeeded() as f64 / elapsed.as_secs_f64(),
        usage,
        accept_to_confirmed: orders.accept_to_confirmed(&database.db).await?,
        orders: orders.count_by_state(&database.db).await?,
        more: vec![
            ("skus".to_owned(), f64::from(args.skus)),
            ("stock".to_owned(), args.stock as f64),
            ("placed_per_second".to_owned(), placed_per_second),
        ],
        ..report
    })
}

/// Exactly the stock is sold, and whoever comes too late is told why.
fn check(args: &FlashArgs, report: &Report) -> anyhow::Result<()> {
    let placed: i64 = report.orders.iter().map(|(_, count)| count).sum();
    let confirmed = count_of(&report.orders, "CONFIRMED");
    let out_of_stock = count_of(&report.orders, "FAILED OUT_OF_STOCK");
    let sold = i64::try_from(args.stock.min(args.orders)).unwrap_or(i64::MAX);
    ensure!(
        report.errors == 0 && confirmed == sold && confirmed + out_of_stock == placed,
        "{sold} orders should be CONFIRMED and the others FAILED for OUT_OF_STOCK: {:?}, {} requests failed",
        report.orders,
        report.errors
    );
    Ok(())
}
