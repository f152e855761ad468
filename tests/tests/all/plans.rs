//! What lists of orders and the feed are read from: the plans of the statements that the program sends, as the role that reads
//! for callers.

use chrono::{TimeDelta, Utc};
use domain::app::Visibility;
use domain::id::local_app;
use domain::order::changes::{Cursor, changes_statement};
use domain::order::list::{Filter, Name, Place, Stretch, count_statement, find_id_statement, list_statement};
use domain::order::{FulfillmentStatus, OrderStatus, PaymentStatus};
use oms::config::DatabaseArgs;
use oms::postgres::{self, PoolSettings};
use oms::reader::Reader;
use oms_tests::{TestDatabase, oms_command, within};
use sea_orm::{ConnectionTrait, Statement};
use uuid::Uuid;

use crate::OMS;

/// An app with a tenth of the orders.
const SMALL: Uuid = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);

/// Words of a plan that reads a table of orders as a whole, or for each of its rows.
const SCANS: [&str; 4] =
    ["Seq Scan on orders", "Seq Scan on order_lines", "Seq Scan on order_events", "hashed SubPlan"];

/// A query of callers, with the index that serves it.
struct Query {
    name: String,
    index: &'static str,
    statement: Statement,
}

/// Every way to filter, for a caller.
fn queries(visibility: &Visibility, sku: &str) -> Vec<Query> {
    let now = Utc::now();
    let page = Stretch { above: None, below: None, newest_first: true, limit: 51 };
    let place = Place { created_at: now - TimeDelta::minutes(1), id: Uuid::max() };
    let list = "orders_list";
    let none = Filter::default;
    let mut queries = Vec::new();
    let mut add = |name: &str, index, statement| {
        queries.push(Query { name: format!("{name}, {visibility:?}"), index, statement });
    };
    for (name, index, filter) in [
        ("no filter", list, none()),
        ("status", list, Filter { statuses: Some(vec![OrderStatus::Confirmed]), ..none() }),
        ("no such status", list, Filter { statuses: Some(vec![OrderStatus::Pending]), ..none() }),
        ("payment status", list, Filter { payment_statuses: Some(vec![PaymentStatus::Paid]), ..none() }),
        (
            "fulfillment status",
            list,
            Filter { fulfillment_statuses: Some(vec![FulfillmentStatus::Unfulfilled]), ..none() },
        ),
        ("from", list, Filter { created_from: Some(now - TimeDelta::hours(1)), ..none() }),
        ("to", list, Filter { created_to: Some(now), ..none() }),
        (
            "external reference",
            "orders_by_external_reference",
            Filter { external_reference: Some("reference-7".to_owned()), ..none() },
        ),
        ("SKU", "order_lines_by_sku", Filter { sku: Some(sku.to_owned()), ..none() }),
    ] {
        add(name, index, list_statement(visibility, &filter, page));
        add(&format!("{name}, counted"), index, count_statement(visibility, &filter));
    }
    for (name, stretch) in [
        ("after a cursor", Stretch { below: Some(place), ..page }),
        ("before a cursor", Stretch { above: Some(place), ..page }),
        ("oldest first", Stretch { newest_first: false, ..page }),
    ] {
        add(name, list, list_statement(visibility, &none(), stretch));
    }
    for (name, index, by) in [
        ("by id", "orders_pkey", Name::Id(Uuid::max())),
        ("by number", "orders_by_number", Name::Number(7)),
        (
            "by external reference",
            "orders_by_external_reference",
            Name::ExternalReference("reference-7".to_owned()),
        ),
    ] {
        add(name, index, find_id_statement(visibility, &by));
    }
    add("changes", "order_events_feed", changes_statement(visibility, Cursor::START, i64::MAX as u64, 51));
    queries
}

async fn open_reader(url: String) -> Reader {
    let args = DatabaseArgs { database_url: Some(url), ..DatabaseArgs::default() };
    let database = postgres::join(&args).await.expect("the database answers");
    let pool = database.connect_reader(&PoolSettings::for_command("oms plans")).await;
    Reader::new(pool.expect("the role is there"))
}

async fn explain(reader: &Reader, visibility: &Visibility, how: &str, statement: &Statement) -> String {
    let mut explained = statement.clone();
    explained.sql = format!("EXPLAIN {how} {}", statement.sql);
    let view = reader.begin(visibility).await.expect("a transaction");
    let rows = view.query_all_raw(explained).await.expect("a plan");
    let lines = rows.iter().map(|row| row.try_get::<String>("", "QUERY PLAN").expect("a line"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_list_is_read_from_its_index_and_no_table_of_orders_as_a_whole() {
    let db = TestDatabase::create().await;
    let fill = oms_command(OMS, &db, &["bench", "fill", "--orders", "20000", "--skus", "500"]).output();
    let filled = within("the orders are there", fill).await.expect("oms-under-test runs");
    assert!(filled.status.success(), "{filled:?}");
    db.execute(&format!(
        "INSERT INTO apps (id, name) VALUES ('{SMALL}', 'small');
         UPDATE orders SET external_reference = 'reference-' || number,
             app_id = CASE WHEN number % 10 = 0 THEN '{SMALL}' ELSE app_id END;
         UPDATE order_lines SET app_id = orders.app_id FROM orders WHERE orders.id = order_id;"
    ))
    .await;
    db.execute("VACUUM (ANALYZE)").await;
    let sku = db.texts("SELECT sku FROM order_lines LIMIT 1").await.remove(0);
    let reader = open_reader(db.url()).await;
    let both = Visibility::Apps([local_app().uuid(), SMALL].into());
    for visibility in
        [Visibility::of_app(local_app().uuid()), Visibility::of_app(SMALL), both, Visibility::All]
    {
        for Query { name, index, statement } in queries(&visibility, &sku) {
            let plan = explain(&reader, &visibility, "", &statement).await;
            assert!(plan.contains(index), "{name} is not read from {index}:\n{plan}");
            for scan in SCANS {
                assert!(!plan.contains(scan), "{name}: {scan}\n{plan}");
            }
        }
    }
    for pool in reader.pools() {
        pool.close().await.expect("the pool closes");
    }
    db.discard().await;
}

/// Prints what each statement takes on a database of one's own, which `OMS_PLANS_DATABASE_URL` names. Nothing is written.
#[tokio::test]
#[ignore = "prints what docs/performance.md shows, of a database that only whoever runs it has; what must hold is asserted above"]
async fn print_what_each_list_takes() {
    let url = std::env::var("OMS_PLANS_DATABASE_URL").expect("OMS_PLANS_DATABASE_URL is set");
    let reader = open_reader(url).await;
    let view = reader.begin(&Visibility::All).await.expect("a transaction");
    let one = async |sql: &str| {
        let statement = Statement::from_string(sea_orm::DbBackend::Postgres, sql);
        view.query_all_raw(statement).await.expect("the database answers")
    };
    let sku = one("SELECT sku FROM order_lines LIMIT 1").await;
    let sku: String = sku[0].try_get("", "sku").expect("a SKU");
    let apps = one("SELECT app_id FROM orders GROUP BY app_id ORDER BY count(*) DESC LIMIT 3").await;
    let apps = apps.iter().map(|row| Visibility::of_app(row.try_get("", "app_id").expect("an id")));
    let mut callers: Vec<Visibility> = apps.collect();
    callers.push(Visibility::All);
    view.commit().await.expect("it ends");
    for visibility in callers {
        for Query { name, statement, .. } in queries(&visibility, &sku) {
            // Warm: the third of three.
            let mut plan = String::new();
            for _ in 0..3 {
                plan = explain(&reader, &visibility, "(ANALYZE, BUFFERS)", &statement).await;
            }
            println!("-- {name}\n{plan}\n");
        }
    }
}
