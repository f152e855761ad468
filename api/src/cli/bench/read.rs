//! `oms bench read`

use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Args;
use domain::id::OrderId;
use sea_orm::{DatabaseConnection, DbErr, FromQueryResult};
use serde_json::json;
use uuid::Uuid;

use super::client::Connection;
use super::database::{BenchDatabase, statement};
use super::pacing::Client;
use super::report::{Output, Report};
use super::target::Target;
use super::{LoadArgs, OutputArgs, ServerArgs};

/// Connections unless said: the number the project's target is stated for.
const CONNECTIONS: u32 = 32;

/// Ids fetched in one query.
const PAGE: i64 = 50_000;

const QUERY: &str =
    "query ($id: ID!) { getOrder(id: $id) { id status lines { sku quantity } totals { total { amount } } } }";

#[derive(Debug, Args)]
pub(in crate::cli) struct ReadArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Orders to choose from, the oldest first
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    among: u64,
}

pub(super) async fn run(args: &ReadArgs) -> anyhow::Result<()> {
    let mut target = args.server.target().await?;
    target.probe().await?;
    let database = BenchDatabase::join(&args.server.database).await?;
    target.use_key(args.server.api_key.as_deref(), &database.db).await?;
    let measured = measure(args, &target, &database, args.output.output()).await;
    database.leave().await?;
    args.output.output().tell(&measured?)
}

async fn measure(
    args: &ReadArgs,
    target: &Target,
    database: &BenchDatabase,
    output: Output,
) -> anyhow::Result<Report> {
    let environment = database.environment().await?;
    let ids: Arc<[Uuid]> =
        fetch_ids(&database.db, args.among).await.context("cannot read the ids of orders")?.into();
    ensure!(
        !ids.is_empty(),
        "there are no orders to read; place some with `oms bench place` or `oms bench fill`"
    );
    let pace = args.load.pace(CONNECTIONS);
    let mut readers = Vec::new();
    for _ in 0..pace.concurrency {
        readers.push(Reader::open(target, &ids).await?);
    }
    let readers = pace.warm_up(readers).await;

    let progress = output.progress("reading", args.load.orders);
    let (_, driven) = pace.drive(readers, &progress).await;
    progress.finish();

    let mut report = Report::of("read", "requests", &driven, environment);
    report.more = vec![
        ("connections".to_owned(), f64::from(pace.concurrency)),
        ("among_orders".to_owned(), ids.len() as f64),
    ];
    report.more.extend(pace.rate.map(|rate| ("due_per_second".to_owned(), rate)));
    Ok(report)
}

#[derive(FromQueryResult)]
struct Id {
    id: Uuid,
}

async fn fetch_ids(db: &DatabaseConnection, limit: u64) -> Result<Vec<Uuid>, DbErr> {
    let mut ids: Vec<Uuid> = Vec::new();
    while (ids.len() as u64) < limit {
        let after = ids.last().copied().unwrap_or_default();
        let page = PAGE.min(i64::try_from(limit).unwrap_or(PAGE) - i64::try_from(ids.len()).unwrap_or(0));
        let query = "SELECT id FROM orders WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = Id::find_by_statement(statement(query, [after.into(), page.into()])).all(db).await?;
        if rows.is_empty() {
            break;
        }
        ids.extend(rows.iter().map(|row| row.id));
    }
    Ok(ids)
}

/// A connection that reads orders.
#[derive(Debug)]
struct Reader {
    target: Target,
    connection: Option<Connection>,
    ids: Arc<[Uuid]>,
    before_id: String,
}

impl Reader {
    async fn open(target: &Target, ids: &Arc<[Uuid]>) -> anyhow::Result<Self> {
        let before_id = format!(r#"{{"query":{},"variables":{{"id":""#, json!(QUERY));
        let connection = Some(Connection::open(target).await?);
        Ok(Self { target: target.clone(), connection, ids: ids.clone(), before_id })
    }
}

impl Client for Reader {
    async fn request(&mut self, _: u64) -> anyhow::Result<()> {
        let id = OrderId::from_uuid(self.ids[rand::random_range(0..self.ids.len())]).to_string();
        let body = format!(r#"{}{id}"}}}}"#, self.before_id);
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target).await?,
        };
        connection.post(body.as_bytes()).await?;
        let is_whole = connection.text_after(br#""getOrder":{"id":""#) == Some(id.as_str())
            && connection.answer_contains(br#""lines":[{"sku":"#);
        ensure!(is_whole, "not the order: {}", String::from_utf8_lossy(connection.body()));
        self.connection = Some(connection);
        Ok(())
    }
}
