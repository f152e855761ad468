//! Every input that cannot be an order is refused with the path of what is wrong, and writes nothing.

use oms_tests::{OrderInput, Shop, order};
use serde_json::{Value, json};

/// A refused input, and the code and path of its first error.
type Case = (OrderInput, &'static str, Vec<&'static str>);

/// Places each and asserts that it is refused as it should be, without a trace.
async fn all_are_refused(shop: &Shop, cases: Vec<Case>) {
    let census = shop.db.census().await;
    for (input, code, path) in cases {
        let refused = shop.place(input.clone()).await;
        let shown = format!("{input:?}").chars().take(300).collect::<String>();
        assert!(refused.order.is_null() && !refused.replayed, "{shown}");
        let error = &refused.errors[0];
        let mut expected = vec!["input"];
        expected.extend(path);
        assert_eq!((&error["code"], &error["path"]), (&json!(code), &json!(expected)), "{shown}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    assert_eq!(shop.db.census().await, census, "nothing was written");
}

fn good(key: &str) -> OrderInput {
    order(key, [("SKU-1", 1)])
}

#[tokio::test]
async fn a_bad_line_is_named() {
    let shop = Shop::open().await;
    let cases: Vec<Case> = vec![
        (order("b", [("NO-SUCH-SKU", 1)]), "UNKNOWN_SKU", vec!["lines", "0", "sku"]),
        (order("b", [("SKU-1", 1), ("sku-1", 1)]), "UNKNOWN_SKU", vec!["lines", "1", "sku"]),
        (order("b", [("SKU-1", 0)]), "INVALID_INPUT", vec!["lines", "0", "quantity"]),
        (order("b", [("SKU-1", -1)]), "INVALID_INPUT", vec!["lines", "0", "quantity"]),
        (order("b", [("SKU-1", 1), ("SKU-1", 1_000_001)]), "INVALID_INPUT", vec!["lines", "1", "quantity"]),
        (order("b", [("SKU-1", i64::MAX)]), "INVALID_INPUT", vec!["lines", "0", "quantity"]),
        (order("b", [("SKU-1", i64::MIN)]), "INVALID_INPUT", vec!["lines", "0", "quantity"]),
        (order("b", [("", 1)]), "INVALID_INPUT", vec!["lines", "0", "sku"]),
        (order("b", []), "INVALID_INPUT", vec!["lines"]),
        (order("b", [("SKU-1", 1); 251]), "INVALID_INPUT", vec!["lines"]),
    ];
    all_are_refused(&shop, cases).await;
    let unknown = shop.place(order("b", [("NO-SUCH-SKU", 1)])).await;
    assert_eq!(unknown.errors[0]["__typename"], "UnknownSkuError");
    assert_eq!(unknown.errors[0]["sku"], "NO-SUCH-SKU");
    shop.close().await;
}

#[tokio::test]
async fn a_nul_character_is_named_wherever_it_is() {
    let shop = Shop::open().await;
    let address = json!({
        "name": "n", "line1": "1", "line2": "2", "city": "c", "postalCode": "p", "region": "r", "country": "DE",
    });
    let in_address = |field: &'static str| {
        let mut address = address.clone();
        address[field] = json!("a\0b");
        (good("b").with("shippingAddress", address), "INVALID_INPUT", vec!["shippingAddress", field])
    };
    let mut cases: Vec<Case> = vec![
        (good("a\0b"), "INVALID_INPUT", vec!["idempotencyKey"]),
        (order("b", [("SKU-1\0", 1)]), "INVALID_INPUT", vec!["lines", "0", "sku"]),
        (good("b").with("email", json!("a\0@example.org")), "INVALID_INPUT", vec!["email"]),
        (good("b").with("shippingMethod", json!("\0")), "INVALID_INPUT", vec!["shippingMethod"]),
        (good("b").card("tok\0"), "INVALID_INPUT", vec!["payment", "token"]),
        (good("b").with("externalReference", json!("a\0")), "INVALID_INPUT", vec!["externalReference"]),
    ];
    cases.extend(["name", "line1", "line2", "city", "postalCode", "region", "country"].map(in_address));
    all_are_refused(&shop, cases).await;
    shop.close().await;
}

#[tokio::test]
async fn a_field_that_is_too_long_or_malformed_is_named() {
    let shop = Shop::open().await;
    let long = "x".repeat(256);
    let country = |code: &str| json!({ "name": "n", "line1": "1", "city": "c", "country": code });
    let cases: Vec<Case> = vec![
        (good(&long), "INVALID_INPUT", vec!["idempotencyKey"]),
        (good(""), "INVALID_INPUT", vec!["idempotencyKey"]),
        (good("   "), "INVALID_INPUT", vec!["idempotencyKey"]),
        (good("b").with("email", json!("nobody")), "INVALID_INPUT", vec!["email"]),
        (good("b").with("email", json!(format!("{long}@x"))), "INVALID_INPUT", vec!["email"]),
        (good("b").with("externalReference", json!(long)), "INVALID_INPUT", vec!["externalReference"]),
        (
            good("b").with("shippingAddress", country("Germany")),
            "INVALID_INPUT",
            vec!["shippingAddress", "country"],
        ),
        (
            good("b").with("shippingAddress", country("de")),
            "INVALID_INPUT",
            vec!["shippingAddress", "country"],
        ),
        (good("b").with("waitMs", json!(10_001)), "INVALID_INPUT", vec!["waitMs"]),
        (good("b").with("waitMs", json!(-1)), "INVALID_INPUT", vec!["waitMs"]),
    ];
    all_are_refused(&shop, cases).await;
    shop.close().await;
}

#[tokio::test]
async fn amounts_that_cannot_be_are_named() {
    let shop = Shop::open().await;
    shop.upsert_products(json!([
        { "sku": "EUR-1", "name": "In euros", "price": { "amount": "1.00", "currency": "EUR" } },
        { "sku": "DEAR", "name": "The largest price there is", "price": { "amount": "92233720368547758.07" } },
        { "sku": "DEAR-2", "name": "Half of it and more", "price": { "amount": "50000000000000000.00" } },
    ]))
    .await;
    let total = |amount: &str, currency: &str| json!({ "amount": amount, "currency": currency });
    let expecting = |total: Value| good("b").with("expectedTotal", total);
    let cases: Vec<Case> = vec![
        (order("b", [("DEAR", 2)]), "INVALID_INPUT", vec!["lines"]),
        (order("b", [("DEAR-2", 1), ("DEAR-2", 1)]), "INVALID_INPUT", vec!["lines"]),
        (order("b", [("SKU-1", 1), ("EUR-1", 1)]), "CURRENCY_MISMATCH", vec!["lines", "1", "sku"]),
        (expecting(total("17.40", "EUR")), "CURRENCY_MISMATCH", vec!["expectedTotal", "currency"]),
        (expecting(total("17.40", "usd")), "INVALID_INPUT", vec!["expectedTotal", "currency"]),
        (expecting(total("17.405", "USD")), "INVALID_INPUT", vec!["expectedTotal", "amount"]),
        (expecting(total("-17.40", "USD")), "INVALID_INPUT", vec!["expectedTotal", "amount"]),
        (expecting(total("99999999999999999999", "USD")), "INVALID_INPUT", vec!["expectedTotal", "amount"]),
        (expecting(total("17.41", "USD")), "PRICE_CHANGED", vec!["expectedTotal"]),
    ];
    all_are_refused(&shop, cases).await;

    let changed = shop.place(expecting(total("17.41", "USD"))).await;
    let error = &changed.errors[0];
    assert_eq!(error["__typename"], "PriceChangedError");
    assert_eq!(
        (&error["expectedPrice"]["amount"], &error["actualPrice"]["amount"]),
        (&json!("17.41"), &json!("17.40"))
    );
    shop.close().await;
}

#[tokio::test]
async fn a_price_that_fits_with_shipping_that_does_not_fails_the_order_and_not_the_server() {
    let shop = Shop::open().await;
    let dear = json!([{ "sku": "DEAR", "name": "The largest price there is", "price": { "amount": "92233720368547758.07" } }]);
    shop.upsert_products(dear).await;
    shop.adjust_stock(json!({ "sku": "DEAR", "setTo": 1, "reason": "count" })).await;
    let placed = shop.place(order("dear", [("DEAR", 1)]).settled()).await;
    assert_eq!(placed.order["failure"]["code"], "AMOUNT_TOO_LARGE");
    assert_eq!(shop.stock("DEAR").await["available"], 1);
    shop.close().await;
}

#[tokio::test]
async fn what_does_not_fit_the_schema_is_an_error_of_the_request() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let bad = [
        json!({}),
        json!({ "idempotencyKey": "b" }),
        json!({ "idempotencyKey": null, "lines": [] }),
        json!({ "idempotencyKey": "b", "lines": [{ "sku": "SKU-1", "quantity": 1.5 }] }),
        json!({ "idempotencyKey": "b", "lines": [{ "sku": "SKU-1", "quantity": "1" }] }),
        json!({ "idempotencyKey": "b", "lines": [{ "sku": "SKU-1", "quantity": 18_446_744_073_709_551_615_u64 }] }),
        json!({ "idempotencyKey": "b", "lines": [{ "sku": "SKU-1", "quantity": 1 }], "surprise": 1 }),
        json!({ "idempotencyKey": "b", "lines": [{ "sku": "SKU-1", "quantity": 1 }], "expectedTotal": { "amount": 1.5 } }),
    ];
    for input in bad {
        let query = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { replayed } }";
        let (_, answer) = shop.send(query, json!({ "input": input })).await;
        assert!(answer["errors"][0]["message"].is_string() && answer["data"].is_null(), "{input}: {answer}");
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn a_bad_order_does_not_disturb_those_placed_with_it() {
    let shop = Shop::open().await;
    let calls = (0..60).map(|n| {
        let sku = if n % 3 == 0 { "NO-SUCH-SKU" } else { "SKU-1" };
        shop.place(order(&format!("neighbor-{n}"), [(sku, 1)]))
    });
    let answers = futures_util::future::join_all(calls).await;
    for (n, placed) in answers.iter().enumerate() {
        assert_eq!(placed.order.is_null(), n % 3 == 0, "{n}");
    }
    assert_eq!(shop.db.number("SELECT count(*) FROM orders").await, 40);
    shop.close().await;
}
