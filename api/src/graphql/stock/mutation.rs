//! Adjusting stock.

use async_graphql::{Context, InputObject, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::id::local_app;
use domain::input::Violation;
use domain::stock::adjust::{AdjustStockError, Adjusted, Adjustment, adjust_stock};
use sea_orm::{DatabaseConnection, DbErr, TransactionTrait};

use super::StockLevel;
use crate::access::Needs;
use crate::app::Services;
use crate::database_error::violated_constraint;
use crate::graphql::error::{OrReport, UserError};
use crate::graphql::long::Long;
use crate::run_to_end::run_to_end;

/// Adjusts stock.
#[derive(Debug, Default)]
pub(crate) struct StockMutation;

#[Object]
impl StockMutation {
    /// Changes how many units of one SKU are on hand, and records why.
    ///
    /// With a key it can be repeated: the change is made once, and a repetition answers with the count that the first
    /// call left.
    #[graphql(guard = "Needs([Scope::CatalogWrite])")]
    async fn adjust_stock(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The adjustment.")] input: AdjustStockInput,
    ) -> Result<AdjustStockPayload> {
        let db = ctx.data_unchecked::<Services>().db.clone();
        let adjustment = match input.check() {
            Ok(adjustment) => adjustment,
            Err(violations) => return Ok(AdjustStockPayload::refused(violations)),
        };
        let adjusted = run_to_end(async move { adjust(&db, &adjustment).await });
        match adjusted.await.or_report(ctx, "adjust stock")? {
            Ok(Adjusted { stock, replayed }) => {
                Ok(AdjustStockPayload { stock: Some(stock.into()), replayed, user_errors: Vec::new() })
            }
            Err(refusal) => Ok(AdjustStockPayload::refused([UserError::of_adjustment(&input.sku, refusal)])),
        }
    }
}

/// A change of the units on hand. Exactly one of `delta` and `setTo` says how.
#[derive(Debug, Clone, InputObject)]
pub(super) struct AdjustStockInput {
    /// The shop's own article code. Example: `SKU-1`
    sku: String,
    /// Units to add, or to take away if negative. Example: `-2`
    delta: Option<Long>,
    /// Units on hand from now on, as after counting them. Example: `40`
    set_to: Option<Long>,
    /// Units that you believe to be on hand; if there are others, nothing is changed. Example: `42`
    expected_on_hand: Option<Long>,
    /// Why, for whoever reads the ledger, 1 to 500 characters. Example: `broken in storage`
    reason: String,
    /// Your own key for this adjustment, 1 to 255 characters: it is made once, however often you call. Without one,
    /// each call is an adjustment of its own. Example: `count-2026-11-25-17`
    idempotency_key: Option<String>,
}

impl AdjustStockInput {
    fn check(&self) -> Result<Adjustment, Vec<Violation>> {
        Adjustment::try_new(
            local_app(),
            &self.sku,
            self.delta.map(|Long(units)| units),
            self.set_to.map(|Long(units)| units),
            self.expected_on_hand.map(|Long(units)| units),
            &self.reason,
            self.idempotency_key.as_deref(),
        )
    }
}

/// What became of an adjustment.
#[derive(Debug, SimpleObject)]
pub(super) struct AdjustStockPayload {
    /// How many there are now; null when the adjustment was refused.
    stock: Option<StockLevel>,
    /// Whether an earlier call with the same key had made it. Example: `false`
    replayed: bool,
    /// Why it was refused; empty when it was not.
    user_errors: Vec<UserError>,
}

impl AdjustStockPayload {
    fn refused(errors: impl IntoIterator<Item = impl Into<UserError>>) -> Self {
        Self { stock: None, replayed: false, user_errors: errors.into_iter().map(Into::into).collect() }
    }
}

/// Adjusts in a transaction of its own. A refusal rolls it back, so that its row lock goes at once.
async fn adjust(
    db: &DatabaseConnection,
    adjustment: &Adjustment,
) -> Result<Result<Adjusted, AdjustStockError>, DbErr> {
    let tx = db.begin().await?;
    match adjust_stock(&tx, adjustment).await {
        Ok(Ok(adjusted)) => tx.commit().await.map(|()| Ok(adjusted)),
        Ok(Err(refusal)) => tx.rollback().await.map(|()| Err(refusal)),
        // Two calls with one key for two SKUs do not wait for each other at a stock row; they meet at the ledger.
        Err(error) if violated_constraint(&error) == Some("stock_movements_one_per_key") => {
            Ok(Err(AdjustStockError::IdempotencyKeyReused))
        }
        Err(error) => Err(error),
    }
}
