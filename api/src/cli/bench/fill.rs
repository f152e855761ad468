//! `oms bench fill`
//!
//! Writes orders as they are when everything is done, with all that an order leaves behind, in a fraction of the time
//! that carrying them out would take. `oms verify` finds nothing amiss afterwards.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use domain::id::local_app;
use domain::money::Currency;
use domain::order::OrderStatus;
use domain::order::event::OrderEvent;
use domain::pricing::store::load_rates;
use domain::pricing::{DEFAULT_SHIPPING_METHOD, Parcel, ParcelLine, Quote};
use saga::payment_gateway::Request;
use saga::place_order;
use sea_orm::{ActiveEnum, ConnectionTrait, DatabaseConnection, TransactionTrait};
use serde_json::json;
use uuid::Uuid;

use super::database::{BenchDatabase, statement};
use super::report::{Output, Report};
use super::shop::{self, PRICE_MINOR, Shop, WEIGHT_GRAMS};
use super::{OutputArgs, run_mark};
use crate::config::DatabaseArgs;

/// Orders written in one transaction.
const CHUNK: u64 = 5_000;

/// Units in an order: one of its first line, two of its second.
const UNITS: i64 = 3;

#[derive(Debug, Args)]
pub(in crate::cli) struct FillArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    output: OutputArgs,

    /// Finished orders to add
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,

    /// Products over which they are spread
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    skus: u32,
}

pub(super) async fn run(args: &FillArgs) -> anyhow::Result<()> {
    let database = BenchDatabase::join(&args.database).await?;
    let filled = fill(args, &database, args.output.output()).await;
    database.leave().await?;
    args.output.output().tell(&filled?)
}

async fn fill(args: &FillArgs, database: &BenchDatabase, output: Output) -> anyhow::Result<Report> {
    let db = &database.db;
    migration::migrate(db).await.context("cannot bring the schema up to date")?;
    let shop = Shop::stocked(db, args.skus).await?;
    let environment = database.environment().await?;
    let filler = Filler { mark: run_mark(), quote: quote(db).await?, shop };
    let progress = output.progress("filling", Some(args.orders));
    let begin = Instant::now();
    let mut first = 0;
    while first < args.orders {
        let end = args.orders.min(first + CHUNK);
        filler.write(db, first, end).await.context("cannot write finished orders")?;
        progress.advance(end - first);
        first = end;
    }
    progress.finish();
    // As after a while of autovacuum: no reader has to settle what is visible, and the planner knows the sizes.
    output.say("tidying up the tables")?;
    db.execute_unprepared("VACUUM (ANALYZE)").await.context("cannot vacuum")?;
    database.checkpoint().await;
    Ok(Report::new("fill", "orders", args.orders, begin.elapsed(), environment))
}

/// What every filled order costs.
async fn quote(db: &DatabaseConnection) -> anyhow::Result<Quote> {
    let line = ParcelLine {
        quantity: UNITS,
        unit_price_minor: PRICE_MINOR,
        weight_grams: WEIGHT_GRAMS,
        tax_category: "standard".to_owned(),
    };
    let parcel = Parcel {
        country: Some(shop::address().country),
        shipping_method: DEFAULT_SHIPPING_METHOD.to_owned(),
        currency: Currency::USD,
        lines: vec![line],
    };
    Ok(load_rates(db).await?.quote(&parcel)?)
}

struct Filler {
    mark: String,
    quote: Quote,
    shop: Shop,
}

/// Some orders: their ids, their numbers in the run, and the SKUs of their lines.
#[derive(Default)]
struct Chunk {
    ids: Vec<Uuid>,
    numbers: Vec<i64>,
    first_skus: Vec<String>,
    second_skus: Vec<String>,
}

impl Filler {
    /// Writes the orders from `first` up to `end` in one transaction.
    async fn write(&self, db: &DatabaseConnection, first: u64, end: u64) -> anyhow::Result<()> {
        let mut chunk = Chunk::default();
        let mut units: HashMap<&str, i64> = HashMap::new();
        for n in first..end {
            let lines = self.shop.lines(n);
            chunk.ids.push(Uuid::now_v7());
            chunk.numbers.push(i64::try_from(n)?);
            chunk.first_skus.push(lines[0].0.to_owned());
            chunk.second_skus.push(lines[1].0.to_owned());
            for (sku, quantity) in lines {
                *units.entry(sku).or_default() += quantity;
            }
        }
        let tx = db.begin().await?;
        self.write_orders(&tx, &chunk).await?;
        self.write_lines(&tx, &chunk).await?;
        self.write_events(&tx, &chunk).await?;
        self.write_payments(&tx, &chunk).await?;
        self.write_sagas(&tx, &chunk).await?;
        let (skus, units): (Vec<String>, Vec<i64>) =
            units.into_iter().map(|(sku, units)| (sku.to_owned(), units)).unzip();
        tx.execute_raw(statement(
            "UPDATE stock SET reserved = reserved + input.units, updated_at = now()
             FROM unnest($1::text[], $2::bigint[]) AS input (sku, units) WHERE stock.sku = input.sku",
            [skus.into(), units.into()],
        ))
        .await?;
        Ok(tx.commit().await?)
    }

    async fn write_orders(&self, tx: &impl ConnectionTrait, chunk: &Chunk) -> anyhow::Result<()> {
        let Quote { items, shipping, tax, total } = self.quote;
        tx.execute_raw(statement(
            "INSERT INTO orders (id, app_id, idempotency_key, input_fingerprint, status, payment_status, sequence,
                                 currency, items_minor, shipping_minor, tax_minor, total_minor, shipping_address,
                                 shipping_method, shipping_country, payment_token, confirmed_at)
             SELECT id, $3, $4 || '-' || n, sha256(convert_to($4 || n, 'UTF8')), 'CONFIRMED', 'PAID', $5, $6, $7, $8, $9,
                    $10, $11, $12, $11 ->> 'country', 'tok_approve', now()
             FROM unnest($1::uuid[], $2::bigint[]) AS input (id, n)",
            [
                chunk.ids.clone().into(),
                chunk.numbers.clone().into(),
                local_app().uuid().into(),
                self.mark.clone().into(),
                i32::try_from(self.events().len())?.into(),
                total.currency.code().into(),
                items.minor.into(),
                shipping.minor.into(),
                tax.minor.into(),
                total.minor.into(),
                json!(shop::address()).into(),
                DEFAULT_SHIPPING_METHOD.into(),
            ],
        ))
        .await?;
        Ok(())
    }

    async fn write_lines(&self, tx: &impl ConnectionTrait, chunk: &Chunk) -> anyhow::Result<()> {
        let values =
            || [chunk.ids.clone().into(), chunk.first_skus.clone().into(), chunk.second_skus.clone().into()];
        let [ids, first, second] = values();
        tx.execute_raw(statement(
            "INSERT INTO order_lines (order_id, line_no, sku, name, quantity, unit_price_minor, weight_grams, tax_category,
                                      app_id)
             SELECT id, line_no, products.sku, products.name, line_no, price_minor, weight_grams, tax_category, $4
             FROM unnest($1::uuid[], $2::text[], $3::text[]) AS input (id, first, second),
                  LATERAL (VALUES (1, first), (2, second)) AS line (line_no, line_sku)
             JOIN products ON products.sku = line_sku",
            [ids, first, second, local_app().uuid().into()],
        ))
        .await?;
        let [ids, first, second] = values();
        tx.execute_raw(statement(
            "INSERT INTO reservations (order_id, sku, quantity, status)
             SELECT id, sku, quantity, 'CONFIRMED'
             FROM unnest($1::uuid[], $2::text[], $3::text[]) AS input (id, first, second),
                  LATERAL (VALUES (first, 1), (second, 2)) AS line (sku, quantity)",
            [ids, first, second],
        ))
        .await?;
        Ok(())
    }

    /// What happens to every order, in sequence.
    fn events(&self) -> Vec<OrderEvent> {
        let Quote { items, shipping, tax, total } = self.quote;
        let amount_minor = total.minor;
        vec![
            OrderEvent::OrderPlaced {
                lines: 2,
                items_minor: items.minor,
                currency: items.currency.code().to_owned(),
            },
            OrderEvent::StockReserved {},
            OrderEvent::OrderQuoted {
                shipping_minor: shipping.minor,
                tax_minor: tax.minor,
                total_minor: total.minor,
            },
            OrderEvent::PaymentAuthorized { amount_minor },
            OrderEvent::PaymentCaptured { amount_minor },
            OrderEvent::OrderConfirmed {},
        ]
    }

    async fn write_events(&self, tx: &impl ConnectionTrait, chunk: &Chunk) -> anyhow::Result<()> {
        let (mut kinds, mut data, mut statuses) = (Vec::new(), Vec::new(), Vec::new());
        for event in self.events() {
            statuses.push(event.status().unwrap_or(OrderStatus::Pending).to_value());
            let (kind, facts) = event.to_parts();
            kinds.push(kind);
            data.push(facts.to_string());
        }
        tx.execute_raw(statement(
            "INSERT INTO order_events (order_id, sequence, type, status, data)
             SELECT id, sequence, type, status, data::jsonb
             FROM unnest($1::uuid[]) AS input (id),
                  unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS event (type, data, status, sequence)",
            [chunk.ids.clone().into(), kinds.into(), data.into(), statuses.into()],
        ))
        .await?;
        Ok(())
    }

    async fn write_payments(&self, tx: &impl ConnectionTrait, chunk: &Chunk) -> anyhow::Result<()> {
        tx.execute_raw(statement(
            "INSERT INTO payments (order_id, gateway, currency, authorized_minor, captured_minor, authorization_id,
                                   capture_id, authorized_at, captured_at)
             SELECT id, 'instant', $2, $3, $3, 'auth_' || id, 'capture_' || id, now(), now()
             FROM unnest($1::uuid[]) AS input (id)",
            [chunk.ids.clone().into(), self.quote.total.currency.code().into(), self.quote.total.minor.into()],
        ))
        .await?;
        Ok(())
    }

    /// The saga, over, and its history: one attempt of each step, those that call with the order's id in key and
    /// request.
    async fn write_sagas(&self, tx: &impl ConnectionTrait, chunk: &Chunk) -> anyhow::Result<()> {
        let (currency, amount_minor) = (self.quote.total.currency.code(), self.quote.total.minor);
        let state = json!({
            "currency": currency, "shipping_method": DEFAULT_SHIPPING_METHOD, "shipping_country": shop::address().country,
            "expected_total_minor": null, "payment_token": "tok_approve", "total_minor": amount_minor,
            "authorization_id": "auth_instant",
        });
        let last_step = place_order::STEPS.len() - 1;
        tx.execute_raw(statement(
            "INSERT INTO saga (id, subject_id, definition, version, status, step, attempt, epoch, state, finished_at)
             SELECT id, id, $2, $3, 'SUCCEEDED', $4, 1, $4 + 1, $5, now() FROM unnest($1::uuid[]) AS input (id)",
            [
                chunk.ids.clone().into(),
                place_order::NAME.into(),
                place_order::VERSION.into(),
                i32::try_from(last_step)?.into(),
                state.into(),
            ],
        ))
        .await?;
        let requests: Vec<String> = place_order::STEPS
            .iter()
            .map(|&step| self.request(step, currency, amount_minor))
            .collect::<anyhow::Result<_>>()?;
        tx.execute_raw(statement(
            "INSERT INTO saga_log (saga_id, epoch, kind, step, direction, attempt, generation, outcome, idempotency_key,
                                   request, detail, started_at)
             SELECT id, epoch, 'ATTEMPT', step, 'FORWARD', 1, 1, 'SUCCEEDED',
                    CASE WHEN request <> '' THEN id || ':' || step || ':forward:1' END,
                    replace(nullif(request, ''), '$id', id::text),
                    CASE WHEN request <> '' THEN jsonb_build_object('id', step || '_' || id) END, now()
             FROM unnest($1::uuid[]) AS input (id),
                  unnest($2::text[], $3::text[]) WITH ORDINALITY AS attempt (step, request, epoch)",
            [
                chunk.ids.clone().into(),
                place_order::STEPS.map(str::to_owned).to_vec().into(),
                requests.into(),
            ],
        ))
        .await?;
        Ok(())
    }

    /// The request of a step that calls the gateway, `$id` standing for the order; empty for the others.
    fn request(&self, step: &str, currency: &str, amount_minor: i64) -> anyhow::Result<String> {
        let (reference, currency) = ("$id".to_owned(), currency.to_owned());
        let request = match step {
            "authorize_payment" => {
                Request::Authorize { reference, amount_minor, currency, token: "tok_approve".to_owned() }
            }
            "capture_payment" => Request::Capture {
                reference,
                authorization_id: "auth_$id".to_owned(),
                amount_minor,
                currency,
            },
            _ => return Ok(String::new()),
        };
        Ok(serde_json::to_string(&request)?)
    }
}
