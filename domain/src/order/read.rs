//! Reading orders on somebody's behalf.
//!
//! Each query takes the [`Visibility`] of whoever asks into its `WHERE` clause: an order that is not visible is missing
//! from the answer, exactly as one that does not exist. Orders are read [column by column](Columns), so that what
//! nobody asked for, personal data above all, does not leave the database.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::Expr;
use sea_orm::sea_query::extension::postgres::PgExpr;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DbBackend, DbErr, EntityTrait, FromQueryResult, IdenStatic, Iterable,
    QueryFilter, QueryOrder, QueryResult, QuerySelect, Statement, TryGetable, Value,
};
use uuid::Uuid;

use super::entity::{self, Column};
use super::{FulfillmentStatus, OrderStatus, PaymentStatus};
use crate::app::Visibility;

/// A set of columns of `orders`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Columns(u32);

impl Columns {
    /// Columns that no reader is shown: the idempotency key and its input, the card, and what the shopper was shown.
    const INTERNAL: [Column; 4] =
        [Column::IdempotencyKey, Column::InputFingerprint, Column::PaymentToken, Column::ExpectedTotalMinor];

    /// Columns with personal data. The country of an address alone is none.
    pub const PERSONAL: [Column; 2] = [Column::Email, Column::ShippingAddress];

    /// Everything that a reader may be shown, personal data included.
    pub fn all() -> Self {
        Column::iter().collect::<Self>().without(Self::INTERNAL)
    }

    /// The same without these.
    #[must_use]
    pub fn without(self, columns: impl IntoIterator<Item = Column>) -> Self {
        Self(self.0 & !columns.into_iter().collect::<Self>().0)
    }

    /// Everything that is in one of both.
    #[must_use]
    pub fn union(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Adds one.
    pub fn insert(&mut self, column: Column) {
        self.0 |= Self::bit(column);
    }

    /// Whether it is one of them.
    pub fn contains(self, column: Column) -> bool {
        self.0 & Self::bit(column) != 0
    }

    fn iter(self) -> impl Iterator<Item = Column> {
        Column::iter().filter(move |column| self.contains(*column))
    }

    fn bit(column: Column) -> u32 {
        1 << column as u32
    }
}

impl FromIterator<Column> for Columns {
    fn from_iter<I: IntoIterator<Item = Column>>(columns: I) -> Self {
        let mut set = Self::default();
        columns.into_iter().for_each(|column| set.insert(column));
        set
    }
}

/// What was read of an order. A column that was not read is `None`; one that may be null in the database is
/// `Some(None)` when it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the migration explains the columns")]
pub struct OrderRow {
    pub id: Uuid,
    pub number: Option<i64>,
    pub app_id: Option<Uuid>,
    pub status: Option<OrderStatus>,
    pub payment_status: Option<PaymentStatus>,
    pub fulfillment_status: Option<FulfillmentStatus>,
    pub sequence: Option<i32>,
    pub currency: Option<String>,
    pub items_minor: Option<i64>,
    pub shipping_minor: Option<Option<i64>>,
    pub tax_minor: Option<Option<i64>>,
    pub total_minor: Option<Option<i64>>,
    pub email: Option<Option<String>>,
    pub shipping_address: Option<Option<serde_json::Value>>,
    pub shipping_method: Option<String>,
    pub shipping_country: Option<Option<String>>,
    pub external_reference: Option<Option<String>>,
    pub failure_code: Option<Option<String>>,
    pub failure_message: Option<Option<String>>,
    pub created_at: Option<DateTime<Utc>>,
    pub updated_at: Option<DateTime<Utc>>,
    pub confirmed_at: Option<Option<DateTime<Utc>>>,
    pub failed_at: Option<Option<DateTime<Utc>>>,
}

impl From<entity::Model> for OrderRow {
    fn from(row: entity::Model) -> Self {
        Self {
            id: row.id,
            number: Some(row.number),
            app_id: Some(row.app_id),
            status: Some(row.status),
            payment_status: Some(row.payment_status),
            fulfillment_status: Some(row.fulfillment_status),
            sequence: Some(row.sequence),
            currency: Some(row.currency),
            items_minor: Some(row.items_minor),
            shipping_minor: Some(row.shipping_minor),
            tax_minor: Some(row.tax_minor),
            total_minor: Some(row.total_minor),
            email: Some(row.email),
            shipping_address: Some(row.shipping_address),
            shipping_method: Some(row.shipping_method),
            shipping_country: Some(row.shipping_country),
            external_reference: Some(row.external_reference),
            failure_code: Some(row.failure_code),
            failure_message: Some(row.failure_message),
            created_at: Some(row.created_at),
            updated_at: Some(row.updated_at),
            confirmed_at: Some(row.confirmed_at),
            failed_at: Some(row.failed_at),
        }
    }
}

impl OrderRow {
    fn read(row: &QueryResult, columns: Columns) -> Result<Self, DbErr> {
        let row = Cells { row, columns };
        Ok(Self {
            id: row.row.try_get("", Column::Id.as_str())?,
            number: row.get(Column::Number)?,
            app_id: row.get(Column::AppId)?,
            status: row.get(Column::Status)?,
            payment_status: row.get(Column::PaymentStatus)?,
            fulfillment_status: row.get(Column::FulfillmentStatus)?,
            sequence: row.get(Column::Sequence)?,
            currency: row.get(Column::Currency)?,
            items_minor: row.get(Column::ItemsMinor)?,
            shipping_minor: row.get(Column::ShippingMinor)?,
            tax_minor: row.get(Column::TaxMinor)?,
            total_minor: row.get(Column::TotalMinor)?,
            email: row.get(Column::Email)?,
            shipping_address: row.get(Column::ShippingAddress)?,
            shipping_method: row.get(Column::ShippingMethod)?,
            shipping_country: row.get(Column::ShippingCountry)?,
            external_reference: row.get(Column::ExternalReference)?,
            failure_code: row.get(Column::FailureCode)?,
            failure_message: row.get(Column::FailureMessage)?,
            created_at: row.get(Column::CreatedAt)?,
            updated_at: row.get(Column::UpdatedAt)?,
            confirmed_at: row.get(Column::ConfirmedAt)?,
            failed_at: row.get(Column::FailedAt)?,
        })
    }
}

/// The cells of a row that has only these columns.
struct Cells<'a> {
    row: &'a QueryResult,
    columns: Columns,
}

impl Cells<'_> {
    fn get<T: TryGetable>(&self, column: Column) -> Result<Option<T>, DbErr> {
        self.columns.contains(column).then(|| self.row.try_get("", column.as_str())).transpose()
    }
}

/// Returns those of these orders that are visible, with these columns and their ids.
///
/// # Errors
/// Any error of the database.
pub async fn find_orders(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    columns: Columns,
    ids: Vec<Uuid>,
) -> Result<Vec<OrderRow>, DbErr> {
    let mut read = columns;
    read.insert(Column::Id);
    let query = entity::Entity::find().select_only().columns(read.iter()).filter(Column::Id.eq_any(ids));
    let query = match visibility {
        Visibility::All => query,
        Visibility::Apps(apps) => query.filter(Column::AppId.eq_any(apps.to_vec())),
        Visibility::Order(id) => query.filter(Column::Id.eq(*id)),
    };
    let statement = sea_orm::QueryTrait::build(&query, DbBackend::Postgres);
    let rows = db.query_all_raw(statement).await?;
    rows.iter().map(|row| OrderRow::read(row, columns)).collect()
}

/// Returns the whole order, or `None` if none of this id is visible.
///
/// # Errors
/// Any error of the database.
pub async fn find_order(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    id: Uuid,
) -> Result<Option<entity::Model>, DbErr> {
    let query = entity::Entity::find_by_id(id);
    let query = match visibility {
        Visibility::All => query,
        Visibility::Apps(apps) => query.filter(Column::AppId.eq_any(apps.to_vec())),
        Visibility::Order(id) => query.filter(Column::Id.eq(*id)),
    };
    query.one(db).await
}

/// Returns the visible lines of these orders, sorted by order id and line number.
///
/// # Errors
/// Any error of the database.
pub async fn find_lines(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    order_ids: Vec<Uuid>,
) -> Result<Vec<entity::line::Model>, DbErr> {
    use entity::line::{Column, Entity};
    let query = Entity::find().filter(Column::OrderId.eq_any(order_ids));
    let query = match visibility {
        Visibility::All => query,
        // A line carries a copy of its order's app.
        Visibility::Apps(apps) => query.filter(Expr::col(("order_lines", "app_id")).eq_any(apps.to_vec())),
        Visibility::Order(id) => query.filter(Column::OrderId.eq(*id)),
    };
    query.order_by_asc(Column::OrderId).order_by_asc(Column::LineNo).all(db).await
}

/// Returns of each visible one of these orders up to `limit` events, from the first whose sequence is greater than
/// `after`; sorted by order id and sequence.
///
/// # Errors
/// Any error of the database.
pub async fn find_events(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    order_ids: Vec<Uuid>,
    after: i32,
    limit: u64,
) -> Result<Vec<entity::event::Model>, DbErr> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut values: Vec<Value> = vec![order_ids.into(), after.into(), limit.into()];
    let is_visible = match visibility {
        Visibility::All => "true",
        Visibility::Apps(apps) => {
            values.push(apps.to_vec().into());
            "orders.app_id = ANY($4)"
        }
        Visibility::Order(id) => {
            values.push((*id).into());
            "orders.id = $4"
        }
    };
    let text = FIND_EVENTS.replace("{is_visible}", is_visible);
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, text, values);
    entity::event::Model::find_by_statement(statement).all(db).await
}

/// The primary keys of both tables serve it.
const FIND_EVENTS: &str = "
SELECT event.order_id, event.sequence, event.type, event.status, event.data, event.occurred_at
FROM orders
CROSS JOIN LATERAL (
    SELECT * FROM order_events
    WHERE order_events.order_id = orders.id AND order_events.sequence > $2
    ORDER BY order_events.sequence
    LIMIT $3
) AS event
WHERE orders.id = ANY($1) AND {is_visible}
ORDER BY event.order_id, event.sequence";

/// Where an order's story has got to.
#[derive(Debug, Clone, Copy, FromQueryResult)]
pub struct Position {
    /// The order.
    pub id: Uuid,
    /// Number of its newest event.
    pub sequence: i32,
}

/// Returns how far each of these orders has got; unknown ones are missing. It is on nobody's behalf: what it finds wakes
/// those who then look for themselves.
///
/// # Errors
/// Any error of the database.
pub async fn find_positions(db: &impl ConnectionTrait, ids: Vec<Uuid>) -> Result<Vec<Position>, DbErr> {
    entity::Entity::find()
        .select_only()
        .columns([Column::Id, Column::Sequence])
        .filter(Column::Id.eq_any(ids))
        .into_model::<Position>()
        .all(db)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_internal() {
        let columns: Columns = [Column::Id, Column::FailedAt].into_iter().collect();
        assert_eq!(columns.iter().count(), 2);
        assert!(columns.contains(Column::FailedAt) && !columns.contains(Column::Email));
        assert!(!Columns::all().contains(Column::PaymentToken));
        assert!(Columns::all().contains(Column::Email));
        assert!(!Columns::all().without(Columns::PERSONAL).contains(Column::Email));
    }
}
