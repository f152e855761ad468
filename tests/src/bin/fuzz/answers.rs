//! Reads answers: what the GraphQL specification allows, and the protocols.

use serde_json::Value;

/// Says what is wrong with a response (GraphQL specification, section 7.1).
pub(crate) fn fault_of(text: &str, is_success: bool) -> Option<String> {
    let Ok(Value::Object(response)) = serde_json::from_str(text) else {
        return Some(format!("not a JSON object: {text:.500}"));
    };
    if let Some(other) = response.keys().find(|key| !["data", "errors", "extensions"].contains(&key.as_str()))
    {
        return Some(format!("a response has no {other}: {text:.500}"));
    }
    let is_error = |error: &Value| {
        error["message"].is_string()
            && error.get("path").is_none_or(Value::is_array)
            && error.get("extensions").is_none_or(Value::is_object)
    };
    match response.get("errors") {
        Some(Value::Array(errors)) if errors.is_empty() || !errors.iter().all(is_error) => {
            return Some(format!("errors that are none: {text:.500}"));
        }
        Some(Value::Array(_)) => {}
        Some(_) => return Some(format!("errors are no list: {text:.500}")),
        None if response.get("data").is_none_or(Value::is_null) => {
            return Some(format!("neither data nor errors: {text:.500}"));
        }
        None => {}
    }
    if !is_success && !response.contains_key("errors") {
        return Some(format!("a refusal without errors: {text:.500}"));
    }
    match text.contains("panicked") || text.contains("internal error") {
        true => Some(format!("an internal error: {text:.500}")),
        false => None,
    }
}

/// Says what is wrong with a message over a WebSocket (`graphql-transport-ws`), and whether it ends the operation.
pub(crate) fn fault_of_message(message: &Value) -> (Option<String>, bool) {
    match message["type"].as_str() {
        Some("next") => (fault_of(&message["payload"].to_string(), true), false),
        Some("error") => {
            let is_error = |error: &Value| error["message"].is_string();
            let is_list = message["payload"].as_array().is_some_and(|errors| errors.iter().all(is_error));
            ((!is_list).then(|| format!("no list of errors: {message:.500}")), true)
        }
        Some("complete") => (None, true),
        Some("pong" | "connection_ack") => (None, false),
        _ => (Some(format!("no message of the protocol: {message:.500}")), true),
    }
}
