//! The subcommands, as a shell sees them.

use std::process::Output;

use oms_tests::{Shop, TestDatabase, oms_command, order, within};

use crate::OMS;

async fn run(db: &TestDatabase, arguments: &[&str]) -> Output {
    let mut command = oms_command(OMS, db, arguments);
    within("the command has ended", command.output()).await.expect("oms-under-test runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn the_committed_schema_is_the_one_that_is_served() {
    let db = TestDatabase::create().await;
    let schema = said(&run(&db, &["schema"]).await);
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../schema.graphql"));
    let committed = committed.expect("schema.graphql is committed");
    assert!(schema.trim_end() == committed.trim_end(), "schema.graphql is stale; write `oms schema` into it");
    db.close().await;
}

#[tokio::test]
async fn verify_finds_nothing_in_books_that_balance_and_exits_0() {
    let shop = Shop::open().await;
    shop.place(order("good", [("SKU-1", 1)]).settled()).await;
    shop.place(order("bad", [("SKU-1", 1)]).card("tok_capture_decline").settled()).await;
    let verified = run(&shop.db, &["verify"]).await;
    assert!(verified.status.success(), "{verified:?}");
    assert!(said(&verified).contains("everything adds up"));
    shop.close().await;
}

#[tokio::test]
async fn verify_names_what_does_not_add_up_and_exits_1() {
    let shop = Shop::open().await;
    shop.place(order("good", [("SKU-1", 2)]).settled()).await;
    shop.place(order("of two", [("SKU-5", 2), ("SKU-6", 1)]).settled()).await;
    shop.place(order("bad", [("SKU-1", 1)]).card("tok_capture_decline").settled()).await;
    let damages = [
        ("UPDATE stock SET reserved = reserved + 1 WHERE sku = 'SKU-1'", "reserved 3, open reservations 2"),
        ("UPDATE stock SET on_hand = on_hand + 1 WHERE sku = 'SKU-2'", "on hand 5001, movements 5000"),
        (
            "UPDATE payments SET captured_minor = captured_minor - 1 WHERE captured_minor > 0",
            "net capture 2989",
        ),
        ("DELETE FROM order_events WHERE sequence = 3", "sequence 6, events 5"),
        ("UPDATE simulated_gateway_payments SET captures = 2", "2 captures"),
        ("UPDATE orders SET status = 'FAILED'", "FAILED"),
        ("DELETE FROM saga", "missing"),
        // Money of which only one side knows.
        ("DELETE FROM simulated_gateway_payments WHERE captures = 1", "gateway captured 0, books "),
        (
            "INSERT INTO simulated_gateway_payments (reference, authorized_minor, captured_minor, captures)
             VALUES ('00000000-0000-0000-0000-000000000001', 700, 700, 1)",
            "(missing): gateway captured 700, books 0",
        ),
        (
            "INSERT INTO simulated_gateway_payments (reference, authorized_minor)
             VALUES ('00000000-0000-0000-0000-000000000001', 700)",
            "00000000-0000-0000-0000-000000000001: authorized 700, not void",
        ),
        // As many units, and not of what was asked for.
        (
            "UPDATE reservations SET quantity = 3 - quantity WHERE sku IN ('SKU-5', 'SKU-6')",
            "SKU-5: lines 2, confirmed 1, held 0",
        ),
        ("DELETE FROM saga_log WHERE kind = 'PLAN'", "(COMPENSATED): planned at no time"),
        ("UPDATE saga_log SET epoch = epoch + 1000 WHERE kind = 'PLAN'", "(COMPENSATED): planned at 10"),
    ];
    for (damage, finding) in damages {
        // Each damage is done to a copy of the books that is thrown away.
        let damaged = TestDatabase::copy_of(&shop.db).await;
        damaged.execute(damage).await;
        let verified = run(&damaged, &["verify"]).await;
        assert_eq!(verified.status.code(), Some(1), "{damage}: {verified:?}");
        assert!(said(&verified).contains(finding), "{damage}: {}", said(&verified));
        damaged.discard().await;
    }
    shop.close().await;
}

#[tokio::test]
async fn the_database_url_is_printed() {
    let db = TestDatabase::create().await;
    assert_eq!(said(&run(&db, &["database-url"]).await).trim_end(), db.url());
    db.close().await;
}

#[tokio::test]
async fn migrating_twice_is_migrating_once() {
    let db = TestDatabase::create().await;
    assert!(run(&db, &["migrate"]).await.status.success());
    db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    let (left, right) = tokio::join!(run(&db, &["migrate"]), run(&db, &["migrate"]));
    assert!(left.status.success() && right.status.success(), "{left:?} {right:?}");
    db.close().await;
}

#[tokio::test]
async fn a_taken_port_is_told_in_one_line() {
    let shop = Shop::open().await;
    let taken = shop.addr().to_string();
    let refused = run(&shop.db, &["serve", "--listen", &taken]).await;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(&format!("{taken} is already in use")), "{error}");
    shop.close().await;
}
