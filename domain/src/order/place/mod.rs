//! Placing: from an input to an order, its lines and its first event, for many orders in one transaction.

mod draft;
mod input;
mod store;

use std::collections::{HashMap, HashSet};

use sea_orm::{ConnectionTrait, DbErr};
use uuid::Uuid;

use self::draft::Draft;
pub use self::input::{PlaceOrder, PlaceOrderInput, RequestedLine};
use super::entity;
use crate::input::Violation;
use crate::money::{Currency, Money};
use crate::{catalog, pricing};

/// Why an order is refused; nothing was written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A field is not as it must be.
    Invalid(Violation),
    /// The catalog has no such SKU.
    UnknownSku {
        /// Which line, counted from 0.
        line: usize,
        /// The SKU.
        sku: String,
    },
    /// The lines, or the expected total, are not in one currency.
    CurrencyMismatch {
        /// Field names and positions from the input's root.
        path: Vec<String>,
        /// The currency of the first line.
        expected: Currency,
        /// The other one.
        actual: Currency,
    },
    /// The order costs another amount than the shopper was shown.
    PriceChanged {
        /// What the shopper was shown.
        expected: Money,
        /// What it costs.
        actual: Money,
    },
    /// The key has been used with another input.
    IdempotencyKeyReused,
}

/// An accepted order.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Its row.
    pub order: entity::Model,
    /// Whether an earlier call with the same key had placed it.
    pub replayed: bool,
}

/// What becomes of one request of a batch.
pub type PlaceResult = Result<Placed, Vec<Refusal>>;

/// Places the orders in the caller's transaction and answers in the order of `requests`.
///
/// A key that exists, or comes twice in the batch, gives the order that has it: `replayed` if the input is the same,
/// refused if not. Two transactions that place the same key wait for each other at `orders_one_per_key`; keys are
/// inserted in sorted order, so that overlapping batches cannot deadlock.
///
/// # Errors
/// Any error of the database; the whole batch is then undone with the caller's transaction.
pub async fn place(tx: &impl ConnectionTrait, requests: &[PlaceOrder]) -> Result<Vec<PlaceResult>, DbErr> {
    let skus: HashSet<&str> = requests
        .iter()
        .flat_map(|request| request.input.lines.iter().map(|line| line.sku.as_str()))
        .collect();
    let products = catalog::store::find_products(tx, &skus).await?;
    let rates = match requests.iter().any(|request| request.input.expected_total.is_some()) {
        true => pricing::store::load_rates(tx).await?,
        false => pricing::Rates::default(),
    };

    let mut answers: Vec<Option<PlaceResult>> = requests.iter().map(|_| None).collect();
    let mut drafts = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        match Draft::try_new(request, &products, &rates) {
            Ok(draft) => drafts.push((index, draft)),
            Err(refusals) => answers[index] = Some(Err(refusals)),
        }
    }
    let inserted = store::insert_orders(tx, &mut drafts).await?;
    let orders: Vec<&Draft<'_>> =
        drafts.iter().map(|(_, draft)| draft).filter(|draft| inserted.contains_key(&draft.id)).collect();
    store::insert_lines(tx, &orders).await?;
    store::insert_first_events(tx, &orders).await?;

    for (index, draft) in &drafts {
        if let Some(order) = inserted.get(&draft.id) {
            answers[*index] = Some(Ok(Placed { order: order.clone(), replayed: false }));
        }
    }
    resolve_replays(tx, requests, &mut answers).await?;
    // Every request was inserted, met a row that has its key, or was refused.
    answers.into_iter().map(|answer| answer.ok_or(DbErr::RecordNotInserted)).collect()
}

/// Answers the requests whose key had an order already, whoever placed it: this batch or an earlier one.
///
/// A request that was refused is looked up as well: a repetition gets its order even where the price has changed since.
async fn resolve_replays(
    tx: &impl ConnectionTrait,
    requests: &[PlaceOrder],
    answers: &mut [Option<PlaceResult>],
) -> Result<(), DbErr> {
    let open: Vec<&PlaceOrder> = requests
        .iter()
        .zip(&*answers)
        .filter(|(_, answer)| !matches!(answer, Some(Ok(_))))
        .map(|(request, _)| request)
        .collect();
    let orders = store::find_by_key(tx, &open).await?;
    let by_key: HashMap<(Uuid, &str), &entity::Model> =
        orders.iter().map(|order| ((order.app_id, order.idempotency_key.as_str()), order)).collect();
    for (request, answer) in requests.iter().zip(answers) {
        if !matches!(answer, Some(Ok(_)))
            && let Some(&order) = by_key.get(&request.key())
        {
            *answer = Some(match order.input_fingerprint == request.fingerprint {
                true => Ok(Placed { order: order.clone(), replayed: true }),
                false => Err(vec![Refusal::IdempotencyKeyReused]),
            });
        }
    }
    Ok(())
}
