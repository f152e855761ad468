//! Queries on payments, each over many orders at once.

use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use uuid::Uuid;

use super::{Authorization, Capture};
use crate::sql::{column, statement};

/// Records authorizations, and returns the orders whose authorization was not recorded yet.
///
/// # Errors
/// Any error of the database.
pub async fn record_authorizations(
    tx: &impl ConnectionTrait,
    authorizations: &[Authorization],
) -> Result<Vec<Uuid>, DbErr> {
    if authorizations.is_empty() {
        return Ok(Vec::new());
    }
    let recorded = statement(
        "INSERT INTO payments (order_id, gateway, currency, authorized_minor, authorization_id, authorized_at)
         SELECT order_id, gateway, currency, amount_minor, authorization_id, now()
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[])
             AS input (order_id, gateway, currency, amount_minor, authorization_id)
         ON CONFLICT (order_id) DO NOTHING
         RETURNING order_id",
        [
            column(authorizations, |authorization| authorization.order_id),
            column(authorizations, |authorization| authorization.gateway.clone()),
            column(authorizations, |authorization| authorization.currency.clone()),
            column(authorizations, |authorization| authorization.amount_minor),
            column(authorizations, |authorization| authorization.authorization_id.clone()),
        ],
    );
    order_ids(tx.query_all_raw(recorded).await?)
}

/// Records captures, and returns the orders whose capture was not recorded yet. A payment that has been captured keeps
/// its first capture.
///
/// # Errors
/// Any error of the database; a capture beyond what was authorized violates `payments_captured_within_authorized`.
pub async fn record_captures(tx: &impl ConnectionTrait, captures: &[Capture]) -> Result<Vec<Uuid>, DbErr> {
    if captures.is_empty() {
        return Ok(Vec::new());
    }
    // In a CASE, as in `order::store`: most payments are captured, and the planner must not conclude that hardly any row
    // is meant.
    let recorded = statement(
        "UPDATE payments
         SET captured_minor = input.amount_minor, capture_id = input.capture_id, captured_at = now()
         FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS input (order_id, amount_minor, capture_id)
         WHERE payments.order_id = input.order_id
           AND CASE WHEN payments.captured_at IS NULL THEN true ELSE false END
         RETURNING payments.order_id",
        [
            column(captures, |capture| capture.order_id),
            column(captures, |capture| capture.amount_minor),
            column(captures, |capture| capture.capture_id.clone()),
        ],
    );
    order_ids(tx.query_all_raw(recorded).await?)
}

/// Records that the authorizations of these orders were made void, and returns the orders whose payment was open.
///
/// An order without a payment row never had an authorization that we know of: there is nothing to record.
///
/// # Errors
/// Any error of the database.
pub async fn record_voids(tx: &impl ConnectionTrait, voided: &[Uuid]) -> Result<Vec<Uuid>, DbErr> {
    let recorded = statement(
        "UPDATE payments SET voided_at = now()
         WHERE order_id = ANY($1) AND voided_at IS NULL AND captured_minor = 0
         RETURNING order_id",
        [voided.to_vec().into()],
    );
    order_ids(tx.query_all_raw(recorded).await?)
}

fn order_ids(rows: Vec<QueryResult>) -> Result<Vec<Uuid>, DbErr> {
    rows.iter().map(|row| row.try_get("", "order_id")).collect()
}
