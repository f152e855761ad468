//! Makes the reservation and the order final, once the money is taken.

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::stock::store::confirm_reservations;

use super::events::defer_events;
use super::order_ids;
use crate::engine::{LocalStep, Saga, StepError, StepTransaction, Verdict};

/// Confirms the order.
pub(super) struct ConfirmOrder;

#[async_trait]
impl LocalStep for ConfirmOrder {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let order_ids = order_ids(sagas);
        confirm_reservations(tx, &order_ids).await?;
        defer_events(tx, order_ids.into_iter().map(|id| (id, OrderEvent::OrderConfirmed {})));
        Ok(vec![Verdict::Done; sagas.len()])
    }
}
