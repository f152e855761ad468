//! Holds the order's units for it, and gives them back.

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::order::store::append;
use domain::stock::Reserved;
use domain::stock::store::{release_reservations, reserve};
use sea_orm::DatabaseTransaction;

use super::order_ids;
use crate::engine::{Failure, LocalStep, Saga, StepError, Verdict};

/// Reserves every unit of an order, or refuses the order.
pub(super) struct ReserveStock;

#[async_trait]
impl LocalStep for ReserveStock {
    async fn run(&self, tx: &DatabaseTransaction, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let order_ids = order_ids(sagas);
        let answers = reserve(tx, &order_ids).await?;
        let reserved = order_ids.iter().zip(&answers).filter(|(_, answer)| **answer == Ok(Reserved::Now));
        append(tx, reserved.map(|(&id, _)| (id, OrderEvent::StockReserved {})).collect()).await?;
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Ok(_) => Verdict::Done,
                Err(shortage) => Verdict::Refused(Failure::new(
                    "OUT_OF_STOCK",
                    format!(
                        "{}: {} requested, {} available",
                        shortage.sku, shortage.requested, shortage.available
                    ),
                )),
            })
            .collect())
    }
}

/// Releases what the order still holds.
pub(super) struct ReleaseStock;

#[async_trait]
impl LocalStep for ReleaseStock {
    async fn run(&self, tx: &DatabaseTransaction, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let released = release_reservations(tx, &order_ids(sagas)).await?;
        append(tx, released.into_iter().map(|id| (id, OrderEvent::StockReleased {})).collect()).await?;
        Ok(vec![Verdict::Done; sagas.len()])
    }
}
