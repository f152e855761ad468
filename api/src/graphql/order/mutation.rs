//! Placing orders.

use std::time::Duration;

use async_graphql::{Context, InputObject, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::id::AppId;
use domain::input::Violation;
use domain::money::Currency;
use domain::order::place::{self, PlaceOrder, RequestedLine};

use super::Order;
use crate::access::{Needs, caller};
use crate::app::Services;
use crate::graphql::error::{OrReport, UserError};
use crate::graphql::money::MoneyInput;

/// The longest that a call waits for its order, in milliseconds: shorter than the time after which common proxies
/// give up.
const MAX_WAIT_MS: i32 = 10_000;

/// The same.
pub(in crate::graphql) const MAX_WAIT: Duration = Duration::from_millis(MAX_WAIT_MS as u64);

/// Places orders.
#[derive(Debug, Default)]
pub(crate) struct OrderMutation;

#[Object]
impl OrderMutation {
    /// Places an order and starts to carry it out. The order that is returned survives any crash.
    ///
    /// Repeat it with the same key as often as you like: there is one order per key. Whether there is stock and
    /// whether the card pays is found out after this returns: watch `orderStatus`, or give `waitMs`.
    #[graphql(guard = "Needs([Scope::OrdersWrite])")]
    async fn place_order(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What to buy.")] input: PlaceOrderInput,
    ) -> Result<PlaceOrderPayload> {
        let services = ctx.data_unchecked::<Services>();
        let (request, wait) = match input.check(caller(ctx)?.app_id(), services.settings.currency) {
            Ok(checked) => checked,
            Err(user_errors) => return Ok(PlaceOrderPayload::refused(user_errors)),
        };
        let placed = match services.placing.place(request).await.or_report(ctx, "place an order")? {
            Ok(placed) => placed,
            Err(refusals) => return Ok(PlaceOrderPayload::refused(refusals)),
        };
        // Returned once: whoever repeats a call may be somebody else who came by its key.
        let access_token = (!placed.replayed).then(|| services.door.issue_order_token(placed.order.id));
        let order = match wait {
            Some(wait) => services.event_feed.wait_until_settled(placed.order.id, wait).await,
            None => Ok(None),
        };
        // The order exists by now. Failing to read it again is no reason to keep its id from the client.
        let order = order.ok().flatten().unwrap_or(placed.order);
        let order = Order::try_new(order).or_report(ctx, "show an order")?;
        Ok(PlaceOrderPayload {
            order: Some(order),
            replayed: placed.replayed,
            access_token,
            user_errors: Vec::new(),
        })
    }
}

/// An order to be placed.
#[derive(Debug, Clone, InputObject)]
pub(super) struct PlaceOrderInput {
    /// Your own key for this order, 1 to 255 characters: one order per key, however often you call. Example:
    /// `cart-7f3a`
    idempotency_key: String,
    /// What to buy, 1 to 250 lines.
    lines: Vec<OrderLineInput>,
    /// Whom to write to. Example: `ada@example.org`
    email: Option<String>,
    /// Where it goes; its country decides shipping and tax.
    shipping_address: Option<AddressInput>,
    /// How it goes; `standard` unless said. Example: `express`
    shipping_method: Option<String>,
    /// How it is paid; the simulated gateway's approving card unless said.
    payment: Option<PaymentInput>,
    /// Your own name for the order. Example: `web-20261125-17`
    external_reference: Option<String>,
    /// The total that the shopper was shown: items, shipping and tax. An order that costs anything else is refused.
    expected_total: Option<MoneyInput>,
    /// Milliseconds to wait for the order to be settled, 0 to 10000; the order is returned as it is then. Without it
    /// the call returns at once. Example: `2000`
    wait_ms: Option<i32>,
}

/// One line of an order to be placed.
#[derive(Debug, Clone, InputObject)]
pub(super) struct OrderLineInput {
    /// The shop's own article code. Example: `SKU-1`
    sku: String,
    /// Units, 1 to 1000000. Example: `2`
    quantity: i64,
}

/// Where an order goes.
#[derive(Debug, Clone, InputObject)]
pub(super) struct AddressInput {
    /// Whose name is on the door. Example: `Ada Lovelace`
    name: String,
    /// Street and number. Example: `12 St James's Square`
    line1: String,
    /// Anything that needs a second line. Example: `Third floor`
    line2: Option<String>,
    /// City. Example: `London`
    city: String,
    /// Postal code, where the country has them. Example: `SW1Y 4JH`
    postal_code: Option<String>,
    /// State, province or region, where the country has them. Example: `CA`
    region: Option<String>,
    /// Country, a two-letter code of ISO 3166-1. Example: `GB`
    country: String,
}

/// How an order is paid.
#[derive(Debug, Clone, InputObject)]
pub(super) struct PaymentInput {
    /// The gateway's name for the card; never a card number. Example: `tok_approve`
    token: String,
}

/// What became of placing an order.
#[derive(Debug, SimpleObject)]
pub(super) struct PlaceOrderPayload {
    /// The order; null when it was refused.
    order: Option<Order>,
    /// Whether an earlier call with the same key had placed it. Example: `false`
    replayed: bool,
    /// Opens this one order, and its `orderStatus`, to a shopper without an account; returned once, by the call that places
    /// the order, and ending by itself. Example: `oms_order_...`
    access_token: Option<String>,
    /// Why it was refused; empty when it was not.
    user_errors: Vec<UserError>,
}

impl PlaceOrderPayload {
    fn refused(errors: Vec<impl Into<UserError>>) -> Self {
        Self {
            order: None,
            replayed: false,
            access_token: None,
            user_errors: errors.into_iter().map(Into::into).collect(),
        }
    }
}

impl PlaceOrderInput {
    /// Checks what can be checked without a row, and returns the order and how long to wait for it.
    fn check(self, app_id: AppId, store: Currency) -> Result<(PlaceOrder, Option<Duration>), Vec<UserError>> {
        let mut violations = Vec::new();
        let expected_total = self.expected_total.as_ref().map(|total| total.to_money(store)).transpose();
        let expected_total = expected_total.unwrap_or_else(|violation| {
            violations.push(violation.within(&["expectedTotal"]));
            None
        });
        if self.wait_ms.is_some_and(|wait_ms| !(0..=MAX_WAIT_MS).contains(&wait_ms)) {
            violations.push(Violation::new(&["waitMs"], format!("must be between 0 and {MAX_WAIT_MS}")));
        }
        let wait = self.wait_ms.and_then(|wait_ms| u64::try_from(wait_ms).ok()).map(Duration::from_millis);
        let checked = PlaceOrder::try_new(app_id, self.into_request(expected_total));
        let mut errors: Vec<UserError> = violations.into_iter().map(UserError::from).collect();
        match checked {
            Ok(order) if errors.is_empty() => Ok((order, wait)),
            Ok(_) => Err(errors),
            Err(refusals) => {
                errors.extend(refusals.into_iter().map(UserError::from));
                Err(errors)
            }
        }
    }

    fn into_request(self, expected_total: Option<domain::money::Money>) -> place::PlaceOrderInput {
        let lines =
            self.lines.into_iter().map(|line| RequestedLine { sku: line.sku, quantity: line.quantity });
        place::PlaceOrderInput {
            idempotency_key: self.idempotency_key,
            lines: lines.collect(),
            email: self.email,
            shipping_address: self.shipping_address.map(domain::order::Address::from),
            shipping_method: self.shipping_method,
            payment_token: self.payment.map(|payment| payment.token),
            external_reference: self.external_reference,
            expected_total,
        }
    }
}

impl From<AddressInput> for domain::order::Address {
    fn from(input: AddressInput) -> Self {
        let AddressInput { name, line1, line2, city, postal_code, region, country } = input;
        Self { name, line1, line2, city, postal_code, region, country }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::{InputType, OutputType, Value, value};

    use super::*;

    fn check(value: Value) -> Result<Option<Duration>, usize> {
        let input = <PlaceOrderInput as InputType>::parse(Some(value)).expect("a well-formed input");
        input
            .check(domain::id::local_app(), Currency::USD)
            .map(|(_, wait)| wait)
            .map_err(|errors| errors.len())
    }

    #[test]
    fn a_key_and_a_line_are_enough() {
        let value = value!({"idempotencyKey": "k", "lines": [{"sku": "SKU-1", "quantity": 1}]});
        assert_eq!(check(value), Ok(None));
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let value = value!({
            "idempotencyKey": "k", "lines": [{"sku": "SKU-1", "quantity": 3000000000_i64}], "waitMs": 10001,
            "expectedTotal": {"amount": "1.999"},
        });
        assert_eq!(check(value), Err(3));
    }

    #[test]
    fn waiting_is_asked_for_in_milliseconds() {
        let value = value!({"idempotencyKey": "k", "lines": [{"sku": "A", "quantity": 1}], "waitMs": 1500});
        assert_eq!(check(value), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(PlaceOrderPayload::type_name(), "PlaceOrderPayload");
    }
}
