//! Postgres crashes under load. The processes stay up, say so within three seconds, and go on within five once it is
//! back; nothing is lost or doubled.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use oms_tests::load::{Load, LoadSettings, Targets};
use oms_tests::lossy_proxy::LossyProxy;
use oms_tests::own_postgres::{Crash, OwnPostgres};
use oms_tests::{OmsProcess, TestDatabase, eventually, order, within};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use crate::OMS;

/// How soon a caller is told that the database is away.
const TELL_WITHIN: Duration = Duration::from_secs(3);

/// How soon work goes on once the database is back.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

const LOAD: LoadSettings =
    LoadSettings { seed: 1, clients: 6, rate: 60, one_bad_card_in: 10, one_viewer_in: 10 };

const SETTINGS: [(&str, &str); 1] = [("OMS_GATEWAY_TIMEOUT_MS", "500")];

/// Two processes on one database, under load.
struct Site {
    db: TestDatabase,
    processes: Vec<OmsProcess>,
    load: Load,
}

impl Site {
    async fn open(db: TestDatabase) -> Self {
        let (left, right) = tokio::join!(
            OmsProcess::start(OMS, &db, "all", &SETTINGS),
            OmsProcess::start(OMS, &db, "all", &SETTINGS),
        );
        let targets = Arc::new(Targets::default());
        targets.set(0, Some(left.client().addr()));
        targets.set(1, Some(right.client().addr()));
        let load = Load::start(targets, LOAD);
        let site = Self { db, processes: vec![left, right], load };
        site.wait_for_orders(20).await;
        site
    }

    /// Waits until the clients have got this many answers more.
    async fn wait_for_orders(&self, more: usize) {
        let before = self.load.look(|told| told.acknowledged.len());
        eventually("the clients get their answers", async || {
            (self.load.look(|told| told.acknowledged.len()) >= before + more).then_some(())
        })
        .await;
    }

    /// Asserts that every process tells its callers to come back later, soon.
    async fn assert_told_to_come_back(&self) {
        for process in &self.processes {
            let client = process.client();
            let query = "mutation { placeOrder(input: { idempotencyKey: \"away\",
                         lines: [{ sku: \"SKU-1\", quantity: 1 }] }) { order { id } } }";
            let begun = Instant::now();
            let answer = client.try_send(query, json!({})).await.expect("the process answers");
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(begun.elapsed() < TELL_WITHIN, "placeOrder was refused after {:?}", begun.elapsed());
            let begun = Instant::now();
            let query = "query { stock(skus: [\"SKU-1\"]) { onHand } }";
            let answer = client.try_send(query, json!({})).await.expect("the process answers");
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(begun.elapsed() < TELL_WITHIN, "a query was refused after {:?}", begun.elapsed());
        }
    }

    /// Asserts that each process places orders again, and that they are carried out.
    async fn assert_resumed(&self, key: &str) {
        let begun = Instant::now();
        let id = eventually("an order is placed", async || {
            let input = order(key, [("SKU-1", 1)]).into_value();
            let query = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }";
            let answer = self.processes[0].client().try_send(query, json!({ "input": input })).await.ok()?;
            let answer: serde_json::Value = answer.json().await.ok()?;
            answer["data"]["placeOrder"]["order"]["id"].as_str().map(str::to_owned)
        })
        .await;
        eventually("it is confirmed", async || {
            let client = self.processes[self.processes.len() - 1].client();
            let query = "query ($id: ID!) { getOrder(id: $id) { status } }";
            let answer = client.try_send(query, json!({ "id": id })).await.ok()?;
            let answer: serde_json::Value = answer.json().await.ok()?;
            (answer["data"]["getOrder"]["status"] == "CONFIRMED").then_some(())
        })
        .await;
        assert!(begun.elapsed() < RESUME_WITHIN, "work resumed after {:?}", begun.elapsed());
    }

    /// Lets the clients finish, and asserts that what they were told is so.
    async fn close(mut self) {
        let told = within("the clients have all their answers", self.load.finish()).await;
        assert_eq!(told.wrong, [] as [String; 0]);
        self.db.wait_until_settled().await;
        for (key, id) in &told.acknowledged {
            let id: domain::id::OrderId = id.parse().expect("an order id");
            let there = format!(
                "SELECT count(*) FROM orders WHERE id = '{}' AND idempotency_key = '{key}'",
                id.uuid()
            );
            assert_eq!(self.db.number(&there).await, 1, "{key} was acknowledged");
        }
        let confirmed = self.db.number("SELECT count(*) FROM orders WHERE status = 'CONFIRMED'").await;
        let captures = "SELECT coalesce(sum(captures), 0)::bigint FROM simulated_gateway_payments";
        assert_eq!(self.db.number(captures).await, confirmed);
        for process in &mut self.processes {
            assert!(process.is_alive(), "the process stays up");
        }
        join_all(self.processes.into_iter().map(OmsProcess::stop)).await;
        self.db.close().await;
    }
}

async fn crash_and_come_back(how: Crash, away: Duration) {
    let postgres = OwnPostgres::start().await;
    let site = Site::open(TestDatabase::create_in(&postgres).await).await;
    postgres.crash(how).await;
    let gone = Instant::now();
    site.assert_told_to_come_back().await;
    tokio::time::sleep_until(gone + away).await;
    postgres.start_again().await;
    site.assert_resumed("first").await;
    site.wait_for_orders(20).await;
    // And at once again, in the middle of it.
    postgres.restart(how).await;
    site.assert_resumed("second").await;
    site.close().await;
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_restart_of_postgres_loses_and_doubles_nothing() {
    crash_and_come_back(Crash::Immediate, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postmaster_that_is_away_for_long_loses_and_doubles_nothing() {
    crash_and_come_back(Crash::Kill, Duration::from_secs(12)).await;
}

/// How a server that stands still comes back.
#[derive(Debug, Clone, Copy)]
enum Return {
    /// It goes on.
    Thawed,
    /// Another one takes its place.
    Replaced,
}

async fn stand_still_and_come_back(how: Return) {
    let postgres = OwnPostgres::start().await;
    let site = Site::open(TestDatabase::create_in(&postgres).await).await;
    for key in ["first", "second"] {
        let frozen = postgres.freeze().await;
        site.assert_told_to_come_back().await;
        // And those who come once it is known.
        site.assert_told_to_come_back().await;
        match how {
            Return::Thawed => frozen.thaw(),
            Return::Replaced => postgres.replace(frozen).await,
        }
        site.assert_resumed(key).await;
        site.wait_for_orders(20).await;
    }
    site.close().await;
    postgres.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stands_still_and_goes_on_loses_and_doubles_nothing() {
    stand_still_and_come_back(Return::Thawed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_stands_still_and_is_replaced_loses_and_doubles_nothing() {
    stand_still_and_come_back(Return::Replaced).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_lead_nowhere_any_more_are_given_up() {
    let db = TestDatabase::create().await;
    let proxy = LossyProxy::before(&db);
    let process = OmsProcess::start_at(OMS, proxy.url(), "all", &SETTINGS).await;
    let targets = Arc::new(Targets::default());
    targets.set(0, Some(process.client().addr()));
    let load = Load::start(targets, LOAD);
    let site = Site { db, processes: vec![process], load };
    site.wait_for_orders(20).await;
    // As when the server's host is gone and no other has its name yet.
    proxy.go_silent();
    site.assert_told_to_come_back().await;
    // What was open before stays as it is, for ever.
    proxy.speak_to_newcomers();
    site.assert_resumed("moved").await;
    site.wait_for_orders(20).await;
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_commit_has_lost_its_answer_is_placed_once() {
    let db = TestDatabase::create().await;
    let proxy = LossyProxy::before(&db);
    // An API alone, so that no commit passes but those that place.
    let api = OmsProcess::start_at(OMS, proxy.url(), "api", &SETTINGS).await;
    let input = order("lost", [("SKU-1", 1)]).into_value();
    let query = "mutation ($input: PlaceOrderInput!) {
        placeOrder(input: $input) { replayed order { id } userErrors { code } } }";
    let place = async || {
        let answer =
            api.client().try_send(query, json!({ "input": input })).await.expect("the process answers");
        let status = answer.status();
        (status, answer.json::<serde_json::Value>().await.expect("JSON"))
    };
    proxy.lose_next_commit();
    let (status, answer) = place().await;
    assert!(proxy.has_lost());
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(db.number("SELECT count(*) FROM orders").await, 1, "the commit happened");

    let (status, answer) = place().await;
    let placed = &answer["data"]["placeOrder"];
    assert_eq!((status, &placed["replayed"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(db.number("SELECT count(*) FROM orders").await, 1);
    let sagas = "SELECT count(*) FROM saga JOIN orders ON orders.id = saga.subject_id";
    assert_eq!(db.number(sagas).await, 1);

    let runner = OmsProcess::start(OMS, &db, "runner", &SETTINGS).await;
    db.wait_until_settled().await;
    assert_eq!(db.number("SELECT count(*) FROM orders WHERE status = 'CONFIRMED'").await, 1);
    let captures = "SELECT coalesce(sum(captures), 0)::bigint FROM simulated_gateway_payments";
    assert_eq!(db.number(captures).await, 1);
    tokio::join!(api.stop(), runner.stop());
    db.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_at_random_lose_and_double_nothing() {
    let site = Site::open(TestDatabase::create().await).await;
    for _ in 0..40 {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name LIKE 'oms%' AND random() < 0.3";
        site.db.execute(cut).await;
        tokio::time::sleep(Duration::from_millis(75)).await;
    }
    site.assert_resumed("after").await;
    site.close().await;
}
