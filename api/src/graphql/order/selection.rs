//! What a request wants of an order, told from its selection.

use async_graphql::SelectionField;
use domain::order::entity::Column;
use domain::order::read::Columns;

/// Returns the columns that answer what is selected below a field: of the order that the field is, or of the orders of
/// its page. In doubt it names more than that.
pub(super) fn columns(field: &SelectionField<'_>) -> Columns {
    let mut columns = Columns::default();
    for selected in field.selection_set() {
        match columns_of(selected.name()) {
            Some(of_field) => of_field.iter().for_each(|column| columns.insert(*column)),
            None if ["nodes", "edges", "node", "order"].contains(&selected.name()) => {
                columns = columns.union(self::columns(&selected));
            }
            None => return Columns::all(),
        }
    }
    columns
}

/// Whether the lines are selected: of the order that the field is, or of the orders of its page.
pub(super) fn lines(field: &SelectionField<'_>) -> bool {
    field.selection_set().any(|selected| match selected.name() {
        "lines" => true,
        "nodes" | "edges" | "node" | "order" => lines(&selected),
        _ => false,
    })
}

/// Returns the columns behind one field; `None` for a field that is not known here.
fn columns_of(field: &str) -> Option<&'static [Column]> {
    Some(match field {
        "id" | "payments" | "process" | "events" | "__typename" => &[],
        // Of a page of orders.
        "pageInfo" | "cursor" | "totalCount" => &[],
        "number" => &[Column::Number],
        "status" => &[Column::Status],
        "paymentStatus" => &[Column::PaymentStatus],
        "fulfillmentStatus" => &[Column::FulfillmentStatus],
        "sequence" => &[Column::Sequence],
        "currency" | "lines" => &[Column::Currency],
        "totals" => &[
            Column::Currency,
            Column::ItemsMinor,
            Column::ShippingMinor,
            Column::TaxMinor,
            Column::TotalMinor,
        ],
        "email" => &[Column::Email],
        "shippingAddress" => &[Column::ShippingAddress],
        "shippingMethod" => &[Column::ShippingMethod],
        "externalReference" => &[Column::ExternalReference],
        "createdAt" => &[Column::CreatedAt],
        "updatedAt" => &[Column::UpdatedAt],
        "confirmedAt" => &[Column::ConfirmedAt],
        "failedAt" => &[Column::FailedAt],
        "failure" => &[Column::FailureCode, Column::FailureMessage],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_graphql::{Context, EmptyMutation, EmptySubscription, Object, Schema, SimpleObject};

    use super::*;

    /// An order, or a page of them, as far as the tests select something of it.
    #[derive(SimpleObject, Default)]
    struct Thing {
        id: i32,
        status: i32,
        email: i32,
        novelty: i32,
        page_info: i32,
        nodes: Vec<Thing>,
        edges: Vec<Thing>,
        node: Option<Box<Thing>>,
    }

    #[derive(Clone, Default)]
    struct Root(Arc<Mutex<Columns>>);

    #[Object]
    impl Root {
        async fn thing(&self, ctx: &Context<'_>) -> Thing {
            *self.0.lock().expect("not poisoned") = columns(&ctx.field());
            Thing::default()
        }
    }

    async fn read(query: &str) -> Columns {
        let root = Root::default();
        let schema = Schema::new(root.clone(), EmptyMutation, EmptySubscription);
        assert_eq!(schema.execute(query).await.errors, []);
        *root.0.lock().expect("not poisoned")
    }

    #[tokio::test]
    async fn what_is_selected_is_found_under_any_name_and_in_any_fragment() {
        let status: Columns = [Column::Status].into_iter().collect();
        for query in [
            "{ thing { id status } }",
            "{ other: thing { email: status } }",
            "{ thing { ...A } } fragment A on Thing { id ...B } fragment B on Thing { status }",
            "{ thing { ... on Thing { ... { status } } } }",
            "{ thing { pageInfo nodes { status } } }",
            "{ thing { edges { node { ... on Thing { status } } } } }",
        ] {
            assert_eq!(read(query).await, status, "{query}");
        }
        assert_eq!(read("{ thing { __typename id } }").await, Columns::default());
    }

    #[tokio::test]
    async fn in_doubt_everything_is_read() {
        assert_eq!(read("{ thing { id nodes { novelty } } }").await, Columns::all());
    }
}
