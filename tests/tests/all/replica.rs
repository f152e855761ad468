//! Orders are read from a streaming replica that is behind, away or back again, and from the primary where that matters.
//!
//! The replica is a real one. How far it has got is the test's decision: it is stopped in time and waited for, never slept
//! for.

use domain::app::Scope;
use futures_util::StreamExt;
use futures_util::future::join_all;
use oms::config::Role;
use oms_tests::own_postgres::OwnPostgres;
use oms_tests::{
    Client, Server, Shop, Standby, TestDatabase, app_with_key, eventually, oms_command, order,
    watch_over_websocket, within,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{OMS, STORY_OF_SUCCESS, event_types, sequences};

/// An order as far as it moves or could be torn: what is read in different queries.
const MOVING: &str =
    "sequence status paymentStatus totals { total { amount } } lines { sku } events { type sequence status }";

/// No read may take longer when the replica has just gone: half a second of doubt, a question, and the primary's answer,
/// with room for a busy machine.
const BOUND: Duration = Duration::from_secs(5);

/// A primary and its replica.
struct Pair {
    primary: OwnPostgres,
    db: TestDatabase,
    standby: Standby,
}

impl Pair {
    async fn start() -> Self {
        let primary = OwnPostgres::start().await;
        let db = TestDatabase::create_in(&primary).await;
        let standby = Standby::start(&primary, &db).await;
        standby.catch_up(&db).await;
        Self { primary, db, standby }
    }

    /// Starts a server that reads from the replica, and carries out nothing unless told.
    async fn serve(&self, role: Role) -> Server {
        self.serve_within(role, None).await
    }

    /// The same, from a replica that is no further behind than this.
    async fn serve_within(&self, role: Role, max_lag_seconds: Option<u64>) -> Server {
        let server = Server::start_with(&self.db, |args| {
            args.process.role = role;
            args.process.replica_max_lag_seconds = max_lag_seconds;
            args.process.read_database_url = Some(self.standby.url("oms"));
        });
        server.await
    }

    /// Carries out every order that was placed.
    async fn carry_out(&self) {
        let runner = Server::start_with(&self.db, |args| args.process.role = Role::Runner).await;
        self.db.wait_until_settled().await;
        runner.stop().await;
    }

    /// Waits until reads come from the replica, which then stands still: an order that is placed after that is not seen.
    async fn answers_again(&self, client: &Client) {
        self.standby.catch_up(&self.db).await;
        self.standby.pause().await;
        let unseen = client.place(order("unseen", [("SKU-1", 1)]).settled()).await;
        until_the_replica_answers(client, unseen.id()).await;
    }

    async fn stop(self) {
        self.db.close().await;
        self.standby.stop().await;
        self.primary.stop().await;
    }
}

/// Reads an order that is at least as new as a sequence.
async fn at_least(client: &Client, id: &str, min_sequence: impl Into<Option<i32>>) -> Value {
    let query =
        format!("query ($id: ID!, $min: Int) {{ getOrder(id: $id, minSequence: $min) {{ {MOVING} }} }}");
    client.execute(&query, json!({ "id": id, "min": min_sequence.into() })).await["getOrder"].take()
}

/// Places an order and returns its id; it is carried out when somebody does.
async fn place(client: &Client, key: &str) -> String {
    client.place(order(key, [("SKU-1", 1)])).await.id().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_come_from_the_replica_and_are_as_new_as_the_caller_asks() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::Api).await;
    let client = server.client();
    let id = place(&client, "moves").await;
    pair.standby.catch_up(&pair.db).await;
    pair.standby.pause().await;
    pair.carry_out().await;

    let query = format!(
        "query ($id: ID!) {{ getOrder(id: $id) {{ {MOVING} }} order(by: {{ id: $id }}) {{ {MOVING} }}
             node(id: $id) {{ ... on Order {{ {MOVING} }} }} orders(first: 1) {{ nodes {{ {MOVING} }} edges {{ node {{ {MOVING} }} }} }}
             _entities(representations: [{{ __typename: \"Order\", id: $id }}]) {{ ... on Order {{ {MOVING} }} }} }}"
    );
    let old = client.execute(&query, json!({ "id": id })).await;
    let seen = [
        &old["getOrder"],
        &old["order"],
        &old["node"],
        &old["orders"]["nodes"][0],
        &old["orders"]["edges"][0]["node"],
        &old["_entities"][0],
    ];
    for order in seen {
        assert_eq!(
            (&order["status"], &order["sequence"], &order["totals"]),
            (&json!("PENDING"), &json!(1), &json!(null)),
            "{order}"
        );
        assert_eq!(event_types(order), STORY_OF_SUCCESS[..1], "{order}");
        assert_eq!(order["lines"], json!([{ "sku": "SKU-1" }]), "{order}");
    }
    assert_eq!(at_least(&client, &id, 0).await, old["getOrder"]);
    assert_eq!(at_least(&client, &id, 1).await, old["getOrder"]);

    // What is not there yet is not waited for.
    for min_sequence in [2, 6, 7, i32::MAX] {
        let new = at_least(&client, &id, min_sequence).await;
        assert_eq!((&new["status"], &new["sequence"]), (&json!("CONFIRMED"), &json!(6)), "{min_sequence}");
        assert_eq!(new["totals"]["total"]["amount"], "17.40");
        assert_eq!(
            (event_types(&new).as_slice(), &new["lines"]),
            (&STORY_OF_SUCCESS[..], &old["getOrder"]["lines"])
        );
    }
    let new = at_least(&client, &id, 6).await;
    pair.standby.resume().await;
    pair.standby.catch_up(&pair.db).await;
    assert_eq!(at_least(&client, &id, None).await, new);
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_places_and_watches_an_order_sees_it_before_the_replica_does() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let before = client.execute("{ changes { endCursor } }", json!({})).await;
    pair.standby.pause().await;

    let placed = client.place(order("unseen", [("SKU-1", 1)]).settled()).await;
    assert_eq!(event_types(&placed.order), STORY_OF_SUCCESS, "the answer of placeOrder");
    assert_eq!(placed.order["lines"][0]["sku"], "SKU-1");
    let updates = watch_over_websocket(client.addr(), placed.id(), None).await;
    let updates: Vec<_> = within("the story is complete", updates.collect::<Vec<_>>()).await;
    assert_eq!(sequences(&updates), [1, 2, 3, 4, 5, 6]);

    assert!(client.order(placed.id()).await.is_null(), "not arrived");
    for min_sequence in [0, 1, 6] {
        let order = at_least(&client, placed.id(), min_sequence).await;
        assert_eq!(event_types(&order), STORY_OF_SUCCESS, "{min_sequence}");
        assert_eq!(order["lines"], json!([{ "sku": "SKU-1" }]));
    }
    let saga = "query ($id: ID!) { saga(orderId: $id) { order { status } } }";
    let saga = client.execute(saga, json!({ "id": placed.id() })).await;
    assert_eq!(saga["saga"]["order"]["status"], "CONFIRMED", "an operator sees what there is");

    // The feed goes as far as the replica has got, and on from there.
    let feed = "query ($after: String) { changes(after: $after) { endCursor hasNextPage nodes {
                    event { sequence } order { sequence } } } }";
    let first = client.execute(feed, json!({ "after": before["changes"]["endCursor"] })).await;
    assert_eq!((&first["changes"]["nodes"], &first["changes"]["hasNextPage"]), (&json!([]), &json!(false)));
    pair.standby.resume().await;
    pair.standby.catch_up(&pair.db).await;
    let cursor = &first["changes"]["endCursor"];
    let rest = eventually("the feed has got there", async || {
        let rest = client.execute(feed, json!({ "after": cursor })).await;
        (rest["changes"]["nodes"].as_array().expect("a list").len() == 6).then_some(rest)
    })
    .await;
    for change in rest["changes"]["nodes"].as_array().expect("a list") {
        assert_eq!(change["order"]["sequence"], 6, "{change}");
    }
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_another_app_is_unknown_whatever_sequence_is_asked_for() {
    let pair = Pair::start().await;
    let keys = pair.db.connection();
    let other = app_with_key(&keys, "other", &[Scope::OrdersRead, Scope::OrdersReadPii]).await;
    let server = pair.serve(Role::Api).await;
    let (owner, other) = (server.client(), server.client().with(&other.secret));
    let arrived = place(&owner, "arrived").await;
    pair.standby.catch_up(&pair.db).await;
    pair.standby.pause().await;
    let on_its_way = place(&owner, "on its way").await;
    let unknown = "order_01jx2v3q8kf0v8c9m5w6r7t2ab";

    let query = format!(
        "query ($id: ID!, $min: Int) {{ getOrder(id: $id, minSequence: $min) {{ {MOVING} email }} }}"
    );
    let answer = async |id: &str, min_sequence: Value| {
        let sent = other.try_send(&query, json!({ "id": id, "min": min_sequence })).await.expect("an answer");
        (sent.status(), sent.text().await.expect("a body"))
    };
    for min_sequence in [json!(null), json!(0), json!(1), json!(99), json!(-1)] {
        let nothing = answer(unknown, min_sequence.clone()).await;
        assert_eq!(nothing.1.contains(r#""data":{"getOrder":null}"#), min_sequence != -1, "{}", nothing.1);
        for id in [&*arrived, &on_its_way] {
            assert_eq!(answer(id, min_sequence.clone()).await, nothing, "{min_sequence}");
        }
    }
    assert_eq!(at_least(&owner, &on_its_way, 1).await["sequence"], 1, "there is something to hide");
    server.stop().await;
    pair.carry_out().await;
    pair.stop().await;
}

#[tokio::test]
async fn a_sequence_is_checked_and_means_nothing_more_where_there_is_no_replica() {
    let shop = Shop::open().await;
    let placed = shop.place(order("alone", [("SKU-1", 1)]).settled()).await;
    for min_sequence in [0, 1, 6, 7, i32::MAX] {
        assert_eq!(at_least(&shop, placed.id(), min_sequence).await["sequence"], 6, "{min_sequence}");
        assert!(at_least(&shop, "order_01jx2v3q8kf0v8c9m5w6r7t2ab", min_sequence).await.is_null());
    }
    let query = "query ($id: ID!, $min: Int) { getOrder(id: $id, minSequence: $min) { id } }";
    for id in [placed.id(), "order_01jx2v3q8kf0v8c9m5w6r7t2ab", "nonsense"] {
        for min_sequence in [-1, i32::MIN] {
            let (_, answer) = shop.send(query, json!({ "id": id, "min": min_sequence })).await;
            let error = &answer["errors"][0];
            assert_eq!(error["extensions"]["code"], "INVALID_INPUT", "{answer}");
            let message = error["message"].as_str().expect("a message");
            assert!(message.starts_with("minSequence must be 0 or more"), "{message}");
        }
    }
    shop.close().await;
}

/// Reads again and again until something was read from the replica, which stands still and lacks the order.
async fn until_the_replica_answers(client: &Client, lacks: &str) {
    eventually("reads come from the replica", async || client.order(lacks).await.is_null().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_replica_is_away_the_primary_answers() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let id = client.place(order("outlives", [("SKU-1", 1)]).settled()).await.id().to_owned();
    pair.standby.catch_up(&pair.db).await;
    // Connections that are about to break.
    assert_eq!(at_least(&client, &id, None).await["sequence"], 6);

    pair.standby.crash().await;
    for _ in 0..20 {
        let begun = Instant::now();
        let list =
            "query ($id: ID!) { orders { nodes { id sequence } totalCount } getOrder(id: $id) { sequence } }";
        let data = client.execute(list, json!({ "id": id })).await;
        assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
        assert_eq!(data["orders"]["nodes"], json!([{ "id": id, "sequence": 6 }]));
        assert_eq!((&data["orders"]["totalCount"], &data["getOrder"]["sequence"]), (&json!(1), &json!(6)));
    }
    assert_eq!(client.get("/readyz").send().await.expect("an answer").status(), StatusCode::OK);
    let metrics = client.get("/metrics").send().await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains(r#"oms_replica_fallbacks_total{reason="away"}"#), "{metrics}");

    pair.standby.start_again().await;
    pair.answers_again(&client).await;
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_says_nothing_is_given_up_and_so_are_the_connections_to_it() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    client.place(order("silence", [("SKU-1", 1)]).settled()).await;
    let app = app_with_key(&pair.db.connection(), "other", &[Scope::OrdersRead]).await;
    pair.standby.catch_up(&pair.db).await;
    // Nobody gets more than half of the connections; two callers get all of them.
    let others = client.with(&app.secret);
    let list = async |caller: &Client| {
        let orders = caller.execute("{ orders(first: 1) { nodes { sequence } } }", json!({})).await;
        orders["orders"]["nodes"][0]["sequence"].clone()
    };
    let lists = async || {
        let pairs = (0..10).map(|_| async { tokio::join!(list(&client), list(&others)) });
        join_all(pairs).await
    };
    eventually("every connection is open", async || {
        lists().await;
        let all = "SELECT count(*) = 5 FROM pg_stat_activity WHERE application_name = 'oms reader'";
        pair.standby.is(all).await.then_some(())
    })
    .await;
    let stuck = pair.standby.freeze().await;

    let begun = Instant::now();
    for (own, foreign) in lists().await {
        assert_eq!((own, foreign), (json!(6), json!(null)));
    }
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    pair.standby.thaw_server();
    pair.answers_again(&client).await;
    pair.standby.thaw(stuck);
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_the_replica_does_not_let_go_keeps_nobody_waiting() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let id = client.place(order("locked", [("SKU-1", 1)]).settled()).await.id().to_owned();
    // The lock arrives there and its end does not.
    let mut migration = pair.db.pool().begin().await.expect("a transaction");
    let lock = sqlx::raw_sql("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").execute(&mut *migration).await;
    lock.expect("the lock is free");
    pair.standby.catch_up(&pair.db).await;
    pair.standby.pause().await;
    migration.commit().await.expect("the end");
    let begun = Instant::now();
    assert_eq!(at_least(&client, &id, None).await["sequence"], 6);
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    pair.standby.resume().await;
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_replica_and_takes_it_up_later() {
    let pair = Pair::start().await;
    pair.standby.crash().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let placed = client.place(order("early", [("SKU-1", 1)]).settled()).await;
    assert_eq!(client.order(placed.id()).await, placed.order);
    assert_eq!(client.get("/readyz").send().await.expect("an answer").status(), StatusCode::OK);

    pair.standby.start_again().await;
    pair.answers_again(&client).await;
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_recovery_cancels_is_answered_by_the_primary() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let placed = client.place(order("conflict", [("SKU-1", 1)]).settled()).await;
    // Every look at orders takes its time on the replica, where nothing waits for it.
    pair.db
        .execute(
            "CREATE OR REPLACE FUNCTION oms_sees_all() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
                 SELECT current_setting('oms.visibility', true) = 'all'
                    AND pg_sleep(CASE WHEN pg_is_in_recovery() THEN 60 ELSE 0 END) IS NOT NULL $$",
        )
        .await;
    pair.standby.execute("ALTER SYSTEM SET max_standby_streaming_delay = 0").await;
    pair.standby.execute("SELECT pg_reload_conf()").await;
    pair.standby.catch_up(&pair.db).await;

    let app = app_with_key(&pair.db.connection(), "all", &[Scope::OrdersRead, Scope::OrdersReadAll]).await;
    let (reads, id) = (client.with(&app.secret), placed.id().to_owned());
    let read = tokio::spawn(async move { at_least(&reads, &id, None).await });
    eventually("the replica is looking", async || {
        let looks = "SELECT EXISTS (SELECT FROM pg_stat_activity
                     WHERE application_name = 'oms reader' AND wait_event = 'PgSleep')";
        pair.standby.is(looks).await.then_some(())
    })
    .await;
    pair.db.execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE; COMMIT").await;
    let order = within("the answer", read).await.expect("the read does not panic");
    assert_eq!(event_types(&order), STORY_OF_SUCCESS);
    let metrics = client.get("/metrics").send().await.expect("an answer").text().await.expect("text");
    assert!(metrics.contains(r#"oms_replica_fallbacks_total{reason="conflict"}"#), "{metrics}");
    server.stop().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_too_far_behind_is_left_alone() {
    let pair = Pair::start().await;
    let server = pair.serve_within(Role::All, Some(3)).await;
    let client = server.client();
    let id = client.place(order("before", [("SKU-1", 1)]).settled()).await.id().to_owned();
    pair.standby.catch_up(&pair.db).await;
    assert_eq!(at_least(&client, &id, None).await["sequence"], 6);

    pair.standby.pause().await;
    let unseen = client.place(order("after", [("SKU-1", 1)]).settled()).await;
    eventually("reads come from the primary", async || {
        (!client.order(unseen.id()).await.is_null()).then_some(())
    })
    .await;
    assert_eq!(client.order(unseen.id()).await, unseen.order);
    server.stop().await;
    pair.standby.resume().await;
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_promoted_is_none_any_more() {
    let pair = Pair::start().await;
    let server = pair.serve(Role::All).await;
    let client = server.client();
    let id = client.place(order("before", [("SKU-1", 1)]).settled()).await.id().to_owned();
    pair.standby.catch_up(&pair.db).await;
    assert_eq!(at_least(&client, &id, None).await["sequence"], 6);

    pair.standby.promote().await;
    let begun = Instant::now();
    let unseen = client.place(order("after", [("SKU-1", 1)]).settled()).await;
    eventually("reads come from the primary", async || {
        (!client.order(unseen.id()).await.is_null()).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10) + BOUND, "{:?}", begun.elapsed());
    for _ in 0..3 {
        assert_eq!(client.order(unseen.id()).await, unseen.order);
    }
    server.stop().await;
    assert_not_taken(&pair.db, &pair.standby.url("oms"), "not a streaming replica").await;
    pair.stop().await;
}

#[tokio::test]
async fn a_database_of_its_own_is_not_taken_for_a_replica() {
    let (db, other) = (TestDatabase::create().await, TestDatabase::create().await);
    assert_not_taken(&db, &other.url(), "not a streaming replica").await;
    assert_not_taken(&db, &db.url(), "not a streaming replica").await;
    assert_not_taken(&db, "nonsense", "not a Postgres URL").await;
    db.close().await;
    other.close().await;
}

/// Asserts that no server starts with what this leads to as its replica, and that it says why.
async fn assert_not_taken(db: &TestDatabase, url: &str, told: &str) {
    let listen = ["serve", "--listen", "127.0.0.1:0", "--read-database-url", url];
    let refused = within("it has ended", oms_command(OMS, db, &listen).output()).await;
    let refused = refused.expect("oms-under-test runs");
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("OMS_READ_DATABASE_URL") && error.contains(told), "{error}");
}
