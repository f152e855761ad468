//! The order as clients see it.

use async_graphql::{Context, Enum, ID, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::money::{Currency, MoneyError};
use domain::order::entity;
use domain::order::read::{Columns, OrderRow};
use sea_orm::DbErr;

use super::error::OrReport;
use super::loaders::{EventsPage, LoadedOrder, Loaders, Wanted};
use super::long::Long;
use super::money::{CurrencyCode, Money};
use super::{ids, page};
use crate::access::{caller, personal_data};
use crate::reader::Source;

pub(super) mod changes;
mod event;
pub(super) mod list;
mod load;
pub(super) mod mutation;
mod payment;
mod process;
pub(super) mod query;
mod selection;
pub(super) mod subscription;

use self::event::{OrderEvent, OrderStatusUpdate};
use self::load::{load, load_order_at_least, sees_order};
pub(crate) use self::load::{load_order, load_orders, reader};
use self::payment::Payment;
use self::process::OrderProcess;
pub(super) use self::process::ProcessState;

/// Where an order stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "domain::order::OrderStatus")]
pub(super) enum OrderStatus {
    /// Accepted; its process is carrying it on.
    Pending,
    /// Stock is reserved and the payment is captured.
    Confirmed,
    /// Everything has been delivered.
    Completed,
    /// Called off after it was confirmed.
    Canceled,
    /// It could not be carried out; whatever had been done for it was undone.
    Failed,
}

/// Where the money of an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "domain::order::PaymentStatus")]
pub(super) enum PaymentStatus {
    /// Nothing has been promised or taken.
    Unpaid,
    /// The card's bank has promised the total.
    Authorized,
    /// The total has been taken.
    Paid,
    /// The promise was given back.
    Voided,
    /// The money was given back.
    Refunded,
}

/// Where the goods of an order are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "domain::order::FulfillmentStatus")]
pub(super) enum FulfillmentStatus {
    /// In the building.
    Unfulfilled,
    /// On their way or there.
    Fulfilled,
}

/// Something a client wants to buy: its lines, its money, and the process that carries it out.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    row: OrderRow,
    /// Those that were read together with it.
    lines: Option<Vec<entity::line::Model>>,
    /// Where it was read, and what hangs on it is: it is never older than the order.
    source: Source,
}

impl From<LoadedOrder> for Order {
    fn from(LoadedOrder { row, lines, source }: LoadedOrder) -> Self {
        Self { row, lines, source }
    }
}

impl Order {
    /// Shows a row that was read as a whole, on the primary.
    ///
    /// # Errors
    /// The stored currency is not one of ISO 4217, which the checks on the way in make impossible.
    pub(super) fn try_new(row: entity::Model) -> Result<Self, DbErr> {
        parse_currency(&row.currency)?;
        Ok(Self { row: row.into(), lines: None, source: Source::Primary })
    }

    /// Returns something of the row. What was not read, since the selection did not show that it is wanted, is read now.
    async fn read<T>(&self, ctx: &Context<'_>, get: impl Fn(&OrderRow) -> Option<T> + Send) -> Result<T> {
        if let Some(value) = get(&self.row) {
            return Ok(value);
        }
        let wanted = Wanted { columns: Columns::all(), lines: false };
        let order = load(ctx, self.source, self.row.id, wanted).await;
        order
            .and_then(|order| {
                order.as_ref().and_then(|order| get(&order.row)).ok_or_else(|| missing("the order"))
            })
            .or_report(ctx, "read an order")
    }

    async fn read_currency(&self, ctx: &Context<'_>) -> Result<Currency> {
        let currency = self.read(ctx, |row| row.currency.clone()).await?;
        parse_currency(&currency).or_report(ctx, "read the currency of an order")
    }
}

fn missing(what: &str) -> DbErr {
    DbErr::RecordNotFound(what.to_owned())
}

fn parse_currency(currency: &str) -> Result<Currency, DbErr> {
    currency.parse().map_err(|error: MoneyError| DbErr::Type(error.to_string()))
}

/// Something a client wants to buy: its lines, its money, and the process that carries it out.
#[Object]
impl Order {
    /// Names the order everywhere: a TypeID. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    pub(super) async fn id(&self) -> ID {
        ids::order_id(self.row.id)
    }

    /// A short number for people on the telephone; rises, may have gaps. Example: `1042`
    async fn number(&self, ctx: &Context<'_>) -> Result<Long> {
        self.read(ctx, |row| row.number).await.map(Long)
    }

    /// Where the order stands as a whole. Example: `CONFIRMED`
    async fn status(&self, ctx: &Context<'_>) -> Result<OrderStatus> {
        Ok(self.read(ctx, |row| row.status).await?.into())
    }

    /// Where its money is. Example: `PAID`
    async fn payment_status(&self, ctx: &Context<'_>) -> Result<PaymentStatus> {
        Ok(self.read(ctx, |row| row.payment_status).await?.into())
    }

    /// Where its goods are. Example: `UNFULFILLED`
    async fn fulfillment_status(&self, ctx: &Context<'_>) -> Result<FulfillmentStatus> {
        Ok(self.read(ctx, |row| row.fulfillment_status).await?.into())
    }

    /// Number of its newest event; a viewer that gives it as `after` sees what happens next. Example: `6`
    async fn sequence(&self, ctx: &Context<'_>) -> Result<i32> {
        self.read(ctx, |row| row.sequence).await
    }

    /// Currency of every amount of the order, a code of ISO 4217. Example: `USD`
    async fn currency(&self, ctx: &Context<'_>) -> Result<CurrencyCode> {
        Ok(self.read_currency(ctx).await?.into())
    }

    /// What was ordered, in the order of the input, with the names and prices of that moment.
    async fn lines(&self, ctx: &Context<'_>) -> Result<Vec<OrderLine>> {
        let currency = self.read_currency(ctx).await?;
        let lines = match &self.lines {
            Some(lines) => lines.clone(),
            None => {
                let common = (caller(ctx)?.visibility().clone(), self.source);
                let lines = ctx.data_unchecked::<Loaders>().lines.load(common, self.row.id).await;
                lines.or_report(ctx, "read the lines of an order")?.unwrap_or_default()
            }
        };
        Ok(lines.into_iter().map(|line| OrderLine::new(line, currency)).collect())
    }

    /// What it costs; null until it is quoted.
    async fn totals(&self, ctx: &Context<'_>) -> Result<Option<OrderTotals>> {
        let currency = self.read_currency(ctx).await?;
        let money = |minor| domain::money::Money::new(minor, currency).into();
        self.read(ctx, |row| {
            let items = money(row.items_minor?);
            let quoted = (row.shipping_minor?, row.tax_minor?, row.total_minor?);
            let (Some(shipping), Some(tax), Some(total)) = quoted else { return Some(None) };
            let (shipping, tax, total) = (money(shipping), money(tax), money(total));
            Some(Some(OrderTotals { items, shipping, tax, total }))
        })
        .await
    }

    /// Whom to write to. Personal: null without the scope `orders:read_pii`, which `extensions.personalData` says.
    /// Example: `ada@example.org`
    async fn email(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        if !personal_data::may_see(ctx, "email")? {
            return Ok(None);
        }
        let email = self.read(ctx, |row| row.email.clone()).await?;
        if email.is_some() {
            personal_data::show(ctx, self.row.id, "email")?;
        }
        Ok(email)
    }

    /// Where it goes. Personal: null without the scope `orders:read_pii`, which `extensions.personalData` says.
    async fn shipping_address(&self, ctx: &Context<'_>) -> Result<Option<Address>> {
        if !personal_data::may_see(ctx, "shippingAddress")? {
            return Ok(None);
        }
        let address = self.read(ctx, |row| row.shipping_address.clone()).await?;
        let address = address.and_then(|address| serde_json::from_value(address).ok()).map(Address);
        if address.is_some() {
            personal_data::show(ctx, self.row.id, "shippingAddress")?;
        }
        Ok(address)
    }

    /// How it goes. Example: `standard`
    async fn shipping_method(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.read(ctx, |row| row.shipping_method.clone()).await.map(Some)
    }

    /// The client's own name for it. Example: `web-20261125-17`
    async fn external_reference(&self, ctx: &Context<'_>) -> Result<Option<String>> {
        self.read(ctx, |row| row.external_reference.clone()).await
    }

    /// When it was accepted (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    async fn created_at(&self, ctx: &Context<'_>) -> Result<DateTime<Utc>> {
        self.read(ctx, |row| row.created_at).await
    }

    /// When it last changed (RFC 3339, UTC). Example: `2026-11-25T10:00:00.423456+00:00`
    async fn updated_at(&self, ctx: &Context<'_>) -> Result<DateTime<Utc>> {
        self.read(ctx, |row| row.updated_at).await
    }

    /// When it was confirmed (RFC 3339, UTC); null if it is not. Example: `2026-11-25T10:00:00.423456+00:00`
    async fn confirmed_at(&self, ctx: &Context<'_>) -> Result<Option<DateTime<Utc>>> {
        self.read(ctx, |row| row.confirmed_at).await
    }

    /// When it failed (RFC 3339, UTC); null if it has not. Example: `2026-11-25T10:00:00.423456+00:00`
    async fn failed_at(&self, ctx: &Context<'_>) -> Result<Option<DateTime<Utc>>> {
        self.read(ctx, |row| row.failed_at).await
    }

    /// Why it failed; null if it has not.
    async fn failure(&self, ctx: &Context<'_>) -> Result<Option<OrderFailure>> {
        self.read(ctx, |row| {
            let (code, message) = (row.failure_code.clone()?, row.failure_message.clone()?);
            Some(code.map(|code| OrderFailure { code, message: message.unwrap_or_default() }))
        })
        .await
    }

    /// What was promised, taken and given back for it; empty until a card's bank has promised something. One at most, so far.
    async fn payments(&self, ctx: &Context<'_>) -> Result<Vec<Payment>> {
        let common = (caller(ctx)?.visibility().clone(), self.source);
        let payments = ctx.data_unchecked::<Loaders>().payments.load(common, self.row.id).await;
        payments
            .and_then(|payments| payments.unwrap_or_default().into_iter().map(Payment::try_new).collect())
            .or_report(ctx, "read the payments of an order")
    }

    /// How far it has been carried out, step by step.
    async fn process(&self, ctx: &Context<'_>) -> Result<OrderProcess> {
        let visibility = caller(ctx)?.visibility().clone();
        let process = ctx.data_unchecked::<Loaders>().processes.load(visibility, self.row.id).await;
        process
            .and_then(|process| process.ok_or_else(|| missing("the order's saga")))
            .map(OrderProcess::from)
            .or_report(ctx, "read the process of an order")
    }

    /// What has happened to it, oldest first.
    async fn events(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `50`", default = 50)] first: i32,
        #[graphql(desc = "Return those whose sequence is greater. Example: `3`")] after: Option<i32>,
    ) -> Result<Vec<OrderEvent>> {
        let page = EventsPage { after: after.unwrap_or(0), first: page::check_first(first)? };
        let caller = caller(ctx)?;
        let common = (caller.visibility().clone(), self.source, page);
        let events = ctx.data_unchecked::<Loaders>().events.load(common, self.row.id).await;
        let events = events.or_report(ctx, "read the events of an order")?.unwrap_or_default();
        Ok(events.into_iter().map(|event| OrderEvent::new(event, caller)).collect())
    }
}

/// One line of an order, frozen when it was placed.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderLine {
    /// The shop's own article code. Example: `SKU-1`
    sku: String,
    /// What the shopper read. Example: `Coffee mug`
    name: String,
    /// Units. Example: `2`
    quantity: i64,
    /// Price of one unit.
    unit_price: Money,
    /// Price of all units of the line, before shipping and tax.
    total: Money,
}

impl OrderLine {
    fn new(row: entity::line::Model, currency: Currency) -> Self {
        // The product was checked when the order was placed; the rows are frozen since.
        let total_minor = row.unit_price_minor.saturating_mul(row.quantity);
        Self {
            sku: row.sku,
            name: row.name,
            quantity: row.quantity,
            unit_price: domain::money::Money::new(row.unit_price_minor, currency).into(),
            total: domain::money::Money::new(total_minor, currency).into(),
        }
    }
}

/// What an order costs.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderTotals {
    /// Sum of the lines.
    items: Money,
    /// Shipping.
    shipping: Money,
    /// Tax on the lines.
    tax: Money,
    /// Items, shipping and tax: what is captured.
    total: Money,
}

/// Where an order goes.
#[derive(Debug, Clone)]
pub(super) struct Address(domain::order::Address);

/// Where an order goes.
#[Object]
impl Address {
    /// Whose name is on the door. Example: `Ada Lovelace`
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// Street and number. Example: `12 St James's Square`
    async fn line1(&self) -> &str {
        &self.0.line1
    }

    /// Anything that needs a second line. Example: `Third floor`
    async fn line2(&self) -> Option<&str> {
        self.0.line2.as_deref()
    }

    /// City. Example: `London`
    async fn city(&self) -> &str {
        &self.0.city
    }

    /// Postal code, where the country has them. Example: `SW1Y 4JH`
    async fn postal_code(&self) -> Option<&str> {
        self.0.postal_code.as_deref()
    }

    /// State, province or region, where the country has them. Example: `CA`
    async fn region(&self) -> Option<&str> {
        self.0.region.as_deref()
    }

    /// Country, a two-letter code of ISO 3166-1. Example: `GB`
    async fn country(&self) -> &str {
        &self.0.country
    }
}

/// Why an order failed.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderFailure {
    /// For programs. Example: `OUT_OF_STOCK`
    code: String,
    /// For people. Example: `only 3 of SKU-1 are left`
    message: String,
}

impl From<saga::engine::Failure> for OrderFailure {
    fn from(failure: saga::engine::Failure) -> Self {
        Self { code: failure.code, message: failure.message }
    }
}
