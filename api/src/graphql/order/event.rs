//! What has happened to an order, as clients see it.

use async_graphql::{ComplexObject, Context, ID, Json, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::app::Scope;
use domain::order::entity;
use uuid::Uuid;

use super::{Order, OrderStatus, load_order, missing};
use crate::access::Caller;
use crate::graphql::error::OrReport;
use crate::graphql::ids;
use crate::reader::Source;

/// Something that happened to an order. The pair of order and sequence names it everywhere.
#[derive(Debug, Clone, SimpleObject)]
pub(crate) struct OrderEvent {
    /// Counts an order's events from 1 without a gap. Example: `4`
    sequence: i32,
    /// What happened, in the past tense. Example: `PaymentAuthorized`
    #[graphql(name = "type")]
    kind: String,
    /// The order's status once it had happened. Example: `PENDING`
    status: OrderStatus,
    /// The event's facts; amounts are in minor units. Who intervened, and why, is shown with the scope `sagas:operate`
    /// alone. Example: `{"amountMinor": 2499}`
    data: Json<serde_json::Value>,
    /// When it happened (RFC 3339, UTC). Example: `2026-11-25T10:00:00.223456+00:00`
    occurred_at: DateTime<Utc>,
}

impl OrderEvent {
    /// Shows an event to a caller.
    pub(crate) fn new(row: entity::event::Model, caller: &Caller) -> Self {
        let data = shown_data(&row.kind, row.data, caller);
        Self {
            sequence: row.sequence,
            kind: row.kind,
            status: row.status.into(),
            data: Json(data),
            occurred_at: row.occurred_at,
        }
    }
}

/// Returns what a caller is shown of an event's facts. Who intervened and why is between operators: everybody else sees
/// that it happened, and what was done.
pub(crate) fn shown_data(kind: &str, data: serde_json::Value, caller: &Caller) -> serde_json::Value {
    if kind == "OperatorActed" && !caller.may(Scope::SagasOperate) {
        return serde_json::json!({ "act": data["act"] });
    }
    data
}

/// One step in an order's story, as its viewers see it.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub(super) struct OrderStatusUpdate {
    #[graphql(skip)]
    row_id: Uuid,
    /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    order_id: ID,
    /// The event's sequence; give the last one you have seen as `after` to resume. Example: `4`
    sequence: i32,
    /// The order's status once the event had happened. Example: `PENDING`
    status: OrderStatus,
    /// What happened.
    event: OrderEvent,
}

impl OrderStatusUpdate {
    pub(super) fn new(row: entity::event::Model, caller: &Caller) -> Self {
        Self {
            row_id: row.order_id,
            order_id: ids::order_id(row.order_id),
            sequence: row.sequence,
            status: row.status.into(),
            event: OrderEvent::new(row, caller),
        }
    }
}

#[ComplexObject]
impl OrderStatusUpdate {
    /// The order as it is now, which may be further than this event.
    async fn order(&self, ctx: &Context<'_>) -> Result<Order> {
        let order = load_order(ctx, Source::Primary, self.row_id).await?;
        order.ok_or_else(|| missing("the event's order")).or_report(ctx, "read the order of an event")
    }
}

#[cfg(test)]
mod tests {
    use domain::app::{Scopes, store};
    use domain::id::local_app;
    use serde_json::json;

    use super::*;

    fn caller(scopes: Scopes) -> Caller {
        let app = store::App::new(local_app(), "tested");
        Caller::app(&app, scopes, &[], None, None)
    }

    #[test]
    fn who_intervened_and_why_is_shown_to_operators_alone() {
        let data = json!({ "act": "retry", "by": "ada", "reason": "the bank is back" });
        let shown = |scope| shown_data("OperatorActed", data.clone(), &caller([scope].into_iter().collect()));
        assert_eq!(shown(Scope::SagasOperate), data);
        assert_eq!(shown(Scope::OrdersRead), json!({ "act": "retry" }));
        let paid = json!({ "amountMinor": 1 });
        assert_eq!(shown_data("PaymentCaptured", paid.clone(), &caller(Scopes::default())), paid);
    }
}
