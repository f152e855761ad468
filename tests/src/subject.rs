//! What the proofs need to know of a saga: how to make a subject for it, and what must be true of the subject in the
//! end. A saga that is listed in [`SUBJECTS`] gets the laws and the failure matrix for nothing.

use std::time::Duration;

use async_trait::async_trait;
use domain::id::{OrderId, local_app};
use domain::order::place::{PlaceOrder, PlaceOrderInput, RequestedLine, place};
use saga::engine::{Definition, RetryPolicy};
use saga::payment_gateway::simulated::SimulatedGateway;
use saga::place_order;
use sea_orm::{DatabaseConnection, DatabaseTransaction};
use uuid::Uuid;

use crate::database::TestDatabase;

/// A saga under proof.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// Declares the saga over a simulated other system in `db`, with short times.
    fn definition(&self, db: DatabaseConnection) -> Definition;

    /// Makes a subject and begins its saga, in the caller's transaction.
    async fn begin(&self, tx: &DatabaseTransaction, key: &str) -> Uuid;

    /// Says what is wrong with a subject whose saga should have succeeded.
    async fn check_succeeded(&self, db: &TestDatabase, id: Uuid) -> Vec<String>;

    /// Says what is wrong with a subject of which nothing should be left.
    async fn check_unwound(&self, db: &TestDatabase, id: Uuid) -> Vec<String>;

    /// Says how a subject stands; for the message of a failure.
    async fn describe(&self, db: &TestDatabase, id: Uuid) -> String;
}

/// Every saga there is.
pub static SUBJECTS: [(&str, &dyn Subject); 1] = [(place_order::NAME, &PlacedOrder)];

/// How long a call may take under proof.
pub const CALL_TIME_OUT: Duration = Duration::from_millis(300);

/// Patience that a proof has time for.
const RETRY: RetryPolicy = RetryPolicy {
    interval: Duration::from_millis(20),
    max_attempts: 6,
    backoff_rate: 2.0,
    max_delay: Duration::from_millis(200),
};

/// The subject of `place_order`: two lines, of which one is of a popular SKU.
struct PlacedOrder;

#[async_trait]
impl Subject for PlacedOrder {
    fn definition(&self, db: DatabaseConnection) -> Definition {
        let settings = place_order::Settings { gateway_time_out: CALL_TIME_OUT, retry: RETRY };
        place_order::definition(SimulatedGateway::start(db, Duration::ZERO), settings)
    }

    async fn begin(&self, tx: &DatabaseTransaction, key: &str) -> Uuid {
        let line = |sku: &str, quantity| RequestedLine { sku: sku.to_owned(), quantity };
        let input = PlaceOrderInput {
            idempotency_key: key.to_owned(),
            lines: vec![line("SKU-1", 2), line("SKU-7", 1)],
            ..PlaceOrderInput::default()
        };
        let request = PlaceOrder::try_new(local_app(), input).expect("a valid input");
        let mut placed = place(tx, &[request]).await.expect("the order is placed");
        let placed = placed.remove(0).expect("the order is accepted");
        assert!(!placed.replayed, "the key {key} is fresh");
        place_order::start(tx, std::slice::from_ref(&placed.order)).await.expect("its saga begins");
        placed.order.id
    }

    async fn check_succeeded(&self, db: &TestDatabase, id: Uuid) -> Vec<String> {
        let (events, gateway) = (events_of(db, id).await, gateway_of(db, id).await);
        let story = "OrderPlaced StockReserved OrderQuoted PaymentAuthorized PaymentCaptured OrderConfirmed";
        let mut wrong = Vec::new();
        if events != story {
            wrong.push(format!("order {id}: its story is {events}"));
        }
        let total = "SELECT coalesce(total_minor, -1) FROM orders WHERE id = ";
        let total = db.number(&format!("{total}'{id}'")).await;
        if gateway != format!("captures 1, captured {total}, void f") {
            wrong.push(format!("order {id} of {total}: the gateway says {gateway}"));
        }
        wrong
    }

    async fn check_unwound(&self, db: &TestDatabase, id: Uuid) -> Vec<String> {
        let (events, gateway) = (events_of(db, id).await, gateway_of(db, id).await);
        let mut wrong = Vec::new();
        let kinds: Vec<&str> = events.split(' ').collect();
        let is_told_once = kinds.iter().enumerate().all(|(index, kind)| !kinds[..index].contains(kind));
        if kinds.last() != Some(&"OrderFailed") || !is_told_once {
            wrong.push(format!("order {id}: its story is {events}"));
        }
        for (done, undone) in [("StockReserved", "StockReleased"), ("PaymentAuthorized", "PaymentVoided")] {
            if kinds.contains(&done) != kinds.contains(&undone) {
                wrong.push(format!("order {id}: {done} without {undone}, or the reverse: {events}"));
            }
        }
        let is_shut = ["none", "captures 0, captured 0, void t"].contains(&gateway.as_str());
        if !is_shut && kinds.contains(&"PaymentAuthorized") {
            wrong.push(format!("order {id}: the gateway says {gateway}"));
        }
        let held = "SELECT count(*) FROM reservations WHERE status <> 'RELEASED' AND order_id = ";
        if db.number(&format!("{held}'{id}'")).await != 0 {
            wrong.push(format!("order {id}: it still holds stock"));
        }
        wrong
    }

    async fn describe(&self, db: &TestDatabase, id: Uuid) -> String {
        let name = OrderId::from_uuid(id);
        let saga = format!(
            "SELECT format('saga %s %s step %s attempt %s epoch %s doubt %s stuck %s', status, direction, step, attempt,
                           epoch, in_doubt, stuck_since IS NOT NULL) FROM saga WHERE id = '{id}'"
        );
        let log = format!(
            "SELECT format('%s %s %s %s %s %s', epoch, kind, step, direction, outcome, left(detail::text, 120))
             FROM saga_log WHERE saga_id = '{id}' ORDER BY epoch, kind"
        );
        let (saga, log) = (db.texts(&saga).await.join(""), db.texts(&log).await.join("\n    "));
        format!(
            "{name}: {saga}\n    {}\n    gateway: {}\n    {log}",
            events_of(db, id).await,
            gateway_of(db, id).await
        )
    }
}

async fn events_of(db: &TestDatabase, id: Uuid) -> String {
    let events = format!("SELECT type FROM order_events WHERE order_id = '{id}' ORDER BY sequence");
    db.texts(&events).await.join(" ")
}

async fn gateway_of(db: &TestDatabase, id: Uuid) -> String {
    let gateway = format!(
        "SELECT format('captures %s, captured %s, void %s', captures, captured_minor, voided)
         FROM simulated_gateway_payments WHERE reference = '{id}'"
    );
    db.texts(&gateway).await.pop().unwrap_or_else(|| "none".to_owned())
}
