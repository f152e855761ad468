//! Takes the total: the point of no return.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::payment::Capture;
use domain::payment::store::record_captures;
use serde::Deserialize;
use uuid::Uuid;

use super::State;
use super::authorize_payment::total;
use super::events::defer_events;
use crate::engine::{Call, ExternalStep, Lookup, Outcome, Saga, Settled, StepError, StepTransaction};
use crate::payment_gateway::{Answer, PaymentGateway, Request};

/// Captures what was authorized.
pub(super) struct CapturePayment(pub(super) Arc<dyn PaymentGateway>);

#[async_trait]
impl ExternalStep for CapturePayment {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        let state: State = saga.state()?;
        let amount_minor = total(&state)?;
        let authorization_id = state
            .authorization_id
            .ok_or_else(|| StepError::Broken("the payment has not been authorized".to_owned()))?;
        let request = Request::Capture {
            reference: saga.subject_id.to_string(),
            authorization_id,
            amount_minor,
            currency: state.currency,
        };
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
        let (mut captures, mut events) = (Vec::new(), Vec::new());
        for Settled { saga, outcome } in settled {
            let order_id = saga.subject_id;
            match outcome {
                Ok(answer) => {
                    let amount_minor = total(&saga.state()?)?;
                    let capture_id = Answer::deserialize(*answer).map_err(StepError::State)?.id;
                    captures.push(Capture { order_id, amount_minor, capture_id });
                }
                Err(failure) => {
                    let (code, message) = (failure.code.clone(), failure.message.clone());
                    events.push((order_id, OrderEvent::PaymentDeclined { code, message }));
                }
            }
        }
        let recorded: HashSet<Uuid> = record_captures(tx, &captures).await?.into_iter().collect();
        for Capture { order_id, amount_minor, .. } in captures {
            if recorded.contains(&order_id) {
                events.push((order_id, OrderEvent::PaymentCaptured { amount_minor }));
            }
        }
        defer_events(tx, events);
        Ok(())
    }
}
