//! Writes `placeOrder` inputs the way a test wants to read them.

use serde_json::{Value, json};

/// Long enough for any order that settles at all, short enough to stay within the API's bound.
const WAIT_MS: u64 = 10_000;

/// The `input` of a `placeOrder`.
#[derive(Debug, Clone)]
pub struct OrderInput(Value);

/// Begins an input with a key and lines of SKU and quantity.
pub fn order<const N: usize>(key: &str, lines: [(&str, i64); N]) -> OrderInput {
    let lines: Vec<Value> =
        lines.iter().map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity })).collect();
    OrderInput(json!({ "idempotencyKey": key, "lines": lines }))
}

impl OrderInput {
    /// Pays with a card of the simulated gateway, such as `tok_decline`.
    #[must_use]
    pub fn card(self, token: &str) -> Self {
        self.with("payment", json!({ "token": token }))
    }

    /// Answers once the order is settled.
    #[must_use]
    pub fn settled(self) -> Self {
        self.with("waitMs", json!(WAIT_MS))
    }

    /// Sets a field.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0[field] = value;
        self
    }

    /// Returns it as GraphQL variables have it.
    pub fn into_value(self) -> Value {
        self.0
    }
}
