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

/// Returns the columns behind one field; `None` for a field that is not known here.
fn columns_of(field: &str) -> Option<&'static [Column]> {
    Some(match field {
        "id" | "process" | "events" | "__typename" => &[],
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
