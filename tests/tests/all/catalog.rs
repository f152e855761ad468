//! Writing and listing products.

use oms_tests::{Shop, order};
use serde_json::{Value, json};

fn product(sku: &str, price: &str) -> Value {
    json!({ "sku": sku, "name": "A thing", "price": { "amount": price, "currency": "USD" }, "weightGrams": 100,
            "taxCategory": "standard" })
}

#[tokio::test]
async fn products_are_created_and_replaced_and_orders_keep_their_prices() {
    let shop = Shop::open().await;
    let written = shop.upsert_products(json!([product("NEW-1", "5.00"), product("SKU-1", "99.00")])).await;
    assert_eq!(written["userErrors"], json!([]));
    assert_eq!(written["products"][0]["price"], json!({ "amount": "5.00", "currency": "USD" }));
    assert_eq!(written["products"][0]["stock"]["onHand"], 0, "a product begins with an empty stock");
    assert_eq!(written["products"][1]["stock"]["onHand"], 1_000_000, "an existing one keeps it");

    shop.adjust_stock(json!({ "sku": "NEW-1", "delta": 3, "reason": "delivery" })).await;
    let placed = shop.place(order("new", [("NEW-1", 3)]).settled()).await;
    shop.upsert_products(json!([product("NEW-1", "6.00")])).await;
    let order = shop.order(placed.id()).await;
    assert_eq!(
        (&order["status"], &order["lines"][0]["unitPrice"]["amount"]),
        (&json!("CONFIRMED"), &json!("5.00"))
    );
    shop.close().await;
}

#[tokio::test]
async fn one_bad_product_and_none_is_written() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let cases = [
        (product("", "1"), vec!["sku"]),
        (product("A\0", "1"), vec!["sku"]),
        (product("A", "-1"), vec!["price", "amount"]),
        (product("A", "1.999"), vec!["price", "amount"]),
        (product("A", "99999999999999999999"), vec!["price", "amount"]),
        (json!({ "sku": "A", "name": "\0", "price": { "amount": "1" } }), vec!["name"]),
        (
            json!({ "sku": "A", "name": "A", "price": { "amount": "1", "currency": "XYZ" } }),
            vec!["price", "currency"],
        ),
        (
            json!({ "sku": "A", "name": "A", "price": { "amount": "1" }, "weightGrams": -1 }),
            vec!["weightGrams"],
        ),
        (
            json!({ "sku": "A", "name": "A", "price": { "amount": "1" }, "weightGrams": i64::MAX }),
            vec!["weightGrams"],
        ),
        (
            json!({ "sku": "A", "name": "A", "price": { "amount": "1" }, "taxCategory": "\0" }),
            vec!["taxCategory"],
        ),
        (
            json!({ "sku": "A", "name": "A", "price": { "amount": "1" }, "taxCategory": "luxury" }),
            vec!["taxCategory"],
        ),
        (product("GOOD-1", "1"), vec!["sku"]),
    ];
    for (bad, path) in cases {
        let refused = shop.upsert_products(json!([product("GOOD-1", "1"), bad.clone()])).await;
        let mut expected = vec!["input", "products", "1"];
        expected.extend(path);
        let error = &refused["userErrors"][0];
        assert_eq!((&error["code"], &error["path"]), (&json!("INVALID_INPUT"), &json!(expected)), "{bad}");
        assert_eq!(refused["products"], json!([]));
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn every_product_is_listed_once_page_by_page() {
    let shop = Shop::open().await;
    let query = "query ($first: Int!, $after: String) { products(first: $first, after: $after) {
                 nodes { sku stock { onHand } } edges { cursor } pageInfo { hasNextPage endCursor } } }";
    let (mut skus, mut after) = (Vec::new(), Value::Null);
    loop {
        let data = shop.execute(query, json!({ "first": 4, "after": after })).await;
        let page = &data["products"];
        skus.extend(page["nodes"].as_array().expect("nodes").iter().map(|node| node["sku"].to_string()));
        after = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
    }
    let mut sorted = skus.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((skus.len(), &skus), (9, &sorted));
    let (_, answer) = shop.send(query, json!({ "first": 4, "after": "nonsense" })).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "INVALID_INPUT");
    shop.close().await;
}
