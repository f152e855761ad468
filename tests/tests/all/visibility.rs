//! Who sees what: apps and their orders, personal data, and the database's own guard behind both.

use std::collections::BTreeMap;

use async_graphql::Request;
use chrono::DateTime;
use domain::app::{Scope, Scopes, Visibility, store};
use domain::id::{AppId, OrderId, local_app};
use domain::order::changes::{Cursor, find_changes};
use domain::order::list::{self, Filter, Name, Place, Stretch};
use domain::order::read::{self, Columns};
use domain::payment::read::find_payments;
use futures_util::StreamExt;
use futures_util::future::join_all;
use oms::access::Caller;
use oms::access::door::Door;
use oms::app::{App, AppSettings};
use oms::config::{AccessArgs, DatabaseArgs};
use oms::postgres::{self, PoolSettings};
use oms::reader::Reader;
use oms_tests::own_postgres::OwnPostgres;
use oms_tests::{Shop, TestDatabase, eventually, order};
use saga::engine::{Definitions, Wakeups};
use saga::place_order::load_processes;
use sea_orm::{ConnectionTrait, DatabaseConnection, SqlxPostgresConnector};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Tables that row-level security guards.
const GUARDED: [&str; 8] =
    ["orders", "order_lines", "order_events", "payments", "reservations", "saga", "saga_call", "saga_log"];

/// Opens connections as a server does that reads on its callers' behalf.
async fn connect_reader(db: &TestDatabase) -> DatabaseConnection {
    let args = DatabaseArgs { database_url: Some(db.url()), ..DatabaseArgs::default() };
    let database = postgres::join(&args).await.expect("the database answers");
    database.connect_reader(&PoolSettings::for_command("oms reader")).await.expect("the role is there")
}

/// The application without its doors: the test says who calls.
async fn app(db: &TestDatabase) -> App {
    let definitions = Definitions::try_new([]).expect("no saga breaks no rule");
    let reader = Reader::new(connect_reader(db).await);
    let (wakeups, stop) = (Wakeups::new(), CancellationToken::new());
    let pool = db.connect_runner().await;
    let door =
        Door::open(pool.clone(), AccessArgs::default(), None, stop.clone()).await.expect("the signing key");
    App::start(pool, reader, wakeups, definitions, door, AppSettings::default(), stop)
}

/// An app that has placed no order, or the one that places every order of the tests.
fn caller(app_id: AppId, scopes: impl IntoIterator<Item = Scope>) -> Caller {
    let scopes: Scopes = scopes.into_iter().collect();
    Caller::app(&store::App::new(app_id, "tested"), scopes, &[], None, Some(Uuid::from_u128(7)))
}

fn stranger() -> Caller {
    caller(AppId::from_uuid(Uuid::now_v7()), [Scope::OrdersRead, Scope::OrdersReadPii])
}

async fn execute(app: &App, caller: Caller, query: &str) -> Value {
    let response = app.graphql().execute(caller, Request::new(query)).await;
    let mut answer = serde_json::to_value(response).expect("an answer is JSON");
    // What it cost is another test's matter.
    let extensions = answer["extensions"].as_object_mut().expect("each answer has some");
    extensions.remove("cost");
    if extensions.is_empty() {
        answer.as_object_mut().expect("an object").remove("extensions");
    }
    answer
}

/// Places an order with everything personal that there is, and returns its id as clients and as tables know it.
async fn place(shop: &Shop) -> (String, Uuid) {
    let address =
        json!({ "name": "Ada Lovelace", "line1": "12 St James's Square", "city": "London", "country": "GB" });
    let input = order("seen", [("SKU-1", 2)]).with("email", json!("ada@example.org"));
    let placed = shop.place(input.with("shippingAddress", address).settled()).await;
    let id: OrderId = placed.id().parse().expect("an order's id");
    (placed.id().to_owned(), id.uuid())
}

async fn count(db: &impl ConnectionTrait, table: &str) -> i64 {
    let row = db.query_one_raw(sea_orm::Statement::from_string(
        sea_orm::DbBackend::Postgres,
        format!("SELECT count(*) AS count FROM {table}"),
    ));
    let row = row.await.expect("the role may read").expect("one row");
    row.try_get("", "count").expect("a number")
}

#[tokio::test]
async fn the_reading_role_sees_no_row_until_it_is_told_who_looks() {
    let shop = Shop::open().await;
    let (_, id) = place(&shop).await;
    // As if the order were still calling.
    shop.db
        .execute(
            "INSERT INTO saga_call (saga_id, step, direction, epoch, attempt, generation, worker_id, idempotency_key,
                                    request, deadline, lease_expires_at)
             SELECT id, step, direction, epoch, 1, 1, id, 'key', '', now(), now() + interval '1 hour' FROM saga",
        )
        .await;
    let pool = connect_reader(&shop.db).await;
    let reader = Reader::new(pool.clone());
    let other = Visibility::of_app(Uuid::now_v7());
    let own = Visibility::of_app(local_app().uuid());
    for table in GUARDED {
        let untold = sea_orm::TransactionTrait::begin(&pool).await.expect("a transaction");
        assert_eq!(count(&untold, table).await, 0, "{table}, untold");
        drop(untold);
        let seen = async |visibility: &Visibility| {
            count(&reader.begin(visibility).await.expect("a transaction"), table).await
        };
        assert_eq!(seen(&other).await, 0, "{table}, another app");
        assert_eq!(seen(&Visibility::Apps([].into())).await, 0, "{table}, no app");
        assert_eq!(seen(&Visibility::Order(Uuid::now_v7())).await, 0, "{table}, another order");
        for visibility in [&Visibility::All, &own, &Visibility::Order(id)] {
            assert!(seen(visibility).await > 0, "{table}, {visibility:?}");
        }
    }
    pool.close().await.expect("the pool closes");
    shop.db.execute("DELETE FROM saga_call").await;
    shop.close().await;
}

#[tokio::test]
async fn the_reading_role_changes_nothing_and_does_not_see_the_card() {
    let shop = Shop::open().await;
    let pool = connect_reader(&shop.db).await;
    for column in
        ["payment_token FROM orders", "state FROM saga", "request FROM saga_call", "request FROM saga_log"]
    {
        let tx = Reader::new(pool.clone()).begin(&Visibility::All).await.expect("a transaction");
        assert!(tx.execute_unprepared(&format!("SELECT {column}")).await.is_err(), "{column}");
    }
    for statement in
        ["UPDATE orders SET email = NULL", "SET default_transaction_read_only = off; DELETE FROM orders"]
    {
        assert!(pool.execute_unprepared(statement).await.is_err(), "{statement}");
    }
    pool.close().await.expect("the pool closes");
    shop.close().await;
}

#[tokio::test]
async fn a_query_finds_nothing_of_an_order_that_is_not_visible() {
    let shop = Shop::open().await;
    let (_, id) = place(&shop).await;
    // The owner of the tables, whom no policy holds: what is tried are the conditions of the queries alone.
    let db = shop.db.connect_runner().await;
    shop.db.execute("UPDATE orders SET external_reference = 'seen'").await;
    let number = shop.db.number("SELECT number FROM orders").await;
    let filters = [
        Filter::default(),
        Filter { external_reference: Some("seen".to_owned()), ..Filter::default() },
        Filter { sku: Some("SKU-1".to_owned()), ..Filter::default() },
    ];
    let definitions = Definitions::try_new([]).expect("no saga breaks no rule");
    let found = async |visibility: &Visibility| {
        let orders = read::find_orders(&db, visibility, Columns::all(), vec![id]).await.expect("orders");
        let order = read::find_order(&db, visibility, id).await.expect("an order");
        let lines = read::find_lines(&db, visibility, vec![id]).await.expect("lines");
        let events = read::find_events(&db, visibility, vec![id], 0, 100).await.expect("events");
        let payments = find_payments(&db, visibility, vec![id]).await.expect("payments");
        let processes = load_processes(&db, visibility, vec![id], &definitions).await.expect("processes");
        let place = Place { created_at: DateTime::UNIX_EPOCH, id: Uuid::nil() };
        let stretch = Stretch { above: Some(place), below: None, newest_first: true, limit: 100 };
        let mut listed = Vec::new();
        let mut counted = Vec::new();
        for filter in &filters {
            listed.push(list::list(&db, visibility, filter, stretch).await.expect("a list").len());
            counted.push(list::count(&db, visibility, filter).await.expect("a count"));
        }
        let mut named = 0;
        for name in [Name::Id(id), Name::Number(number), Name::ExternalReference("seen".to_owned())] {
            named += list::find_id(&db, visibility, &name).await.expect("an id").iter().len();
        }
        let changes = find_changes(&db, visibility, Cursor::START, i64::MAX as u64, 100).await;
        let changes = changes.expect("changes");
        assert_eq!(listed.iter().map(|n| *n as u64).collect::<Vec<_>>(), counted, "{visibility:?}");
        let of_order =
            [orders.len(), order.iter().len(), lines.len(), events.len(), payments.len(), processes.len()];
        (of_order, listed, named, changes.len())
    };
    let foreign =
        [Visibility::of_app(Uuid::now_v7()), Visibility::Apps([].into()), Visibility::Order(Uuid::now_v7())];
    for visibility in foreign {
        assert_eq!(found(&visibility).await, ([0; 6], vec![0; 3], 0, 0), "{visibility:?}");
    }
    let granted = Visibility::Apps([Uuid::now_v7(), local_app().uuid()].into());
    for visibility in [Visibility::All, granted, Visibility::Order(id)] {
        assert_eq!(found(&visibility).await, ([1, 1, 1, 6, 1, 1], vec![1; 3], 3, 6), "{visibility:?}");
    }
    db.close().await.expect("the pool closes");
    shop.close().await;
}

#[tokio::test]
async fn only_what_is_selected_is_read() {
    let shop = Shop::open().await;
    let (id, _) = place(&shop).await;
    shop.db
        .execute(
            "REVOKE SELECT (email, shipping_address, number) ON orders FROM oms_reader;
             REVOKE SELECT ON order_lines, order_events FROM oms_reader",
        )
        .await;
    let narrow = [
        "query ($id: ID!) { getOrder(id: $id) { id status } }",
        "query ($id: ID!) { it: getOrder(id: $id) { id ...Rest } } fragment Rest on Order { at: status ... on Order { id } }",
    ];
    for query in narrow {
        let (_, answer) = shop.send(query, json!({ "id": id })).await;
        assert!(answer.get("errors").is_none(), "{query}: {answer}");
    }
    for field in ["email", "number", "shippingAddress { city }", "lines { sku }", "events { sequence }"] {
        let query =
            format!("query ($id: ID!) {{ getOrder(id: $id) {{ id ... on Order {{ it: {field} }} }} }}");
        let (_, answer) = shop.send(&query, json!({ "id": id })).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "INTERNAL", "{field}: {answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn every_field_of_an_order_is_answered_when_it_is_selected_alone() {
    let shop = Shop::open().await;
    let (id, _) = place(&shop).await;
    let kind = "kind ofType { kind ofType { kind ofType { kind } } }";
    let fields = format!("{{ __type(name: \"Order\") {{ fields {{ name type {{ {kind} }} }} }} }}");
    let fields = shop.execute(&fields, json!({})).await["__type"]["fields"].take();
    let whole = shop.order(&id).await;
    let fields = fields.as_array().expect("fields");
    assert!(fields.len() >= 20, "{fields:?}");
    for field in fields {
        let name = field["name"].as_str().expect("a name");
        let is_composite = field["type"].to_string().contains("\"OBJECT\"");
        let selection = if is_composite { "{ __typename }" } else { "" };
        let query = format!("query ($id: ID!) {{ getOrder(id: $id) {{ {name} {selection} }} }}");
        let data = shop.execute(&query, json!({ "id": id })).await;
        let alone = &data["getOrder"][name];
        if is_composite {
            assert_eq!(alone.is_null(), whole[name].is_null(), "{name}");
        } else {
            assert_eq!(alone, &whole[name], "{name}");
        }
    }
    shop.close().await;
}

#[tokio::test]
async fn an_order_of_another_app_is_not_there() {
    let shop = Shop::open().await;
    let (id, uuid) = place(&shop).await;
    let app = app(&shop.db).await;
    let query = format!("{{ getOrder(id: \"{id}\") {{ status }} }}");
    let own = caller(local_app(), [Scope::OrdersRead]);
    let shopper = Caller::shopper(&store::App::new(local_app(), "shop"), uuid, None);
    for sees_it in [own, shopper] {
        assert_eq!(execute(&app, sees_it, &query).await["data"]["getOrder"]["status"], "CONFIRMED");
    }
    let unknown = Caller::shopper(&store::App::new(local_app(), "shop"), Uuid::now_v7(), None);
    for does_not in [stranger(), unknown] {
        assert_eq!(execute(&app, does_not, &query).await, json!({ "data": { "getOrder": null } }));
    }
    shop.close().await;
}

#[tokio::test]
async fn watching_what_is_not_visible_not_there_or_no_id_gives_the_same_error() {
    let shop = Shop::open().await;
    let (id, _) = place(&shop).await;
    let app = app(&shop.db).await;
    let mut answers = BTreeMap::new();
    for id in [id.as_str(), "order_01jx2v3q8kf0v8c9m5w6r7t2ab", "nonsense!", ""] {
        let query = "subscription ($id: ID!) { orderStatus(id: $id) { sequence } }";
        let request = Request::new(query).variables(async_graphql::Variables::from_json(json!({ "id": id })));
        let stream = app.graphql().execute_stream(stranger(), request);
        let answer: Vec<_> =
            stream.map(|answer| serde_json::to_string(&answer).expect("JSON")).collect().await;
        answers.insert(answer, id);
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    let answer = answers.keys().next().expect("one").concat();
    assert!(answer.contains("NOT_FOUND"), "{answer}");
    shop.close().await;
}

#[tokio::test]
async fn personal_data_is_masked_without_its_scope_and_not_recorded() {
    let shop = Shop::open().await;
    let (id, _) = place(&shop).await;
    shop.db
        .execute(
            "TRUNCATE personal_data_reads;
             REVOKE SELECT (email, shipping_address) ON orders FROM oms_reader",
        )
        .await;
    let app = app(&shop.db).await;
    let query = format!("{{ getOrder(id: \"{id}\") {{ status email shippingAddress {{ city }} }} }}");
    let answer = execute(&app, caller(local_app(), [Scope::OrdersRead]), &query).await;
    assert_eq!(
        answer,
        json!({
            "data": { "getOrder": { "status": "CONFIRMED", "email": null, "shippingAddress": null } },
            "extensions": { "personalData": { "masked": ["email", "shippingAddress"], "scope": "orders:read_pii" } },
        })
    );
    assert_eq!(shop.db.number("SELECT count(*) FROM personal_data_reads").await, 0);
    shop.close().await;
}

#[tokio::test]
async fn who_is_shown_personal_data_is_recorded_or_is_not_shown_it() {
    let shop = Shop::open().await;
    let (id, uuid) = place(&shop).await;
    shop.db.execute("TRUNCATE personal_data_reads").await;
    let app = app(&shop.db).await;
    let reads = || caller(local_app(), [Scope::OrdersRead, Scope::OrdersReadPii]);
    let email = format!("{{ getOrder(id: \"{id}\") {{ email }} }}");
    let answer = execute(&app, reads(), &email).await;
    assert_eq!(answer, json!({ "data": { "getOrder": { "email": "ada@example.org" } } }));
    let status = format!("{{ getOrder(id: \"{id}\") {{ status }} }}");
    execute(&app, reads(), &status).await;
    let recorded = "SELECT concat_ws(' ', app_id, key_id, order_id, fields) FROM personal_data_reads";
    let expected = format!("{} {} {uuid} {{email}}", local_app().uuid(), Uuid::from_u128(7));
    assert_eq!(shop.db.texts(recorded).await, [expected]);

    shop.db.execute("ALTER TABLE personal_data_reads ADD CONSTRAINT is_full CHECK (false) NOT VALID").await;
    let answer = execute(&app, reads(), &email).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    assert!(!answer.to_string().contains("ada@"), "{answer}");
    shop.close().await;
}

#[tokio::test]
async fn the_databases_of_a_cluster_make_the_reading_role_at_once() {
    let postgres = OwnPostgres::start().await;
    let connect = async |name: &str| {
        let pool = PgPoolOptions::new().max_connections(2).connect_with(postgres.connect_options(name)).await;
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool.expect("the database answers"))
    };
    let server = connect("postgres").await;
    let mut databases = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        server.execute_unprepared(&format!("CREATE DATABASE {name}")).await.expect("the database is made");
        databases.push(connect(name).await);
    }
    for migrated in join_all(databases.iter().map(migration::migrate)).await {
        migrated.expect("the schema is made");
    }
    for database in databases {
        database.execute_unprepared("SET ROLE oms_reader; SELECT id FROM orders").await.expect("it may read");
        database.close().await.expect("the pool closes");
    }
    server.close().await.expect("the pool closes");
    postgres.stop().await;
}

#[tokio::test]
async fn a_database_user_that_may_make_roles_needs_no_superuser() {
    let postgres = OwnPostgres::start().await;
    let connect = async |name: &str, role: &str| {
        let options = postgres.connect_options(name).options([("role", role)]);
        let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await;
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool.expect("the database answers"))
    };
    let server = connect("postgres", "none").await;
    for statement in [
        "CREATE ROLE makes_roles CREATEROLE",
        "CREATE ROLE makes_none",
        "CREATE DATABASE of_none OWNER makes_none",
        "CREATE DATABASE of_roles OWNER makes_roles",
    ] {
        server.execute_unprepared(statement).await.expect("a superuser may");
    }
    let none = connect("of_none", "makes_none").await;
    let refused = migration::migrate(&none).await.expect_err("nobody has made the role").to_string();
    assert!(refused.contains("oms_reader"), "{refused}");
    let roles = connect("of_roles", "makes_roles").await;
    migration::migrate(&roles).await.expect("it makes the role");
    server.execute_unprepared("GRANT oms_reader TO makes_none").await.expect("a superuser may");
    migration::migrate(&none).await.expect("the role was made for it");
    for database in [none, roles, server] {
        database.close().await.expect("the pool closes");
    }
    postgres.stop().await;
}

#[tokio::test]
async fn a_look_that_is_given_up_while_it_begins_leaves_no_transaction_open() {
    let db = TestDatabase::create().await;
    let reader = Reader::new(connect_reader(&db).await);
    let open = "SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'oms reader' AND state LIKE 'idle in%'";
    for step in 0..150 {
        // Given up at each moment of beginning in turn: it takes a few hundred microseconds.
        let time = std::time::Duration::from_micros(10 * step);
        drop(tokio::time::timeout(time, reader.begin(&Visibility::All)).await);
        eventually("no connection is left in a transaction", async || {
            (db.number(open).await == 0).then_some(())
        })
        .await;
    }
    db.close().await;
}
