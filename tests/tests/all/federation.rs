//! What a gateway of an Apollo federation asks.

use domain::app::Scope;
use oms_tests::{Shop, app_with_key, order};
use serde_json::{Value, json};

const ENTITIES: &str = "query ($of: [_Any!]!) { _entities(representations: $of) {
    ... on Order { id status lines { sku } } ... on Product { sku name } } }";

#[tokio::test]
async fn a_gateway_composes_us_and_resolves_orders_and_products() {
    let shop = Shop::open().await;
    let sdl = shop.execute("{ _service { sdl } }", json!({})).await;
    let sdl = sdl["_service"]["sdl"].as_str().expect("text");
    for key in [
        "type Order implements Node @key(fields: \"id\")",
        "type Product @key(fields: \"sku\")",
        "federation/v2",
        // Values that other subgraphs have types of the same name for, and mean the same by.
        "type Money @shareable",
        "type PageInfo @shareable",
    ] {
        assert!(sdl.contains(key), "{key} is not in {sdl}");
    }
    let id = shop.place(order("a", [("SKU-1", 1)]).settled()).await.id().to_owned();
    let of = json!([
        { "__typename": "Product", "sku": "SKU-2" },
        { "__typename": "Order", "id": id },
        { "__typename": "Product", "sku": "SKU-\u{0}" },
    ]);
    let found = shop.execute(ENTITIES, json!({ "of": of })).await["_entities"].take();
    assert_eq!((&found[0]["sku"], &found[1]["status"]), (&json!("SKU-2"), &json!("CONFIRMED")), "{found}");
    assert_eq!(found[2], Value::Null);
    shop.close().await;
}

#[tokio::test]
async fn entities_are_seen_and_priced_as_everything_else() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let a = shop.with(&app_with_key(&db, "a", &[Scope::OrdersWrite]).await.secret);
    let b = shop.with(&app_with_key(&db, "b", &[Scope::OrdersRead]).await.secret);
    let c = shop.with(&app_with_key(&db, "c", &[Scope::SagasOperate]).await.secret);
    let place =
        "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } accessToken } }";
    let input = order("a", [("SKU-1", 1)]).settled().into_value();
    let placed = a.execute(place, json!({ "input": input })).await["placeOrder"].take();
    let of = |count: usize| json!({ "of": vec![json!({ "__typename": "Order", "id": placed["order"]["id"] }); count] });
    assert_eq!(a.execute(ENTITIES, of(1)).await["_entities"][0]["status"], "CONFIRMED");
    assert_eq!(b.execute(ENTITIES, of(1)).await["_entities"], json!([null]), "it is not B's");
    let (_, answer) = c.send(ENTITIES, of(1)).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "FORBIDDEN", "{answer}");
    let (_, answer) = a.send(ENTITIES, of(200)).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "QUERY_TOO_COSTLY", "{answer}");
    let shopper = shop.with(placed["accessToken"].as_str().expect("a token"));
    let (_, answer) = shopper.send("{ _service { sdl } }", json!({})).await;
    assert!(!answer.to_string().contains("type Order"), "a shopper is shown no schema: {answer}");
    shop.close().await;
}
