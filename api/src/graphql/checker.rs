//! Checks documents that are going to be registered: what is registered can be executed.
//!
//! Whether it will be depends on variables and on who asks, what it costs among that; so this is the whole of what can be
//! said of a document alone.

use std::sync::Arc;

use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextValidation};
use async_graphql::{Request, ServerError, ValidationResult};
use domain::app::document::check_document;
use domain::input::Violation;

use super::documents::Documents;
use super::{Schema, builder};
use crate::config::LimitArgs;

/// The most mistakes that are told of one document.
const MAX_TOLD: usize = 3;

/// Checks documents against bounds and schema. Its schema executes nothing.
#[derive(Clone)]
pub(crate) struct DocumentChecker {
    schema: Schema,
    limits: LimitArgs,
}

impl DocumentChecker {
    /// Holds documents to these limits.
    pub(crate) fn new(limits: LimitArgs) -> Self {
        Self { schema: builder().extension(StopWhenValid).finish(), limits }
    }

    /// Checks documents; the path of a violation begins with `documents` and its place in the list.
    pub(crate) async fn check(&self, texts: &[String]) -> Vec<Violation> {
        let mut violations = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let index = index.to_string();
            let path = ["documents", index.as_str()];
            let checked = match check_document(&path, text) {
                Ok(()) => self.check_one(text).await.map_err(|message| Violation::new(&path, message)),
                Err(violation) => Err(violation),
            };
            violations.extend(checked.err());
        }
        violations
    }

    /// Tells what keeps the document from being executed.
    async fn check_one(&self, text: &str) -> Result<(), String> {
        let mut request = Request::new(text);
        // Nothing is worth remembering here: a document is registered once.
        Documents::new(self.limits.clone()).prepare(&mut request).map_err(|error| error.message)?;
        let errors = self.schema.execute(request).await.errors;
        if errors.iter().any(|error| error.source::<Valid>().is_some()) {
            return Ok(());
        }
        let told: Vec<String> = errors.into_iter().map(|error| error.message).take(MAX_TOLD).collect();
        Err(told.join("; "))
    }
}

impl std::fmt::Debug for DocumentChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentChecker").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What is told of a document that is valid: the library has no other way to end between validation and execution.
struct Valid;

struct StopWhenValid;

impl ExtensionFactory for StopWhenValid {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl Extension for StopWhenValid {
    async fn validation(
        &self,
        ctx: &ExtensionContext<'_>,
        next: NextValidation<'_>,
    ) -> Result<ValidationResult, Vec<ServerError>> {
        next.run(ctx).await?;
        let mut valid = ServerError::new("valid", None);
        valid.source = Some(Arc::new(Valid));
        Err(vec![valid])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(text: &str) -> Vec<Violation> {
        DocumentChecker::new(LimitArgs::default()).check(&[text.to_owned()]).await
    }

    #[tokio::test]
    async fn what_can_be_executed_is_good() {
        for good in [
            "{ __typename }",
            "query ($id: ID!) { getOrder(id: $id) { id status } }",
            "query A { __typename } query B($first: Int!) { products(first: $first) { nodes { sku } } }",
            "mutation ($input: PlaceOrderInput!) { placeOrder(input: $input) { order { id } } }",
            "subscription ($id: ID!) { orderStatus(id: $id) { sequence } }",
            "{ __schema { types { name } } }",
            "subscription ($id: ID!) { ...F } fragment F on Subscription { orderStatus(id: $id) { sequence } }",
        ] {
            assert_eq!(check(good).await, [], "{good}");
        }
    }

    #[tokio::test]
    async fn what_can_not_be_executed_is_told_by_its_place() {
        let deep = format!("{}{}", "{ a ".repeat(11), "}".repeat(11));
        for bad in [
            "",
            "{",
            "{ nonsense }",
            "query A { __typename } query B { nonsense }",
            "query ($id: Nonsense!) { getOrder(id: $id) { id } }",
            "type A { b: Int }",
            "subscription { orderStatus(id: 1) { sequence } b: orderStatus(id: 2) { sequence } }",
            "subscription { __typename }",
            "subscription { ...F } fragment F on Query { __typename }",
            &"{".repeat(90_000),
            &deep,
        ] {
            let violations = check(bad).await;
            assert_eq!(violations.len(), 1, "{bad:.50}");
            assert_eq!(violations[0].path, ["documents", "0"], "{bad:.50}");
        }
    }
}
