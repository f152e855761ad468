//! What an order costs: shipping by country and weight, tax by country and category, and their total.

use crate::money::{Currency, Money, MoneyError};

pub mod entity;
pub mod store;

/// The shipping method of an order that names none.
pub const DEFAULT_SHIPPING_METHOD: &str = "standard";

/// The country of a rate that holds anywhere no other does.
pub const ANY_COUNTRY: &str = "*";

/// What a quote is made from: one order, without its names and addresses.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// ISO 3166-1 alpha-2 country of the shipping address, if there is one.
    pub country: Option<String>,
    /// Key into the shipping rates.
    pub shipping_method: String,
    /// Currency of every amount.
    pub currency: Currency,
    /// What is in it.
    pub lines: Vec<ParcelLine>,
}

/// One line of an order, as far as its price goes.
#[derive(Debug, Clone)]
pub struct ParcelLine {
    /// Units.
    pub quantity: i64,
    /// Price of one, in minor units.
    pub unit_price_minor: i64,
    /// Weight of one, in grams.
    pub weight_grams: i32,
    /// Key into the tax rates.
    pub tax_category: String,
}

/// What an order costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Sum of the lines.
    pub items: Money,
    /// Shipping.
    pub shipping: Money,
    /// Tax on the lines; shipping is not taxed.
    pub tax: Money,
    /// All of it.
    pub total: Money,
}

/// Why an order cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// No shipping rate fits.
    #[error(
        "no {method:?} shipping to {country} for {weight_grams} g in {currency}; add a row to shipping_rates"
    )]
    NoShippingRate {
        /// The method asked for.
        method: String,
        /// The country, or `*`.
        country: String,
        /// Weight of the order in grams.
        weight_grams: i64,
        /// Currency of the order.
        currency: Currency,
    },
    /// No tax rate fits.
    #[error("no tax rate for category {category:?} in {country}; add a row to tax_rates")]
    NoTaxRate {
        /// The product's category.
        category: String,
        /// The country, or `*`.
        country: String,
    },
    /// The sums do not fit.
    #[error("the order's amounts cannot be added up")]
    Amount(#[from] MoneyError),
}

/// The rate tables, held in memory while a batch is quoted.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// Rows of `shipping_rates`.
    pub shipping: Vec<entity::shipping::Model>,
    /// Rows of `tax_rates`.
    pub tax: Vec<entity::tax::Model>,
}

impl Rates {
    /// Prices an order.
    ///
    /// Tax is computed for each line from its amount and rounded half up to a minor unit (EN 16931-1, section 6.4.2,
    /// leaves the rounding of line amounts to two decimals; half up is the commercial rule).
    ///
    /// # Errors
    /// [`QuoteError`]: the order cannot be priced with these rates.
    pub fn quote(&self, parcel: &Parcel) -> Result<Quote, QuoteError> {
        let country = parcel.country.as_deref().unwrap_or(ANY_COUNTRY);
        let zero = Money::new(0, parcel.currency);
        let (mut items, mut tax, mut weight_grams) = (zero, zero, 0_i64);
        for line in &parcel.lines {
            let amount = Money::new(line.unit_price_minor, parcel.currency).checked_mul(line.quantity)?;
            items = items.checked_add(amount)?;
            tax = tax.checked_add(self.tax_on(amount, &line.tax_category, country)?)?;
            weight_grams = i64::from(line.weight_grams)
                .checked_mul(line.quantity)
                .and_then(|weight| weight_grams.checked_add(weight))
                .ok_or(MoneyError::Overflow)?;
        }
        let shipping = self.shipping_for(parcel, country, weight_grams)?;
        let total = items.checked_add(shipping)?.checked_add(tax)?;
        Ok(Quote { items, shipping, tax, total })
    }

    fn shipping_for(&self, parcel: &Parcel, country: &str, weight_grams: i64) -> Result<Money, QuoteError> {
        let cheapest = |country: &str| {
            let fits = |rate: &&entity::shipping::Model| {
                rate.country == country
                    && rate.method == parcel.shipping_method
                    && rate.currency == parcel.currency.code()
                    && i64::from(rate.max_weight_grams) >= weight_grams
            };
            self.shipping.iter().filter(fits).map(|rate| rate.price_minor).min()
        };
        match cheapest(country).or_else(|| cheapest(ANY_COUNTRY)) {
            Some(minor) => Ok(Money::new(minor, parcel.currency)),
            None => Err(QuoteError::NoShippingRate {
                method: parcel.shipping_method.clone(),
                country: country.to_owned(),
                weight_grams,
                currency: parcel.currency,
            }),
        }
    }

    fn tax_on(&self, amount: Money, category: &str, country: &str) -> Result<Money, QuoteError> {
        let rate = |country: &str| {
            self.tax.iter().find(|rate| rate.country == country && rate.tax_category == category)
        };
        let rate = rate(country).or_else(|| rate(ANY_COUNTRY)).ok_or_else(|| QuoteError::NoTaxRate {
            category: category.to_owned(),
            country: country.to_owned(),
        })?;
        // In 128 bits, since the product of two 64-bit amounts would not fit in 64.
        let exact = i128::from(amount.minor) * i128::from(rate.rate_basis_points);
        let rounded = (exact + 5_000).div_euclid(10_000);
        let minor = i64::try_from(rounded).map_err(|_| MoneyError::Overflow)?;
        Ok(Money::new(minor, amount.currency))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates() -> Rates {
        let shipping = |country: &str, max_weight_grams, price_minor| entity::shipping::Model {
            country: country.to_owned(),
            method: "standard".to_owned(),
            currency: "USD".to_owned(),
            max_weight_grams,
            price_minor,
        };
        let tax = |country: &str, rate_basis_points| entity::tax::Model {
            country: country.to_owned(),
            tax_category: "standard".to_owned(),
            rate_basis_points,
        };
        Rates {
            shipping: vec![
                shipping("*", 1_000, 490),
                shipping("*", i32::MAX, 1_490),
                shipping("DE", 1_000, 300),
            ],
            tax: vec![tax("*", 0), tax("DE", 1_900)],
        }
    }

    fn parcel(country: Option<&str>, quantity: i64, unit_price_minor: i64, weight_grams: i32) -> Parcel {
        Parcel {
            country: country.map(str::to_owned),
            shipping_method: "standard".to_owned(),
            currency: Currency::USD,
            lines: vec![ParcelLine {
                quantity,
                unit_price_minor,
                weight_grams,
                tax_category: "standard".to_owned(),
            }],
        }
    }

    #[test]
    fn a_rate_of_the_country_goes_before_the_rate_for_anywhere() {
        let quote = rates().quote(&parcel(Some("DE"), 2, 1_999, 100)).expect("a quote");
        assert_eq!((quote.items.minor, quote.shipping.minor), (3_998, 300));
        assert_eq!(quote.tax.minor, 760, "19 % of 39.98 is 7.5962");
        assert_eq!(quote.total.minor, 3_998 + 300 + 760);
        assert_eq!(rates().quote(&parcel(None, 1, 100, 100)).expect("a quote").shipping.minor, 490);
    }

    #[test]
    fn a_heavy_order_takes_the_next_rate_and_anywhere_serves_where_the_country_has_none() {
        assert_eq!(rates().quote(&parcel(Some("DE"), 2, 100, 600)).expect("a quote").shipping.minor, 1_490);
    }

    #[test]
    fn an_order_without_a_rate_or_beyond_64_bits_is_refused() {
        let mut express = parcel(None, 1, 100, 100);
        express.shipping_method = "express".to_owned();
        assert!(matches!(rates().quote(&express), Err(QuoteError::NoShippingRate { .. })));
        let mut untaxed = parcel(None, 1, 100, 100);
        untaxed.lines[0].tax_category = "luxury".to_owned();
        assert!(matches!(rates().quote(&untaxed), Err(QuoteError::NoTaxRate { .. })));
        let huge = parcel(None, 2, i64::MAX / 2 + 1, 0);
        assert_eq!(rates().quote(&huge), Err(QuoteError::Amount(MoneyError::Overflow)));
    }

    proptest! {
        #[test]
        fn the_total_is_the_sum_of_its_parts_and_tax_is_within_half_a_cent(
            quantity in 1_i64..1_000, price in 0_i64..1_000_000, weight in 0_i32..10_000,
        ) {
            let quote = rates().quote(&parcel(Some("DE"), quantity, price, weight)).expect("a quote");
            prop_assert_eq!(quote.total.minor, quote.items.minor + quote.shipping.minor + quote.tax.minor);
            let error = i128::from(quote.tax.minor) * 10_000 - i128::from(quote.items.minor) * 1_900;
            prop_assert!(error.abs() <= 5_000);
        }
    }
}
