//! What placing writes, and the rows that it looks for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use uuid::Uuid;

use super::draft::Draft;
use super::{PlaceOrder, PlaceOrderInput, RequestedLine};
use crate::catalog;
use crate::order::event::OrderEvent;
use crate::order::{Address, entity};
use crate::sql::{column, hex, statement};

/// What the database adds to an order.
#[derive(FromQueryResult)]
pub(super) struct Inserted {
    pub(super) id: Uuid,
    pub(super) number: i64,
    pub(super) created_at: DateTime<Utc>,
}

/// Inserts the orders whose key is free, and returns their rows by id. Sorts the drafts by key.
///
/// A text that is missing goes as an empty one, which no input may hold, and a missing total as -1: arrays of nullable
/// values do not exist here.
pub(super) async fn insert_orders(
    tx: &impl ConnectionTrait,
    drafts: &mut [(usize, Draft<'_>)],
) -> Result<HashMap<Uuid, entity::Model>, DbErr> {
    if drafts.is_empty() {
        return Ok(HashMap::new());
    }
    // A stable sort: of two requests with one key the earlier is inserted.
    drafts.sort_by(|(_, left), (_, right)| left.request.key().cmp(&right.request.key()));
    let text = |field: fn(&PlaceOrderInput) -> Option<&str>| {
        column(&*drafts, move |(_, draft)| field(&draft.request.input).unwrap_or_default().to_owned())
    };
    let inserted = Inserted::find_by_statement(statement(
        "INSERT INTO orders (id, app_id, idempotency_key, input_fingerprint, currency, items_minor,
             expected_total_minor, email, shipping_address, shipping_method, shipping_country, payment_token,
             external_reference)
         SELECT id, app_id, idempotency_key, decode(input_fingerprint, 'hex'), currency, items_minor,
             nullif(expected_total_minor, -1), nullif(email, ''), nullif(shipping_address, '')::jsonb, shipping_method,
             nullif(shipping_country, ''), payment_token, nullif(external_reference, '')
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
             AS input (id, app_id, idempotency_key, input_fingerprint, currency, items_minor, expected_total_minor, email,
                       shipping_address, shipping_method, shipping_country, payment_token, external_reference)
         ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING
         RETURNING id, number, created_at",
        [
            column(&*drafts, |(_, draft)| draft.id),
            column(&*drafts, |(_, draft)| draft.request.app_id.uuid()),
            text(|input| Some(&input.idempotency_key)),
            column(&*drafts, |(_, draft)| hex(&draft.request.fingerprint)),
            column(&*drafts, |(_, draft)| draft.currency.code().to_owned()),
            column(&*drafts, |(_, draft)| draft.items_minor),
            column(&*drafts, |(_, draft)| draft.request.input.expected_total.map_or(-1, |total| total.minor)),
            text(|input| input.email.as_deref()),
            column(&*drafts, |(_, draft)| address_text(draft.request.input.shipping_address.as_ref())),
            column(&*drafts, |(_, draft)| draft.shipping_method().to_owned()),
            text(|input| input.shipping_address.as_ref().map(|address| address.country.as_str())),
            column(&*drafts, |(_, draft)| draft.payment_token().to_owned()),
            text(|input| input.external_reference.as_deref()),
        ],
    ))
    .all(tx)
    .await?;
    let inserted: HashMap<Uuid, Inserted> = inserted.into_iter().map(|row| (row.id, row)).collect();
    let orders = drafts.iter().filter_map(|(_, draft)| Some(draft.to_order(inserted.get(&draft.id)?)));
    Ok(orders.map(|order| (order.id, order)).collect())
}

/// The address as JSON, and no address as an empty text.
fn address_text(address: Option<&Address>) -> String {
    address.map_or_else(String::new, |address| serde_json::to_string(address).expect("texts"))
}

/// One line of one order.
struct LineRow<'a> {
    order_id: Uuid,
    app_id: Uuid,
    line_no: i32,
    requested: &'a RequestedLine,
    product: &'a catalog::entity::Model,
}

fn line_rows<'a>(draft: &'a Draft<'_>) -> impl Iterator<Item = LineRow<'a>> {
    draft.lines.iter().zip(1..).map(|(&(requested, product), line_no)| LineRow {
        order_id: draft.id,
        app_id: draft.request.app_id.uuid(),
        line_no,
        requested,
        product,
    })
}

/// Inserts the lines of orders that have been inserted.
pub(super) async fn insert_lines(tx: &impl ConnectionTrait, orders: &[&Draft<'_>]) -> Result<(), DbErr> {
    if orders.is_empty() {
        return Ok(());
    }
    let lines: Vec<LineRow<'_>> = orders.iter().flat_map(|draft| line_rows(draft)).collect();
    tx.execute_raw(statement(
        "INSERT INTO order_lines (order_id, line_no, sku, name, quantity, unit_price_minor, weight_grams, tax_category,
                                  app_id)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                              $7::integer[], $8::text[], $9::uuid[])",
        [
            column(&lines, |line| line.order_id),
            column(&lines, |line| line.line_no),
            column(&lines, |line| line.product.sku.clone()),
            column(&lines, |line| line.product.name.clone()),
            column(&lines, |line| line.requested.quantity),
            column(&lines, |line| line.product.price_minor),
            column(&lines, |line| line.product.weight_grams),
            column(&lines, |line| line.product.tax_category.clone()),
            column(&lines, |line| line.app_id),
        ],
    ))
    .await
    .map(drop)
}

/// Inserts `OrderPlaced` of orders that have been inserted.
pub(super) async fn insert_first_events(
    tx: &impl ConnectionTrait,
    orders: &[&Draft<'_>],
) -> Result<(), DbErr> {
    if orders.is_empty() {
        return Ok(());
    }
    let first_event = |draft: &&Draft<'_>| {
        let placed = OrderEvent::OrderPlaced {
            lines: draft.lines.len(),
            items_minor: draft.items_minor,
            currency: draft.currency.code().to_owned(),
        };
        (draft.id, placed.to_parts())
    };
    let events: Vec<(Uuid, (String, serde_json::Value))> = orders.iter().map(first_event).collect();
    tx.execute_raw(statement(
        "INSERT INTO order_events (order_id, sequence, type, status, data)
         SELECT order_id, 1, type, 'PENDING', data::jsonb
         FROM unnest($1::uuid[], $2::text[], $3::text[]) AS input (order_id, type, data)",
        [
            column(&events, |(id, _)| *id),
            column(&events, |(_, (kind, _))| kind.clone()),
            column(&events, |(_, (_, data))| data.to_string()),
        ],
    ))
    .await
    .map(drop)
}

/// Returns the orders that have the keys of these requests.
pub(super) async fn find_by_key(
    tx: &impl ConnectionTrait,
    requests: &[&PlaceOrder],
) -> Result<Vec<entity::Model>, DbErr> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    // A statement of its own: it sees what the transaction that the insert waited for has committed.
    entity::Model::find_by_statement(statement(
        "SELECT orders.* FROM orders
         JOIN unnest($1::uuid[], $2::text[]) AS input (app_id, idempotency_key) USING (app_id, idempotency_key)",
        [
            column(requests, |request| request.app_id.uuid()),
            column(requests, |request| request.input.idempotency_key.clone()),
        ],
    ))
    .all(tx)
    .await
}
