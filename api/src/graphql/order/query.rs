//! Reading orders.

use async_graphql::{Context, ID, Object, Result};

use super::{Order, load_order, load_order_at_least, reader};
use crate::access::MayFollow;
use crate::graphql::{ids, page};

/// Reads orders.
#[derive(Debug, Default)]
pub(crate) struct OrderQuery;

#[Object]
impl OrderQuery {
    /// Returns the order with this id; null when there is none that the caller may see.
    ///
    /// Where orders are read from a replica, one that was placed or has moved a moment ago may not have arrived there.
    /// Give the sequence that you have seen as `minSequence`, and the answer is at least as new: 1 after `placeOrder`.
    #[graphql(guard = "MayFollow")]
    async fn get_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
        #[graphql(
            desc = "Answer at least as new as the order's event of this sequence, 0 or more; an order that has not come as \
                    far is answered as it is. Example: `3`"
        )]
        min_sequence: Option<i32>,
    ) -> Result<Option<Order>> {
        let min_sequence = min_sequence.map(check_sequence).transpose()?;
        let Some(id) = ids::parse_order_id(&id) else { return Ok(None) };
        match min_sequence {
            Some(min_sequence) => load_order_at_least(ctx, id, min_sequence).await,
            None => load_order(ctx, reader(ctx).source(), id).await,
        }
    }
}

/// Checks the number of an event that a caller has seen.
///
/// # Errors
/// A negative one.
fn check_sequence(sequence: i32) -> Result<i32> {
    if sequence >= 0 {
        return Ok(sequence);
    }
    Err(page::invalid_argument(format!(
        "minSequence must be 0 or more; it is {sequence}; give a sequence that placeOrder or orderStatus has answered, or \
         leave it out"
    )))
}
