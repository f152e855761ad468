//! The saga of an order, from stock reservation to captured payment.
//!
//! ```text
//! reserve_stock -> quote -> authorize_payment -> capture_payment (pivot) -> confirm
//! ```
//!
//! Stock comes first because it is what runs out, and because giving it back costs nothing. The capture is the pivot:
//! until the money is taken everything can be undone without the shopper noticing, afterwards taking it back would be
//! a refund on a statement, so the rest is only what cannot fail for good. When a step fails, the authorization is
//! made void, the stock is released, and the order says why.

use std::sync::Arc;
use std::time::Duration;

use domain::app::Visibility;
use domain::order::entity::Model as Order;
use domain::order::read::{self, Columns};
use sea_orm::{ConnectionTrait, DbErr};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::engine::process::{self, Process};
use crate::engine::store::{NewSaga, insert_sagas};
use crate::engine::{
    Action, Definition, Definitions, Failure, Resolution, RetryPolicy, Saga, StepDefinition, StepKind,
};
use crate::payment_gateway::PaymentGateway;

mod authorize_payment;
mod capture_payment;
mod confirm;
mod events;
mod fail_order;
pub mod operate;
mod quote;
mod reserve_stock;
mod void_payment;

/// The saga's name.
pub const NAME: &str = "place_order";

/// The version that new orders begin with.
pub const VERSION: i32 = 1;

/// The names of the steps, in their order.
pub const STEPS: [&str; 5] = ["reserve_stock", "quote", "authorize_payment", "capture_payment", "confirm"];

/// For how long gateways keep idempotency keys: the shortest among the common ones (Stripe, "Idempotent requests":
/// at least 24 hours).
const KEY_RETENTION: Duration = Duration::from_hours(24);

/// How a deployment tunes the saga.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long one gateway call may take.
    pub gateway_time_out: Duration,
    /// How steps are retried.
    pub retry: RetryPolicy,
}

impl Default for Settings {
    fn default() -> Self {
        Self { gateway_time_out: Duration::from_secs(10), retry: RetryPolicy::DEFAULT }
    }
}

/// What the saga remembers. The order's personal data stays in its row.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    currency: String,
    shipping_method: String,
    shipping_country: Option<String>,
    expected_total_minor: Option<i64>,
    payment_token: String,
    /// Known once quoted.
    total_minor: Option<i64>,
    /// Known once authorized.
    authorization_id: Option<String>,
}

/// Declares the saga's steps over a gateway.
pub fn definition(gateway: Arc<dyn PaymentGateway>, settings: Settings) -> Definition {
    let step = |name, kind, forward, backward| StepDefinition {
        name,
        kind,
        forward,
        backward,
        retry: settings.retry,
        on_unknown: Resolution::Query,
        time_out: settings.gateway_time_out,
        exhausted: exhausted(name),
    };
    let [reserve_stock, quote, authorize_payment, capture_payment, confirm] = STEPS;
    Definition {
        name: NAME,
        version: VERSION,
        steps: vec![
            step(
                reserve_stock,
                StepKind::Compensable,
                Action::Local(Arc::new(reserve_stock::ReserveStock)),
                Some(Action::Local(Arc::new(reserve_stock::ReleaseStock))),
            ),
            step(quote, StepKind::Compensable, Action::Local(Arc::new(quote::QuoteOrder)), None),
            step(
                authorize_payment,
                StepKind::Compensable,
                Action::External(Arc::new(authorize_payment::AuthorizePayment(gateway.clone()))),
                Some(Action::External(Arc::new(void_payment::VoidPayment(gateway.clone())))),
            ),
            step(
                capture_payment,
                StepKind::Pivot,
                Action::External(Arc::new(capture_payment::CapturePayment(gateway))),
                None,
            ),
            step(confirm, StepKind::Retriable, Action::Local(Arc::new(confirm::ConfirmOrder)), None),
        ],
        conclusion: Action::Local(Arc::new(fail_order::FailOrder)),
        key_retention: KEY_RETENTION,
    }
}

/// What the shopper is told when a step was given up.
fn exhausted(step: &str) -> Failure {
    match step {
        "authorize_payment" | "capture_payment" => {
            Failure::new("PAYMENT_UNAVAILABLE", "the payment gateway gave no answer; nothing was charged")
        }
        _ => Failure::new("INTERNAL", "the order could not be processed; nothing was charged"),
    }
}

/// Begins the sagas of newly placed orders, in the transaction that places them. A saga has its order's id.
///
/// # Errors
/// Any error of the database.
pub async fn start(tx: &impl ConnectionTrait, orders: &[Order]) -> Result<(), DbErr> {
    let sagas = orders.iter().map(begin).collect::<Result<Vec<_>, _>>()?;
    insert_sagas(tx, NAME, VERSION, &sagas).await
}

fn begin(order: &Order) -> Result<NewSaga, DbErr> {
    let state = State {
        currency: order.currency.clone(),
        shipping_method: order.shipping_method.clone(),
        shipping_country: order.shipping_country.clone(),
        expected_total_minor: order.expected_total_minor,
        payment_token: order.payment_token.clone(),
        total_minor: None,
        authorization_id: None,
    };
    let state = serde_json::to_value(state).map_err(|error| DbErr::Json(error.to_string()))?;
    Ok(NewSaga { id: order.id, subject_id: order.id, state })
}

/// Reads where the sagas of those of these orders are that somebody sees. The others are missing.
///
/// # Errors
/// Any error of the database.
pub async fn load_processes(
    view: &impl ConnectionTrait,
    visibility: &Visibility,
    order_ids: Vec<Uuid>,
    definitions: &Definitions,
) -> Result<std::collections::HashMap<Uuid, Process>, DbErr> {
    // The engine knows no orders, and whoever sees one sees its saga.
    let seen = read::find_orders(view, visibility, Columns::default(), order_ids).await?;
    process::load(view, seen.into_iter().map(|order| order.id).collect(), definitions).await
}

/// Returns the orders that sagas work on, in the order of the sagas.
fn order_ids(sagas: &[Saga]) -> Vec<Uuid> {
    sagas.iter().map(|saga| saga.subject_id).collect()
}
