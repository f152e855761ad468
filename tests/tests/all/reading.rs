//! Reading: what is there, and what is not.

use oms_tests::{Shop, order};
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn what_is_not_there_is_null_and_no_error() {
    let shop = Shop::open().await;
    let missing = [
        "order_01jx2v3q8kf0v8c9m5w6r7t2ab",
        "order_",
        "",
        "1",
        "app_01jx2v3q8kf0v8c9m5w6r7t2ab",
        "a\0b",
        "🛒",
    ];
    for id in missing {
        assert!(shop.order(id).await.is_null(), "{id:?}");
    }
    shop.close().await;
}

#[tokio::test]
async fn every_type_tells_its_name() {
    let shop = Shop::open().await;
    let placed = shop.place(order("names", [("SKU-1", 1)]).settled()).await;
    let query = "query ($id: ID!) { __typename getOrder(id: $id) { __typename lines { __typename } totals { __typename }
                 process { __typename steps { __typename } } events { __typename } }
                 products(first: 1) { __typename nodes { __typename } } stock(skus: [\"SKU-1\"]) { __typename } }";
    let data = shop.execute(query, json!({ "id": placed.id() })).await;
    assert_eq!((&data["__typename"], &data["getOrder"]["__typename"]), (&json!("Query"), &json!("Order")));
    assert_eq!(data["getOrder"]["events"][5]["__typename"], "OrderEvent");
    let mutation = shop.execute("mutation { __typename }", json!({})).await;
    assert_eq!(mutation, json!({ "__typename": "Mutation" }));
    shop.close().await;
}

#[tokio::test]
async fn events_are_read_in_pages() {
    let shop = Shop::open().await;
    let placed = shop.place(order("pages", [("SKU-1", 1)]).settled()).await;
    let query = "query ($id: ID!, $first: Int!, $after: Int) {
                 getOrder(id: $id) { events(first: $first, after: $after) { sequence } } }";
    let page = async |first: i64, after: Option<i64>| {
        let variables = json!({ "id": placed.id(), "first": first, "after": after });
        shop.execute(query, variables).await["getOrder"]["events"].clone()
    };
    assert_eq!(page(4, None).await, json!([1, 2, 3, 4].map(|n| json!({ "sequence": n }))));
    assert_eq!(page(4, Some(4)).await, json!([5, 6].map(|n| json!({ "sequence": n }))));
    assert_eq!(page(1, Some(99)).await, json!([]));
    for first in [0, -1, 101] {
        let variables = json!({ "id": placed.id(), "first": first });
        let (_, answer) = shop.send(query, variables).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "INVALID_INPUT", "{first}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_order_asked_for_under_several_names_is_the_same() {
    let shop = Shop::open().await;
    let placed = shop.place(order("aliases", [("SKU-1", 1)]).settled()).await;
    let query = "query ($id: ID!) { first: getOrder(id: $id) { number process { state } }
                 second: getOrder(id: $id) { number process { state } } none: getOrder(id: \"x\") { number } }";
    let data = shop.execute(query, json!({ "id": placed.id() })).await;
    assert_eq!(data["first"], data["second"]);
    assert!(data["none"].is_null());
    shop.close().await;
}

#[tokio::test]
async fn stock_comes_in_the_order_asked_for_and_unknown_skus_are_missing() {
    let shop = Shop::open().await;
    let query = "query ($skus: [String!]!) { stock(skus: $skus) { sku updatedAt } }";
    let skus = json!(["SKU-3", "NO-SUCH-SKU", "SKU-1", "a\0b"]);
    let data = shop.execute(query, json!({ "skus": skus })).await;
    let skus: Vec<_> =
        data["stock"].as_array().expect("a list").iter().map(|level| level["sku"].clone()).collect();
    assert_eq!(skus, [json!("SKU-3"), json!("SKU-1")]);
    let (_, answer) = shop.send(query, json!({ "skus": vec!["SKU-1"; 251] })).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "INVALID_INPUT");
    shop.close().await;
}

#[tokio::test]
async fn a_query_beyond_the_limits_is_refused_before_it_runs() {
    let shop = Shop::open().await;
    let deep =
        format!("{{ __schema {{ types {{ {} name {} }} }} }}", "ofType { ".repeat(30), "} ".repeat(30));
    let aliases: String = (0..100).map(|n| format!("a{n}: __typename ")).collect();
    let bomb = |kind: &str, ty: &str, last: &str| {
        let mut bomb = format!("{kind} {{ ...f0 }}");
        for n in 0..40 {
            bomb += &format!(" fragment f{n} on {ty} {{ ...f{0} ...f{0} }}", n + 1);
        }
        bomb + &format!(" fragment f40 on {ty} {{ {last} }}")
    };
    let mut queries = vec![deep, format!("{{ {aliases} }}"), "{ nonsense }".to_owned(), "{".to_owned()];
    for last in ["__typename", "...Missing"] {
        for (kind, ty) in [("query", "Query"), ("mutation", "Mutation"), ("subscription", "Subscription")] {
            queries.push(bomb(kind, ty, last));
        }
    }
    for query in queries {
        let (status, answer) = shop.send(&query, json!({})).await;
        assert!(status == StatusCode::OK || status == StatusCode::BAD_REQUEST, "{status}");
        assert!(answer["errors"].is_array() && answer.get("data").is_none(), "{answer}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_payment_tells_what_was_authorized_captured_and_given_back() {
    let shop = Shop::open().await;
    let placed = shop.place(order("paid", [("SKU-1", 2)]).settled()).await;
    let payment = &placed.order["payments"][0];
    assert_eq!((&payment["gateway"], &payment["status"]), (&json!("simulated"), &json!("PAID")));
    for (fact, amount) in [("authorized", "29.90"), ("captured", "29.90"), ("refunded", "0.00")] {
        assert_eq!(payment[fact]["amount"], amount, "{fact}");
    }
    assert!(payment["authorizedAt"].is_string() && payment["capturedAt"].is_string(), "{payment}");
    assert_eq!(payment["voidedAt"], json!(null));

    shop.db.execute("UPDATE payments SET refunded_minor = 990").await;
    let payment = shop.order(placed.id()).await["payments"][0].take();
    assert_eq!((&payment["status"], &payment["refunded"]["amount"]), (&json!("PAID"), &json!("9.90")));
    shop.db.execute("UPDATE payments SET refunded_minor = 0").await;

    let refused = shop.place(order("void", [("SKU-1", 2)]).card("tok_capture_decline").settled()).await;
    let payment = &refused.order["payments"][0];
    assert_eq!((&payment["status"], &payment["captured"]["amount"]), (&json!("VOIDED"), &json!("0.00")));
    assert!(payment["voidedAt"].is_string() && payment["capturedAt"].is_null(), "{payment}");
    let declined = shop.place(order("declined", [("SKU-1", 1)]).card("tok_decline").settled()).await;
    assert_eq!(declined.order["payments"], json!([]), "nothing was ever promised");

    // The gateway's own names of it are nobody's here.
    let known = "SELECT concat_ws(' ', authorization_id, capture_id) FROM payments WHERE captured_minor > 0";
    let order = placed.order.to_string();
    for name in shop.db.texts(known).await[0].split(' ') {
        assert!(!order.contains(name), "{name}");
    }
    shop.close().await;
}
