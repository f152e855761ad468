//! scratch
use domain::{
    catalog::{Product, store::upsert_products},
    id::local_app,
    money::{Currency, Money},
    order::place::*,
    stock::adjust::*,
};
use saga::{engine::*, payment_gateway::simulated::SimulatedGateway, place_order};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, TransactionTrait};
use std::time::{Duration, Instant};
#[tokio::main]
async fn main() {
    let n: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(10);
    let skus: usize = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1000);
    let mut o = ConnectOptions::new("postgres://postgres@127.0.0.1:5999/scratch");
    o.sqlx_logging(false).max_connections(20);
    let db = Database::connect(o).await.unwrap();
    db.execute_unprepared("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    migration::migrate(&db).await.unwrap();
    let products: Vec<_> = (0..skus)
        .map(|i| {
            Product::try_new(&format!("S{i}"), "x", Money::new(100, Currency::USD), 10, "standard").unwrap()
        })
        .collect();
    upsert_products(&db, &products).await.unwrap();
    for p in &products {
        let a = Adjustment::try_new(local_app(), &p.sku, None, Some(1_000_000), None, "seed", None).unwrap();
        let tx = db.begin().await.unwrap();
        adjust_stock(&tx, &a).await.unwrap().unwrap();
        tx.commit().await.unwrap();
    }
    let t = Instant::now();
    let tokens = [
        "tok_approve",
        "tok_decline",
        "tok_flaky",
        "tok_capture_decline",
        "tok_timeout_with_effect",
        "tok_timeout_without_effect",
    ];
    let mixed = n <= 1000;
    for chunk in (0..n).collect::<Vec<_>>().chunks(500) {
        let reqs: Vec<_> = chunk
            .iter()
            .map(|i| {
                PlaceOrder::try_new(
                    local_app(),
                    PlaceOrderInput {
                        idempotency_key: format!("k{i}"),
                        lines: vec![
                            RequestedLine { sku: format!("S{}", i % skus), quantity: 1 },
                            RequestedLine { sku: format!("S{}", (i * 7 + 1) % skus), quantity: 2 },
                        ],
                        payment_token: mixed.then(|| tokens[i % tokens.len()].to_owned()),
                        ..Default::default()
                    },
                )
                .unwrap()
            })
            .collect();
        let tx = db.begin().await.unwrap();
        let placed = place(&tx, &reqs).await.unwrap();
        let orders: Vec<_> = placed.into_iter().map(|p| p.unwrap().order).collect();
        place_order::start(&tx, &orders).await.unwrap();
        tx.commit().await.unwrap();
    }
    println!("placed {n} in {:?}: {:.0}/s", t.elapsed(), n as f64 / t.elapsed().as_secs_f64());
    let gateway = SimulatedGateway::start(db.clone(), Duration::ZERO);
    let settings = place_order::Settings {
        gateway_time_out: Duration::from_secs(if mixed { 1 } else { 30 }),
        ..Default::default()
    };
    let defs = Definitions::try_new([place_order::definition(gateway, settings)]).unwrap();
    let wakeups = Wakeups::new();
    let token = tokio_util::sync::CancellationToken::new();
    let t = Instant::now();
    let runner = Runner::start(db.clone(), defs, wakeups, RunnerSettings::default(), token.clone());
    loop {
        let left = db
            .query_one_raw(sea_orm::Statement::from_string(
                sea_orm::DbBackend::Postgres,
                "select count(*) c from orders where status='PENDING'",
            ))
            .await
            .unwrap()
            .unwrap()
            .try_get::<i64>("", "c")
            .unwrap();
        if left == 0 || t.elapsed() > Duration::from_secs(120) {
            println!("left {left}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("ran {n} in {:?}: {:.0}/s", t.elapsed(), n as f64 / t.elapsed().as_secs_f64());
    token.cancel();
    runner.stopped().await;
    for r in [domain::books::verify(&db).await.unwrap(), saga::verify::verify(&db).await.unwrap()] {
        println!("{r:#?}");
    }
}
