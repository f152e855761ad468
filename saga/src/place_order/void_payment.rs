//! Gives the authorization back, whether or not we ever heard of it.
//!
//! The request names the payment by our own reference, and a gateway refuses an authorization or a capture of a
//! reference that was made void. So a slow authorization cannot overtake its own undo.

use std::sync::Arc;

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::payment::store::record_voids;
use uuid::Uuid;

use super::events::defer_events;
use crate::engine::{Call, ExternalStep, Lookup, Outcome, Saga, Settled, StepError, StepTransaction};
use crate::payment_gateway::{PaymentGateway, Request};

/// Makes the order's payment void.
pub(super) struct VoidPayment(pub(super) Arc<dyn PaymentGateway>);

#[async_trait]
impl ExternalStep for VoidPayment {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        let request = Request::Void { reference: saga.subject_id.to_string() };
        serde_json::to_string(&request).map_err(StepError::State)
    }

    fn system(&self) -> &'static str {
        self.0.name()
    }

    async fn look_up(&self, call: &Call) -> Lookup {
        self.0.look_up(&call.idempotency_key, &call.request).await
    }

    async fn call(&self, call: &Call) -> Outcome {
        self.0.send(&call.idempotency_key, &call.request).await
    }

    async fn record(&self, tx: &StepTransaction<'_>, settled: &mut [Settled<'_>]) -> Result<(), StepError> {
        // A refused void changes nothing in our books; the plan tries again and calls a person.
        let voided: Vec<Uuid> = settled
            .iter()
            .filter(|settled| settled.outcome.is_ok())
            .map(|settled| settled.saga.subject_id)
            .collect();
        let open = record_voids(tx, &voided).await?;
        defer_events(tx, open.into_iter().map(|id| (id, OrderEvent::PaymentVoided {})));
        Ok(())
    }
}
