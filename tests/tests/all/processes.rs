//! Several processes on one database.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use oms_tests::load::{Load, LoadSettings, Targets};
use oms_tests::{
    OmsProcess, TestDatabase, eventually, order, uuid_of, watch_over_sse, watch_over_websocket, within,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{OMS, STORY_OF_SUCCESS, event_types, sequences};

#[tokio::test(flavor = "multi_thread")]
async fn two_runners_carry_each_order_once() {
    let db = TestDatabase::create().await;
    let (api, left, right) = tokio::join!(
        OmsProcess::start(OMS, &db, "api", &[]),
        OmsProcess::start(OMS, &db, "runner", &[("OMS_RUNNER_BATCH_SIZE", "5")]),
        OmsProcess::start(OMS, &db, "runner", &[("OMS_RUNNER_BATCH_SIZE", "5")]),
    );
    let client = api.client();
    let cards = ["tok_approve", "tok_decline", "tok_flaky", "tok_capture_decline"];
    let orders =
        (0..80).map(|n| client.place(order(&format!("both-{n}"), [("SKU-1", 1)]).card(cards[n % 4])));
    join_all(orders).await;
    db.wait_until_settled().await;
    assert_eq!(db.number("SELECT count(*) FROM orders WHERE status = 'CONFIRMED'").await, 40);
    assert_eq!(db.number("SELECT count(*) FROM orders WHERE status = 'FAILED'").await, 40);
    assert_eq!(db.number("SELECT max(captures)::bigint FROM simulated_gateway_payments").await, 1);
    tokio::join!(api.stop(), left.stop(), right.stop());
    db.close().await;
}

#[tokio::test]
async fn a_runner_in_another_process_is_woken_long_before_it_would_look_by_itself() {
    let db = TestDatabase::create().await;
    let lazy = [("OMS_RUNNER_POLL_INTERVAL_MS", "60000"), ("OMS_RUNNER_WORKER_LEASE_SECONDS", "600")];
    let (api, runner) =
        tokio::join!(OmsProcess::start(OMS, &db, "api", &[]), OmsProcess::start(OMS, &db, "runner", &lazy));
    // The runner listens a moment after it says that it is ready.
    eventually("the runner listens", async || {
        let listening = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND query ILIKE 'LISTEN%oms_wakeups%'";
        (db.number(listening).await == 2).then_some(())
    })
    .await;
    let begun = Instant::now();
    let placed = api.client().place(order("woken", [("SKU-1", 1)]).settled()).await;
    assert_eq!(placed.order["status"], "CONFIRMED");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    tokio::join!(api.stop(), runner.stop());
    db.close().await;
}

#[tokio::test]
async fn without_notifications_everybody_finds_out_by_looking() {
    let db = TestDatabase::create().await;
    let deaf = [("OMS_NO_NOTIFICATIONS", "1")];
    let (api, runner) =
        tokio::join!(OmsProcess::start(OMS, &db, "api", &deaf), OmsProcess::start(OMS, &db, "runner", &deaf));
    let client = api.client();
    for over_sse in [false, true] {
        let placed = client.place(order(&format!("deaf-{over_sse}"), [("SKU-1", 1)])).await;
        let updates = match over_sse {
            true => watch_over_sse(&client, placed.id(), None).await,
            false => watch_over_websocket(client.addr(), placed.id(), None).await,
        };
        let updates: Vec<Value> = within("the story is complete", updates.collect()).await;
        assert_eq!(sequences(&updates), [1, 2, 3, 4, 5, 6]);
        assert_eq!(updates[5]["status"], "CONFIRMED");
    }
    let listening = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND query ILIKE 'LISTEN%'";
    assert_eq!(db.number(listening).await, 0, "nobody listens");
    tokio::join!(api.stop(), runner.stop());
    db.close().await;
}

#[tokio::test]
async fn a_zombie_s_answer_changes_nothing() {
    let db = TestDatabase::create().await;
    let (api, zombie) =
        tokio::join!(OmsProcess::start(OMS, &db, "api", &[]), OmsProcess::start(OMS, &db, "runner", &[]));
    let client = api.client();
    let placed = client.place(order("zombie", [("SKU-1", 2)]).card("tok_slow")).await;
    // The gateway has decided, and its slow answer is on the way: then the runner stands still.
    eventually("the gateway has decided", async || {
        let decided = "SELECT count(*) FROM simulated_gateway_calls WHERE answer IS NOT NULL";
        (db.number(decided).await == 1).then_some(())
    })
    .await;
    zombie.signal(Signal::STOP);
    let heir = OmsProcess::start(OMS, &db, "runner", &[]).await;
    eventually("another runner has finished the order", async || {
        (client.order(placed.id()).await["status"] == "CONFIRMED").then_some(())
    })
    .await;
    let settled = client.order(placed.id()).await;

    zombie.signal(Signal::CONT);
    eventually("the late answer is kept as evidence", async || {
        let evidence = "SELECT count(*) FROM saga_log WHERE kind = 'EVIDENCE' AND step = 'authorize_payment'";
        (db.number(evidence).await == 1).then_some(())
    })
    .await;
    assert_eq!(client.order(placed.id()).await, settled);
    assert_eq!(event_types(&settled), STORY_OF_SUCCESS);
    assert_eq!(db.gateway_payment(placed.id()).await.map(|payment| payment.captures), Some(1));
    tokio::join!(api.stop(), zombie.stop(), heir.stop());
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_under_load_loses_and_repeats_nothing() {
    let db = TestDatabase::create().await;
    let (api, mut runner) =
        tokio::join!(OmsProcess::start(OMS, &db, "api", &[]), OmsProcess::start(OMS, &db, "runner", &[]));
    let client = api.client();
    for round in 0..3 {
        let keys = (0..40).map(|n| format!("load-{round}-{n}"));
        join_all(keys.map(|key| {
            let client = &client;
            async move { client.place(order(&key, [("SKU-1", 1)])).await.id().len() }
        }))
        .await;
        // Anywhere in the middle: the point of this test is that it does not matter where.
        sleep(Duration::from_millis(20 * round)).await;
        runner.kill().await;
        runner = OmsProcess::start(OMS, &db, "runner", &[]).await;
    }
    db.wait_until_settled().await;
    assert_eq!(db.number("SELECT count(*) FROM orders WHERE status = 'CONFIRMED'").await, 120);
    assert_eq!(db.number("SELECT sum(captures)::bigint FROM simulated_gateway_payments").await, 120);
    assert_eq!(client.stock("SKU-1").await["reserved"], json!(120));
    tokio::join!(api.stop(), runner.stop());
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_asked_to_end_waits_for_its_open_call() {
    let db = TestDatabase::create().await;
    let slow = [("OMS_GATEWAY_DELAY_MS", "1500"), ("OMS_DRAIN_SECONDS", "10")];
    let process = OmsProcess::start(OMS, &db, "all", &slow).await;
    let placed = process.client().place(order("drained", [("SKU-1", 1)])).await;
    eventually("a call is open", async || {
        (db.number("SELECT count(*) FROM saga_call").await == 1).then_some(())
    })
    .await;
    let asked = Instant::now();
    process.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    assert_eq!(db.number("SELECT count(*) FROM saga_call").await, 0, "every call is settled");
    let answers = "SELECT count(*) FROM saga_log WHERE step = 'authorize_payment' AND outcome = 'SUCCEEDED'";
    assert_eq!(db.number(answers).await, 1, "the answer is recorded");
    assert_eq!(db.number("SELECT count(*) FROM saga_log WHERE outcome = 'UNKNOWN'").await, 0);

    let heir = OmsProcess::start(OMS, &db, "all", &[]).await;
    db.wait_until_settled().await;
    assert_eq!(heir.client().order(placed.id()).await["status"], "CONFIRMED");
    assert_eq!(db.gateway_payment(placed.id()).await.map(|payment| payment.captures), Some(1));
    heir.stop().await;
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_replaced_in_turn_under_load_and_nobody_misses_anything() {
    let db = TestDatabase::create().await;
    let settings = [("OMS_GATEWAY_TIMEOUT_MS", "500")];
    let (left, right) = tokio::join!(
        OmsProcess::start(OMS, &db, "all", &settings),
        OmsProcess::start(OMS, &db, "all", &settings)
    );
    let mut processes = [Some(left), Some(right)];
    let targets = Arc::new(Targets::default());
    for (number, process) in processes.iter().flatten().enumerate() {
        targets.set(number, Some(process.client().addr()));
    }
    let load = LoadSettings { seed: 1, clients: 6, rate: 60, one_bad_card_in: 10, one_viewer_in: 3 };
    let load = Load::start(targets.clone(), load);
    let wait_for_orders = async || {
        let before = load.look(|told| told.acknowledged.len());
        eventually("the clients get their answers", async || {
            (load.look(|told| told.acknowledged.len()) >= before + 20).then_some(())
        })
        .await;
    };
    wait_for_orders().await;
    for (number, process) in processes.iter_mut().enumerate() {
        process.take().expect("each is replaced once").stop().await;
        let replacement = OmsProcess::start(OMS, &db, "all", &settings).await;
        targets.set(number, Some(replacement.client().addr()));
        *process = Some(replacement);
        wait_for_orders().await;
    }
    let told = within("the clients have all their answers", load.finish()).await;
    assert_eq!(told.wrong, [] as [String; 0]);
    db.wait_until_settled().await;
    assert_eq!(db.number("SELECT count(*) FROM orders").await, told.acknowledged.len() as i64);
    assert!(!told.watched.is_empty(), "somebody watches");
    for (id, last) in &told.watched {
        let sequence = format!("SELECT sequence::bigint FROM orders WHERE id = '{}'", uuid_of(id));
        assert_eq!(db.number(&sequence).await, *last, "{id} was watched to its end");
    }
    join_all(processes.into_iter().flatten().map(OmsProcess::stop)).await;
    db.assert_books_balance().await;
    db.close().await;
}
