//! Ends an order that could not be carried out, once everything that may have been done for it is undone.

use async_trait::async_trait;
use domain::order::event::OrderEvent;

use super::events::defer_events;
use crate::engine::{Failure, LocalStep, Saga, StepError, StepTransaction, Verdict};

/// Fails the order, with the reason for which the saga turned round.
pub(super) struct FailOrder;

#[async_trait]
impl LocalStep for FailOrder {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let failed = sagas.iter().map(|saga| {
            let Failure { code, message } = saga
                .failure
                .clone()
                .unwrap_or_else(|| Failure::new("INTERNAL", "the order could not be processed"));
            (saga.subject_id, OrderEvent::OrderFailed { code, message })
        });
        defer_events(tx, failed);
        Ok(vec![Verdict::Done; sagas.len()])
    }
}
