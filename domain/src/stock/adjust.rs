//! Changing how many there are: counting, receiving, writing off.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{entity, store};
use crate::catalog::MAX_SKU_CHARS;
use crate::id::AppId;
use crate::input::{Violation, check_text};
use crate::sql::statement;

/// The longest idempotency key, in characters.
pub const MAX_KEY_CHARS: usize = 255;

/// The longest reason, in characters.
pub const MAX_REASON_CHARS: usize = 500;

/// The most units of one SKU on hand, so that sums over many rows stay within 64 bits.
pub const MAX_ON_HAND: i64 = 1_000_000_000_000;

/// How the count changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// By this many units, up or down.
    By(i64),
    /// To this many units, as after counting them.
    To(i64),
}

/// An adjustment that has passed every check which needs no row.
#[derive(Debug, Clone)]
pub struct Adjustment {
    app_id: AppId,
    sku: String,
    change: Change,
    expected_on_hand: Option<i64>,
    reason: String,
    idempotency_key: Option<String>,
}

/// What the adjustment made true.
#[derive(Debug, Clone)]
pub struct Adjusted {
    /// The stock row: as it was left now, or as it is now where the call was a repetition.
    pub stock: entity::Model,
    /// Whether an earlier call with the same key had done it.
    pub replayed: bool,
}

/// Why an adjustment is refused; nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdjustStockError {
    /// The catalog has no such SKU.
    #[error("no product has the SKU {sku:?}; create it with upsertProducts first")]
    UnknownSku {
        /// The SKU.
        sku: String,
    },
    /// Somebody else changed the count in between.
    #[error("{actual} units are on hand, not {expected}; read the stock again and repeat")]
    StockChanged {
        /// What the caller believed.
        expected: i64,
        /// What is so.
        actual: i64,
    },
    /// Fewer units would be left than are promised to orders.
    #[error("{requested} units cannot be taken: only {available} are not reserved")]
    InsufficientStock {
        /// Units the adjustment takes away.
        requested: i64,
        /// Units not promised to anybody.
        available: i64,
    },
    /// The count would be larger than any stock is.
    #[error("the count would exceed {MAX_ON_HAND} units")]
    TooMany,
    /// The key has been used with another input.
    #[error("the idempotency key was used before with another input; use a fresh key for each adjustment")]
    IdempotencyKeyReused,
}

impl Adjustment {
    /// Checks an adjustment's fields. Exactly one of `delta` and `set_to` says how the count changes.
    ///
    /// # Errors
    /// Every violation found, with paths relative to the input.
    pub fn try_new(
        app_id: AppId,
        sku: &str,
        delta: Option<i64>,
        set_to: Option<i64>,
        expected_on_hand: Option<i64>,
        reason: &str,
        idempotency_key: Option<&str>,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        violations.extend(check_text(&["sku"], sku, MAX_SKU_CHARS).err());
        violations.extend(check_text(&["reason"], reason, MAX_REASON_CHARS).err());
        if let Some(key) = idempotency_key {
            violations.extend(check_text(&["idempotencyKey"], key, MAX_KEY_CHARS).err());
        }
        let change = match (delta, set_to) {
            (Some(delta), None) => Change::By(delta),
            (None, Some(count)) if count < 0 => {
                violations.push(Violation::new(&["setTo"], "must not be negative"));
                Change::To(count)
            }
            (None, Some(count)) => Change::To(count),
            _ => {
                violations.push(Violation::new(&["delta"], "give exactly one of delta and setTo"));
                Change::By(0)
            }
        };
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Self {
            app_id,
            sku: sku.to_owned(),
            change,
            expected_on_hand,
            reason: reason.to_owned(),
            idempotency_key: idempotency_key.map(str::to_owned),
        })
    }

    fn fingerprint(&self) -> Vec<u8> {
        let (kind, units) = match self.change {
            Change::By(delta) => ("by", delta),
            Change::To(count) => ("to", count),
        };
        let canonical = serde_json::json!([self.sku, kind, units, self.expected_on_hand, self.reason]);
        Sha256::digest(canonical.to_string()).to_vec()
    }
}

#[derive(FromQueryResult)]
struct Earlier {
    input_fingerprint: Option<Vec<u8>>,
    on_hand_after: i64,
}

/// Carries the adjustment out: the stock row and the ledger in the caller's transaction.
///
/// # Errors
/// The outer error is the database's; the inner one a refusal, after which the transaction holds no write.
pub async fn adjust_stock(
    tx: &impl ConnectionTrait,
    adjustment: &Adjustment,
) -> Result<Result<Adjusted, AdjustStockError>, DbErr> {
    // The row lock is taken before the key is looked up: two calls with one key come through here one by one.
    let Some(mut stock) = store::lock_stock(tx, vec![adjustment.sku.clone()]).await?.pop() else {
        return Ok(Err(AdjustStockError::UnknownSku { sku: adjustment.sku.clone() }));
    };
    if let Some(earlier) = find_earlier(tx, adjustment).await? {
        if earlier.input_fingerprint != Some(adjustment.fingerprint()) {
            return Ok(Err(AdjustStockError::IdempotencyKeyReused));
        }
        stock.on_hand = earlier.on_hand_after;
        return Ok(Ok(Adjusted { stock, replayed: true }));
    }
    let on_hand = match apply(&stock, adjustment) {
        Ok(on_hand) => on_hand,
        Err(refusal) => return Ok(Err(refusal)),
    };
    record_movement(tx, adjustment, on_hand - stock.on_hand, on_hand).await?;
    let updated = store::find_stock(tx, vec![adjustment.sku.clone()]).await?.pop();
    Ok(Ok(Adjusted { stock: updated.unwrap_or(stock), replayed: false }))
}

/// Returns the units on hand once the adjustment is made.
fn apply(stock: &entity::Model, adjustment: &Adjustment) -> Result<i64, AdjustStockError> {
    if let Some(expected) = adjustment.expected_on_hand
        && expected != stock.on_hand
    {
        return Err(AdjustStockError::StockChanged { expected, actual: stock.on_hand });
    }
    let on_hand = match adjustment.change {
        Change::By(delta) => stock.on_hand.checked_add(delta).ok_or(AdjustStockError::TooMany)?,
        Change::To(count) => count,
    };
    if on_hand > MAX_ON_HAND {
        return Err(AdjustStockError::TooMany);
    }
    if on_hand < stock.reserved {
        let requested = stock.on_hand.saturating_sub(on_hand);
        return Err(AdjustStockError::InsufficientStock { requested, available: stock.available() });
    }
    Ok(on_hand)
}

async fn find_earlier(tx: &impl ConnectionTrait, adjustment: &Adjustment) -> Result<Option<Earlier>, DbErr> {
    let Some(key) = &adjustment.idempotency_key else { return Ok(None) };
    // Served by stock_movements_one_per_key.
    Earlier::find_by_statement(statement(
        "SELECT input_fingerprint, on_hand_after FROM stock_movements WHERE app_id = $1 AND idempotency_key = $2",
        [adjustment.app_id.uuid().into(), key.clone().into()],
    ))
    .one(tx)
    .await
}

async fn record_movement(
    tx: &impl ConnectionTrait,
    adjustment: &Adjustment,
    delta: i64,
    on_hand: i64,
) -> Result<(), DbErr> {
    tx.execute_raw(statement(
        "INSERT INTO stock_movements
             (id, sku, delta, on_hand_after, reason, app_id, idempotency_key, input_fingerprint)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        [
            Uuid::now_v7().into(),
            adjustment.sku.clone().into(),
            delta.into(),
            on_hand.into(),
            adjustment.reason.clone().into(),
            adjustment.app_id.uuid().into(),
            adjustment.idempotency_key.clone().into(),
            adjustment.fingerprint().into(),
        ],
    ))
    .await?;
    tx.execute_raw(statement(
        "UPDATE stock SET on_hand = $2, updated_at = now() WHERE sku = $1",
        [adjustment.sku.clone().into(), on_hand.into()],
    ))
    .await
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::local_app;

    fn stock(on_hand: i64, reserved: i64) -> entity::Model {
        entity::Model { sku: "A".to_owned(), on_hand, reserved, updated_at: Default::default() }
    }

    fn adjustment(delta: Option<i64>, set_to: Option<i64>) -> Adjustment {
        Adjustment::try_new(local_app(), "A", delta, set_to, None, "count", None).expect("a valid adjustment")
    }

    #[test]
    fn what_is_promised_cannot_be_taken() {
        assert_eq!(apply(&stock(10, 4), &adjustment(Some(-6), None)), Ok(4));
        assert_eq!(
            apply(&stock(10, 4), &adjustment(Some(-7), None)),
            Err(AdjustStockError::InsufficientStock { requested: 7, available: 6 })
        );
        assert_eq!(apply(&stock(10, 4), &adjustment(None, Some(4))), Ok(4));
        assert!(apply(&stock(10, 4), &adjustment(None, Some(3))).is_err());
        assert_eq!(apply(&stock(10, 0), &adjustment(Some(i64::MAX), None)), Err(AdjustStockError::TooMany));
    }

    #[test]
    fn exactly_one_way_of_changing_is_given() {
        for (delta, set_to) in [(None, None), (Some(1), Some(1)), (None, Some(-1))] {
            assert!(Adjustment::try_new(local_app(), "A", delta, set_to, None, "count", None).is_err());
        }
    }
}
