//! What can be bought, and at which price.

use std::collections::HashSet;

use crate::input::{Violation, check_text};
use crate::money::{Currency, Money};

pub mod entity;
pub mod store;

/// The longest SKU, in characters.
pub const MAX_SKU_CHARS: usize = 64;

/// The longest product name, in characters.
pub const MAX_NAME_CHARS: usize = 200;

/// The most products that one call may write, so that its transaction stays short.
pub const MAX_PRODUCTS_PER_CALL: usize = 250;

/// A product that has passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// The shop's own article code.
    pub sku: String,
    /// What the shopper reads.
    pub name: String,
    /// Price of one.
    pub price: Money,
    /// Weight of one, in grams.
    pub weight_grams: i32,
    /// Key into the tax rates, such as `standard`.
    pub tax_category: String,
}

/// Says that a product's tax category has no rate, and which ones have.
pub fn unknown_tax_category(category: &str, known: &HashSet<String>) -> Violation {
    let mut known: Vec<&str> = known.iter().map(String::as_str).collect();
    known.sort_unstable();
    let message = format!("no tax rate has the category {category:?}; known are {}", known.join(", "));
    Violation::new(&["taxCategory"], message)
}

impl Product {
    /// Checks a product's fields.
    ///
    /// # Errors
    /// Every violation found, with paths relative to the product; nothing was written.
    pub fn try_new(
        sku: &str,
        name: &str,
        price: Money,
        weight_grams: i32,
        tax_category: &str,
    ) -> Result<Self, Vec<Violation>> {
        let mut violations = Vec::new();
        violations.extend(check_text(&["sku"], sku, MAX_SKU_CHARS).err());
        violations.extend(check_text(&["name"], name, MAX_NAME_CHARS).err());
        violations.extend(check_text(&["taxCategory"], tax_category, MAX_SKU_CHARS).err());
        if price.minor < 0 {
            violations.push(Violation::new(&["price", "amount"], "must not be negative"));
        }
        if weight_grams < 0 {
            violations.push(Violation::new(&["weightGrams"], "must not be negative"));
        }
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Self {
            sku: sku.to_owned(),
            name: name.to_owned(),
            price,
            weight_grams,
            tax_category: tax_category.to_owned(),
        })
    }
}

impl entity::Model {
    /// Returns the price of one.
    ///
    /// # Errors
    /// The stored currency code is not one of ISO 4217, which the checks on the way in make impossible.
    pub fn price(&self) -> Result<Money, crate::money::MoneyError> {
        Ok(Money::new(self.price_minor, self.currency.parse::<Currency>()?))
    }
}
