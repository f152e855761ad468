//! Holds the order's units for it, and gives them back.

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::stock::Reserved;
use domain::stock::store::{release_reservations, reserve};

use super::events::defer_events;
use super::order_ids;
use crate::engine::{Failure, LocalStep, Saga, StepError, StepTransaction, Verdict};

/// Reserves every unit of an order, or refuses the order.
pub(super) struct ReserveStock;

#[async_trait]
impl LocalStep for ReserveStock {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let order_ids = order_ids(sagas);
        let answers = reserve(tx, &order_ids).await?;
        let reserved = order_ids.iter().zip(&answers).filter(|(_, answer)| **answer == Ok(Reserved::Now));
        defer_events(tx, reserved.map(|(&id, _)| (id, OrderEvent::StockReserved {})));
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
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let released = release_reservations(tx, &order_ids(sagas)).await?;
        defer_events(tx, released.into_iter().map(|id| (id, OrderEvent::StockReleased {})));
        Ok(vec![Verdict::Done; sagas.len()])
    }
}
