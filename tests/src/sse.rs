//! A `graphql-sse` client in its "distinct connections" mode.

use std::collections::VecDeque;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::client::Client;
use crate::wait::within;
use crate::websocket::{ORDER_STATUS, take_update};

struct Events {
    bytes: BoxStream<'static, reqwest::Result<Vec<u8>>>,
    buffer: String,
    ready: VecDeque<(String, String)>,
}

impl Events {
    /// Returns the next event: its name and its data.
    async fn next(&mut self) -> (String, String) {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let chunk = within("an event", self.bytes.next()).await;
            let chunk = chunk.expect("the story goes on until it is complete").expect("the connection holds");
            self.buffer += std::str::from_utf8(&chunk).expect("an event is written in one piece");
            while let Some((event, rest)) = self.buffer.split_once("\n\n") {
                self.ready.extend(parse(event));
                self.buffer = rest.to_owned();
            }
        }
    }
}

/// Reads one event; `None` for a comment that only keeps the connection alive.
fn parse(event: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        event
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start().to_owned()))
    };
    Some((field("event")?, field("data").unwrap_or_default()))
}

/// Watches an order over server-sent events: each update, until the server says `complete`. Dropping the stream drops
/// the connection.
pub async fn watch_over_sse(
    client: &Client,
    order_id: &str,
    after: Option<i64>,
) -> BoxStream<'static, Value> {
    let body = json!({ "query": ORDER_STATUS, "variables": { "id": order_id, "after": after } });
    let request = client.post().header(ACCEPT, "text/event-stream").json(&body);
    let response = within("an answer", request.send()).await.expect("the server answers");
    let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap_or_default().to_owned();
    assert!(content_type.starts_with("text/event-stream"), "{content_type}");
    let bytes = response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec())).boxed();
    let events = Events { bytes, buffer: String::new(), ready: VecDeque::new() };
    stream::unfold(events, async |mut events| {
        let (name, data) = events.next().await;
        match name.as_str() {
            "complete" => None,
            "next" => {
                let mut response: Value = serde_json::from_str(&data).expect("JSON");
                Some((take_update(&mut response), events))
            }
            _ => panic!("not an update: {name}"),
        }
    })
    .boxed()
}
