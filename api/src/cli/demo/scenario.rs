//! The five orders of the demo: what each asks for, and how it must end.
//!
//! The SKUs are those of the demo catalog; `tok_...` are cards of the simulated gateway.

use serde_json::{Value, json};

use super::client::Order;

/// One order and how it must end.
pub(super) struct Scenario {
    pub(super) title: &'static str,
    lines: &'static [(&'static str, i64)],
    /// Country of the address; none means an order without one.
    country: Option<&'static str>,
    card: Option<&'static str>,
    /// How the order must end.
    pub(super) status: &'static str,
    failure: Option<&'static str>,
    /// How each step must end, and after how many attempts.
    steps: [(&'static str, u32); 5],
}

const ONCE: [(&str, u32); 5] =
    [("SUCCEEDED", 1), ("SUCCEEDED", 1), ("SUCCEEDED", 1), ("SUCCEEDED", 1), ("SUCCEEDED", 1)];

pub(super) static SCENARIOS: [Scenario; 5] = [
    Scenario {
        title: "a coffee mug",
        lines: &[("SKU-1", 1)],
        country: None,
        card: None,
        status: "CONFIRMED",
        failure: None,
        steps: ONCE,
    },
    Scenario {
        title: "two lines, taxed in Germany",
        lines: &[("SKU-2", 2), ("SKU-3", 1)],
        country: Some("DE"),
        card: Some("tok_approve"),
        status: "CONFIRMED",
        failure: None,
        steps: ONCE,
    },
    Scenario {
        title: "a declined card",
        lines: &[("SKU-4", 1)],
        country: None,
        card: Some("tok_decline"),
        status: "FAILED",
        failure: Some("CARD_DECLINED"),
        // The reservation is given back; a quote leaves nothing to undo.
        steps: [("COMPENSATED", 1), ("SUCCEEDED", 1), ("FAILED", 1), ("SKIPPED", 0), ("SKIPPED", 0)],
    },
    Scenario {
        title: "a ticket that is sold out",
        lines: &[("SKU-SOLD-OUT", 1)],
        country: None,
        card: None,
        status: "FAILED",
        failure: Some("OUT_OF_STOCK"),
        steps: [("FAILED", 1), ("SKIPPED", 0), ("SKIPPED", 0), ("SKIPPED", 0), ("SKIPPED", 0)],
    },
    Scenario {
        title: "a gateway that fails twice",
        lines: &[("SKU-7", 1)],
        country: None,
        card: Some("tok_flaky"),
        status: "CONFIRMED",
        failure: None,
        steps: [("SUCCEEDED", 1), ("SUCCEEDED", 1), ("SUCCEEDED", 3), ("SUCCEEDED", 1), ("SUCCEEDED", 1)],
    },
];

impl Scenario {
    /// The `PlaceOrderInput`.
    pub(super) fn input(&self, idempotency_key: &str) -> Value {
        let lines: Vec<Value> =
            self.lines.iter().map(|(sku, quantity)| json!({ "sku": sku, "quantity": quantity })).collect();
        let mut input = json!({
            "idempotencyKey": idempotency_key,
            "lines": lines,
            "externalReference": format!("demo: {}", self.title),
        });
        if let Some(token) = self.card {
            input["payment"] = json!({ "token": token });
        }
        if let Some(country) = self.country {
            input["shippingAddress"] = json!({
                "name": "Erika Mustermann", "line1": "Musterweg 1", "city": "Berlin", "postalCode": "10115",
                "country": country,
            });
        }
        input
    }

    /// Says how the order's end differs from what it must be, if it does.
    pub(super) fn complaint(&self, order: &Order) -> Option<String> {
        if order.status != self.status {
            return Some(format!("must end {} and is {}", self.status, order.status));
        }
        let failure = order.failure.as_ref().map(|failure| failure.code.as_str());
        if failure != self.failure {
            return Some(format!("must fail with {:?} and failed with {failure:?}", self.failure));
        }
        let steps = &order.process.steps;
        let found: Vec<(&str, u32)> =
            steps.iter().map(|step| (step.status.as_str(), step.attempts)).collect();
        (found != self.steps).then(|| format!("its steps must be {:?} and are {found:?}", self.steps))
    }
}
