//! How many there are, how many are promised, and who gets them.

use std::collections::HashMap;

use sea_orm::FromQueryResult;
use sea_orm::entity::prelude::*;
use uuid::Uuid;

pub mod adjust;
pub mod entity;
pub mod store;

/// What has become of the units that an order holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReservationStatus {
    /// Held while the order is on its way.
    Held,
    /// The order is confirmed; the units stay promised until they leave the building.
    Confirmed,
    /// Given back because the order failed or was canceled.
    Released,
    /// Given back because nobody came for them.
    Expired,
}

/// Units of one SKU that one order asks for, summed over its lines.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Demand {
    /// The order.
    pub order_id: Uuid,
    /// The SKU.
    pub sku: String,
    /// Units.
    pub quantity: i64,
}

/// When an order got the units it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// By this call.
    Now,
    /// By an earlier one, which this call repeats.
    Before,
}

/// Why an order gets nothing: the first of its SKUs of which there is not enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The SKU.
    pub sku: String,
    /// Units the order asks for.
    pub requested: i64,
    /// Units left when its turn came.
    pub available: i64,
}

/// Shares what is available among orders, first come first served, each order all or nothing.
///
/// `demands` holds each order's demands next to each other, in the order in which the orders came. An order that does
/// not fit takes nothing and does not stop a later, smaller one: since `available` only shrinks, no refused order
/// would fit what is left at the end. What was given is subtracted from `available`.
pub fn allocate(
    available: &mut HashMap<String, i64>,
    demands: &[Demand],
) -> HashMap<Uuid, Result<(), Shortage>> {
    let mut answers = HashMap::new();
    for of_one_order in demands.chunk_by(|left, right| left.order_id == right.order_id) {
        let left = |demand: &Demand| available.get(&demand.sku).copied().unwrap_or(0);
        let short = of_one_order.iter().find(|demand| demand.quantity > left(demand));
        let answer = match short {
            Some(demand) => {
                Err(Shortage { sku: demand.sku.clone(), requested: demand.quantity, available: left(demand) })
            }
            None => {
                for demand in of_one_order {
                    if let Some(units) = available.get_mut(&demand.sku) {
                        *units -= demand.quantity;
                    }
                }
                Ok(())
            }
        };
        answers.insert(of_one_order[0].order_id, answer);
    }
    answers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demand(order: u128, sku: &str, quantity: i64) -> Demand {
        Demand { order_id: Uuid::from_u128(order), sku: sku.to_owned(), quantity }
    }

    #[test]
    fn the_condition_is_the_quantity_not_more_than_zero() {
        // The old system checked `quantity > 0` while it subtracted N.
        let mut available = HashMap::from([("A".to_owned(), 1)]);
        let answers = allocate(&mut available, &[demand(1, "A", 2)]);
        let shortage = Shortage { sku: "A".to_owned(), requested: 2, available: 1 };
        assert_eq!(answers[&Uuid::from_u128(1)], Err(shortage));
        assert_eq!(available["A"], 1);
    }

    #[test]
    fn an_order_gets_all_of_its_skus_or_none() {
        let mut available = HashMap::from([("A".to_owned(), 5), ("B".to_owned(), 1)]);
        let answers = allocate(
            &mut available,
            &[demand(1, "A", 2), demand(1, "B", 2), demand(2, "A", 5), demand(3, "C", 1)],
        );
        assert!(answers[&Uuid::from_u128(1)].is_err());
        assert!(answers[&Uuid::from_u128(2)].is_ok(), "the refused order took nothing of A");
        assert!(answers[&Uuid::from_u128(3)].is_err(), "an unknown SKU has nothing available");
        assert_eq!(available["A"], 0);
    }

    proptest! {
        #[test]
        fn nothing_is_oversold_and_no_refused_order_would_still_fit(
            stock in proptest::collection::vec(0_i64..20, 3),
            orders in proptest::collection::vec(proptest::collection::btree_map(0_usize..3, 1_i64..8, 1..3), 0..30),
        ) {
            let before: HashMap<String, i64> =
                stock.iter().enumerate().map(|(sku, &units)| (sku.to_string(), units)).collect();
            let demands: Vec<Demand> = orders.iter().enumerate()
                .flat_map(|(order, lines)| lines.iter().map(move |(sku, &n)| demand(order as u128, &sku.to_string(), n)))
                .collect();
            let mut left = before.clone();
            let answers = allocate(&mut left, &demands);
            let mut taken: HashMap<String, i64> = HashMap::new();
            for demand in &demands {
                if answers[&demand.order_id].is_ok() {
                    *taken.entry(demand.sku.clone()).or_default() += demand.quantity;
                }
            }
            for (sku, &units) in &before {
                prop_assert!(left[sku] >= 0);
                prop_assert_eq!(left[sku] + taken.get(sku).copied().unwrap_or(0), units);
            }
            for (order, lines) in orders.iter().enumerate() {
                let fits = lines.iter().all(|(sku, &n)| left[&sku.to_string()] >= n);
                prop_assert!(answers[&Uuid::from_u128(order as u128)].is_ok() || !fits);
            }
        }
    }
}
