//! Finding orders: lists of them page by page, and one by what it is called.

#![expect(clippy::too_many_arguments, reason = "a field of the schema has as many as its callers need")]

use async_graphql::resolver_utils::EnumType;
use async_graphql::{
    ComplexObject, Context, Enum, ID, InputObject, Object, OneofObject, Result, SimpleObject,
};
use chrono::{DateTime, Datelike, Utc};
use domain::app::{Scope, Visibility};
use domain::input::check_text;
use domain::order::list::{self, Filter, Name, Place, Stretch};
use uuid::Uuid;

use super::{FulfillmentStatus, Order, OrderStatus, PaymentStatus, load_order, load_orders, reader};
use crate::access::{Needs, caller};
use crate::graphql::error::OrReport;
use crate::graphql::ids;
use crate::graphql::long::Long;
use crate::graphql::page::{self, PageInfo};
use crate::reader::Source;

/// How many orders a page has unless said.
const DEFAULT_PAGE: i32 = 50;

/// The most characters of a text that orders are found by.
const MAX_TEXT: usize = 255;

/// Finds orders.
#[derive(Debug, Default)]
pub(crate) struct OrderListQuery;

#[Object]
impl OrderListQuery {
    /// Returns a page of the orders that the caller sees.
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn orders(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return from the start, 1 to 100; 50 unless said. Example: `50`")]
        first: Option<i32>,
        #[graphql(desc = "Return those after this cursor. Example: `643a31`")] after: Option<String>,
        #[graphql(desc = "How many to return from the end, 1 to 100, in place of first. Example: `50`")]
        last: Option<i32>,
        #[graphql(desc = "Return those before this cursor. Example: `643a31`")] before: Option<String>,
        #[graphql(desc = "Which ones; all unless said.")] filter: Option<OrderFilter>,
        #[graphql(desc = "Which ones come first.", default_with = "OrderSort::CreatedAtDesc")]
        sort: OrderSort,
    ) -> Result<OrderConnection> {
        let (size, backward) = match (first, last) {
            (Some(_), Some(_)) => {
                return Err(page::invalid_argument("first and last do not go together; give one of them"));
            }
            (None, Some(last)) => (page::check_size("last", last)?, true),
            (first, None) => (page::check_first(first.unwrap_or(DEFAULT_PAGE))?, false),
        };
        let after = after.map(|cursor| decode("after", &cursor, sort)).transpose()?;
        let before = before.map(|cursor| decode("before", &cursor, sort)).transpose()?;
        let filter = filter.unwrap_or_default().check()?;
        let descending = sort == OrderSort::CreatedAtDesc;
        let (above, below) = if descending { (before, after) } else { (after, before) };
        // One more than asked for tells whether there is another page.
        let stretch = Stretch { above, below, newest_first: descending != backward, limit: size + 1 };
        let visibility = caller(ctx)?.visibility().clone();
        let reader = reader(ctx);
        let (sees, wanted) = (&visibility, &filter);
        let places = reader.read(reader.source(), sees, |view| async move {
            let places = list::list(&view, sees, wanted, stretch).await?;
            view.commit().await?;
            Ok(places)
        });
        let (mut places, source) = places.await.or_report(ctx, "list the orders")?;
        let has_more = places.len() as u64 > size;
        places.truncate(size as usize);
        if backward {
            places.reverse();
        }
        let (has_next_page, has_previous_page) =
            if backward { (before.is_some(), has_more) } else { (has_more, after.is_some()) };
        let ids: Vec<Uuid> = places.iter().map(|place| place.id).collect();
        let loaded = load_orders(ctx, source, &ids).await?;
        // None is missing: orders are never deleted, and stay with their app.
        let edges: Vec<OrderEdge> = places
            .into_iter()
            .zip(loaded)
            .filter_map(|(place, node)| Some(OrderEdge { cursor: encode(place, sort), node: node? }))
            .collect();
        let page_info = PageInfo {
            has_next_page,
            has_previous_page,
            start_cursor: edges.first().map(|edge| edge.cursor.clone()),
            end_cursor: edges.last().map(|edge| edge.cursor.clone()),
        };
        Ok(OrderConnection {
            nodes: edges.iter().map(|edge| edge.node.clone()).collect(),
            edges,
            page_info,
            visibility,
            source,
            filter,
        })
    }

    /// Returns the order of this name; null when there is none that the caller sees.
    #[graphql(guard = "Needs([Scope::OrdersRead])")]
    async fn order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What the order is called.")] by: OrderBy,
    ) -> Option<Result<Order>> {
        let name = match by {
            OrderBy::Id(id) => Name::Id(ids::parse_order_id(&id)?),
            OrderBy::Number(Long(number)) => Name::Number(number),
            OrderBy::ExternalReference(reference) => {
                check_text(&[], &reference, MAX_TEXT).ok()?;
                Name::ExternalReference(reference)
            }
        };
        find_order(ctx, &name).await.transpose()
    }
}

/// Returns the order of this name, if the caller sees it.
pub(in crate::graphql) async fn find_order(ctx: &Context<'_>, name: &Name) -> Result<Option<Order>> {
    let (reader, visibility) = (reader(ctx), caller(ctx)?.visibility());
    let found = reader.read(reader.source(), visibility, |view| async move {
        let id = list::find_id(&view, visibility, name).await?;
        view.commit().await?;
        Ok(id)
    });
    match found.await.or_report(ctx, "find an order")? {
        (Some(id), source) => load_order(ctx, source, id).await,
        (None, _) => Ok(None),
    }
}

/// What one order is called.
#[derive(Debug, OneofObject)]
pub(super) enum OrderBy {
    /// Its id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    Id(ID),
    /// The short number for people on the telephone. Example: `1042`
    Number(Long),
    /// The client's own name for it; of several orders that have it, the newest. Example: `web-20261125-17`
    ExternalReference(String),
}

/// Which orders come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
pub(super) enum OrderSort {
    /// The newest.
    CreatedAtDesc,
    /// The oldest.
    CreatedAtAsc,
}

/// Which orders: those that meet every condition.
#[derive(Debug, Default, InputObject)]
pub(super) struct OrderFilter {
    /// Only those in one of these statuses. Example: `[PENDING]`
    status: Option<Vec<OrderStatus>>,
    /// Only those whose money is at one of these places. Example: `[PAID]`
    payment_status: Option<Vec<PaymentStatus>>,
    /// Only those whose goods are at one of these places. Example: `[UNFULFILLED]`
    fulfillment_status: Option<Vec<FulfillmentStatus>>,
    /// Only those accepted in this span of time.
    created_at: Option<TimeRange>,
    /// Only those that the client calls exactly this. Example: `web-20261125-17`
    external_reference: Option<String>,
    /// Only those with a line of this SKU. Example: `SKU-1`
    sku: Option<String>,
}

/// A span of time; without an end, or a beginning, it is open there.
#[derive(Debug, Default, InputObject)]
pub(super) struct TimeRange {
    /// This moment or later (RFC 3339). Example: `2026-11-25T00:00:00Z`
    from: Option<DateTime<Utc>>,
    /// Before this moment (RFC 3339). Example: `2026-11-26T00:00:00Z`
    to: Option<DateTime<Utc>>,
}

impl OrderFilter {
    /// Checks the filter.
    ///
    /// # Errors
    /// INVALID_INPUT with the name of the field that is not as it must be.
    fn check(self) -> Result<Filter> {
        let TimeRange { from, to } = self.created_at.unwrap_or_default();
        for (path, text) in [("externalReference", &self.external_reference), ("sku", &self.sku)] {
            if let Some(text) = text {
                check_text(&[], text, MAX_TEXT).map_err(|violation| {
                    page::invalid_argument(format!("filter.{path} {}", violation.message))
                })?;
            }
        }
        Ok(Filter {
            statuses: check_statuses("status", self.status)?,
            payment_statuses: check_statuses("paymentStatus", self.payment_status)?,
            fulfillment_statuses: check_statuses("fulfillmentStatus", self.fulfillment_status)?,
            created_from: from.map(|time| check_time("from", time)).transpose()?,
            created_to: to.map(|time| check_time("to", time)).transpose()?,
            external_reference: self.external_reference,
            sku: self.sku,
        })
    }
}

/// Takes each status of a list once.
fn check_statuses<S: EnumType, D: From<S>>(path: &str, statuses: Option<Vec<S>>) -> Result<Option<Vec<D>>> {
    let Some(statuses) = statuses else { return Ok(None) };
    let most = S::items().len();
    if statuses.is_empty() || statuses.len() > most {
        let message = format!("filter.{path} must name 1 to {most} statuses; leave it out for all");
        return Err(page::invalid_argument(message));
    }
    let mut once: Vec<S> = Vec::with_capacity(statuses.len());
    for status in statuses {
        if !once.contains(&status) {
            once.push(status);
        }
    }
    Ok(Some(once.into_iter().map(D::from).collect()))
}

/// Checks that the database can hold a time.
fn check_time(path: &str, time: DateTime<Utc>) -> Result<DateTime<Utc>> {
    if (1..=9999).contains(&time.year()) {
        return Ok(time);
    }
    Err(page::invalid_argument(format!("filter.createdAt.{path} must be in the years 1 to 9999")))
}

/// A page of orders.
#[derive(Debug, SimpleObject)]
#[graphql(complex)]
pub(super) struct OrderConnection {
    /// The orders with their cursors.
    edges: Vec<OrderEdge>,
    /// The orders alone.
    nodes: Vec<Order>,
    /// Where the page lies in the list.
    page_info: PageInfo,
    #[graphql(skip)]
    visibility: Visibility,
    /// Where the page was read.
    #[graphql(skip)]
    source: Source,
    #[graphql(skip)]
    filter: Filter,
}

#[ComplexObject]
impl OrderConnection {
    /// How many orders the whole list has, counted up to 10,000: 10000 means 10,000 or more. Example: `42`
    async fn total_count(&self, ctx: &Context<'_>) -> Result<i32> {
        let Self { visibility, source, filter, .. } = self;
        let count = reader(ctx).read(*source, visibility, |view| async move {
            let count = list::count(&view, visibility, filter).await?;
            view.commit().await?;
            Ok(count)
        });
        let (count, _) = count.await.or_report(ctx, "count the orders")?;
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }
}

/// An order and its place in the list.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderEdge {
    /// Give it as `after` or `before`, with the same sort, to go on from here. Example: `643a31`
    cursor: String,
    /// The order.
    node: Order,
}

fn tag(sort: OrderSort) -> &'static str {
    match sort {
        OrderSort::CreatedAtDesc => "d",
        OrderSort::CreatedAtAsc => "a",
    }
}

fn encode(place: Place, sort: OrderSort) -> String {
    page::encode_cursor(&format!("{}:{}:{}", tag(sort), place.created_at.timestamp_micros(), place.id))
}

fn decode(argument: &str, cursor: &str, sort: OrderSort) -> Result<Place> {
    let place = page::decode_cursor(cursor).ok().and_then(|key| {
        let (micros, id) = key.strip_prefix(tag(sort))?.strip_prefix(':')?.split_once(':')?;
        let created_at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        let place = Place { created_at, id: id.parse().ok()? };
        ((1..=9999).contains(&created_at.year()) && encode(place, sort) == cursor).then_some(place)
    });
    place.ok_or_else(|| {
        let message =
            format!("{argument} is not a cursor of this list; give one that a page with the same sort had");
        page::invalid_argument(message)
    })
}
