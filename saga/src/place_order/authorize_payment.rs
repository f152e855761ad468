//! Has the card's bank promise the total.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::payment::Authorization;
use domain::payment::store::record_authorizations;
use serde::Deserialize;
use uuid::Uuid;

use super::State;
use super::events::defer_events;
use crate::engine::{Call, ExternalStep, Lookup, Outcome, Saga, Settled, StepError, StepTransaction};
use crate::payment_gateway::{Answer, PaymentGateway, Request};

/// Authorizes the order's total.
pub(super) struct AuthorizePayment(pub(super) Arc<dyn PaymentGateway>);

#[async_trait]
impl ExternalStep for AuthorizePayment {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        let state: State = saga.state()?;
        let request = Request::Authorize {
            reference: saga.subject_id.to_string(),
            amount_minor: total(&state)?,
            currency: state.currency,
            token: state.payment_token,
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
        let (mut authorizations, mut events) = (Vec::new(), Vec::new());
        for Settled { saga, outcome } in settled {
            let order_id = saga.subject_id;
            match outcome {
                Ok(answer) => {
                    let mut state: State = saga.state()?;
                    let amount_minor = total(&state)?;
                    let authorization_id = Answer::deserialize(*answer).map_err(StepError::State)?.id;
                    state.authorization_id = Some(authorization_id.clone());
                    saga.set_state(&state)?;
                    authorizations.push(Authorization {
                        order_id,
                        gateway: self.0.name().to_owned(),
                        currency: state.currency,
                        amount_minor,
                        authorization_id,
                    });
                }
                Err(failure) => {
                    let (code, message) = (failure.code.clone(), failure.message.clone());
                    events.push((order_id, OrderEvent::PaymentDeclined { code, message }));
                }
            }
        }
        let recorded: HashSet<Uuid> = record_authorizations(tx, &authorizations).await?.into_iter().collect();
        for Authorization { order_id, amount_minor, .. } in authorizations {
            if recorded.contains(&order_id) {
                events.push((order_id, OrderEvent::PaymentAuthorized { amount_minor }));
            }
        }
        defer_events(tx, events);
        Ok(())
    }
}

/// Returns the total that the quote found.
pub(super) fn total(state: &State) -> Result<i64, StepError> {
    state.total_minor.ok_or_else(|| StepError::Broken("the order has not been quoted".to_owned()))
}
