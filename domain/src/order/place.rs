//! Placing: from an input to an order, its lines and its first event, for many orders in one transaction.

use std::collections::{HashMap, HashSet};

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::event::OrderEvent;
use super::{Address, MAX_LINES, MAX_QUANTITY, entity};
use crate::catalog::{self, MAX_SKU_CHARS};
use crate::id::AppId;
use crate::input::{Violation, check_text};
use crate::money::{Currency, Money, MoneyError};
use crate::pricing::{self, DEFAULT_SHIPPING_METHOD, Parcel, ParcelLine};
use crate::sql::statement;

/// The longest idempotency key, in characters.
pub const MAX_KEY_CHARS: usize = 255;

/// The longest e-mail address, in characters (RFC 5321, section 4.5.3.1.3, allows a path of 256 with its brackets).
pub const MAX_EMAIL_CHARS: usize = 254;

/// The longest line of an address and the longest reference or token, in characters.
pub const MAX_FIELD_CHARS: usize = 200;

/// The token with which the simulated gateway approves; stands in where the client names none.
pub const DEFAULT_PAYMENT_TOKEN: &str = "tok_approve";

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
    app_id: AppId,
    input: PlaceOrderInput,
    fingerprint: Vec<u8>,
}

/// Why an order is refused; nothing was written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A field is not as it must be.
    Invalid(Violation),
    /// The catalog has no such SKU.
    UnknownSku {
        /// Which line, counted from 0.
        line: usize,
        /// The SKU.
        sku: String,
    },
    /// The lines, or the expected total, are not in one currency.
    CurrencyMismatch {
        /// Field names and positions from the input's root.
        path: Vec<String>,
        /// The currency of the first line.
        expected: Currency,
        /// The other one.
        actual: Currency,
    },
    /// The order costs another amount than the shopper was shown.
    PriceChanged {
        /// What the shopper was shown.
        expected: Money,
        /// What it costs.
        actual: Money,
    },
    /// The key has been used with another input.
    IdempotencyKeyReused,
}

/// An accepted order.
#[derive(Debug, Clone)]
pub struct Placed {
    /// Its row.
    pub order: entity::Model,
    /// Whether an earlier call with the same key had placed it.
    pub replayed: bool,
}

/// What becomes of one request of a batch.
pub type PlaceResult = Result<Placed, Vec<Refusal>>;

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
        let canonical = serde_json::to_string(&input).unwrap_or_default();
        Ok(Self { app_id, input, fingerprint: Sha256::digest(canonical).to_vec() })
    }

    fn key(&self) -> (Uuid, &str) {
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

/// Places the orders in the caller's transaction and answers in the order of `requests`.
///
/// A key that exists, or comes twice in the batch, gives the order that has it: `replayed` if the input is the same,
/// refused if not. Two transactions that place the same key wait for each other at `orders_one_per_key`; keys are
/// inserted in sorted order, so that overlapping batches cannot deadlock.
///
/// # Errors
/// Any error of the database; the whole batch is then undone with the caller's transaction.
pub async fn place(tx: &impl ConnectionTrait, requests: &[PlaceOrder]) -> Result<Vec<PlaceResult>, DbErr> {
    let skus: HashSet<&str> = requests
        .iter()
        .flat_map(|request| request.input.lines.iter().map(|line| line.sku.as_str()))
        .collect();
    let products = catalog::store::find_products(tx, &skus).await?;
    let rates = match requests.iter().any(|request| request.input.expected_total.is_some()) {
        true => pricing::store::load_rates(tx).await?,
        false => pricing::Rates::default(),
    };

    let mut answers: Vec<Option<PlaceResult>> = requests.iter().map(|_| None).collect();
    let mut drafts = Vec::with_capacity(requests.len());
    for (index, request) in requests.iter().enumerate() {
        match Draft::try_new(request, &products, &rates) {
            Ok(draft) => drafts.push((index, draft)),
            Err(refusals) => answers[index] = Some(Err(refusals)),
        }
    }
    let inserted = insert_orders(tx, &mut drafts).await?;
    insert_lines_and_first_events(tx, &drafts, &inserted).await?;

    for (index, draft) in &drafts {
        if let Some(order) = inserted.get(&draft.id) {
            answers[*index] = Some(Ok(Placed { order: order.clone(), replayed: false }));
        }
    }
    resolve_replays(tx, requests, &mut answers).await?;
    // Every request was inserted, met a row that has its key, or was refused.
    answers.into_iter().map(|answer| answer.ok_or(DbErr::RecordNotInserted)).collect()
}

/// An order about to be inserted: the input with the catalog's names and prices frozen into it.
struct Draft<'a> {
    id: Uuid,
    request: &'a PlaceOrder,
    currency: Currency,
    items_minor: i64,
    lines: Vec<(&'a RequestedLine, &'a catalog::entity::Model)>,
}

impl<'a> Draft<'a> {
    fn try_new(
        request: &'a PlaceOrder,
        products: &'a HashMap<String, catalog::entity::Model>,
        rates: &pricing::Rates,
    ) -> Result<Self, Vec<Refusal>> {
        let mut refusals = Vec::new();
        let mut lines = Vec::with_capacity(request.input.lines.len());
        for (index, line) in request.input.lines.iter().enumerate() {
            match products.get(&line.sku) {
                Some(product) => lines.push((line, product)),
                None => refusals.push(Refusal::UnknownSku { line: index, sku: line.sku.clone() }),
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let too_large =
            |_: MoneyError| vec![Refusal::Invalid(Violation::new(&["lines"], "the total is too large"))];
        let currency = lines[0].1.price().map_err(too_large)?.currency;
        let mut items = Money::new(0, currency);
        for (index, (line, product)) in lines.iter().enumerate() {
            let price = product.price().map_err(too_large)?;
            if price.currency != currency {
                let path = vec!["lines".to_owned(), index.to_string(), "sku".to_owned()];
                return Err(vec![Refusal::CurrencyMismatch {
                    path,
                    expected: currency,
                    actual: price.currency,
                }]);
            }
            let amount = price.checked_mul(line.quantity).map_err(too_large)?;
            items = items.checked_add(amount).map_err(too_large)?;
        }
        let draft = Self { id: Uuid::now_v7(), request, currency, items_minor: items.minor, lines };
        draft.check_expected_total(rates)?;
        Ok(draft)
    }

    /// Tells the client at once when the price has changed. The saga's quote checks again and decides: rates may
    /// change in between.
    fn check_expected_total(&self, rates: &pricing::Rates) -> Result<(), Vec<Refusal>> {
        let Some(expected) = self.request.input.expected_total else { return Ok(()) };
        if expected.currency != self.currency {
            return Err(vec![Refusal::CurrencyMismatch {
                path: vec!["expectedTotal".to_owned(), "currency".to_owned()],
                expected: self.currency,
                actual: expected.currency,
            }]);
        }
        match rates.quote(&self.parcel()) {
            Ok(quote) if quote.total != expected => {
                Err(vec![Refusal::PriceChanged { expected, actual: quote.total }])
            }
            // What cannot be priced fails in the saga, with its reason on the order.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn parcel(&self) -> Parcel {
        let input = &self.request.input;
        let lines = self.lines.iter().map(|(line, product)| ParcelLine {
            quantity: line.quantity,
            unit_price_minor: product.price_minor,
            weight_grams: product.weight_grams,
            tax_category: product.tax_category.clone(),
        });
        Parcel {
            country: input.shipping_address.as_ref().map(|address| address.country.clone()),
            shipping_method: input
                .shipping_method
                .clone()
                .unwrap_or_else(|| DEFAULT_SHIPPING_METHOD.to_owned()),
            currency: self.currency,
            lines: lines.collect(),
        }
    }

    fn to_row(&self) -> serde_json::Value {
        let input = &self.request.input;
        let fingerprint: String = self.request.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        serde_json::json!({
            "id": self.id,
            "app_id": self.request.app_id.uuid(),
            "idempotency_key": input.idempotency_key,
            "input_fingerprint": format!("\\x{fingerprint}"),
            "currency": self.currency,
            "items_minor": self.items_minor,
            "expected_total_minor": input.expected_total.map(|total| total.minor),
            "email": input.email,
            "shipping_address": input.shipping_address,
            "shipping_method": input.shipping_method.as_deref().unwrap_or(DEFAULT_SHIPPING_METHOD),
            "shipping_country": input.shipping_address.as_ref().map(|address| &address.country),
            "payment_token": input.payment_token.as_deref().unwrap_or(DEFAULT_PAYMENT_TOKEN),
            "external_reference": input.external_reference,
        })
    }
}

/// Inserts the orders whose key is free, and returns their rows by id. Sorts the drafts by key.
async fn insert_orders(
    tx: &impl ConnectionTrait,
    drafts: &mut [(usize, Draft<'_>)],
) -> Result<HashMap<Uuid, entity::Model>, DbErr> {
    if drafts.is_empty() {
        return Ok(HashMap::new());
    }
    // A stable sort: of two requests with one key the earlier is inserted.
    drafts.sort_by(|(_, left), (_, right)| left.request.key().cmp(&right.request.key()));
    let rows: Vec<serde_json::Value> = drafts.iter().map(|(_, draft)| draft.to_row()).collect();
    let inserted = entity::Model::find_by_statement(statement(
        "INSERT INTO orders (id, app_id, idempotency_key, input_fingerprint, currency, items_minor,
             expected_total_minor, email, shipping_address, shipping_method, shipping_country, payment_token,
             external_reference)
         SELECT * FROM jsonb_to_recordset($1) AS input (id uuid, app_id uuid, idempotency_key text,
             input_fingerprint bytea, currency text, items_minor bigint, expected_total_minor bigint, email text,
             shipping_address jsonb, shipping_method text, shipping_country text, payment_token text,
             external_reference text)
         ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING
         RETURNING *",
        [serde_json::Value::Array(rows).into()],
    ))
    .all(tx)
    .await?;
    Ok(inserted.into_iter().map(|order| (order.id, order)).collect())
}

async fn insert_lines_and_first_events(
    tx: &impl ConnectionTrait,
    drafts: &[(usize, Draft<'_>)],
    inserted: &HashMap<Uuid, entity::Model>,
) -> Result<(), DbErr> {
    if inserted.is_empty() {
        return Ok(());
    }
    let (mut lines, mut events) = (Vec::new(), Vec::new());
    for (_, draft) in drafts.iter().filter(|(_, draft)| inserted.contains_key(&draft.id)) {
        for (index, (line, product)) in draft.lines.iter().enumerate() {
            lines.push(serde_json::json!({
                "order_id": draft.id,
                "line_no": index + 1,
                "sku": product.sku,
                "name": product.name,
                "quantity": line.quantity,
                "unit_price_minor": product.price_minor,
                "weight_grams": product.weight_grams,
                "tax_category": product.tax_category,
            }));
        }
        let placed = OrderEvent::OrderPlaced {
            lines: draft.lines.len(),
            items_minor: draft.items_minor,
            currency: draft.currency.code().to_owned(),
        };
        let (kind, data) = placed.into_parts();
        events.push(serde_json::json!({"order_id": draft.id, "type": kind, "data": data}));
    }
    tx.execute_raw(statement(
        "INSERT INTO order_lines
         SELECT * FROM jsonb_to_recordset($1) AS input (order_id uuid, line_no integer, sku text, name text,
             quantity bigint, unit_price_minor bigint, weight_grams integer, tax_category text)",
        [serde_json::Value::Array(lines).into()],
    ))
    .await?;
    tx.execute_raw(statement(
        "INSERT INTO order_events (order_id, sequence, type, status, data)
         SELECT order_id, 1, type, 'PENDING', data
         FROM jsonb_to_recordset($1) AS input (order_id uuid, type text, data jsonb)",
        [serde_json::Value::Array(events).into()],
    ))
    .await
    .map(drop)
}

/// Answers the requests whose key had an order already, whoever placed it: this batch or an earlier one.
///
/// A request that was refused is looked up as well: a repetition gets its order even where the price has changed since.
async fn resolve_replays(
    tx: &impl ConnectionTrait,
    requests: &[PlaceOrder],
    answers: &mut [Option<PlaceResult>],
) -> Result<(), DbErr> {
    let open: Vec<&PlaceOrder> = requests
        .iter()
        .zip(&*answers)
        .filter(|(_, answer)| !matches!(answer, Some(Ok(_))))
        .map(|(request, _)| request)
        .collect();
    if open.is_empty() {
        return Ok(());
    }
    let (app_ids, keys): (Vec<Uuid>, Vec<String>) =
        open.iter().map(|request| (request.app_id.uuid(), request.input.idempotency_key.clone())).unzip();
    // A statement of its own: it sees what the transaction that the insert waited for has committed.
    let orders = entity::Model::find_by_statement(statement(
        "SELECT orders.* FROM orders
         JOIN unnest($1::uuid[], $2::text[]) AS input (app_id, idempotency_key) USING (app_id, idempotency_key)",
        [app_ids.into(), keys.into()],
    ))
    .all(tx)
    .await?;
    let by_key: HashMap<(Uuid, &str), &entity::Model> =
        orders.iter().map(|order| ((order.app_id, order.idempotency_key.as_str()), order)).collect();
    for (request, answer) in requests.iter().zip(answers) {
        if !matches!(answer, Some(Ok(_)))
            && let Some(&order) = by_key.get(&request.key())
        {
            *answer = Some(match order.input_fingerprint == request.fingerprint {
                true => Ok(Placed { order: order.clone(), replayed: true }),
                false => Err(vec![Refusal::IdempotencyKeyReused]),
            });
        }
    }
    Ok(())
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
