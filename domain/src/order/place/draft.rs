//! An order about to be inserted: an input with the catalog's names and prices.

use std::collections::HashMap;

use uuid::Uuid;

use super::store::Inserted;
use super::{PlaceOrder, Refusal, RequestedLine};
use crate::catalog;
use crate::input::Violation;
use crate::money::{Currency, Money, MoneyError};
use crate::order::{FulfillmentStatus, OrderStatus, PaymentStatus, entity};
use crate::pricing::{self, DEFAULT_SHIPPING_METHOD, Parcel, ParcelLine};

/// The token with which the simulated gateway approves; stands in where the client names none.
const DEFAULT_PAYMENT_TOKEN: &str = "tok_approve";

/// An order about to be inserted: the input with the catalog's names and prices frozen into it.
pub(super) struct Draft<'a> {
    pub(super) id: Uuid,
    pub(super) request: &'a PlaceOrder,
    pub(super) currency: Currency,
    pub(super) items_minor: i64,
    pub(super) lines: Vec<(&'a RequestedLine, &'a catalog::entity::Model)>,
}

impl<'a> Draft<'a> {
    pub(super) fn try_new(
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
            shipping_method: self.shipping_method().to_owned(),
            currency: self.currency,
            lines: lines.collect(),
        }
    }

    /// The row as it is once inserted, with the defaults of the table.
    pub(super) fn to_order(&self, inserted: &Inserted) -> entity::Model {
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

    pub(super) fn shipping_method(&self) -> &str {
        self.request.input.shipping_method.as_deref().unwrap_or(DEFAULT_SHIPPING_METHOD)
    }

    pub(super) fn payment_token(&self) -> &str {
        self.request.input.payment_token.as_deref().unwrap_or(DEFAULT_PAYMENT_TOKEN)
    }
}
