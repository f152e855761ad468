//! What a person does to an order's saga, and the event that tells the order's story of it.

use domain::order::event::OrderEvent;
use domain::order::store::append;
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde_json::json;
use tracing::info;
use uuid::Uuid;

use crate::engine::Definitions;
use crate::engine::operate::{self, Act, ActError, Finding, Operator};
use crate::payment_gateway::Answer;

/// Acts on the saga of an order, and appends the event that names who did what and why, in one transaction. Wake the
/// runners and the order's viewers afterwards.
///
/// # Errors
/// [`ActError`]; nothing was written, unless the database failed in the commit itself.
pub async fn act_on_order(
    db: &DatabaseConnection,
    definitions: &Definitions,
    order_id: Uuid,
    act: Act,
    operator: &Operator,
) -> Result<(), ActError> {
    let kind = act.kind();
    let tx = db.begin().await?;
    let taken = operate::take(&tx, definitions, order_id, act).await?;
    // Before the act is carried out, so that what follows from it follows in the order's story as well.
    let acted = OrderEvent::OperatorActed {
        act: kind.as_str().to_owned(),
        by: operator.name.clone(),
        via: operator.via.clone(),
        reason: operator.reason.clone(),
    };
    append(&tx, vec![(taken.subject_id(), acted)]).await?;
    taken.carry_out(&tx, definitions, operator).await?;
    tx.commit().await?;
    info!(order.id = %order_id, act = kind.as_str(), operator = operator.name, "an operator acted on an order");
    Ok(())
}

/// Makes the finding that a gateway call succeeded, from the id that the gateway gave to what it did.
pub fn succeeded(answer_id: &str) -> Finding {
    Finding::Succeeded(json!(Answer { id: answer_id.to_owned() }))
}
