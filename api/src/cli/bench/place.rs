//! `oms bench place`

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use super::client::Connection;
use super::database::{BenchDatabase, RunOrders};
use super::pacing::Client;
use super::report::{Output, Report};
use super::shop::{PlaceBody, Shop};
use super::target::Target;
use super::{LoadArgs, OutputArgs, ServerArgs, run_mark};

/// Connections unless said: the number the project's target is stated for.
const CONNECTIONS: u32 = 64;

/// How long placed orders may take to be settled once the load is over.
const SETTLE_TIME: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(in crate::cli) struct PlaceArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Products over which the orders are spread
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    skus: u32,
}

pub(super) async fn run(args: &PlaceArgs) -> anyhow::Result<()> {
    let mut target = args.server.target().await?;
    target.probe().await?;
    let database = BenchDatabase::join(&args.server.database).await?;
    target.use_key(args.server.api_key.as_deref(), &database.db).await?;
    let measured = measure(args, &target, &database, args.output.output()).await;
    database.leave().await?;
    args.output.output().tell(&measured?)
}

async fn measure(
    args: &PlaceArgs,
    target: &Target,
    database: &BenchDatabase,
    output: Output,
) -> anyhow::Result<Report> {
    let shop = Arc::new(Shop::stocked(&database.db, args.skus).await?);
    let has_runner = !database.live_workers().await?.is_empty();
    let environment = database.environment().await?;
    let pace = args.load.pace(CONNECTIONS);

    let warm_up = Buyer::open_all(target, &shop, Lines::Two, &run_mark(), pace.concurrency).await?;
    pace.warm_up(warm_up).await;
    let mark = run_mark();
    let buyers = Buyer::open_all(target, &shop, Lines::Two, &mark, pace.concurrency).await?;
    database.checkpoint().await;

    let orders = RunOrders::from_now(&mark);
    let before = database.counters().await?;
    let progress = output.progress("placing", args.load.orders);
    let (_, driven) = pace.drive(buyers, &progress).await;
    progress.finish();
    orders.are_here(&database.db, driven.succeeded()).await?;
    if has_runner {
        let progress = output.progress("settling", Some(driven.succeeded()));
        orders.settled(&database.db, SETTLE_TIME, &progress).await?;
        progress.finish();
    }
    let usage = database.counters().await?.since(before, driven.succeeded());

    let mut report = Report::of("place", "orders", &driven, environment);
    report.usage = usage;
    report.accept_to_confirmed = orders.accept_to_confirmed(&database.db).await?;
    report.orders = orders.count_by_state(&database.db).await?;
    report.more = vec![("connections".to_owned(), f64::from(pace.concurrency))];
    report.more.extend(pace.rate.map(|rate| ("due_per_second".to_owned(), rate)));
    Ok(report)
}

/// How many lines an order has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    One,
    Two,
}

/// A connection that places orders.
#[derive(Debug)]
pub(super) struct Buyer {
    target: Target,
    connection: Option<Connection>,
    shop: Arc<Shop>,
    lines: Lines,
    mark: String,
    body: PlaceBody,
}

impl Buyer {
    /// Opens connections.
    pub(super) async fn open_all(
        target: &Target,
        shop: &Arc<Shop>,
        lines: Lines,
        mark: &str,
        count: u32,
    ) -> anyhow::Result<Vec<Self>> {
        let mut buyers = Vec::with_capacity(count as usize);
        for _ in 0..count {
            buyers.push(Self {
                target: target.clone(),
                connection: Some(Connection::open(target).await?),
                shop: shop.clone(),
                lines,
                mark: mark.to_owned(),
                body: PlaceBody::new(),
            });
        }
        Ok(buyers)
    }

    /// Places the `n`th order and returns its id.
    pub(super) async fn place(&mut self, n: u64) -> anyhow::Result<String> {
        let id = self.send(n).await?.text_after(ORDER_ID).map(str::to_owned);
        id.ok_or_else(|| anyhow::anyhow!("the answer has no order id"))
    }

    async fn send(&mut self, n: u64) -> anyhow::Result<&Connection> {
        let body = match self.lines {
            Lines::One => self.body.render(&self.mark, n, &[(self.shop.sku(n), 1)]),
            Lines::Two => self.body.render(&self.mark, n, &self.shop.lines(n)),
        };
        // Taken out, so that a connection that broke, or was left in the middle, is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target).await?,
        };
        connection.post(body).await?;
        Ok(self.connection.insert(connection))
    }
}

/// What stands before the id in an answer that holds an order.
const ORDER_ID: &[u8] = br#""order":{"id":""#;

impl Client for Buyer {
    async fn request(&mut self, n: u64) -> anyhow::Result<()> {
        let connection = self.send(n).await?;
        ensure!(
            connection.answer_contains(br#""order":{"id":"order_"#)
                && connection.answer_contains(br#""userErrors":[]"#),
            "the order was refused: {}",
            String::from_utf8_lossy(connection.body())
        );
        Ok(())
    }
}
