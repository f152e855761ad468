//! Adjusting what is on hand.

use futures_util::future::join_all;
use oms_tests::{Shop, order};
use serde_json::{Value, json};

/// The greatest number of the scalar `Long`: 2^53 - 1.
const GREATEST_LONG: i64 = 9_007_199_254_740_991;

fn adjustment(change: Value) -> Value {
    let mut input = json!({ "sku": "SKU-4", "reason": "count" });
    for (field, value) in change.as_object().expect("fields") {
        input[field] = value.clone();
    }
    input
}

#[tokio::test]
async fn a_delta_adds_and_takes_away() {
    let shop = Shop::open().await;
    let added = shop.adjust_stock(adjustment(json!({ "delta": 7 }))).await;
    assert_eq!(added["stock"], json!({ "sku": "SKU-4", "onHand": 307, "reserved": 0, "available": 307 }));
    let taken = shop.adjust_stock(adjustment(json!({ "delta": -300 }))).await;
    assert_eq!(taken["stock"]["onHand"], 7);
    shop.close().await;
}

#[tokio::test]
async fn a_count_replaces_what_was_believed() {
    let shop = Shop::open().await;
    let counted = shop.adjust_stock(adjustment(json!({ "setTo": 0, "expectedOnHand": 300 }))).await;
    assert_eq!((&counted["stock"]["onHand"], &counted["replayed"]), (&json!(0), &json!(false)));
    let delta = "SELECT delta FROM stock_movements WHERE sku = 'SKU-4' ORDER BY id DESC LIMIT 1";
    assert_eq!(shop.db.number(delta).await, -300);
    shop.close().await;
}

#[tokio::test]
async fn a_count_that_was_overtaken_is_refused() {
    let shop = Shop::open().await;
    let refused = shop.adjust_stock(adjustment(json!({ "setTo": 5, "expectedOnHand": 299 }))).await;
    let error = &refused["userErrors"][0];
    assert_eq!(
        (&error["code"], &error["path"]),
        (&json!("STOCK_CHANGED"), &json!(["input", "expectedOnHand"]))
    );
    assert_eq!((&error["expectedOnHand"], &error["actualOnHand"]), (&json!(299), &json!(300)));
    assert_eq!(shop.stock("SKU-4").await["onHand"], 300);
    shop.close().await;
}

#[tokio::test]
async fn what_is_promised_cannot_be_taken_away() {
    let shop = Shop::open().await;
    shop.place(order("promised", [("SKU-4", 10)]).settled()).await;
    for change in [json!({ "delta": -291 }), json!({ "setTo": 9 })] {
        let refused = shop.adjust_stock(adjustment(change)).await;
        let error = &refused["userErrors"][0];
        assert_eq!((&error["code"], &error["available"]), (&json!("INSUFFICIENT_STOCK"), &json!(290)));
        assert!(refused["stock"].is_null());
    }
    let taken = shop.adjust_stock(adjustment(json!({ "setTo": 10 }))).await;
    assert_eq!(taken["stock"], json!({ "sku": "SKU-4", "onHand": 10, "reserved": 10, "available": 0 }));
    shop.close().await;
}

#[tokio::test]
async fn an_adjustment_with_a_key_is_made_once() {
    let shop = Shop::open().await;
    let input = || adjustment(json!({ "delta": -1, "idempotencyKey": "broken-one" }));
    let first = shop.adjust_stock(input()).await;
    shop.adjust_stock(adjustment(json!({ "delta": 50 }))).await;
    let census = shop.db.census().await;
    let second = shop.adjust_stock(input()).await;
    assert_eq!((&first["replayed"], &second["replayed"]), (&json!(false), &json!(true)));
    assert_eq!(second["stock"]["onHand"], 299, "a replay answers what the first call left");
    assert_eq!(shop.db.census().await, census);
    assert_eq!(shop.stock("SKU-4").await["onHand"], 349);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adjustment_with_a_key_thirty_times_at_once_is_made_once() {
    let shop = Shop::open().await;
    let input = || adjustment(json!({ "delta": -1, "idempotencyKey": "at-once" }));
    let answers = join_all((0..30).map(|_| shop.adjust_stock(input()))).await;
    assert_eq!(answers.iter().filter(|answer| answer["replayed"] == false).count(), 1);
    assert_eq!(shop.stock("SKU-4").await["onHand"], 299);
    shop.close().await;
}

#[tokio::test]
async fn a_key_with_another_adjustment_is_refused() {
    let shop = Shop::open().await;
    shop.adjust_stock(adjustment(json!({ "delta": 1, "idempotencyKey": "used" }))).await;
    let others = [
        adjustment(json!({ "delta": 2, "idempotencyKey": "used" })),
        adjustment(json!({ "delta": 1, "idempotencyKey": "used", "sku": "SKU-5" })),
        adjustment(json!({ "setTo": 301, "idempotencyKey": "used" })),
    ];
    for other in others {
        let refused = shop.adjust_stock(other).await;
        assert_eq!(refused["userErrors"][0]["code"], "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(shop.stock("SKU-4").await["onHand"], 301);
    shop.close().await;
}

#[tokio::test]
async fn a_count_may_be_greater_than_32_bits() {
    let shop = Shop::open().await;
    let set = shop.adjust_stock(adjustment(json!({ "setTo": 5_000_000_000_i64 }))).await;
    assert_eq!(set["userErrors"], json!([]));
    assert_eq!(set["stock"]["onHand"], json!(5_000_000_000_i64));
    let kind = "{ __type(name: \"StockLevel\") { fields { name type { ofType { name } } } } }";
    let fields = shop.execute(kind, json!({})).await["__type"]["fields"].take();
    for field in fields.as_array().expect("fields") {
        let is_count = ["onHand", "reserved", "available"].contains(&field["name"].as_str().expect("a name"));
        assert_eq!(field["type"]["ofType"]["name"] == "Long", is_count, "{field}");
    }
    shop.adjust_stock(adjustment(json!({ "setTo": 300 }))).await;
    shop.close().await;
}

#[tokio::test]
async fn a_bad_adjustment_is_named_with_its_path_and_changes_nothing() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let cases = [
        (json!({ "delta": 1, "sku": "NO-SUCH-SKU" }), "UNKNOWN_SKU", json!(["input", "sku"])),
        (json!({ "delta": 1, "sku": "SKU\0" }), "INVALID_INPUT", json!(["input", "sku"])),
        (json!({ "delta": 1, "reason": "a\0b" }), "INVALID_INPUT", json!(["input", "reason"])),
        (json!({ "delta": 1, "reason": " " }), "INVALID_INPUT", json!(["input", "reason"])),
        (json!({ "delta": 1, "idempotencyKey": "\0" }), "INVALID_INPUT", json!(["input", "idempotencyKey"])),
        (json!({}), "INVALID_INPUT", json!(["input", "delta"])),
        (json!({ "delta": 1, "setTo": 1 }), "INVALID_INPUT", json!(["input", "delta"])),
        (json!({ "setTo": -1 }), "INVALID_INPUT", json!(["input", "setTo"])),
        (json!({ "delta": GREATEST_LONG }), "INVALID_INPUT", json!(["input"])),
        (json!({ "delta": -GREATEST_LONG }), "INSUFFICIENT_STOCK", json!(["input"])),
        (json!({ "setTo": GREATEST_LONG }), "INVALID_INPUT", json!(["input"])),
    ];
    for (change, code, path) in cases {
        let refused = shop.adjust_stock(adjustment(change.clone())).await;
        let error = &refused["userErrors"][0];
        assert_eq!((&error["code"], &error["path"]), (&json!(code), &path), "{change}");
        assert!(refused["stock"].is_null(), "{change}");
    }
    // No client can be sure to have sent what it meant.
    for beyond in [GREATEST_LONG + 1, -GREATEST_LONG - 1, i64::MAX, i64::MIN] {
        for field in ["delta", "setTo", "expectedOnHand"] {
            let input = format!("{{ sku: \"SKU-4\", reason: \"counted\", {field}: {beyond} }}");
            let query = format!("mutation {{ adjustStock(input: {input}) {{ replayed }} }}");
            let (_, answer) = shop.send(&query, json!({})).await;
            assert_eq!(answer["errors"][0]["extensions"]["code"], "INVALID_INPUT", "{query}: {answer}");
        }
    }
    assert_eq!(shop.db.census().await, census);
    assert_eq!(shop.stock("SKU-4").await["onHand"], 300);
    shop.close().await;
}
