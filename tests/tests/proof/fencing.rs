//! A process that stands still for longer than anybody waits for it, and then goes on as if nothing had happened.

use std::collections::BTreeMap;
use std::time::Duration;

use oms_tests::disturb::{Disturbance, Fault};
use oms_tests::fail_points::STOP_AT;
use oms_tests::runner_under_test::{RunnerUnderTest, WORKER_LEASE_MS};
use oms_tests::{OmsProcess, OrderInput, Placed, TestDatabase, eventually, order};
use rustix::process::Signal;
use saga::engine::Direction;
use saga::engine::definition::LEASE_MARGIN;
use tokio::time::Instant;

use crate::OMS;
use crate::bench::{Bench, End};

/// How long others may take to go on: the worker lease of a second, and two more.
const TAKE_OVER: Duration = Duration::from_secs(3);

/// Everything that is in the database, but the heartbeats and the evidence.
async fn contents(db: &TestDatabase) -> BTreeMap<String, String> {
    let tables =
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'worker'";
    let mut contents = BTreeMap::new();
    for table in db.texts(tables).await {
        let condition = if table == "saga_log" { "WHERE kind <> 'EVIDENCE'" } else { "" };
        let rows = format!(
            "SELECT coalesce(string_agg(t::text, ';' ORDER BY t::text), '') FROM {table} t {condition}"
        );
        let rows = db.texts(&rows).await.concat();
        contents.insert(table, rows);
    }
    contents
}

/// Returns the value of a metric, zero where it has never been counted.
async fn metric(process: &OmsProcess, name: &str) -> f64 {
    let answer = process.client().get("/metrics").send().await.expect("the process answers");
    let text = answer.text().await.expect("text");
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

/// Places an order through a process that carries none out: one that does may stand still before it has answered.
async fn place_elsewhere(db: &TestDatabase, input: OrderInput) -> Placed {
    let api = OmsProcess::start(OMS, db, "api", &[]).await;
    let placed = api.client().place(input).await;
    api.stop().await;
    placed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_s_write_changes_zero_rows_and_is_counted() {
    let db = TestDatabase::create().await;
    let zombie =
        OmsProcess::start(OMS, &db, "all", &[(STOP_AT, "after_answer/capture_payment/forward")]).await;
    let placed = place_elsewhere(&db, order("zombie", [("SKU-1", 2)])).await;
    zombie.stopped().await;
    let heir = OmsProcess::start(OMS, &db, "runner", &[]).await;
    let begun = Instant::now();
    db.wait_until_settled().await;
    assert!(begun.elapsed() < TAKE_OVER, "taken over after {:?}", begun.elapsed());
    heir.stop().await;
    let before = contents(&db).await;

    zombie.signal(Signal::CONT);
    eventually("the late answer is kept as evidence", async || {
        let evidence = "SELECT count(*) FROM saga_log WHERE kind = 'EVIDENCE' AND step = 'capture_payment'";
        (db.number(evidence).await == 1).then_some(())
    })
    .await;
    eventually("it is counted", async || {
        (metric(&zombie, "oms_stale_results_total").await == 1.0).then_some(())
    })
    .await;
    assert_eq!(contents(&db).await, before);
    assert_eq!(zombie.client().order(placed.id()).await["status"], "CONFIRMED");
    zombie.stop().await;
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_lease_is_over_is_not_sent() {
    let db = TestDatabase::create().await;
    let place = [(STOP_AT, "after_intent_commit/capture_payment/forward")];
    let zombie = OmsProcess::start(OMS, &db, "all", &place).await;
    let placed = place_elsewhere(&db, order("frozen", [("SKU-1", 2)])).await;
    zombie.stopped().await;
    let heir = OmsProcess::start(OMS, &db, "runner", &[]).await;
    db.wait_until_settled().await;
    heir.stop().await;
    let before = contents(&db).await;
    eventually("the time in which the call had to be sent is over", async || {
        let late = format!(
            "SELECT count(*) FROM saga_log WHERE kind = 'ATTEMPT' AND step = 'capture_payment' AND outcome = 'UNKNOWN'
                                           AND started_at < now() - {} * interval '1 millisecond'",
            // The process has counted from a moment later.
            (LEASE_MARGIN + Duration::from_secs(1)).as_millis()
        );
        (db.number(&late).await == 1).then_some(())
    })
    .await;

    zombie.signal(Signal::CONT);
    eventually("it is counted that the call was not made", async || {
        (metric(&zombie, "oms_stale_results_total").await == 1.0).then_some(())
    })
    .await;
    // The gateway's own books are among the contents, with how often it was asked for each key.
    assert_eq!(contents(&db).await, before);
    let evidence =
        "SELECT concat_ws(' ', outcome, detail ->> 'reason') FROM saga_log WHERE kind = 'EVIDENCE'";
    assert_eq!(db.texts(evidence).await, ["UNKNOWN not sent: it was too late after the intent"]);
    assert_eq!(zombie.client().order(placed.id()).await["status"], "CONFIRMED");
    zombie.stop().await;
    db.close().await;
}

/// A runner stands still with a call that it is about to make. Another one takes it over, fails, and undoes everything.
/// Then the first one makes its call.
async fn a_slow_call_comes_after_its_undo(step: &str, fault: Disturbance) {
    for mut bench in Bench::for_every_saga().await {
        let mut slow =
            RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, &[(WORKER_LEASE_MS, "600000")]).await;
        slow.arm(&format!("before_send/{step}/forward"), &[]).await;
        bench.begin(End::Unwound, std::slice::from_ref(&fault)).await;
        slow.stopped().await;
        let mut heir = RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, &[]).await;
        heir.arm("", std::slice::from_ref(&fault)).await;
        bench.settled().await;
        heir.kill().await;

        slow.signal(Signal::CONT);
        eventually("the late call has been answered", async || {
            let evidence =
                format!("SELECT count(*) FROM saga_log WHERE kind = 'EVIDENCE' AND step = '{step}'");
            (bench.db.number(&evidence).await == 1).then_some(())
        })
        .await;
        slow.kill().await;
        let refused = "SELECT outcome FROM saga_log WHERE kind = 'EVIDENCE'";
        assert_eq!(bench.db.texts(refused).await, ["REFUSED"]);
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_not_overtaken_by_its_slow_authorization() {
    let silence = Disturbance::once("authorize_payment", Direction::Forward, Fault::ServerError).times(1_000);
    a_slow_call_comes_after_its_undo("authorize_payment", silence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_is_not_overtaken_by_a_slow_capture() {
    let refusal = Disturbance::once("capture_payment", Direction::Forward, Fault::Refusal);
    a_slow_call_comes_after_its_undo("capture_payment", refusal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_still_in_a_transaction_holds_up_nobody() {
    let db = TestDatabase::create().await;
    // It has the lock of the SKU's row, and a commit ahead of it.
    let place = [(STOP_AT, "before_result_commit/reserve_stock/forward")];
    let (zombie, heir) =
        tokio::join!(OmsProcess::start(OMS, &db, "runner", &place), OmsProcess::start(OMS, &db, "api", &[]),);
    let client = heir.client();
    let first = client.place(order("held", [("SKU-4", 1)])).await;
    zombie.stopped().await;
    let runner = OmsProcess::start(OMS, &db, "runner", &[]).await;
    let begun = Instant::now();
    let second = client.place(order("held-up", [("SKU-4", 1)])).await;
    for placed in [&first, &second] {
        eventually("the order is confirmed", async || {
            (client.order(placed.id()).await["status"] == "CONFIRMED").then_some(())
        })
        .await;
    }
    assert!(begun.elapsed() < TAKE_OVER, "held up for {:?}", begun.elapsed());
    zombie.signal(Signal::CONT);
    // What it goes on with was rolled back long ago.
    zombie.stop().await;
    assert_eq!(client.stock("SKU-4").await["reserved"], 2);
    tokio::join!(heir.stop(), runner.stop());
    db.close().await;
}
