//! What is done for some orders does not grow with the others, whatever the statistics of the tables say.

use domain::id::local_app;
use domain::order::event::OrderEvent;
use domain::order::place::{PlaceOrder, PlaceOrderInput, RequestedLine, place};
use domain::order::store::append;
use oms_tests::TestDatabase;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait};
use uuid::Uuid;

/// Orders that work is done for, and three times as many that wait.
const BATCH: usize = 300;

/// Orders that are over.
const FINISHED: &str = "
INSERT INTO orders (id, app_id, idempotency_key, input_fingerprint, status, payment_status, currency, items_minor,
                    shipping_minor, tax_minor, total_minor, shipping_method, payment_token)
SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'finished-' || n, '', 'CONFIRMED', 'PAID', 'USD', 1, 0, 0, 1,
       'standard', 'tok_approve'
FROM generate_series(1, 20000) AS n";

/// Places so many orders, which wait then, and returns their ids.
async fn place_pending(db: &DatabaseConnection, count: usize) -> Vec<Uuid> {
    let tx = db.begin().await.expect("a transaction");
    let requests: Vec<PlaceOrder> = (0..count)
        .map(|n| {
            let input = PlaceOrderInput {
                idempotency_key: format!("waiting-{n}"),
                lines: vec![RequestedLine { sku: "SKU-1".to_owned(), quantity: 1 }],
                ..PlaceOrderInput::default()
            };
            PlaceOrder::try_new(local_app(), input).expect("a valid input")
        })
        .collect();
    let placed = place(&tx, &requests).await.expect("they are placed");
    tx.commit().await.expect("committed");
    placed.into_iter().map(|placed| placed.expect("it is placed").order.id).collect()
}

/// Returns how many rows of `orders` this connection has looked at of late.
async fn looked_at(tx: &DatabaseTransaction) -> i64 {
    let count = "SELECT (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint AS count
                 FROM pg_stat_xact_user_tables WHERE relname = 'orders'";
    let row = tx.query_one_raw(Statement::from_string(tx.get_database_backend(), count)).await;
    row.expect("an answer").expect("a row").try_get("", "count").expect("a number")
}

#[tokio::test]
async fn a_batch_looks_at_its_own_orders_alone_though_none_waited_when_they_were_last_counted() {
    let db = TestDatabase::create().await;
    let connection = db.connection();
    db.execute("ALTER TABLE orders SET (autovacuum_enabled = false)").await;
    // As in the night: everything is over, and that is what the planner knows.
    db.execute(FINISHED).await;
    db.execute("ANALYZE orders").await;
    let waiting = place_pending(&connection, 3 * BATCH).await;

    let tx = connection.begin().await.expect("a transaction");
    // As if there were more orders than are worth reading from end to end.
    tx.execute_unprepared("SET LOCAL enable_seqscan = off").await.expect("set");
    let before = looked_at(&tx).await;
    let quoted = OrderEvent::OrderQuoted { shipping_minor: 0, tax_minor: 0, total_minor: 1_250 };
    let events =
        waiting[..BATCH].iter().flat_map(|&id| [(id, OrderEvent::StockReserved {}), (id, quoted.clone())]);
    append(&tx, events.collect()).await.expect("appended");
    let rows = looked_at(&tx).await - before;
    assert_eq!(rows, BATCH as i64, "rows of orders for {BATCH} orders");
    tx.rollback().await.expect("undone");
    db.discard().await;
}
