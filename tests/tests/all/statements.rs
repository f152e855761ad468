//! How many statements a query takes does not depend on how much it finds.

use oms::config::Role;
use oms_tests::counting_proxy::CountingProxy;
use oms_tests::{Client, Server, Shop, order};
use serde_json::{Value, json};

/// How often a query is asked. What the server does beside it is counted as well, now and then, so that the least count is
/// the query's own.
const TRIES: usize = 5;

const ORDERS: &str = "query ($first: Int!) { orders(first: $first) { nodes {
    id totals { total { amount } } lines { sku } events { sequence } payments { captured { amount } }
    process { state } } } }";

const APPS: &str = "query ($first: Int!) { apps(first: $first) { id keys { id } documents { id } } }";

/// A server whose every statement is counted.
struct Counted {
    proxy: CountingProxy,
    server: Server,
}

impl Counted {
    async fn start(shop: &Shop) -> Self {
        let proxy = CountingProxy::before(&shop.db);
        let url = proxy.url().to_owned();
        let server = Server::start_with(&shop.db, |args| {
            args.database.database_url = Some(url);
            args.process.role = Role::Api;
            args.limits.max_cost = 1_000_000;
            args.limits.max_resolutions = 1_000_000;
        });
        let server = server.await;
        Self { proxy, server }
    }

    /// Asks for so many, and returns what was found and how many statements it took.
    async fn ask(&self, query: &str, first: usize) -> (Value, u64) {
        let client: Client = self.server.client();
        let (mut found, mut least) = (Value::Null, u64::MAX);
        for _ in 0..TRIES {
            let before = self.proxy.statements();
            found = client.execute(query, json!({ "first": first })).await;
            least = least.min(self.proxy.statements() - before);
        }
        (found, least)
    }
}

#[tokio::test]
async fn a_hundred_orders_with_all_that_is_theirs_take_as_many_statements_as_one() {
    let shop = Shop::open().await;
    for n in 0..100 {
        shop.place(order(&n.to_string(), [("SKU-1", 1)])).await;
    }
    shop.db.wait_until_settled().await;
    let counted = Counted::start(&shop).await;
    let (_, of_one) = counted.ask(ORDERS, 1).await;
    let (found, of_all) = counted.ask(ORDERS, 100).await;
    let found = found["orders"]["nodes"].as_array().expect("a list");
    assert_eq!(found.len(), 100);
    for order in found {
        let of_order = ["lines", "events", "payments"].map(|list| order[list].as_array().map(Vec::len));
        assert_eq!(of_order, [Some(1), Some(6), Some(1)], "{order}");
        assert_eq!(order["process"]["state"], "SUCCEEDED", "{order}");
    }
    assert_eq!(of_all, of_one);
    assert!(
        of_one >= 5,
        "a statement each for the page, its orders, events, payments and processes: {of_one}"
    );
    counted.server.stop().await;
    shop.close().await;
}

#[tokio::test]
async fn a_hundred_apps_with_their_keys_and_documents_take_as_many_statements_as_one() {
    let shop = Shop::open().await;
    shop.db
        .execute(
            "INSERT INTO apps (id, name) SELECT gen_random_uuid(), 'app ' || n FROM generate_series(1, 99) AS n;
             INSERT INTO api_keys (id, app_id, name, prefix, secret_hash, scopes, granted_apps)
             SELECT gen_random_uuid(), apps.id, 'key', left(apps.id::text, 30) || n, '\\x00', '{}', '{}'
             FROM apps, generate_series(1, 2) AS n;
             INSERT INTO app_documents (app_id, hash, text)
             SELECT apps.id, sha256(convert_to(text, 'UTF8')), text
             FROM apps, (SELECT '{ it' || n || ': __typename }' AS text FROM generate_series(1, 3) AS n) AS documents",
        )
        .await;
    let counted = Counted::start(&shop).await;
    let (_, of_one) = counted.ask(APPS, 1).await;
    let (found, of_all) = counted.ask(APPS, 100).await;
    let found = found["apps"].as_array().expect("a list");
    assert_eq!(found.len(), 100);
    for app in found {
        let of_app = ["keys", "documents"].map(|list| app[list].as_array().map(Vec::len));
        assert_eq!(of_app, [Some(2), Some(3)], "{app}");
    }
    assert_eq!(of_all, of_one);
    assert!(of_one >= 3, "a statement each for the apps, their keys and documents: {of_one}");
    counted.server.stop().await;
    shop.close().await;
}
