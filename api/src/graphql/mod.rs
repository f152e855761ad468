//! The GraphQL schema: one folder per noun, in it the types (`mod.rs`) and one file per kind of operation.
//!
//! A resolver shows the flow: check the input, call the domain, answer. What the caller can act on is a
//! user error in the payload; everything else is one opaque top-level error.
//!
//! Absent on purpose: transport (`crate::http`) and access control.

use std::sync::Arc;

use async_graphql::{MergedObject, Request, Response, SDLExportOptions, SchemaBuilder};
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use self::documents::Documents;
use self::loaders::Loaders;
use crate::access::Caller;
use crate::app::Services;

mod app;
mod batching;
mod catalog;
mod documents;
pub mod error;
mod ids;
mod limits;
mod loaders;
mod money;
mod node;
mod order;
mod page;
mod saga;
mod stock;
mod viewer;

/// The deepest selection. GraphiQL's introspection needs 13; no query on orders needs half of it.
const MAX_DEPTH: usize = 15;

/// The most fields of one request, each list counted as often as it asks for items.
const MAX_COMPLEXITY: usize = 5_000;

/// The most aliases of one request, so that one request cannot stand for hundreds.
const MAX_ALIASES: usize = 15;

/// The most directives on one field.
const MAX_DIRECTIVES: usize = 5;

type Schema = async_graphql::Schema<Query, Mutation, order::subscription::OrderSubscription>;

/// What can be read. Reading changes nothing.
#[derive(Debug, Default, MergedObject)]
pub struct Query(
    order::query::OrderQuery,
    order::list::OrderListQuery,
    node::NodeQuery,
    viewer::ViewerQuery,
    catalog::query::CatalogQuery,
    stock::query::StockQuery,
    saga::query::SagaQuery,
    app::query::AppQuery,
);

/// What can be changed. The mutations of one request run one after the other.
#[derive(Debug, Default, MergedObject)]
pub struct Mutation(
    order::mutation::OrderMutation,
    catalog::mutation::CatalogMutation,
    stock::mutation::StockMutation,
    saga::mutation::SagaMutation,
    app::mutation::AppMutation,
);

/// Executes requests. Cheap to clone.
///
/// Queries are parsed and measured here and not in an extension of the library: as soon as it has one, it puts a detour
/// around the resolver of every field.
#[derive(Clone)]
pub struct Executor {
    schema: Schema,
    documents: Arc<Documents>,
}

impl Executor {
    /// Makes the schema with what its resolvers work with. Needs a Tokio runtime.
    pub fn start(services: Services) -> Self {
        let loaders = Loaders::start(&services.db);
        Self { schema: builder().data(services).data(loaders).finish(), documents: Arc::default() }
    }

    /// Executes a query or a mutation.
    pub async fn execute(&self, caller: Caller, mut request: Request) -> Response {
        match self.documents.prepare(&mut request) {
            Ok(()) => self.schema.execute(request.data(caller)).await,
            Err(error) => Response::from_errors(vec![error]),
        }
    }

    /// Executes any operation; a query or a mutation has one answer.
    pub fn execute_stream(&self, caller: Caller, mut request: Request) -> BoxStream<'static, Response> {
        match self.documents.prepare(&mut request) {
            Ok(()) => self.schema.execute_stream(request.data(caller)).boxed(),
            Err(error) => stream::iter([Response::from_errors(vec![error])]).boxed(),
        }
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("documents", &self.documents).finish_non_exhaustive()
    }
}

/// Returns the schema in GraphQL's schema definition language, as `schema.graphql` holds it.
pub fn sdl() -> String {
    let options = SDLExportOptions::new().prefer_single_line_descriptions().use_space_ident();
    let sdl = builder().finish().sdl_with_options(options);
    sdl.trim().lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

fn builder() -> SchemaBuilder<Query, Mutation, order::subscription::OrderSubscription> {
    Schema::build(Query::default(), Mutation::default(), order::subscription::OrderSubscription)
        .override_output_type_description::<DateTime<Utc>>("A point in time: RFC 3339, in UTC.")
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .limit_aliases(MAX_ALIASES)
        .limit_directives(MAX_DIRECTIVES)
}

#[cfg(test)]
mod tests {
    use async_graphql::{Request, Value};

    use super::*;

    /// Executes without services: enough for everything that fails before a resolver runs.
    async fn errors_of(query: &str) -> Vec<String> {
        let response = builder().finish().execute(Request::new(query)).await;
        response.errors.into_iter().map(|error| error.message).collect()
    }

    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema.graphql");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == sdl(), "schema.graphql is stale; run `cargo run -- schema > schema.graphql`");
    }

    #[tokio::test]
    async fn typename_is_answered_at_each_root() {
        for (query, name) in [("{ __typename }", "Query"), ("mutation { __typename }", "Mutation")] {
            let data = builder().finish().execute(query).await.into_result().expect("an answer").data;
            assert_eq!(data, async_graphql::value!({ "__typename": name }));
        }
    }

    #[tokio::test]
    async fn graphiqls_introspection_fits_the_limits() {
        // Its type references nest nine deep.
        let of_type = "ofType { kind name ".repeat(9) + &"}".repeat(9);
        let query = format!(
            "{{ __schema {{ types {{ kind name fields(includeDeprecated: true) {{ name args {{ name type {{ kind name \
             {of_type} }} }} type {{ kind name {of_type} }} }} }} }} }}"
        );
        let response = builder().finish().execute(query).await;
        assert_eq!(response.errors, []);
        assert!(matches!(response.data, Value::Object(_)));
    }

    #[tokio::test]
    async fn a_request_beyond_the_limits_is_refused_before_it_runs() {
        let aliases: String = (0..=MAX_ALIASES).map(|n| format!("a{n}: __typename ")).collect();
        assert_eq!(errors_of(&format!("{{ {aliases} }}")).await.len(), 1);
        let costly = "{ products(first: 100) { edges { node { name stock { onHand reserved available } } } \
                      nodes { sku name taxCategory weightGrams price { amount amountMinor currency } \
                      stock { sku onHand reserved available updatedAt } } } \
                      more: products(first: 100) { edges { node { sku name taxCategory weightGrams \
                      price { amount amountMinor currency } stock { sku onHand reserved available updatedAt } } } \
                      nodes { sku name taxCategory weightGrams price { amount amountMinor currency } \
                      stock { sku onHand reserved available updatedAt } } } }";
        assert!(errors_of(costly).await.iter().any(|message| message.contains("complex")), "{costly}");
    }
}
