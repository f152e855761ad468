//! Identifiers on their way in and out.

use async_graphql::ID;
use domain::id::OrderId;
use uuid::Uuid;

/// Returns the order that the text names; `None` if it is not a well-formed id, which names no order.
pub(super) fn parse_order_id(id: &ID) -> Option<Uuid> {
    id.parse::<OrderId>().ok().map(|id| id.uuid())
}

/// Returns an order's id as clients see it.
pub(super) fn order_id(id: Uuid) -> ID {
    ID(OrderId::from_uuid(id).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_the_round_trip() {
        let id = Uuid::now_v7();
        assert!(order_id(id).starts_with("order_"));
        assert_eq!(parse_order_id(&order_id(id)), Some(id));
    }

    #[test]
    fn what_is_no_order_id_names_no_order() {
        let app = domain::id::AppId::from_uuid(Uuid::now_v7()).to_string();
        for text in ["", "1", "order_", "order_\0", &app, "order_zzzzzzzzzzzzzzzzzzzzzzzzzz"] {
            assert_eq!(parse_order_id(&ID::from(text)), None, "{text:?}");
        }
    }
}
