//! Finds orders among all that a caller sees, page by page, at the cost of the page.
//!
//! What a caller does not see is left out by the statement itself. A page holds places, an order's time and id; whoever
//! shows the orders loads them by id.

use chrono::{DateTime, Utc};
use sea_orm::{ActiveEnum, ConnectionTrait, DbBackend, DbErr, FromQueryResult, Iterable, Statement, Value};
use uuid::Uuid;

use super::{FulfillmentStatus, OrderStatus, PaymentStatus};
use crate::app::Visibility;

/// The most orders that are counted: counting costs as much as it counts.
pub const MAX_COUNT: u64 = 10_000;

/// Which orders: those that meet every condition. Lists of statuses name each at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only those in one of these statuses.
    pub statuses: Option<Vec<OrderStatus>>,
    /// Only those whose money is at one of these places.
    pub payment_statuses: Option<Vec<PaymentStatus>>,
    /// Only those whose goods are at one of these places.
    pub fulfillment_statuses: Option<Vec<FulfillmentStatus>>,
    /// Only those accepted then or later.
    pub created_from: Option<DateTime<Utc>>,
    /// Only those accepted before then.
    pub created_to: Option<DateTime<Utc>>,
    /// Only those that the client calls exactly this.
    pub external_reference: Option<String>,
    /// Only those with a line of this SKU.
    pub sku: Option<String>,
}

/// An order's place in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromQueryResult)]
pub struct Place {
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// Its id, which decides between orders of one moment.
    pub id: Uuid,
}

/// Which stretch of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Only places later than this one.
    pub above: Option<Place>,
    /// Only places earlier than this one.
    pub below: Option<Place>,
    /// Whether it begins at its newest place, or at its oldest.
    pub newest_first: bool,
    /// The most places.
    pub limit: u64,
}

/// What one order is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// Its id.
    Id(Uuid),
    /// The number that people say.
    Number(i64),
    /// The client's own name for it; of several orders the newest.
    ExternalReference(String),
}

/// Lists the orders of a stretch.
///
/// # Errors
/// Any error of the database.
pub async fn list(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    filter: &Filter,
    stretch: Stretch,
) -> Result<Vec<Place>, DbErr> {
    Place::find_by_statement(list_statement(visibility, filter, stretch)).all(db).await
}

/// Returns the statement of [`list`].
pub fn list_statement(visibility: &Visibility, filter: &Filter, stretch: Stretch) -> Statement {
    let mut query = Query::default();
    let direction = if stretch.newest_first { "DESC" } else { "ASC" };
    let limit = query.bind(stretch.limit.cast_signed());
    let order = |of: &str, id: &str| {
        format!("ORDER BY {of}.created_at {direction}, {of}.{id} {direction} LIMIT {limit}")
    };
    let found = query.found(visibility, filter, Some(stretch), order);
    let text = format!("{found} {}", order("found", "id"));
    query.into_statement(text)
}

/// Counts the orders that a filter means, up to [`MAX_COUNT`].
///
/// # Errors
/// Any error of the database.
pub async fn count(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    filter: &Filter,
) -> Result<u64, DbErr> {
    let row = db.query_one_raw(count_statement(visibility, filter)).await?;
    let counted = row.map_or(Ok(0), |row| row.try_get::<i64>("", "count"))?;
    Ok(u64::try_from(counted).unwrap_or(0))
}

/// Returns the statement of [`count`].
pub fn count_statement(visibility: &Visibility, filter: &Filter) -> Statement {
    let mut query = Query::default();
    let limit = query.bind(MAX_COUNT.cast_signed());
    let found = query.found(visibility, filter, None, |_, _| format!("LIMIT {limit}"));
    let text = format!("SELECT count(*) AS count FROM ({found} LIMIT {limit}) AS counted");
    query.into_statement(text)
}

/// Finds the order of this name; `None` if there is none that the caller sees.
///
/// # Errors
/// Any error of the database.
pub async fn find_id(
    db: &impl ConnectionTrait,
    visibility: &Visibility,
    name: &Name,
) -> Result<Option<Uuid>, DbErr> {
    let row = db.query_one_raw(find_id_statement(visibility, name)).await?;
    row.map(|row| row.try_get("", "id")).transpose()
}

/// Returns the statement of [`find_id`].
pub fn find_id_statement(visibility: &Visibility, name: &Name) -> Statement {
    let mut query = Query::default();
    // Served by orders_pkey, orders_by_number and orders_by_external_reference.
    match name {
        Name::Id(id) => query.add("orders.id = {}", *id),
        Name::Number(number) => query.add("orders.number = {}", *number),
        Name::ExternalReference(reference) => {
            // Of every app, where the caller sees every order: the index needs each of them by name.
            let filter = Filter { external_reference: Some(reference.clone()), ..Filter::default() };
            let newest = Stretch { above: None, below: None, newest_first: true, limit: 1 };
            return list_statement(visibility, &filter, newest);
        }
    }
    match visibility {
        Visibility::All => (),
        Visibility::Apps(ids) => query.add("orders.app_id = ANY({})", ids.to_vec()),
        Visibility::Order(id) => query.add("orders.id = {}", *id),
    }
    let text = format!("SELECT orders.id FROM orders WHERE {}", query.conditions.join(" AND "));
    query.into_statement(text)
}

/// Every app that has orders, by one probe of orders_list for each.
const EVERY_APP: &str = "(
    WITH RECURSIVE app (id) AS (
        (SELECT app_id FROM orders ORDER BY app_id LIMIT 1)
        UNION ALL
        SELECT (SELECT app_id FROM orders WHERE app_id > app.id ORDER BY app_id LIMIT 1) FROM app WHERE app.id IS NOT NULL
    )
    SELECT id FROM app WHERE id IS NOT NULL
) AS app";

/// A statement in the making: its conditions, and the parameters of the whole.
#[derive(Debug, Default)]
struct Query {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Query {
    /// Writes the select of the places that a filter means. `order` sorts and bounds what is found for one combination.
    ///
    /// Each combination of app and statuses is one range of orders_list that is sorted already, so the first places of
    /// all are among the first of each.
    fn found(
        &mut self,
        visibility: &Visibility,
        filter: &Filter,
        stretch: Option<Stretch>,
        order: impl Fn(&str, &str) -> String,
    ) -> String {
        let apps = match visibility {
            Visibility::All => EVERY_APP.to_owned(),
            Visibility::Apps(ids) => {
                // Each once: an app that is named twice has its orders once.
                format!("(SELECT DISTINCT unnest({}::uuid[]) AS id) AS app", self.bind(ids.to_vec()))
            }
            Visibility::Order(id) => {
                self.add("orders.id = {}", *id);
                format!("(SELECT app_id AS id FROM orders WHERE id = {}) AS app", self.bind(*id))
            }
        };
        let statuses = self.bind(values_of(filter.statuses.as_deref()));
        let payment_statuses = self.bind(values_of(filter.payment_statuses.as_deref()));
        let fulfillment_statuses = self.bind(values_of(filter.fulfillment_statuses.as_deref()));
        // Served by order_lines_by_sku, or else by orders_by_external_reference or orders_list.
        let (select, from, of, id) = if let Some(sku) = &filter.sku {
            self.conditions.push("line.app_id = app.id".to_owned());
            self.add("line.sku = {}", sku.clone());
            (
                "DISTINCT line.created_at, line.order_id",
                "order_lines AS line JOIN orders ON orders.id = line.order_id",
                "line",
                "order_id",
            )
        } else {
            self.conditions.push("orders.app_id = app.id".to_owned());
            ("orders.created_at, orders.id", "orders", "orders", "id")
        };
        if let Some(reference) = &filter.external_reference {
            self.add("orders.external_reference = {}", reference.clone());
        }
        let combinations = if filter.sku.is_some() || filter.external_reference.is_some() {
            self.conditions.push(format!(
                "orders.status = ANY({statuses}::text[]) AND orders.payment_status = ANY({payment_statuses}::text[])
                 AND orders.fulfillment_status = ANY({fulfillment_statuses}::text[])"
            ));
            String::new()
        } else {
            self.conditions.push(
                "(orders.status, orders.payment_status, orders.fulfillment_status)
                     = (wanted.status, wanted.payment_status, wanted.fulfillment_status)"
                    .to_owned(),
            );
            format!(
                "CROSS JOIN (SELECT status, payment_status, fulfillment_status
                             FROM unnest({statuses}::text[]) AS status, unnest({payment_statuses}::text[]) AS payment_status,
                                  unnest({fulfillment_statuses}::text[]) AS fulfillment_status) AS wanted"
            )
        };
        self.add_times(filter, stretch, of, id);
        format!(
            "SELECT found.created_at, found.id FROM {apps} {combinations}
             CROSS JOIN LATERAL (SELECT {select} FROM {from} WHERE {} {}) AS found (created_at, id)",
            self.conditions.join(" AND "),
            order(of, id)
        )
    }

    fn add_times(&mut self, filter: &Filter, stretch: Option<Stretch>, of: &str, id: &str) {
        if let Some(from) = filter.created_from {
            self.add(&format!("{of}.created_at >= {{}}"), from);
        }
        if let Some(to) = filter.created_to {
            self.add(&format!("{of}.created_at < {{}}"), to);
        }
        let bounds = stretch.map(|stretch| [(">", stretch.above), ("<", stretch.below)]);
        for (comparison, place) in bounds.into_iter().flatten() {
            if let Some(place) = place {
                let (created_at, place_id) = (self.bind(place.created_at), self.bind(place.id));
                let condition =
                    format!("({of}.created_at, {of}.{id}) {comparison} ({created_at}, {place_id})");
                self.conditions.push(condition);
            }
        }
    }

    /// Adds a condition, with its parameter in place of `{}`.
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        let parameter = self.bind(value);
        self.conditions.push(condition.replace("{}", &parameter));
    }

    /// Adds a parameter and returns its place holder.
    fn bind(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    fn into_statement(self, text: String) -> Statement {
        Statement::from_sql_and_values(DbBackend::Postgres, text, self.values)
    }
}

/// The values of these variants, or of all.
fn values_of<S: ActiveEnum<Value = String> + Iterable>(wanted: Option<&[S]>) -> Vec<String> {
    match wanted {
        Some(wanted) => wanted.iter().map(ActiveEnum::to_value).collect(),
        None => S::iter().map(|status| status.to_value()).collect(),
    }
}
