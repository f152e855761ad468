//! Prices the order: shipping, tax and total, held against what the shopper was shown.

use std::collections::HashMap;

use async_trait::async_trait;
use domain::app::Visibility;
use domain::money::{Currency, Money, MoneyError};
use domain::order::entity::line;
use domain::order::event::OrderEvent;
use domain::order::read::find_lines;
use domain::pricing::store::load_rates;
use domain::pricing::{Parcel, ParcelLine, Quote, QuoteError, Rates};
use uuid::Uuid;

use super::events::defer_events;
use super::{State, order_ids};
use crate::engine::{Failure, LocalStep, Saga, StepError, StepTransaction, Verdict};

/// Quotes an order, or refuses one that cannot be priced or costs something else than expected.
pub(super) struct QuoteOrder;

#[async_trait]
impl LocalStep for QuoteOrder {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let rates = load_rates(tx).await?;
        let mut lines: HashMap<Uuid, Vec<line::Model>> = HashMap::new();
        for line in find_lines(tx, &Visibility::All, order_ids(sagas)).await? {
            lines.entry(line.order_id).or_default().push(line);
        }
        let (mut verdicts, mut events) = (Vec::with_capacity(sagas.len()), Vec::with_capacity(sagas.len()));
        for saga in sagas {
            let mut state: State = saga.state()?;
            let of_order = lines.remove(&saga.subject_id).unwrap_or_default();
            match price(&rates, &state, &of_order) {
                Ok(quote) => {
                    state.total_minor = Some(quote.total.minor);
                    saga.set_state(&state)?;
                    events.push((saga.subject_id, quoted(&quote)));
                    verdicts.push(Verdict::Done);
                }
                Err(failure) => verdicts.push(Verdict::Refused(failure)),
            }
        }
        defer_events(tx, events);
        Ok(verdicts)
    }
}

fn price(rates: &Rates, state: &State, lines: &[line::Model]) -> Result<Quote, Failure> {
    let currency: Currency =
        state.currency.parse().map_err(|error: MoneyError| Failure::new("INTERNAL", error.to_string()))?;
    let parcel = Parcel {
        country: state.shipping_country.clone(),
        shipping_method: state.shipping_method.clone(),
        currency,
        lines: lines
            .iter()
            .map(|line| ParcelLine {
                quantity: line.quantity,
                unit_price_minor: line.unit_price_minor,
                weight_grams: line.weight_grams,
                tax_category: line.tax_category.clone(),
            })
            .collect(),
    };
    let quote = rates.quote(&parcel).map_err(|error| Failure::new(code(&error), error.to_string()))?;
    match state.expected_total_minor.map(|minor| Money::new(minor, currency)) {
        Some(expected) if expected != quote.total => {
            let message = format!("the order costs {}, not {expected} as expected", quote.total);
            Err(Failure::new("PRICE_CHANGED", message))
        }
        _ => Ok(quote),
    }
}

fn code(error: &QuoteError) -> &'static str {
    match error {
        QuoteError::NoShippingRate { .. } => "NO_SHIPPING_RATE",
        QuoteError::NoTaxRate { .. } => "NO_TAX_RATE",
        QuoteError::Amount(_) => "AMOUNT_TOO_LARGE",
    }
}

fn quoted(quote: &Quote) -> OrderEvent {
    OrderEvent::OrderQuoted {
        shipping_minor: quote.shipping.minor,
        tax_minor: quote.tax.minor,
        total_minor: quote.total.minor,
    }
}
