//! What a client asks for, and every check of it that needs no row.

use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Refusal;
use crate::catalog::MAX_SKU_CHARS;
use crate::id::AppId;
use crate::input::{Violation, check_text};
use crate::money::Money;
use crate::order::{Address, MAX_LINES, MAX_QUANTITY};

/// The longest idempotency key, in characters.
const MAX_KEY_CHARS: usize = 255;

/// The longest e-mail address, in characters (RFC 5321, section 4.5.3.1.3, allows a path of 256 with its brackets).
const MAX_EMAIL_CHARS: usize = 254;

/// The longest line of an address and the longest reference or token, in characters.
const MAX_FIELD_CHARS: usize = 200;

/// What a client asks for, as it came in.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PlaceOrderInput {
    /// The client's own key: one order per key.
    pub idempotency_key: String,
    /// What it wants.
    pub lines: Vec<RequestedLine>,
    /// Whom to write to.
    pub email: Option<String>,
    /// Where it goes.
    pub shipping_address: Option<Address>,
    /// How it goes; `standard` unless said.
    pub shipping_method: Option<String>,
    /// The gateway's name for the card.
    pub payment_token: Option<String>,
    /// The client's own name for the order.
    pub external_reference: Option<String>,
    /// What the shopper was shown.
    pub expected_total: Option<Money>,
}

/// One line of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestedLine {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: i64,
}

/// An input that has passed every check which needs no row.
#[derive(Debug, Clone)]
pub struct PlaceOrder {
    pub(super) app_id: AppId,
    pub(super) input: PlaceOrderInput,
    /// A hash of the input, to tell a repetition from another order under the same key.
    pub(super) fingerprint: Vec<u8>,
}

impl PlaceOrder {
    /// Checks what can be checked without the catalog.
    ///
    /// # Errors
    /// Every refusal found, with paths relative to the input.
    pub fn try_new(app_id: AppId, input: PlaceOrderInput) -> Result<Self, Vec<Refusal>> {
        let mut violations = Vec::new();
        violations.extend(check_text(&["idempotencyKey"], &input.idempotency_key, MAX_KEY_CHARS).err());
        check_lines(&input.lines, &mut violations);
        check_optional(&["email"], input.email.as_deref(), MAX_EMAIL_CHARS, &mut violations);
        check_optional(
            &["shippingMethod"],
            input.shipping_method.as_deref(),
            MAX_FIELD_CHARS,
            &mut violations,
        );
        check_optional(
            &["payment", "token"],
            input.payment_token.as_deref(),
            MAX_FIELD_CHARS,
            &mut violations,
        );
        check_optional(
            &["externalReference"],
            input.external_reference.as_deref(),
            MAX_FIELD_CHARS,
            &mut violations,
        );
        if input.email.as_deref().is_some_and(|email| !email.contains('@')) {
            violations.push(Violation::new(&["email"], "must be an e-mail address"));
        }
        if let Some(address) = &input.shipping_address {
            check_address(address, &mut violations);
        }
        if input.expected_total.is_some_and(|total| total.minor < 0) {
            violations.push(Violation::new(&["expectedTotal", "amount"], "must not be negative"));
        }
        if !violations.is_empty() {
            return Err(violations.into_iter().map(Refusal::Invalid).collect());
        }
        let canonical = serde_json::to_string(&input).expect("texts, numbers and lists of them");
        Ok(Self { app_id, input, fingerprint: Sha256::digest(canonical).to_vec() })
    }

    /// What is unique about the order that it becomes.
    pub(super) fn key(&self) -> (Uuid, &str) {
        (self.app_id.uuid(), &self.input.idempotency_key)
    }
}

fn check_lines(lines: &[RequestedLine], violations: &mut Vec<Violation>) {
    if lines.is_empty() {
        violations.push(Violation::new(&["lines"], "must hold at least one line"));
    }
    if lines.len() > MAX_LINES {
        let message = format!("must not hold more than {MAX_LINES} lines; this order has {}", lines.len());
        violations.push(Violation::new(&["lines"], message));
        return;
    }
    for (index, line) in lines.iter().enumerate() {
        let index = index.to_string();
        violations.extend(check_text(&["lines", &index, "sku"], &line.sku, MAX_SKU_CHARS).err());
        if !(1..=MAX_QUANTITY).contains(&line.quantity) {
            let message = format!("must be between 1 and {MAX_QUANTITY}");
            violations.push(Violation::new(&["lines", &index, "quantity"], message));
        }
    }
}

fn check_optional(path: &[&str], value: Option<&str>, max_chars: usize, violations: &mut Vec<Violation>) {
    if let Some(value) = value {
        violations.extend(check_text(path, value, max_chars).err());
    }
}

fn check_address(address: &Address, violations: &mut Vec<Violation>) {
    let at = |field| ["shippingAddress", field];
    violations.extend(check_text(&at("name"), &address.name, MAX_FIELD_CHARS).err());
    violations.extend(check_text(&at("line1"), &address.line1, MAX_FIELD_CHARS).err());
    violations.extend(check_text(&at("city"), &address.city, MAX_FIELD_CHARS).err());
    check_optional(&at("line2"), address.line2.as_deref(), MAX_FIELD_CHARS, violations);
    check_optional(&at("postalCode"), address.postal_code.as_deref(), MAX_FIELD_CHARS, violations);
    check_optional(&at("region"), address.region.as_deref(), MAX_FIELD_CHARS, violations);
    let is_code = address.country.len() == 2 && address.country.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_code {
        violations
            .push(Violation::new(&at("country"), "must be a two-letter code of ISO 3166-1, such as DE"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::local_app;

    fn input() -> PlaceOrderInput {
        PlaceOrderInput {
            idempotency_key: "k".to_owned(),
            lines: vec![RequestedLine { sku: "SKU-1".to_owned(), quantity: 1 }],
            ..Default::default()
        }
    }

    fn refused_paths(input: PlaceOrderInput) -> Vec<String> {
        let refusals = PlaceOrder::try_new(local_app(), input).expect_err("a refusal");
        refusals
            .into_iter()
            .map(|refusal| match refusal {
                Refusal::Invalid(violation) => violation.path.join("."),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_key_and_a_line_are_enough() {
        assert!(PlaceOrder::try_new(local_app(), input()).is_ok());
    }

    #[test]
    fn each_bad_field_is_named_with_its_path() {
        let line = |sku: &str, quantity| RequestedLine { sku: sku.to_owned(), quantity };
        assert_eq!(refused_paths(PlaceOrderInput { lines: vec![], ..input() }), ["lines"]);
        let many = vec![line("A", 1); MAX_LINES + 1];
        assert_eq!(refused_paths(PlaceOrderInput { lines: many, ..input() }), ["lines"]);
        let lines = vec![line("A", 0), line("", 1), line("A\0", MAX_QUANTITY + 1)];
        assert_eq!(
            refused_paths(PlaceOrderInput { lines, ..input() }),
            ["lines.0.quantity", "lines.1.sku", "lines.2.sku", "lines.2.quantity"]
        );
        let email = Some("nobody".to_owned());
        assert_eq!(refused_paths(PlaceOrderInput { email, ..input() }), ["email"]);
        let payment_token = Some("tok\0".to_owned());
        assert_eq!(refused_paths(PlaceOrderInput { payment_token, ..input() }), ["payment.token"]);
        let idempotency_key = "k".repeat(MAX_KEY_CHARS + 1);
        assert_eq!(refused_paths(PlaceOrderInput { idempotency_key, ..input() }), ["idempotencyKey"]);
    }

    #[test]
    fn the_fingerprint_tells_inputs_apart() {
        let fingerprint = |input| PlaceOrder::try_new(local_app(), input).expect("a valid input").fingerprint;
        assert_eq!(fingerprint(input()), fingerprint(input()));
        let other = PlaceOrderInput { email: Some("a@example.org".to_owned()), ..input() };
        assert_ne!(fingerprint(input()), fingerprint(other));
    }
}
