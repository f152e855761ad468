//! Whole numbers that may be greater than `Int` holds.

use async_graphql::{InputValueError, InputValueResult, Scalar, ScalarType, Value};

/// The greatest whole number that every client of JSON reads exactly: 2^53 - 1 (RFC 8259, section 6). What the database
/// keeps is far below: a count of stock ends at 10^12, and numbers of orders count up from 1.
const MAX: i64 = (1 << 53) - 1;

/// A whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Long(pub(super) i64);

/// A whole number between -(2^53 - 1) and 2^53 - 1, as a JSON number: `Int` ends at 2^31 - 1, and this may exceed it.
#[Scalar]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::Number(number) = value else { return Err(InputValueError::expected_type(value)) };
        match number.as_i64() {
            Some(whole) if (-MAX..=MAX).contains(&whole) => Ok(Self(whole)),
            _ => Err(InputValueError::custom(format!("give a whole number between -{MAX} and {MAX}"))),
        }
    }

    fn to_value(&self) -> Value {
        Value::from(self.0)
    }
}

impl From<i64> for Long {
    fn from(number: i64) -> Self {
        Self(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_taken_as_long_as_every_client_reads_it_exactly() {
        for number in [0, -1, 3_000_000_000, MAX, -MAX] {
            assert_eq!(Long::parse(Value::from(number)).ok(), Some(Long(number)));
            assert_eq!(Long(number).to_value(), Value::from(number));
        }
        for value in [Value::from(MAX + 1), Value::from(-MAX - 1), Value::from(1.5), Value::from("1")] {
            assert!(Long::parse(value.clone()).is_err(), "{value}");
        }
    }
}
