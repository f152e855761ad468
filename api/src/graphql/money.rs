//! Amounts on their way in and out.

use async_graphql::{
    InputObject, InputValueError, InputValueResult, Scalar, ScalarType, SimpleObject, Value,
};
use domain::input::Violation;
use domain::money::{Currency, MoneyError};

/// An exact decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal(pub(super) rust_decimal::Decimal);

/// A decimal number as a string, exact to its last digit, such as `19.99`.
///
/// A whole number is accepted without quotes. A fraction without quotes is not: JSON's numbers are binary, and most
/// amounts cannot be said in them.
#[Scalar]
impl ScalarType for Decimal {
    fn parse(value: Value) -> InputValueResult<Self> {
        match value {
            Value::String(text) => rust_decimal::Decimal::from_str_exact(&text).map(Self).map_err(|_| {
                InputValueError::custom("give a number in quotes with a point, such as \"19.99\"")
            }),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Ok(Self(whole.into())),
                None => Err(InputValueError::custom(
                    "put it in quotes, such as \"19.99\", so that it stays exact",
                )),
            },
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}

/// A currency code as it came in or goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CurrencyCode(String);

/// A currency code of ISO 4217: three capital letters, such as `USD` or `EUR`.
#[Scalar]
impl ScalarType for CurrencyCode {
    fn parse(value: Value) -> InputValueResult<Self> {
        // Whether there is such a currency is checked with the amount, where the answer can name the field.
        match value {
            Value::String(code) => Ok(Self(code)),
            other => Err(InputValueError::expected_type(other)),
        }
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.clone())
    }
}

impl From<Currency> for CurrencyCode {
    fn from(currency: Currency) -> Self {
        Self(currency.code().to_owned())
    }
}

/// An amount of money.
#[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
#[graphql(shareable)]
pub(super) struct Money {
    /// The amount in major units (dollars), with the currency's number of decimals. Example: `19.99`
    amount: Decimal,
    /// The amount in minor units (cents), a whole number of up to 64 bits as a string. Example: `1999`
    amount_minor: String,
    /// The currency, a code of ISO 4217. Example: `USD`
    currency: CurrencyCode,
}

impl From<domain::money::Money> for Money {
    fn from(money: domain::money::Money) -> Self {
        Self {
            amount: Decimal(money.to_decimal()),
            amount_minor: money.minor.to_string(),
            currency: money.currency.into(),
        }
    }
}

/// An amount of money.
#[derive(Debug, Clone, InputObject)]
pub(super) struct MoneyInput {
    /// The amount in major units (dollars), with no more decimals than the currency has. Example: `19.99`
    amount: Decimal,
    /// The currency, a code of ISO 4217; the store's own unless said. Example: `USD`
    currency: Option<CurrencyCode>,
}

impl MoneyInput {
    /// Returns the amount.
    ///
    /// # Errors
    /// The violation, with its path relative to this input.
    pub(super) fn to_money(&self, store: Currency) -> Result<domain::money::Money, Violation> {
        let violation = |field: &str, error: MoneyError| Violation::new(&[field], error.to_string());
        let currency = match &self.currency {
            Some(CurrencyCode(code)) => code.parse().map_err(|error| violation("currency", error))?,
            None => store,
        };
        domain::money::Money::try_from_decimal(self.amount.0, currency)
            .map_err(|error| violation("amount", error))
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::{InputType, value};

    use super::*;

    #[test]
    fn a_decimal_is_exact_or_refused() {
        let parse = |value| <Decimal as ScalarType>::parse(value).ok().map(|decimal| decimal.0.to_string());
        assert_eq!(parse(value!("19.90")).as_deref(), Some("19.90"));
        assert_eq!(parse(value!(19)).as_deref(), Some("19"));
        for bad in
            [value!(19.9), value!("1e3"), value!(""), value!("0.00000000000000000000000000001"), value!(true)]
        {
            assert_eq!(parse(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn a_bad_amount_names_its_field() {
        let path = |value| {
            let input = <MoneyInput as InputType>::parse(Some(value)).expect("a well-formed input");
            input.to_money(Currency::USD).map_err(|violation| violation.path.join("."))
        };
        assert_eq!(path(value!({"amount": "1.99"})), Ok(domain::money::Money::new(199, Currency::USD)));
        assert_eq!(path(value!({"amount": "1.999"})), Err("amount".to_owned()));
        assert_eq!(path(value!({"amount": "1.99", "currency": "usd"})), Err("currency".to_owned()));
        assert_eq!(path(value!({"amount": "99999999999999999999"})), Err("amount".to_owned()));
    }
}
