//! Writing the catalog.

use std::collections::HashSet;

use async_graphql::{Context, InputObject, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::catalog::{self, MAX_PRODUCTS_PER_CALL, entity, store, unknown_tax_category};
use domain::input::Violation;
use domain::money::Currency;
use domain::pricing::store::find_tax_categories;
use sea_orm::{DatabaseConnection, DbErr, TransactionTrait};

use super::Product;
use crate::access::Needs;
use crate::app::Services;
use crate::graphql::error::{OrReport, UserError};
use crate::graphql::money::MoneyInput;
use crate::run_to_end::run_to_end;

/// Writes the catalog.
#[derive(Debug, Default)]
pub(crate) struct CatalogMutation;

#[Object]
impl CatalogMutation {
    /// Creates the products, or replaces those whose SKU exists: all of them, or none if one is refused.
    ///
    /// A product that is created has a stock of 0; see `adjustStock`. Orders keep the names and prices they were
    /// placed with.
    #[graphql(guard = "Needs([Scope::CatalogWrite])")]
    async fn upsert_products(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The products.")] input: UpsertProductsInput,
    ) -> Result<UpsertProductsPayload> {
        let services = ctx.data_unchecked::<Services>();
        let products = match check(&input.products, services.settings.currency) {
            Ok(products) => products,
            Err(violations) => return Ok(UpsertProductsPayload::refused(violations)),
        };
        let known = find_tax_categories(&services.db).await.or_report(ctx, "read the tax categories")?;
        let untaxed = check_tax_categories(&products, &known);
        if !untaxed.is_empty() {
            return Ok(UpsertProductsPayload::refused(untaxed));
        }
        let db = services.db.clone();
        let rows = run_to_end(async move { upsert(&db, &products).await }).await;
        let products = rows.and_then(|rows| rows.into_iter().map(Product::try_from).collect());
        let products = products.or_report(ctx, "write products")?;
        Ok(UpsertProductsPayload { products, user_errors: Vec::new() })
    }
}

/// Products to be written.
#[derive(Debug, Clone, InputObject)]
pub(super) struct UpsertProductsInput {
    /// The products, at most 250, no SKU twice.
    products: Vec<ProductInput>,
}

/// A product to be written.
#[derive(Debug, Clone, InputObject)]
pub(super) struct ProductInput {
    /// The shop's own article code, 1 to 64 characters. Example: `SKU-1`
    sku: String,
    /// What the shopper reads, 1 to 200 characters. Example: `Coffee mug`
    name: String,
    /// Price of one unit, before shipping and tax.
    price: MoneyInput,
    /// Weight of one unit, in grams. Example: `350`
    #[graphql(default = 0)]
    weight_grams: i64,
    /// Which tax rates apply. Example: `standard`
    #[graphql(default = "standard")]
    tax_category: String,
}

/// What became of writing products.
#[derive(Debug, SimpleObject)]
pub(super) struct UpsertProductsPayload {
    /// The products as they are now, in the order of the input; empty when they were refused.
    products: Vec<Product>,
    /// Why they were refused; empty when they were not.
    user_errors: Vec<UserError>,
}

impl UpsertProductsPayload {
    fn refused(violations: Vec<Violation>) -> Self {
        let user_errors = violations.into_iter().map(UserError::from).collect();
        Self { products: Vec::new(), user_errors }
    }
}

/// Checks every product and returns them, or everything that is wrong.
fn check(inputs: &[ProductInput], store: Currency) -> Result<Vec<catalog::Product>, Vec<Violation>> {
    if inputs.len() > MAX_PRODUCTS_PER_CALL {
        let message =
            format!("must not hold more than {MAX_PRODUCTS_PER_CALL} products; it holds {}", inputs.len());
        return Err(vec![Violation::new(&["products"], message)]);
    }
    let (mut products, mut violations, mut seen) =
        (Vec::with_capacity(inputs.len()), Vec::new(), HashSet::new());
    for (index, input) in inputs.iter().enumerate() {
        let index = index.to_string();
        if !seen.insert(input.sku.as_str()) {
            violations.push(Violation::new(&["products", &index, "sku"], "must not come twice in one call"));
        }
        match input.check(store) {
            Ok(product) => products.push(product),
            Err(found) => violations.extend(found.into_iter().map(|one| one.within(&["products", &index]))),
        }
    }
    if violations.is_empty() { Ok(products) } else { Err(violations) }
}

/// Refuses products that could never be sold, because no tax rate has their category.
fn check_tax_categories(products: &[catalog::Product], known: &HashSet<String>) -> Vec<Violation> {
    let untaxed = products.iter().enumerate().filter(|(_, product)| !known.contains(&product.tax_category));
    untaxed
        .map(|(index, product)| {
            unknown_tax_category(&product.tax_category, known).within(&["products", &index.to_string()])
        })
        .collect()
}

impl ProductInput {
    fn check(&self, store: Currency) -> Result<catalog::Product, Vec<Violation>> {
        let price = self.price.to_money(store).map_err(|violation| vec![violation.within(&["price"])])?;
        let weight_grams = i32::try_from(self.weight_grams).map_err(|_| {
            vec![Violation::new(&["weightGrams"], format!("must be between 0 and {}", i32::MAX))]
        })?;
        catalog::Product::try_new(&self.sku, &self.name, price, weight_grams, &self.tax_category)
    }
}

/// Writes the products in one transaction and returns their rows, in the same order.
async fn upsert(db: &DatabaseConnection, products: &[catalog::Product]) -> Result<Vec<entity::Model>, DbErr> {
    let tx = db.begin().await?;
    store::upsert_products(&tx, products).await?;
    let skus = products.iter().map(|product| product.sku.as_str()).collect();
    let mut rows = store::find_products(&tx, &skus).await?;
    tx.commit().await?;
    Ok(products.iter().filter_map(|product| rows.remove(&product.sku)).collect())
}

#[cfg(test)]
mod tests {
    use async_graphql::{InputType, Value, value};

    use super::*;

    fn paths(products: Value) -> Vec<String> {
        let inputs = <Vec<ProductInput> as InputType>::parse(Some(products)).expect("a well-formed input");
        let violations = check(&inputs, Currency::USD).err().unwrap_or_default();
        violations.into_iter().map(|violation| violation.path.join(".")).collect()
    }

    #[test]
    fn a_bad_product_is_named_with_its_path() {
        let good = value!({"sku": "A", "name": "A", "price": {"amount": "1.99"}});
        assert_eq!(paths(value!([good.clone()])), Vec::<String>::new());
        assert_eq!(paths(value!([good.clone(), good])), ["products.1.sku"]);
        let heavy =
            value!({"sku": "A", "name": "A", "price": {"amount": "1.99"}, "weightGrams": 3000000000_i64});
        let vague = value!({"sku": "B", "name": "", "price": {"amount": "1.999"}});
        let nul = value!({"sku": "C\0", "name": "", "price": {"amount": "-1"}});
        assert_eq!(
            paths(value!([heavy, vague, nul])),
            [
                "products.0.weightGrams",
                "products.1.price.amount",
                "products.2.sku",
                "products.2.name",
                "products.2.price.amount"
            ]
        );
    }

    #[test]
    fn a_call_holds_at_most_250_products() {
        let many = (0..251).map(|n| value!({"sku": n.to_string(), "name": "A", "price": {"amount": "1"}}));
        assert_eq!(paths(Value::List(many.collect())), ["products"]);
    }
}
