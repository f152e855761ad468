//! Amounts of money: a whole number of minor units (cents) and a currency. All arithmetic is checked.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A currency of ISO 4217.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency(iso_currency::Currency);

impl Currency {
    /// The United States dollar, the default currency of a store.
    pub const USD: Self = Self(iso_currency::Currency::USD);

    /// Returns the three-letter code.
    pub fn code(self) -> &'static str {
        self.0.code()
    }

    /// Returns how many decimals an amount has: 2 for USD, 0 for JPY.
    pub fn decimals(self) -> u32 {
        self.0.exponent().map_or(0, u32::from)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        iso_currency::Currency::from_code(code)
            .map(Self)
            .ok_or_else(|| MoneyError::UnknownCurrency { code: code.chars().take(8).collect() })
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;

    fn try_from(code: String) -> Result<Self, MoneyError> {
        code.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

/// An amount of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// The amount in minor units of the currency.
    pub minor: i64,
    /// The currency.
    pub currency: Currency,
}

/// Why an amount cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The code is not one of ISO 4217.
    #[error("{code:?} is not a currency code of ISO 4217; give three capital letters such as EUR")]
    UnknownCurrency {
        /// The code, cut to a few characters.
        code: String,
    },
    /// The amount has more decimals than the currency.
    #[error("the amount has more than the {decimals} decimals of {currency}")]
    TooPrecise {
        /// The currency.
        currency: Currency,
        /// How many decimals it has.
        decimals: u32,
    },
    /// The amount, or a result, does not fit in 64 bits of minor units.
    #[error("the amount is too large")]
    Overflow,
    /// Two currencies met.
    #[error("{left} and {right} cannot be added")]
    CurrencyMismatch {
        /// Currency of the one amount.
        left: Currency,
        /// Currency of the other.
        right: Currency,
    },
}

impl Money {
    /// Makes an amount from minor units.
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// Makes an amount from a decimal number of major units, such as 19.99.
    ///
    /// # Errors
    /// [`MoneyError::TooPrecise`] and [`MoneyError::Overflow`]; nothing is rounded.
    pub fn try_from_decimal(amount: Decimal, currency: Currency) -> Result<Self, MoneyError> {
        let decimals = currency.decimals();
        let scaled = amount.checked_mul(Decimal::from(10_i64.pow(decimals))).ok_or(MoneyError::Overflow)?;
        if !scaled.fract().is_zero() {
            return Err(MoneyError::TooPrecise { currency, decimals });
        }
        let minor = i64::try_from(scaled.trunc()).map_err(|_| MoneyError::Overflow)?;
        Ok(Self { minor, currency })
    }

    /// Returns the amount in major units, with the currency's number of decimals.
    pub fn to_decimal(self) -> Decimal {
        Decimal::new(self.minor, self.currency.decimals())
    }

    /// Adds two amounts.
    ///
    /// # Errors
    /// [`MoneyError::CurrencyMismatch`] and [`MoneyError::Overflow`].
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch { left: self.currency, right: other.currency });
        }
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }

    /// Multiplies the amount by a number of pieces.
    ///
    /// # Errors
    /// [`MoneyError::Overflow`].
    pub fn checked_mul(self, quantity: i64) -> Result<Self, MoneyError> {
        let minor = self.minor.checked_mul(quantity).ok_or(MoneyError::Overflow)?;
        Ok(Self { minor, currency: self.currency })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_decimal(), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(minor: i64) -> Money {
        Money::new(minor, Currency::USD)
    }

    #[test]
    fn a_decimal_keeps_each_cent_or_is_refused() {
        let decimal = |text: &str| text.parse::<Decimal>().expect("a decimal");
        assert_eq!(Money::try_from_decimal(decimal("19.99"), Currency::USD), Ok(usd(1999)));
        assert_eq!(Money::try_from_decimal(decimal("19.990"), Currency::USD), Ok(usd(1999)));
        assert!(matches!(
            Money::try_from_decimal(decimal("0.001"), Currency::USD),
            Err(MoneyError::TooPrecise { decimals: 2, .. })
        ));
        assert_eq!(
            Money::try_from_decimal(decimal("92233720368547758.08"), Currency::USD),
            Err(MoneyError::Overflow)
        );
        let yen: Currency = "JPY".parse().expect("a currency");
        assert_eq!(Money::try_from_decimal(decimal("500"), yen), Ok(Money::new(500, yen)));
        assert!(Money::try_from_decimal(decimal("500.5"), yen).is_err());
    }

    #[test]
    fn an_amount_is_shown_with_its_currencys_decimals() {
        assert_eq!(usd(500).to_string(), "5.00 USD");
        assert_eq!(usd(-1).to_string(), "-0.01 USD");
    }

    #[test]
    fn arithmetic_refuses_what_it_cannot_hold() {
        assert_eq!(usd(i64::MAX).checked_add(usd(1)), Err(MoneyError::Overflow));
        assert_eq!(usd(i64::MAX).checked_mul(2), Err(MoneyError::Overflow));
        let euro: Currency = "EUR".parse().expect("a currency");
        assert!(matches!(usd(1).checked_add(Money::new(1, euro)), Err(MoneyError::CurrencyMismatch { .. })));
        assert!("usd".parse::<Currency>().is_err(), "codes are capital letters");
    }
}
