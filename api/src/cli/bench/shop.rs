//! What the bench buys: its own products, with stock that does not run out, in orders of two lines.

use anyhow::Context;
use domain::catalog::Product;
use domain::catalog::store::{find_products, upsert_products};
use domain::id::local_app;
use domain::money::{Currency, Money};
use domain::order::Address;
use domain::order::place::{PlaceOrder, PlaceOrderInput, RequestedLine};
use domain::stock::adjust::{Adjustment, adjust_stock};
use domain::stock::store::find_stock;
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde_json::json;

/// Price of each product, in cents.
pub(super) const PRICE_MINOR: i64 = 1_500;

/// Weight of each, in grams.
pub(super) const WEIGHT_GRAMS: i32 = 100;

/// Units of a product that is never to run out.
const PLENTY: i64 = 1_000_000_000;

/// Fewer available units than this are filled up to plenty.
const SCARCE: i64 = 100_000_000;

/// Products written in one transaction.
const CHUNK: usize = 250;

/// Who gets every order; an address costs as much to write as a shopper's does.
const ADDRESS: [(&str, &str); 5] = [
    ("name", "A Customer"),
    ("line1", "1 Main St"),
    ("city", "Springfield"),
    ("postalCode", "12345"),
    ("country", "US"),
];

/// Some of the bench's products.
#[derive(Debug, Clone)]
pub(super) struct Shop {
    skus: Vec<String>,
}

impl Shop {
    /// `BENCH-1` and so on, made where missing and stocked with plenty.
    pub(super) async fn stocked(db: &DatabaseConnection, skus: u32) -> anyhow::Result<Self> {
        let shop = Self { skus: (1..=skus).map(|n| format!("BENCH-{n}")).collect() };
        for skus in shop.skus.chunks(CHUNK) {
            make_products(db, skus).await.context("cannot make the bench's products")?;
            let scarce = find_stock(db, skus.to_vec()).await?;
            let scarce = scarce.into_iter().filter(|row| row.available() < SCARCE);
            let counts: Vec<(String, i64)> = scarce.map(|row| (row.sku, PLENTY + row.reserved)).collect();
            count_stock(db, &counts).await.context("cannot stock the bench's products")?;
        }
        Ok(shop)
    }

    /// Fresh products for one run, with `stock` units in all.
    pub(super) async fn scarce(
        db: &DatabaseConnection,
        mark: &str,
        skus: u32,
        stock: u64,
    ) -> anyhow::Result<Self> {
        let shop = Self { skus: (1..=skus).map(|n| format!("FLASH-{mark}-{n}")).collect() };
        let counts: Vec<(String, i64)> = shop
            .skus
            .iter()
            .zip(0..)
            .map(|(sku, n)| (sku.clone(), share(stock, u64::from(skus), n)))
            .collect();
        for counts in counts.chunks(CHUNK) {
            let skus: Vec<String> = counts.iter().map(|(sku, _)| sku.clone()).collect();
            make_products(db, &skus).await.context("cannot make the run's products")?;
            count_stock(db, counts).await.context("cannot stock the run's products")?;
        }
        Ok(shop)
    }

    /// The SKU of a one-line order.
    pub(super) fn sku(&self, n: u64) -> &str {
        &self.skus[index(n, self.skus.len())]
    }

    /// The lines of the `n`th order: two different products where there are two, spread over all of them.
    pub(super) fn lines(&self, n: u64) -> [(&str, i64); 2] {
        let len = self.skus.len();
        let first = index(n, len);
        // A step of its own for each round, so that pairs vary.
        let step = if len > 1 { 1 + index(n.wrapping_mul(7_919), len - 1) } else { 0 };
        [(&self.skus[first], 1), (&self.skus[(first + step) % len], 2)]
    }

    /// The `n`th order of a run, for the domain.
    pub(super) fn order(&self, mark: &str, n: u64) -> anyhow::Result<PlaceOrder> {
        let lines = self.lines(n).map(|(sku, quantity)| RequestedLine { sku: sku.to_owned(), quantity });
        let input = PlaceOrderInput {
            idempotency_key: format!("{mark}-{n}"),
            lines: lines.to_vec(),
            shipping_address: Some(address()),
            ..PlaceOrderInput::default()
        };
        PlaceOrder::try_new(local_app(), input).map_err(|refusals| anyhow::anyhow!("{refusals:?}"))
    }
}

/// Renders requests that place orders; everything but the key and the lines is prepared.
#[derive(Debug, Clone)]
pub(super) struct PlaceBody {
    before_key: String,
    after_lines: String,
    body: Vec<u8>,
}

impl PlaceBody {
    pub(super) fn new() -> Self {
        let query = "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) \
                     { order { id status } replayed userErrors { code message } } }";
        let address: serde_json::Map<_, _> =
            ADDRESS.iter().map(|(field, text)| ((*field).to_owned(), json!(text))).collect();
        Self {
            before_key: format!(r#"{{"query":{},"variables":{{"input":{{"idempotencyKey":""#, json!(query)),
            after_lines: format!(r#"],"shippingAddress":{}}}}}}}"#, json!(address)),
            body: Vec::new(),
        }
    }

    /// Renders the body of one order. Neither key nor SKUs hold anything that JSON would escape.
    pub(super) fn render(&mut self, mark: &str, n: u64, lines: &[(&str, i64)]) -> &[u8] {
        use std::io::Write;
        self.body.clear();
        self.body.extend_from_slice(self.before_key.as_bytes());
        // Writing to memory cannot fail.
        let _ = write!(self.body, r#"{mark}-{n}","lines":["#);
        for (index, (sku, quantity)) in lines.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(self.body, r#"{comma}{{"sku":"{sku}","quantity":{quantity}}}"#);
        }
        self.body.extend_from_slice(self.after_lines.as_bytes());
        &self.body
    }
}

/// The address of every order.
pub(super) fn address() -> Address {
    let field =
        |name: &str| ADDRESS.iter().find(|(field, _)| *field == name).map(|(_, text)| (*text).to_owned());
    Address {
        name: field("name").unwrap_or_default(),
        line1: field("line1").unwrap_or_default(),
        line2: None,
        city: field("city").unwrap_or_default(),
        postal_code: field("postalCode"),
        region: None,
        country: field("country").unwrap_or_default(),
    }
}

fn index(n: u64, len: usize) -> usize {
    usize::try_from(n % len as u64).unwrap_or(0)
}

/// The `n`th of `parts` shares of `whole`, which differ by one at most.
fn share(whole: u64, parts: u64, n: u64) -> i64 {
    i64::try_from(whole / parts + u64::from(n < whole % parts)).unwrap_or(i64::MAX)
}

async fn make_products(db: &DatabaseConnection, skus: &[String]) -> anyhow::Result<()> {
    let known = find_products(db, &skus.iter().map(String::as_str).collect()).await?;
    let price = Money::new(PRICE_MINOR, Currency::USD);
    let missing: Vec<Product> = skus
        .iter()
        .filter(|sku| !known.contains_key(*sku))
        .map(|sku| Product::try_new(sku, "Bench product", price, WEIGHT_GRAMS, "standard"))
        .collect::<Result<_, _>>()
        .map_err(|violations| anyhow::anyhow!("{violations:?}"))?;
    if missing.is_empty() {
        return Ok(());
    }
    let tx = db.begin().await?;
    upsert_products(&tx, &missing).await?;
    Ok(tx.commit().await?)
}

async fn count_stock(db: &DatabaseConnection, counts: &[(String, i64)]) -> anyhow::Result<()> {
    if counts.is_empty() {
        return Ok(());
    }
    let tx = db.begin().await?;
    for (sku, units) in counts {
        let adjustment = Adjustment::try_new(local_app(), sku, None, Some(*units), None, "bench", None)
            .map_err(|violations| anyhow::anyhow!("{violations:?}"))?;
        adjust_stock(&tx, &adjustment).await??;
    }
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop(skus: usize) -> Shop {
        Shop { skus: (1..=skus).map(|n| format!("BENCH-{n}")).collect() }
    }

    #[test]
    fn lines_are_of_two_products_and_all_products_have_their_turn() {
        let shop = shop(7);
        let mut seen = std::collections::HashSet::new();
        for n in 0..100 {
            let [(first, _), (second, _)] = shop.lines(n);
            assert_ne!(first, second);
            seen.extend([first.to_owned(), second.to_owned()]);
        }
        assert_eq!(seen.len(), 7);
        assert_eq!(self::shop(1).lines(5), [("BENCH-1", 1), ("BENCH-1", 2)]);
    }

    #[test]
    fn a_rendered_order_is_json_and_the_same_order() {
        let (shop, mut body) = (shop(3), PlaceBody::new());
        let rendered = body.render("bench-x", 4, &shop.lines(4));
        let json: serde_json::Value = serde_json::from_slice(rendered).expect("JSON");
        let input = &json["variables"]["input"];
        assert_eq!(input["idempotencyKey"], "bench-x-4");
        assert_eq!(input["lines"][1]["quantity"], 2);
        assert_eq!(input["shippingAddress"]["country"], "US");
        assert!(shop.order("bench-x", 4).is_ok());
    }

    #[test]
    fn shares_add_up() {
        assert_eq!((0..3).map(|n| share(5_000, 3, n)).sum::<i64>(), 5_000);
        assert_eq!(share(5_000, 1, 0), 5_000);
    }
}
