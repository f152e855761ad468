//! The ways to the server, and what may come back on each.

use std::time::{Duration, Instant};

use oms_tests::{Client, Socket};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Response;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::answers::{fault_of, fault_of_message};
use crate::requests::Request;

/// How long an answer may take: a query's own limit, and some.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// The codes with which the server may close a WebSocket: RFC 6455 and `graphql-transport-ws`.
const CLOSE_CODES: [u16; 11] = [1000, 1001, 1009, 1013, 4400, 4401, 4403, 4406, 4408, 4409, 4429];

/// The longest query that goes into a URL, where each byte may take three.
const MAX_QUERY_IN_URL: usize = 10_000;

/// The longest message that is taken. The connection of whoever sends more may be reset under the last word.
const MAX_MESSAGE: usize = 64 * 1024;

/// The largest body after which the answer is sure to be read: of more the server reads a part.
const MAX_READ_BODY: usize = 1_000_000;

/// What came of a request.
pub(crate) struct Answer {
    pub(crate) fault: Option<String>,
    pub(crate) took: Duration,
}

/// Sends a request in one of the ways there are, and says what is wrong with the answer.
pub(crate) async fn send(client: &Client, request: &Request, random: &mut StdRng) -> Answer {
    let begun = Instant::now();
    let fault = match random.random_range(0..10) {
        0 | 1 => over_websocket(client, request).await,
        2 if request.query.len() < MAX_QUERY_IN_URL => {
            let get = client.get_graphql(&[("query", &request.query)]).header(ACCEPT, request.accept);
            over_http(get).await
        }
        _ if request.body.len() <= MAX_READ_BODY => {
            let post =
                client.post().header(ACCEPT, request.accept).header(CONTENT_TYPE, request.content_type);
            over_http(post.body(request.body.clone())).await
        }
        _ => None,
    };
    Answer { fault, took: begun.elapsed() }
}

async fn over_http(request: reqwest::RequestBuilder) -> Option<String> {
    match request.timeout(ANSWER_WITHIN).send().await {
        Ok(response) => fault_of_response(response).await,
        Err(error) => Some(format!("no answer: {error:?}")),
    }
}

async fn fault_of_response(response: Response) -> Option<String> {
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Some(format!("{status}: half an answer: {error:?}")),
    };
    if status.is_server_error() {
        return Some(format!("{status}: {text:.500}"));
    }
    if content_type.starts_with("text/event-stream") {
        let data = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        return data.filter(|data| !data.is_empty()).find_map(|data| fault_of(data, true));
    }
    fault_of(&text, status.is_success()).map(|fault| format!("{status}: {fault}"))
}

/// Sends the body as the payload of a subscription, or as a message where it is no JSON any more.
async fn over_websocket(client: &Client, request: &Request) -> Option<String> {
    let conversation = async {
        let mut socket = Socket::open(client.addr()).await;
        let payload = match client.credential() {
            Some(credential) => json!({ "x-api-key": credential }),
            None => json!({}),
        };
        socket.send(json!({ "type": "connection_init", "payload": payload })).await;
        match serde_json::from_slice::<Value>(&request.body) {
            Ok(payload) => {
                let subscribe = json!({ "id": "1", "type": "subscribe", "payload": payload });
                socket.send_text(subscribe.to_string()).await;
            }
            Err(_) => socket.send_text(String::from_utf8_lossy(&request.body).into_owned()).await,
        }
        loop {
            match socket.receive().await {
                Ok(message) => match fault_of_message(&message) {
                    (Some(fault), _) => return Some(fault),
                    (None, true) => return None,
                    (None, false) => {}
                },
                Err(code) if CLOSE_CODES.contains(&code) => return None,
                Err(_) if request.body.len() > MAX_MESSAGE => return None,
                Err(code) => return Some(format!("the socket was closed with {code}")),
            }
        }
    };
    match tokio::time::timeout(ANSWER_WITHIN, conversation).await {
        Ok(fault) => fault.map(|fault| format!("WebSocket: {fault}")),
        Err(_) => Some("WebSocket: no answer".to_owned()),
    }
}
