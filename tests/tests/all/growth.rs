//! What is done for some orders does not grow with the others, whatever the statistics of the tables say.

use domain::id::local_app;
use domain::order::event::OrderEvent;
use domain::order::place::{PlaceOrder, PlaceOrderInput, RequestedLine, place};
use domain::order::store::append;
use oms_tests::runner_under_test::{APPLICATION_NAME, quick_settings};
use oms_tests::subject::SUBJECTS;
use oms_tests::{TestDatabase, eventually, within};
use saga::engine::{Definitions, Runner, Wakeups};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, Statement, TransactionTrait};
use tokio_util::sync::CancellationToken;
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

/// Sagas that are over.
const ENDED: &str = "
INSERT INTO saga (id, subject_id, definition, version, status, step, state, finished_at)
SELECT gen_random_uuid(), gen_random_uuid(), 'place_order', 1, 'SUCCEEDED', 4, '{}', now()
FROM generate_series(1, 20000) AS n";

/// Sagas that are carried to their end beside them; one in four waits for a timer that is due.
const OPEN: usize = 40;

/// The most rows of `saga` that one of them may cost: it is read and written in five transactions at most, as it begins,
/// after its timer, and after each of its calls, and looked at by what counts and sweeps meanwhile.
const ROWS_EACH: i64 = 25;

/// Returns how many rows of `saga` were read from end to end, and by an index, by whoever has left.
async fn rows_of_sagas_read(db: &TestDatabase) -> (i64, i64) {
    // What a connection has counted is told when it ends at the latest.
    eventually("the runner's connections have ended", async || {
        let open = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = '{APPLICATION_NAME}'"
        );
        (db.number(&open).await == 0).then_some(())
    })
    .await;
    let counted = "FROM pg_stat_user_tables WHERE relname = 'saga'";
    let whole = db.number(&format!("SELECT seq_tup_read {counted}")).await;
    (whole, db.number(&format!("SELECT coalesce(idx_tup_fetch, 0) {counted}")).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_looks_at_the_sagas_that_are_open_and_at_none_that_is_over() {
    let (_, subject) = SUBJECTS[0];
    let db = TestDatabase::create().await;
    db.execute("ALTER TABLE saga SET (autovacuum_enabled = false)").await;
    db.execute(ENDED).await;
    // Nothing was open when the planner counted.
    db.execute("ANALYZE saga, saga_ready, saga_timer, saga_call").await;
    let begun = db.connect_runner().await;
    for n in 0..OPEN {
        let tx = begun.begin().await.expect("a transaction");
        let id = subject.begin(&tx, &format!("open-{n}")).await;
        tx.commit().await.expect("the subject begins");
        if n % 4 == 0 {
            db.execute(&format!(
                "DELETE FROM saga_ready WHERE saga_id = '{id}';
                 INSERT INTO saga_timer (saga_id, due_at) VALUES ('{id}', now())"
            ))
            .await;
        }
    }
    begun.close().await.expect("the pool closes");
    let before = rows_of_sagas_read(&db).await;

    let runner_db = db.connect_runner().await;
    let definitions = Definitions::try_new([subject.definition(runner_db.clone())]).expect("well defined");
    let stop = CancellationToken::new();
    let runner =
        Runner::start(runner_db.clone(), definitions, Wakeups::new(), quick_settings(), stop.clone());
    eventually("nothing is open", async || {
        let open = "SELECT (SELECT count(*) FROM saga_ready) + (SELECT count(*) FROM saga_timer)
                         + (SELECT count(*) FROM saga_call)";
        (db.number(open).await == 0).then_some(())
    })
    .await;
    stop.cancel();
    within("the runner has stopped", runner.stopped()).await;
    runner_db.close().await.expect("the pool closes");
    let after = rows_of_sagas_read(&db).await;
    let (whole, by_index) = (after.0 - before.0, after.1 - before.1);
    assert_eq!(whole, 0, "rows read from end to end");
    // Each is read once at least, or the counters are not what they seem.
    assert!((OPEN as i64..=ROWS_EACH * OPEN as i64).contains(&by_index), "{by_index} rows for {OPEN} sagas");
    let succeeded = "SELECT count(*) FROM saga WHERE status = 'SUCCEEDED'";
    assert_eq!(db.number(succeeded).await, 20_000 + OPEN as i64);
    db.discard().await;
}
