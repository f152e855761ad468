//! The order as clients see it.

use async_graphql::{ComplexObject, Context, Enum, ID, Json, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::money::{Currency, MoneyError};
use domain::order::entity;
use saga::engine::process;
use sea_orm::DbErr;

use super::error::OrReport;
use super::loaders::Loaders;
use super::money::{CurrencyCode, Money};
use super::{ids, page};
use crate::app::Services;

pub(super) mod list;
pub(super) mod mutation;
pub(super) mod query;
pub(super) mod subscription;

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
pub(super) struct Order {
    row: entity::Model,
    currency: Currency,
}

impl Order {
    /// Shows a row.
    ///
    /// # Errors
    /// The stored currency is not one of ISO 4217, which the checks on the way in make impossible.
    pub(super) fn try_new(row: entity::Model) -> Result<Self, DbErr> {
        let currency = row.currency.parse().map_err(|error: MoneyError| DbErr::Type(error.to_string()))?;
        Ok(Self { row, currency })
    }

    fn money(&self, minor: i64) -> Money {
        domain::money::Money::new(minor, self.currency).into()
    }
}

/// Something a client wants to buy: its lines, its money, and the process that carries it out.
#[Object]
impl Order {
    /// Names the order everywhere: a TypeID. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    pub(super) async fn id(&self) -> ID {
        ids::order_id(self.row.id)
    }

    /// A short number for people on the telephone; rises, may have gaps. Example: `1042`
    async fn number(&self) -> i64 {
        self.row.number
    }

    /// Where the order stands as a whole. Example: `CONFIRMED`
    async fn status(&self) -> OrderStatus {
        self.row.status.into()
    }

    /// Where its money is. Example: `PAID`
    async fn payment_status(&self) -> PaymentStatus {
        self.row.payment_status.into()
    }

    /// Where its goods are. Example: `UNFULFILLED`
    async fn fulfillment_status(&self) -> FulfillmentStatus {
        self.row.fulfillment_status.into()
    }

    /// Number of its newest event; a viewer that gives it as `after` sees what happens next. Example: `6`
    async fn sequence(&self) -> i32 {
        self.row.sequence
    }

    /// Currency of every amount of the order, a code of ISO 4217. Example: `USD`
    async fn currency(&self) -> CurrencyCode {
        self.currency.into()
    }

    /// What was ordered, in the order of the input, with the names and prices of that moment.
    #[graphql(complexity = "10 * child_complexity + 1")]
    async fn lines(&self, ctx: &Context<'_>) -> Result<Vec<OrderLine>> {
        let lines = ctx.data_unchecked::<Loaders>().lines.load(self.row.id).await;
        let lines = lines.or_report(ctx, "read the lines of an order")?;
        Ok(lines.unwrap_or_default().into_iter().map(|line| OrderLine::new(line, self.currency)).collect())
    }

    /// What it costs; null until it is quoted.
    async fn totals(&self) -> Option<OrderTotals> {
        Some(OrderTotals {
            items: self.money(self.row.items_minor),
            shipping: self.money(self.row.shipping_minor?),
            tax: self.money(self.row.tax_minor?),
            total: self.money(self.row.total_minor?),
        })
    }

    /// Whom to write to. Example: `ada@example.org`
    async fn email(&self) -> Option<&str> {
        self.row.email.as_deref()
    }

    /// Where it goes.
    async fn shipping_address(&self) -> Option<Address> {
        serde_json::from_value(self.row.shipping_address.clone()?).ok().map(Address)
    }

    /// How it goes. Example: `standard`
    async fn shipping_method(&self) -> Option<&str> {
        Some(&self.row.shipping_method)
    }

    /// The client's own name for it. Example: `web-20261125-17`
    async fn external_reference(&self) -> Option<&str> {
        self.row.external_reference.as_deref()
    }

    /// When it was accepted (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    async fn created_at(&self) -> DateTime<Utc> {
        self.row.created_at
    }

    /// When it last changed (RFC 3339, UTC). Example: `2026-11-25T10:00:00.423456+00:00`
    async fn updated_at(&self) -> DateTime<Utc> {
        self.row.updated_at
    }

    /// When it was confirmed (RFC 3339, UTC); null if it is not. Example: `2026-11-25T10:00:00.423456+00:00`
    async fn confirmed_at(&self) -> Option<DateTime<Utc>> {
        self.row.confirmed_at
    }

    /// When it failed (RFC 3339, UTC); null if it has not. Example: `2026-11-25T10:00:00.423456+00:00`
    async fn failed_at(&self) -> Option<DateTime<Utc>> {
        self.row.failed_at
    }

    /// Why it failed; null if it has not.
    async fn failure(&self) -> Option<OrderFailure> {
        Some(OrderFailure {
            code: self.row.failure_code.clone()?,
            message: self.row.failure_message.clone().unwrap_or_default(),
        })
    }

    /// How far it has been carried out, step by step.
    async fn process(&self, ctx: &Context<'_>) -> Result<OrderProcess> {
        let process = ctx.data_unchecked::<Loaders>().processes.load(self.row.id).await;
        process
            .and_then(|process| process.ok_or_else(|| DbErr::RecordNotFound("the order's saga".to_owned())))
            .map(OrderProcess::from)
            .or_report(ctx, "read the process of an order")
    }

    /// What has happened to it, oldest first.
    #[graphql(complexity = "page::cost(first, child_complexity)")]
    async fn events(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `50`", default = 50)] first: i32,
        #[graphql(desc = "Return those whose sequence is greater. Example: `3`")] after: Option<i32>,
    ) -> Result<Vec<OrderEvent>> {
        let first = page::check_first(first)?;
        let db = &ctx.data_unchecked::<Services>().db;
        let events = domain::order::store::find_events(db, self.row.id, after.unwrap_or(0), first)
            .await
            .or_report(ctx, "read the events of an order")?;
        Ok(events.into_iter().map(OrderEvent::from).collect())
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

/// Where an order's process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "saga::engine::SagaStatus")]
pub(super) enum ProcessState {
    /// Going forward.
    Running,
    /// A step failed for good; what was done before is being undone.
    Compensating,
    /// Waiting for a person: the outcome of a call could not be found out.
    Held,
    /// All steps are done.
    Succeeded,
    /// Everything that was done has been undone.
    Compensated,
}

/// Where a step of a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[graphql(remote = "process::StepStatus")]
pub(super) enum StepStatus {
    /// Its turn has not come.
    Waiting,
    /// On its way.
    Running,
    /// An attempt went wrong; another will follow.
    Retrying,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Being undone.
    Compensating,
    /// Undone.
    Compensated,
    /// Never begun, since an earlier step failed.
    Skipped,
}

/// How far an order has been carried out.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderProcess {
    /// Where it stands as a whole. Example: `RUNNING`
    state: ProcessState,
    /// The step it is at; null once it is over. Example: `capture_payment`
    current_step: Option<String>,
    /// Every step, in the order in which they run.
    steps: Vec<ProcessStep>,
}

/// One step of a process.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct ProcessStep {
    /// Which step. Example: `reserve_stock`
    name: String,
    /// Where it stands. Example: `SUCCEEDED`
    status: StepStatus,
    /// How often it was tried. Example: `1`
    attempts: i32,
    /// When it was first tried (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    started_at: Option<DateTime<Utc>>,
    /// When it was done or had failed for good (RFC 3339, UTC). Example: `2026-11-25T10:00:00.223456+00:00`
    finished_at: Option<DateTime<Utc>>,
    /// What its last attempt said, for people. Example: `the card was declined`
    message: Option<String>,
}

impl From<process::Process> for OrderProcess {
    fn from(process: process::Process) -> Self {
        let steps = process.steps.into_iter().map(|step| ProcessStep {
            name: step.name,
            status: step.status.into(),
            attempts: step.attempts,
            started_at: step.started_at,
            finished_at: step.finished_at,
            message: step.message,
        });
        Self { state: process.state.into(), current_step: process.current_step, steps: steps.collect() }
    }
}

/// Something that happened to an order. The pair of order and sequence names it everywhere.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct OrderEvent {
    /// Counts an order's events from 1 without a gap. Example: `4`
    sequence: i32,
    /// What happened, in the past tense. Example: `PaymentAuthorized`
    #[graphql(name = "type")]
    kind: String,
    /// The order's status once it had happened. Example: `PENDING`
    status: OrderStatus,
    /// The event's facts; amounts are in minor units. Example: `{"amountMinor": 2499}`
    data: Json<serde_json::Value>,
    /// When it happened (RFC 3339, UTC). Example: `2026-11-25T10:00:00.223456+00:00`
    occurred_at: DateTime<Utc>,
}

impl From<entity::event::Model> for OrderEvent {
    fn from(row: entity::event::Model) -> Self {
        Self {
            sequence: row.sequence,
            kind: row.kind,
            status: row.status.into(),
            data: Json(row.data),
            occurred_at: row.occurred_at,
        }
    }
}

/// One step in an order's story, as its viewers see it.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub(super) struct OrderStatusUpdate {
    #[graphql(skip)]
    row_id: uuid::Uuid,
    /// The order. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`
    order_id: ID,
    /// The event's sequence; give the last one you have seen as `after` to resume. Example: `4`
    sequence: i32,
    /// The order's status once the event had happened. Example: `PENDING`
    status: OrderStatus,
    /// What happened.
    event: OrderEvent,
}

impl From<entity::event::Model> for OrderStatusUpdate {
    fn from(row: entity::event::Model) -> Self {
        Self {
            row_id: row.order_id,
            order_id: ids::order_id(row.order_id),
            sequence: row.sequence,
            status: row.status.into(),
            event: row.into(),
        }
    }
}

#[ComplexObject]
impl OrderStatusUpdate {
    /// The order as it is now, which may be further than this event.
    async fn order(&self, ctx: &Context<'_>) -> Result<Order> {
        let row = ctx.data_unchecked::<Loaders>().orders.load(self.row_id).await;
        row.and_then(|row| Order::try_new(row.ok_or(DbErr::RecordNotFound("the event's order".to_owned()))?))
            .or_report(ctx, "read the order of an event")
    }
}
