//! Placing: from an input to an order, its lines and its first event, for many orders in one transaction.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::event::OrderEvent;
use super::{Address, FulfillmentStatus, MAX_LINES, MAX_QUANTITY, OrderStatus, PaymentStatus, entity};
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

    /// The row as it is once inserted, with the defaults of the table.
    fn to_order(&self, inserted: &Inserted) -> entity::Model {
        let input = &self.request.input;
        entity::Model {
            id: self.id,
            number: inserted.number,
            app_id: self.request.app_id.uuid(),
            idempotency_key: input.idempotency_key.clone(),
            input_fingerprint: self.request.fingerprint.clone(),
            status: OrderStatus::Pending,
            payment_status: PaymentStatus::Unpaid,
            fulfillment_status: FulfillmentStatus::Unfulfilled,
            sequence: 1,
            currency: self.currency.code().to_owned(),
            items_minor: self.items_minor,
            shipping_minor: None,
            tax_minor: None,
            total_minor: None,
            expected_total_minor: input.expected_total.map(|total| total.minor),
            email: input.email.clone(),
            shipping_address: input.shipping_address.as_ref().map(|address| serde_json::json!(address)),
            shipping_method: self.shipping_method().to_owned(),
            shipping_country: input.shipping_address.as_ref().map(|address| address.country.clone()),
            payment_token: self.payment_token().to_owned(),
            external_reference: input.external_reference.clone(),
            failure_code: None,
            failure_message: None,
            created_at: inserted.created_at,
            updated_at: inserted.created_at,
            confirmed_at: None,
            failed_at: None,
        }
    }

    fn shipping_method(&self) -> &str {
        self.request.input.shipping_method.as_deref().unwrap_or(DEFAULT_SHIPPING_METHOD)
    }

    fn payment_token(&self) -> &str {
        self.request.input.payment_token.as_deref().unwrap_or(DEFAULT_PAYMENT_TOKEN)
    }
}

/// What the database adds to an order.
#[derive(FromQueryResult)]
struct Inserted {
    id: Uuid,
    number: i64,
    created_at: DateTime<Utc>,
}

fn column<'a, T: 'a, V>(rows: impl IntoIterator<Item = &'a T>, value: impl Fn(&'a T) -> V) -> sea_orm::Value
where
    Vec<V>: Into<sea_orm::Value>,
{
    rows.into_iter().map(value).collect::<Vec<V>>().into()
}

/// Inserts the orders whose key is free, and returns their rows by id. Sorts the drafts by key.
///
/// A text that is missing goes as an empty one, which no input may hold, and a missing total as -1: arrays of nullable
/// values do not exist here.
async fn insert_orders(
    tx: &impl ConnectionTrait,
    drafts: &mut [(usize, Draft<'_>)],
) -> Result<HashMap<Uuid, entity::Model>, DbErr> {
    if drafts.is_empty() {
        return Ok(HashMap::new());
    }
    // A stable sort: of two requests with one key the earlier is inserted.
    drafts.sort_by(|(_, left), (_, right)| left.request.key().cmp(&right.request.key()));
    let text = |field: fn(&PlaceOrderInput) -> Option<&str>| {
        column(&*drafts, move |(_, draft)| field(&draft.request.input).unwrap_or_default().to_owned())
    };
    let inserted = Inserted::find_by_statement(statement(
        "INSERT INTO orders (id, app_id, idempotency_key, input_fingerprint, currency, items_minor,
             expected_total_minor, email, shipping_address, shipping_method, shipping_country, payment_token,
             external_reference)
         SELECT id, app_id, idempotency_key, decode(input_fingerprint, 'hex'), currency, items_minor,
             nullif(expected_total_minor, -1), nullif(email, ''), nullif(shipping_address, '')::jsonb, shipping_method,
             nullif(shipping_country, ''), payment_token, nullif(external_reference, '')
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[],
                     $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
             AS input (id, app_id, idempotency_key, input_fingerprint, currency, items_minor, expected_total_minor, email,
                       shipping_address, shipping_method, shipping_country, payment_token, external_reference)
         ON CONFLICT ON CONSTRAINT orders_one_per_key DO NOTHING
         RETURNING id, number, created_at",
        [
            column(&*drafts, |(_, draft)| draft.id),
            column(&*drafts, |(_, draft)| draft.request.app_id.uuid()),
            text(|input| Some(&input.idempotency_key)),
            column(&*drafts, |(_, draft)| hex(&draft.request.fingerprint)),
            column(&*drafts, |(_, draft)| draft.currency.code().to_owned()),
            column(&*drafts, |(_, draft)| draft.items_minor),
            column(&*drafts, |(_, draft)| draft.request.input.expected_total.map_or(-1, |total| total.minor)),
            text(|input| input.email.as_deref()),
            column(&*drafts, |(_, draft)| address_text(draft.request.input.shipping_address.as_ref())),
            column(&*drafts, |(_, draft)| draft.shipping_method().to_owned()),
            text(|input| input.shipping_address.as_ref().map(|address| address.country.as_str())),
            column(&*drafts, |(_, draft)| draft.payment_token().to_owned()),
            text(|input| input.external_reference.as_deref()),
        ],
    ))
    .all(tx)
    .await?;
    let inserted: HashMap<Uuid, Inserted> = inserted.into_iter().map(|row| (row.id, row)).collect();
    let orders = drafts.iter().filter_map(|(_, draft)| Some(draft.to_order(inserted.get(&draft.id)?)));
    Ok(orders.map(|order| (order.id, order)).collect())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to memory cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn address_text(address: Option<&Address>) -> String {
    address.and_then(|address| serde_json::to_string(address).ok()).unwrap_or_default()
}

async fn insert_lines_and_first_events(
    tx: &impl ConnectionTrait,
    drafts: &[(usize, Draft<'_>)],
    inserted: &HashMap<Uuid, entity::Model>,
) -> Result<(), DbErr> {
    if inserted.is_empty() {
        return Ok(());
    }
    let drafts: Vec<&Draft<'_>> =
        drafts.iter().map(|(_, draft)| draft).filter(|draft| inserted.contains_key(&draft.id)).collect();
    let lines: Vec<(Uuid, i32, &RequestedLine, &catalog::entity::Model, Uuid)> = drafts
        .iter()
        .flat_map(|draft| {
            let app_id = draft.request.app_id.uuid();
            draft
                .lines
                .iter()
                .zip(1..)
                .map(move |(&(line, product), no)| (draft.id, no, line, product, app_id))
        })
        .collect();
    tx.execute_raw(statement(
        "INSERT INTO order_lines (order_id, line_no, sku, name, quantity, unit_price_minor, weight_grams, tax_category,
                                  app_id)
         SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                              $7::integer[], $8::text[], $9::uuid[])",
        [
            column(&lines, |line| line.0),
            column(&lines, |line| line.1),
            column(&lines, |line| line.3.sku.clone()),
            column(&lines, |line| line.3.name.clone()),
            column(&lines, |line| line.2.quantity),
            column(&lines, |line| line.3.price_minor),
            column(&lines, |line| line.3.weight_grams),
            column(&lines, |line| line.3.tax_category.clone()),
            column(&lines, |line| line.4),
        ],
    ))
    .await?;
    let events: Vec<(Uuid, (String, serde_json::Value))> = drafts
        .iter()
        .map(|draft| {
            let placed = OrderEvent::OrderPlaced {
                lines: draft.lines.len(),
                items_minor: draft.items_minor,
                currency: draft.currency.code().to_owned(),
            };
            (draft.id, placed.to_parts())
        })
        .collect();
    tx.execute_raw(statement(
        "INSERT INTO order_events (order_id, sequence, type, status, data)
         SELECT order_id, 1, type, 'PENDING', data::jsonb
         FROM unnest($1::uuid[], $2::text[], $3::text[]) AS input (order_id, type, data)",
        [
            column(&events, |(id, _)| *id),
            column(&events, |(_, (kind, _))| kind.clone()),
            column(&events, |(_, (_, data))| data.to_string()),
        ],
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
