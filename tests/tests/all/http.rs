//! GraphQL over HTTP: methods, media types, statuses, health, slow clients.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use oms::config::{Role, ServeArgs};
use oms_tests::{Client, Server, Shop, TestDatabase, eventually, order, within};
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PLACE_BY_GET: &str = "mutation { placeOrder(input: { idempotencyKey: \"get\", lines: [{ sku: \"SKU-1\", quantity: 1 }] }) { replayed } }";

#[tokio::test]
async fn a_query_may_be_sent_with_get_and_a_mutation_may_not() {
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let query = shop.get_graphql(&[("query", "{ __typename }")]).send().await.expect("an answer");
    assert_eq!(query.status(), StatusCode::OK);
    let answer = query.json::<Value>().await.expect("JSON");
    assert_eq!((&answer["data"], answer.get("errors")), (&json!({ "__typename": "Query" }), None));

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
        ("application/json", format!("[{place}]"), StatusCode::UNPROCESSABLE_ENTITY),
        ("application/json", "{}".to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
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
        (
            "application/graphql-response+json",
            "application/graphql-response+json",
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
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
async fn metrics_are_nowhere_but_at_their_own_address_and_on_loopback() {
    let database = TestDatabase::create().await;
    let metrics = async |client: &Client| {
        let answer = client.get("/metrics").send().await.expect("an answer");
        (answer.status(), answer.text().await.expect("text"))
    };
    let beyond = |args: &mut ServeArgs| {
        args.access.dev_anonymous = false;
        args.process.listen = "0.0.0.0:0".to_owned();
    };
    let server = Server::start_with(&database, beyond).await;
    assert_eq!(metrics(&server.client()).await.0, StatusCode::NOT_FOUND);
    server.stop().await;

    for (role, listen) in
        [(Role::All, "127.0.0.1:0"), (Role::All, "0.0.0.0:0"), (Role::Runner, "127.0.0.1:0")]
    {
        let server = Server::start_with(&database, |args| {
            beyond(args);
            args.process.role = role;
            args.process.listen = listen.to_owned();
            args.process.metrics_listen = Some("127.0.0.1:0".to_owned());
        })
        .await;
        let apart = server.metrics_client();
        eventually("the runner tells of itself", async || {
            metrics(&apart).await.1.contains("oms_advance_seconds").then_some(())
        })
        .await;
        assert_eq!(apart.get("/graphql").send().await.expect("an answer").status(), StatusCode::NOT_FOUND);
        if role == Role::All {
            assert_eq!(metrics(&server.client()).await.0, StatusCode::NOT_FOUND, "{listen}");
        }
        server.stop().await;
    }
    database.close().await;
}

#[tokio::test]
async fn many_who_ask_whether_it_is_ready_cost_no_more_than_one() {
    let shop = Shop::open().await;
    let ask = || async { shop.get("/readyz").send().await.expect("an answer").status() };
    for status in join_all((0..300).map(|_| ask())).await {
        assert_eq!(status, StatusCode::OK);
    }
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                     AND application_name = 'oms api' AND query LIKE '%seaql_migrations%'";
    assert!(shop.db.number(asked).await <= 2, "connections of the API that have looked");
    shop.close().await;
}

#[tokio::test]
async fn each_answer_names_its_request() {
    let shop = Shop::open().await;
    let answer = shop.get("/healthz").send().await.expect("an answer");
    assert!(answer.headers().contains_key("x-request-id"));
    shop.close().await;
}

/// What a stranger may send, and what the answer is: `Accept`, the content type, the body.
#[tokio::test]
async fn whatever_is_sent_is_answered_in_json_with_the_right_status() {
    const RESPONSE: &str = "application/graphql-response+json";
    const JSON: &str = "application/json";
    let shop = Shop::open().await;
    let census = shop.db.census().await;
    let query = |query: &str| json!({ "query": query }).to_string();
    let deep = format!(
        "{{\"query\": \"{{ __typename }}\", \"variables\": {{\"a\": {}1{}}}}}",
        "[".repeat(500),
        "]".repeat(500)
    );
    let table: [(&str, &str, String, u16); 33] = [
        (JSON, JSON, query("{ __typename }"), 200),
        (RESPONSE, "application/json; charset=utf-8", query("{ __typename }"), 200),
        (RESPONSE, "APPLICATION/JSON", query("query Q { __typename }"), 200),
        ("*/*;q=0.1", JSON, query("{ __typename }"), 200),
        ("text/html", JSON, query("{ __typename }"), 406),
        ("application/json;q=0", JSON, query("{ __typename }"), 406),
        (JSON, "application/json; charset=latin1", query("{ __typename }"), 415),
        (JSON, "text/plain", query("{ __typename }"), 415),
        (JSON, "multipart/form-data; boundary=x", query("{ __typename }"), 415),
        (JSON, "application/graphql", "{ __typename }".to_owned(), 415),
        (JSON, JSON, String::new(), 400),
        (JSON, JSON, "{\"query\": \"{ __typename }\"".to_owned(), 400),
        (JSON, JSON, "\u{0}".to_owned(), 400),
        (JSON, JSON, deep, 400),
        (JSON, JSON, "null".to_owned(), 422),
        (JSON, JSON, "{}".to_owned(), 422),
        (JSON, JSON, json!({ "query": 1 }).to_string(), 422),
        (JSON, JSON, json!({ "query": "" }).to_string(), 422),
        (JSON, JSON, json!({ "query": "{ __typename }", "variables": [] }).to_string(), 422),
        (JSON, JSON, json!({ "query": "{ __typename }", "operationName": 1 }).to_string(), 422),
        (RESPONSE, "text/plain", query("{ __typename }"), 415),
        (RESPONSE, JSON, String::new(), 400),
        (RESPONSE, JSON, "{}".to_owned(), 422),
        (RESPONSE, JSON, "[]".to_owned(), 422),
        (RESPONSE, JSON, " ".repeat(200_000), 413),
        ("application/json;q=0.5, application/graphql-response+json", JSON, "{}".to_owned(), 422),
        (RESPONSE, JSON, query("{ __typename"), 400),
        (RESPONSE, JSON, query("{ nonsense }"), 422),
        (RESPONSE, JSON, query("query ($id: ID!) { getOrder(id: $id) { id } }"), 422),
        (RESPONSE, JSON, query("query A { __typename } query B { __typename }"), 422),
        (RESPONSE, JSON, query("{ getOrder(id: \"nonsense\") { id } }"), 200),
        (RESPONSE, JSON, query("{ products(first: 0) { nodes { sku } } }"), 200),
        (JSON, JSON, query("{ nonsense }"), 200),
    ];
    for (accept, content_type, body, status) in table {
        let sent = shop.post().header(ACCEPT, accept).header(CONTENT_TYPE, content_type).body(body.clone());
        let answer = sent.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{accept} {content_type} {body:.60}");
        let expected = if accept.ends_with(RESPONSE) {
            "application/graphql-response+json; charset=utf-8"
        } else {
            JSON
        };
        assert_eq!(answer.headers()[CONTENT_TYPE], expected, "{accept} {content_type} {body:.60}");
        let answer = answer.json::<Value>().await.expect("JSON");
        let errors = answer["errors"].as_array();
        assert!(
            errors.is_none_or(|errors| errors.iter().all(|error| error["message"].is_string())),
            "{answer}"
        );
        assert!(answer.get("data").is_some() || errors.is_some(), "{answer}");
    }
    for (parameters, status) in
        [(&[][..], 422), (&[("query", PLACE_BY_GET)], 405), (&[("query", "{a}"), ("variables", "{")], 400)]
    {
        let answer = shop.get_graphql(parameters).header(ACCEPT, RESPONSE).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{parameters:?}");
        let expected = "application/graphql-response+json; charset=utf-8";
        assert_eq!(answer.headers()[CONTENT_TYPE], expected, "{parameters:?}");
    }
    assert_eq!(shop.db.census().await, census);
    shop.close().await;
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_in_json() {
    let shop = Shop::open().await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    for method in ["PUT", "DELETE", "PATCH"] {
        let method = method.parse::<reqwest::Method>().expect("a method");
        let url = format!("http://{}/graphql", shop.addr());
        let answer = http.request(method, url).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.headers()[ALLOW], "GET,HEAD,POST");
        assert!(answer.json::<Value>().await.expect("JSON")["errors"].is_array());
    }
    let answer = shop.get("/nowhere").send().await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert!(answer.json::<Value>().await.expect("JSON")["errors"].is_array());
    shop.close().await;
}

#[tokio::test]
async fn each_answer_has_its_security_headers_and_no_page_of_another_origin_reads_it() {
    let shop =
        Shop::open_with(|args| args.access.allowed_origins = vec!["https://shop.example".to_owned()]).await;
    let answer_to = async |origin: &str| {
        let sent = shop.post().header("origin", origin).json(&json!({ "query": "{ __typename }" })).send();
        sent.await.expect("an answer").headers().clone()
    };
    let headers = answer_to("https://evil.example").await;
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("access-control-allow-origin"), "{headers:?}");
    let headers = answer_to("https://shop.example").await;
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
    shop.close().await;

    let closed = Shop::open().await;
    let sent =
        closed.post().header("origin", "https://shop.example").json(&json!({ "query": "{ __typename }" }));
    let headers = sent.send().await.expect("an answer").headers().clone();
    assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")), "{headers:?}");
    closed.close().await;
}

const HEADER_TIMEOUT: Duration = Duration::from_millis(300);

async fn impatient_shop() -> Shop {
    Shop::open_with(|args| args.connections.header_timeout_ms = HEADER_TIMEOUT.as_millis() as u64).await
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_another_one_ends() {
    let shop = Shop::open_with(|args| {
        args.connections.max_connections = 2;
        args.connections.max_connections_per_address = Some(3);
    })
    .await;
    let connect = async || {
        let mut connection = TcpStream::connect(shop.addr()).await.expect("a connection");
        let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
        connection.write_all(head.as_bytes()).await.expect("a request");
        connection
    };
    let answer = async |connection: &mut TcpStream| {
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    };
    let (mut first, mut second) = (connect().await, connect().await);
    within("an answer", answer(&mut first)).await;
    within("an answer", answer(&mut second)).await;
    let mut third = connect().await;
    let early = tokio::time::timeout(Duration::from_millis(200), answer(&mut third)).await;
    assert!(early.is_err(), "there are two already");
    drop(first);
    within("an answer", answer(&mut third)).await;
    drop((second, third));
    shop.close().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_closed() {
    let shop = Shop::open_with(|args| {
        args.connections.write_timeout_ms = 300;
        args.connections.max_connections = 1;
    })
    .await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("a small buffer");
    let mut greedy = socket.connect(shop.addr()).await.expect("a connection");
    let query = "{ __schema { types { name description fields { name description } } } }";
    let body = json!({ "query": query }).to_string();
    let head = "POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let asking = async { while greedy.write_all(request.as_bytes()).await.is_ok() {} };
    within("the server has closed the connection", asking).await;
    // Its place is free.
    shop.execute("{ __typename }", json!({})).await;
    shop.close().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let shop = Shop::open().await;
    let sent = shop.get("/healthz").header("x-large", "a".repeat(80_000)).send().await;
    assert_eq!(sent.expect("an answer").status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let sent = shop.get("/healthz").header("x-large", "a".repeat(24_000)).send().await;
    assert_eq!(sent.expect("an answer").status(), StatusCode::OK);
    shop.close().await;
}

/// Sends one byte of a head after another and returns how long the server bore it.
async fn dribble(connection: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    let head = "POST /graphql HTTP/1.1\r\nhost: localhost\r\n".bytes().chain(std::iter::repeat(b'a'));
    let dribbling = async {
        for byte in head {
            if connection.write_all(&[byte]).await.is_err() {
                break;
            }
            let mut buffer = [0; 512];
            match tokio::time::timeout(Duration::from_millis(20), connection.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => panic!("an answer to half a head"),
                Err(_) => {}
            }
        }
    };
    within("the server has closed the connection", dribbling).await;
    begun.elapsed()
}

#[tokio::test]
async fn whoever_sends_no_whole_head_is_closed_and_others_are_served() {
    let shop = impatient_shop().await;
    let mut slow = TcpStream::connect(shop.addr()).await.expect("a connection");
    let mut silent = TcpStream::connect(shop.addr()).await.expect("a connection");
    let begun = Instant::now();
    let (borne, ended, ()) = tokio::join!(
        dribble(&mut slow),
        async { within("the end of silence", silent.read(&mut [0; 16])).await },
        async {
            shop.execute("{ __typename }", json!({})).await;
        }
    );
    assert!(borne >= HEADER_TIMEOUT - Duration::from_millis(50), "{borne:?}");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    shop.close().await;
}

#[tokio::test]
async fn a_connection_may_be_silent_between_requests_and_its_next_head_has_its_own_time() {
    let shop = impatient_shop().await;
    let mut connection = TcpStream::connect(shop.addr()).await.expect("a connection");
    for _ in 0..2 {
        connection.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it is open");
        let mut answer = [0; 4_096];
        let read = within("an answer", connection.read(&mut answer)).await.expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..read]));
        tokio::time::sleep(3 * HEADER_TIMEOUT).await;
    }
    let borne = dribble(&mut connection).await;
    assert!(borne >= HEADER_TIMEOUT - Duration::from_millis(50), "{borne:?}");
    shop.close().await;
}

#[tokio::test]
async fn the_largest_body_is_a_setting() {
    let shop = Shop::open_with(|args| args.connections.max_body_bytes = 2_000).await;
    for (bytes, status) in [(1_900, StatusCode::OK), (2_001, StatusCode::PAYLOAD_TOO_LARGE)] {
        let mut body = json!({ "query": "{ __typename }" }).to_string();
        body.push_str(&" ".repeat(bytes - body.len()));
        let sent = shop.post().header(CONTENT_TYPE, "application/json").body(body).send().await;
        assert_eq!(sent.expect("an answer").status(), status, "{bytes}");
    }
    shop.close().await;
}
