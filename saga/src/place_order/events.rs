//! The events of a transaction: what its steps say has happened to an order is appended together.

use async_trait::async_trait;
use domain::order::event::OrderEvent;
use domain::order::store::append;
use sea_orm::DatabaseTransaction;
use uuid::Uuid;

use crate::engine::{Deferred, StepError, StepTransaction};

#[derive(Default)]
struct OrderEvents(Vec<(Uuid, OrderEvent)>);

#[async_trait]
impl Deferred for OrderEvents {
    async fn write(self: Box<Self>, tx: &DatabaseTransaction) -> Result<(), StepError> {
        append(tx, self.0).await.map_err(StepError::Database)
    }
}

/// Has events appended to orders when the transaction has run its last step, an order's in the order in which they are
/// given here.
pub(super) fn defer_events(tx: &StepTransaction<'_>, events: impl IntoIterator<Item = (Uuid, OrderEvent)>) {
    tx.defer(|deferred: &mut OrderEvents| deferred.0.extend(events));
}
