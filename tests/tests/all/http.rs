//! GraphQL over HTTP: methods, media types, statuses, health.

use oms_tests::{Shop, eventually, order};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use serde_json::{Value, json};

const PLACE_BY_GET: &str = "mutation { placeOrder(input: { idempotencyKey: \"get\", lines: [{ sku: \"SKU-1\", quantity: 1 }] }) { replayed } }";

#[tokio::test]
async fn a_query_may_be_sent_with_get_and_a_mutation_may_not() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let query = shop.get_graphql(&[("query", "{ __typename }")]).send().await.expect("an answer");
    assert_eq!(query.status(), StatusCode::OK);
    assert_eq!(query.json::<Value>().await.expect("JSON"), json!({ "data": { "__typename": "Query" } }));

    let mutation = shop.get_graphql(&[("query", PLACE_BY_GET)]).send().await.expect("an answer");
    assert_eq!(
        (mutation.status(), &mutation.headers()[ALLOW]),
        (StatusCode::METHOD_NOT_ALLOWED, &"POST".parse().expect("a value"))
    );
    let both = format!("query Q {{ __typename }} {}", PLACE_BY_GET.replacen("mutation", "mutation M", 1));
    let named = shop.get_graphql(&[("query", both.as_str()), ("operationName", "M")]).send().await;
    assert_eq!(named.expect("an answer").status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn a_browser_is_shown_graphiql() {
    let shop = Shop::open().await;
    for path in ["/graphql", "/"] {
        let page = shop.get(path).header(ACCEPT, "text/html,*/*;q=0.8").send().await.expect("an answer");
        assert_eq!(page.status(), StatusCode::OK);
        assert!(page.text().await.expect("text").to_lowercase().contains("graphiql"), "{path}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let place = json!({ "query": PLACE_BY_GET }).to_string();
    let bodies = [
        ("text/plain", place.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/x-www-form-urlencoded", place.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("application/json", "{".to_owned(), StatusCode::BAD_REQUEST),
        ("application/json", format!("[{place}]"), StatusCode::BAD_REQUEST),
        ("application/json", "{}".to_owned(), StatusCode::BAD_REQUEST),
        ("application/json", " ".repeat(200_000), StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (media_type, body, status) in bodies {
        let sent = shop.post().header(CONTENT_TYPE, media_type).body(body.clone()).send().await;
        let answer = sent.expect("an answer");
        assert_eq!(answer.status(), status, "{media_type} {:.40}", body);
        assert!(answer.json::<Value>().await.expect("JSON")["errors"].is_array());
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn the_media_type_of_the_answer_is_the_one_asked_for() {
    let shop = Shop::open().await;
    for (accept, content_type, status_of_error) in [
        ("application/json", "application/json", StatusCode::OK),
        ("*/*", "application/json", StatusCode::OK),
        ("application/graphql-response+json", "application/graphql-response+json", StatusCode::BAD_REQUEST),
    ] {
        let bad = shop.post().header(ACCEPT, accept).json(&json!({ "query": "{ nonsense }" })).send().await;
        let bad = bad.expect("an answer");
        assert_eq!(bad.status(), status_of_error, "{accept}");
        let found = bad.headers()[CONTENT_TYPE].to_str().expect("text");
        assert!(found.starts_with(content_type), "{accept}: {found}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_healthy_server_says_so() {
    let shop = Shop::open().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(shop.get(path).send().await.expect("an answer").status(), StatusCode::OK, "{path}");
    }
    shop.close().await;
}

#[tokio::test]
async fn a_server_whose_schema_is_old_is_alive_and_not_ready() {
    let shop = Shop::open().await;
    let last = "SELECT version::text FROM seaql_migrations ORDER BY version DESC LIMIT 1";
    let version = shop.db.texts(last).await.remove(0);
    shop.db.execute(&format!("DELETE FROM seaql_migrations WHERE version = '{version}'")).await;
    let ready = shop.get("/readyz").send().await.expect("an answer");
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(shop.get("/healthz").send().await.expect("an answer").status(), StatusCode::OK);
    shop.close().await;
}

#[tokio::test]
async fn metrics_are_rendered_for_prometheus() {
    let shop = Shop::open().await;
    shop.place(order("measured", [("SKU-1", 1)]).settled()).await;
    eventually("the metrics tell of the order", async || {
        let text = shop.get("/metrics").send().await.expect("an answer").text().await.expect("text");
        text.contains("oms_sagas_advanced_total").then_some(())
    })
    .await;
    shop.close().await;
}

#[tokio::test]
async fn each_answer_names_its_request() {
    let shop = Shop::open().await;
    let answer = shop.get("/healthz").send().await.expect("an answer");
    assert!(answer.headers().contains_key("x-request-id"));
    shop.close().await;
}
