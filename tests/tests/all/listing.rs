//! Lists of orders: every order exactly once, whichever way one pages, and nothing that is another's.

use std::collections::BTreeSet;

use domain::app::Scope;
use oms_tests::{Client, Shop, app_with_key, order};
use serde_json::{Value, json};

const LIST: &str = "query ($first: Int, $after: String, $last: Int, $before: String, $filter: OrderFilter, $sort: OrderSort! = CREATED_AT_DESC) {
    orders(first: $first, after: $after, last: $last, before: $before, filter: $filter, sort: $sort) {
        edges { cursor node { id } } nodes { id number } totalCount
        pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";

/// Fills in null for what is not said: measuring a query refuses variables of `first` and `last` that are left out.
fn filled(mut variables: Value) -> Value {
    for name in ["first", "last"] {
        variables[name] = variables[name].take();
    }
    variables
}

async fn page(client: &Client, variables: Value) -> Value {
    client.execute(LIST, filled(variables)).await["orders"].take()
}

/// The ids of a page, which its edges and its nodes agree on.
fn ids(page: &Value) -> Vec<String> {
    let of = |node: &Value| node["id"].as_str().expect("an id").to_owned();
    let nodes: Vec<String> = page["nodes"].as_array().expect("nodes").iter().map(of).collect();
    let edges = page["edges"].as_array().expect("edges").iter();
    assert_eq!(edges.map(|edge| of(&edge["node"])).collect::<Vec<_>>(), nodes);
    nodes
}

/// Walks a list from one end to the other, two at a time; from its end, the pages are put back into the list's order.
async fn walk(client: &Client, sort: &str, backward: bool) -> Vec<String> {
    let (size, from, more, edge) = if backward {
        ("last", "before", "hasPreviousPage", "startCursor")
    } else {
        ("first", "after", "hasNextPage", "endCursor")
    };
    let (mut found, mut cursor) = (Vec::new(), Value::Null);
    for _ in 0..50 {
        let page = page(client, json!({ size: 2, from: cursor, "sort": sort })).await;
        let ids = ids(&page);
        found = if backward { [ids, found].concat() } else { [found, ids].concat() };
        if page["pageInfo"][more] == false {
            return found;
        }
        cursor = page["pageInfo"][edge].clone();
    }
    panic!("the list has no end");
}

async fn place(client: &Client, key: &str, sku: &str) -> String {
    client
        .place(order(key, [(sku, 1)]).with("externalReference", json!(format!("ref-{key}"))))
        .await
        .id()
        .to_owned()
}

#[tokio::test]
async fn pages_give_every_order_once_in_either_direction() {
    let shop = Shop::open().await;
    let mut placed = Vec::new();
    for n in 0..7 {
        placed.push(place(&shop, &format!("walk-{n}"), "SKU-1").await);
    }
    // Some are settled when the walk begins, others change their status under it; all stay in their places.
    shop.db.wait_until_settled().await;
    assert_eq!(walk(&shop, "CREATED_AT_ASC", false).await, placed);
    assert_eq!(walk(&shop, "CREATED_AT_ASC", true).await, placed);
    placed.reverse();
    assert_eq!(walk(&shop, "CREATED_AT_DESC", false).await, placed);
    assert_eq!(walk(&shop, "CREATED_AT_DESC", true).await, placed);
    assert_eq!(page(&shop, json!({ "first": 1 })).await["totalCount"], 7);
    shop.close().await;
}

#[tokio::test]
async fn orders_placed_meanwhile_move_no_other_out_of_its_page() {
    let shop = Shop::open().await;
    let mut before = BTreeSet::new();
    for n in 0..6 {
        before.insert(place(&shop, &format!("old-{n}"), "SKU-1").await);
    }
    shop.db.wait_until_settled().await;
    let (mut seen, mut cursor) = (Vec::new(), Value::Null);
    for n in 0..20 {
        let page = page(&shop, json!({ "first": 2, "after": cursor })).await;
        seen.extend(ids(&page));
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
        cursor = page["pageInfo"]["endCursor"].clone();
        place(&shop, &format!("new-{n}"), "SKU-1").await;
    }
    let once: BTreeSet<String> = seen.iter().cloned().collect();
    assert_eq!(once.len(), seen.len(), "an order came twice");
    assert_eq!(once, before);
    shop.close().await;
}

#[tokio::test]
async fn filters_combine() {
    let shop = Shop::open().await;
    let confirmed = place(&shop, "good", "SKU-1").await;
    let other = place(&shop, "other", "SKU-2").await;
    let failed = shop.place(order("bad", [("SKU-1", 1)]).card("tok_decline").settled()).await.id().to_owned();
    shop.db.wait_until_settled().await;
    let created =
        shop.execute("query ($id: ID!) { getOrder(id: $id) { createdAt } }", json!({ "id": other })).await;
    let moment = created["getOrder"]["createdAt"].clone();
    let cases = [
        (json!({ "status": ["FAILED"] }), vec![&failed]),
        (json!({ "status": ["CONFIRMED", "CONFIRMED"] }), vec![&other, &confirmed]),
        (json!({ "status": ["CONFIRMED", "FAILED"], "sku": "SKU-1" }), vec![&failed, &confirmed]),
        (json!({ "paymentStatus": ["PAID"] }), vec![&other, &confirmed]),
        (json!({ "paymentStatus": ["PAID"], "status": ["FAILED"] }), vec![]),
        (json!({ "fulfillmentStatus": ["UNFULFILLED"] }), vec![&failed, &other, &confirmed]),
        (json!({ "sku": "SKU-2" }), vec![&other]),
        (json!({ "sku": "SKU-2", "externalReference": "ref-other" }), vec![&other]),
        (json!({ "sku": "SKU-2", "externalReference": "ref-good" }), vec![]),
        (json!({ "externalReference": "ref-good" }), vec![&confirmed]),
        (json!({ "externalReference": "ref-" }), vec![]),
        (json!({ "createdAt": { "from": moment } }), vec![&failed, &other]),
        (json!({ "createdAt": { "to": moment } }), vec![&confirmed]),
        (json!({ "createdAt": { "from": moment }, "sku": "SKU-1" }), vec![&failed]),
    ];
    for (filter, expected) in cases {
        let page = page(&shop, json!({ "filter": filter })).await;
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{filter}");
        assert_eq!(page["totalCount"], expected.len(), "{filter}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_order_with_two_lines_of_a_sku_is_listed_once() {
    let shop = Shop::open().await;
    let placed = shop.place(order("twice", [("SKU-1", 1), ("SKU-2", 1), ("SKU-1", 2)]).settled()).await;
    let page = page(&shop, json!({ "filter": { "sku": "SKU-1" } })).await;
    assert_eq!((ids(&page), page["totalCount"].clone()), (vec![placed.id().to_owned()], json!(1)));
    shop.close().await;
}

#[tokio::test]
async fn what_is_no_page_of_the_list_is_refused_by_the_name_of_its_argument() {
    let shop = Shop::open().await;
    place(&shop, "refused", "SKU-1").await;
    let newest = page(&shop, json!({ "first": 1 })).await["pageInfo"]["endCursor"].clone();
    let cases = [
        (json!({ "first": 1, "last": 1 }), "first"),
        (json!({ "first": 0 }), "first"),
        (json!({ "last": 101 }), "last"),
        (json!({ "after": "x" }), "after"),
        (json!({ "before": "643a31" }), "before"),
        (json!({ "after": newest, "sort": "CREATED_AT_ASC" }), "after"),
        (json!({ "filter": { "status": [] } }), "filter.status"),
        (json!({ "filter": { "status": vec!["FAILED"; 6] } }), "filter.status"),
        (json!({ "filter": { "sku": "" } }), "filter.sku"),
        (json!({ "filter": { "sku": "a\0b" } }), "filter.sku"),
        (json!({ "filter": { "externalReference": "x".repeat(256) } }), "filter.externalReference"),
        (json!({ "filter": { "createdAt": { "from": "+20000-01-01T00:00:00Z" } } }), "filter.createdAt.from"),
    ];
    for (variables, argument) in cases {
        let (_, answer) = shop.send(LIST, filled(variables.clone())).await;
        let error = &answer["errors"][0];
        assert_eq!(error["extensions"]["code"], "INVALID_INPUT", "{variables}: {answer}");
        assert!(error["message"].as_str().expect("a message").starts_with(argument), "{variables}: {error}");
    }
    shop.close().await;
}

#[tokio::test]
async fn an_order_is_found_by_each_of_its_names_and_by_nobody_else() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let db = shop.db.connection();
    let of_a = shop.with(&app_with_key(&db, "a", &[Scope::OrdersWrite]).await.secret);
    let of_b = shop.with(&app_with_key(&db, "b", &[Scope::OrdersWrite]).await.secret);
    let of_all =
        shop.with(&app_with_key(&db, "all", &[Scope::OrdersRead, Scope::OrdersReadAll]).await.secret);
    let id = place(&of_a, "names", "SKU-1").await;
    let own = place(&of_b, "own", "SKU-1").await;
    let number = page(&of_a, json!({})).await["nodes"][0]["number"].clone();
    let by = "query ($by: OrderBy!) { order(by: $by) { id } }";
    for name in
        [json!({ "id": id }), json!({ "number": number }), json!({ "externalReference": "ref-names" })]
    {
        let found = async |client: &Client| client.execute(by, json!({ "by": name })).await["order"].take();
        assert_eq!(found(&of_a).await, json!({ "id": id }), "{name}");
        assert_eq!(found(&of_all).await, json!({ "id": id }), "{name}");
        assert_eq!(found(&of_b).await, Value::Null, "{name}");
    }
    for name in [json!({ "id": "x" }), json!({ "number": -1 }), json!({ "externalReference": "a\0" })] {
        assert!(of_all.execute(by, json!({ "by": name })).await["order"].is_null(), "{name}");
    }
    let node = "query ($id: ID!) { node(id: $id) { __typename id } }";
    let found = async |client: &Client| client.execute(node, json!({ "id": id })).await["node"].take();
    assert_eq!(found(&of_a).await, json!({ "__typename": "Order", "id": id }));
    assert!(found(&of_b).await.is_null());

    let all = page(&of_all, json!({})).await;
    assert_eq!((ids(&all), all["totalCount"].clone()), (vec![own.clone(), id.clone()], json!(2)));
    let some = page(&of_b, json!({ "filter": { "sku": "SKU-1" } })).await;
    assert_eq!((ids(&some), some["totalCount"].clone()), (vec![own], json!(1)));
    let none = page(&of_b, json!({ "filter": { "externalReference": "ref-names" } })).await;
    assert_eq!((ids(&none), none["totalCount"].clone()), (vec![], json!(0)));
    shop.close().await;
}

#[tokio::test]
async fn a_viewer_is_told_who_it_is() {
    let shop = Shop::open_with(|args| args.access.dev_anonymous = false).await;
    let key = app_with_key(&shop.db.connection(), "web shop", &[Scope::OrdersWrite]).await;
    let viewer = "{ viewer { app { id name } scopes limits { pointsPerSecond } } }";
    let app_id = domain::id::AppId::from_uuid(key.app_id).to_string();
    let expected = json!({ "viewer": { "app": { "id": app_id, "name": "web shop" },
        "scopes": ["orders:write"], "limits": { "pointsPerSecond": null } } });
    assert_eq!(shop.with(&key.secret).execute(viewer, json!({})).await, expected);
    shop.close().await;
}
