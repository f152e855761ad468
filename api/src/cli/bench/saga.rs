//! `oms bench saga`

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use domain::order::place::place;
use saga::engine::{Changed, Definitions, Runner, Wakeups};
use saga::place_order;
use sea_orm::{DatabaseConnection, TransactionTrait};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::database::{BenchDatabase, RunOrders, count_of};
use super::report::{Output, Progress, Report};
use super::shop::Shop;
use super::{GatewayKind, MAX_SECONDS, OutputArgs, RunnerArgs, run_mark};
use crate::config::{DatabaseArgs, GatewayArgs, ServeArgs};

/// Orders placed in one transaction while the backlog is filled.
const CHUNK: u64 = 500;

/// How often to look whether the backlog is done: twenty looks are a hundredth of a short run.
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Args)]
pub(in crate::cli) struct SagaArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    runner: RunnerArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Orders of two lines in the backlog
    #[arg(long, value_name = "COUNT", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=2_000_000))]
    orders: u64,

    /// Products over which the orders are spread
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    skus: u32,

    /// Most seconds the runner may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
    seconds: u64,

    /// Which gateway answers; the simulated one, here, at once
    #[arg(long, value_enum, default_value_t = GatewayKind::Instant)]
    gateway: GatewayKind,
}

pub(super) async fn run(args: &SagaArgs) -> anyhow::Result<()> {
    let database = BenchDatabase::join(&args.database).await?;
    let measured = measure(args, &database, args.output.output()).await;
    database.leave().await?;
    args.output.output().tell(&measured?)
}

async fn measure(args: &SagaArgs, database: &BenchDatabase, output: Output) -> anyhow::Result<Report> {
    let db = &database.db;
    migration::migrate(db).await.context("cannot bring the schema up to date")?;
    let workers = database.live_workers().await?;
    ensure!(
        workers.is_empty(),
        "a runner is at work on this database and would take the backlog: {}; stop it first",
        workers.join(", ")
    );
    ensure!(
        !database.is_any_saga_open().await?,
        "orders of an earlier run are still on their way; let `oms serve` finish them first"
    );

    let shop = Shop::stocked(db, args.skus).await?;
    let environment = database.environment().await?;
    let mark = run_mark();
    let orders = RunOrders::from_now(&mark);
    let progress = output.progress("filling", Some(args.orders));
    let filling = Instant::now();
    fill(db, &shop, &mark, args.orders, &progress).await.context("cannot fill the backlog")?;
    let filled_in = filling.elapsed();
    progress.finish();
    database.checkpoint().await;

    let before = database.counters().await?;
    let progress = output.progress("running", Some(args.orders * moves_per_order(&args.runner)));
    let elapsed = time_runner(args, database, &progress).await?;
    progress.finish();
    let after = database.counters().await?;

    let mut report = Report::new("saga", "orders", args.orders, elapsed, environment);
    report.usage = after.since(before, args.orders);
    report.orders = orders.count_by_state(db).await?;
    let confirmed = u64::try_from(count_of(&report.orders, "CONFIRMED")).unwrap_or(0);
    report.errors = args.orders - confirmed.min(args.orders);
    report.first_error = (report.errors > 0).then(|| "not every order was confirmed".to_owned());
    report.more = vec![
        ("skus".to_owned(), f64::from(args.skus)),
        ("one_commit_per_step".to_owned(), f64::from(u8::from(args.runner.one_commit_per_step))),
        ("filled_per_second".to_owned(), args.orders as f64 / filled_in.as_secs_f64()),
    ];
    report.more.extend(peak_memory_mb().map(|mb| ("peak_memory_mb".to_owned(), mb)));
    Ok(report)
}

/// Places the orders as the API does: the same two functions in one transaction.
async fn fill(
    db: &DatabaseConnection,
    shop: &Shop,
    mark: &str,
    orders: u64,
    progress: &Progress,
) -> anyhow::Result<()> {
    for first in (0..orders).step_by(usize::try_from(CHUNK).unwrap_or(1)) {
        let chunk = first..orders.min(first + CHUNK);
        let requests = chunk.clone().map(|n| shop.order(mark, n)).collect::<anyhow::Result<Vec<_>>>()?;
        let tx = db.begin().await?;
        let placed = place(&tx, &requests).await?;
        let placed =
            placed.into_iter().map(|result| result.map(|placed| placed.order)).collect::<Result<Vec<_>, _>>();
        let placed = placed.map_err(|refusals| anyhow::anyhow!("an order was refused: {refusals:?}"))?;
        place_order::start(&tx, &placed).await?;
        tx.commit().await?;
        progress.advance(chunk.end - chunk.start);
    }
    Ok(())
}

/// Commits in which an order takes part when nothing is retried: to the first call, to the second, to the end; or one
/// for each of three local steps, two intents and two results.
fn moves_per_order(runner: &RunnerArgs) -> u64 {
    if runner.one_commit_per_step { 7 } else { 3 }
}

/// Runs a runner, put together as `oms serve` does, until no saga waits for anything.
async fn time_runner(
    args: &SagaArgs,
    database: &BenchDatabase,
    progress: &Progress,
) -> anyhow::Result<Duration> {
    let serve = ServeArgs {
        runner: args.runner.clone(),
        gateway: GatewayArgs { kind: args.gateway, delay_ms: 0, ..GatewayArgs::default() },
        ..ServeArgs::default()
    };
    let db = database.connect(&serve.runner_pool()).await?;
    let definition =
        place_order::definition(serve.gateway.start(&db, Default::default()), serve.gateway.saga_settings());
    let definitions = Definitions::try_new([definition]).context("a saga is not well defined")?;
    let (wakeups, stop) = (Wakeups::new(), CancellationToken::new());
    let link = wakeups.clone().link(db.get_postgres_connection_pool().clone(), stop.clone());
    let _link = AbortOnDropHandle::new(tokio::spawn(link));
    let _count =
        AbortOnDropHandle::new(tokio::spawn(count_moves(wakeups.subscribe_changed(), progress.clone())));

    let begin = Instant::now();
    let runner = Runner::start(db.clone(), definitions, wakeups, serve.runner_settings(), stop.clone());
    let time_limit = Duration::from_secs(args.seconds);
    let mut is_done = false;
    while !is_done && begin.elapsed() < time_limit {
        tokio::time::sleep(POLL).await;
        is_done = !database.is_any_saga_open().await?;
    }
    let elapsed = begin.elapsed();
    stop.cancel();
    runner.stopped().await;
    ensure!(is_done, "the backlog was not done after {} s", args.seconds);
    Ok(elapsed)
}

async fn count_moves(mut changes: broadcast::Receiver<Changed>, progress: Progress) {
    loop {
        match changes.recv().await {
            Ok(Changed::Subjects(subject_ids)) => progress.advance(subject_ids.len() as u64),
            Ok(Changed::All) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// The most memory this process has had resident, where the system tells.
fn peak_memory_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1_024.0)
}
