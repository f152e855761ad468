//! The GraphQL schema: one folder per noun, in it the types (`mod.rs`) and one file per kind of operation.
//!
//! A resolver shows the flow: check the input, call the domain, answer. What the caller can act on is a
//! user error in the payload; everything else is one opaque top-level error.
//!
//! A root names the scope that it needs; what a caller sees is decided in `crate::access`. [`Executor`] lets requests in.
//!
//! Absent on purpose: transport (`crate::http`).

use async_graphql::{MergedObject, SDLExportOptions, SchemaBuilder};
use chrono::{DateTime, Utc};

pub(crate) use self::checker::DocumentChecker;
pub use self::documents::PARSE_FAILED;
pub use self::executor::{Executor, QUERY_TOO_COSTLY, RATE_LIMITED, TIMEOUT};
pub use self::limits::QUERY_TOO_COMPLEX;
pub(crate) use self::registered::NamedDocument;
pub use self::registered::{DOCUMENT_NOT_ALLOWED, DOCUMENT_NOT_FOUND};

mod app;
mod batching;
mod catalog;
mod checker;
mod documents;
pub mod error;
mod executor;
mod federation;
mod ids;
mod limits;
mod loaders;
mod long;
mod money;
mod node;
mod order;
mod page;
mod registered;
mod saga;
mod stock;
mod subscription_root;
mod viewer;

/// The sequence that a viewer has seen last, as its transport knows it: stands in for `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeAfter(pub i32);

type Schema = async_graphql::Schema<Query, Mutation, order::subscription::OrderSubscription>;

/// What can be read. Reading changes nothing.
#[derive(Debug, Default, MergedObject)]
pub struct Query(
    order::query::OrderQuery,
    order::list::OrderListQuery,
    order::changes::ChangesQuery,
    federation::EntityQuery,
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
    app::documents::DocumentMutation,
);

/// Returns the schema in GraphQL's schema definition language, as `schema.graphql` holds it.
pub fn sdl() -> String {
    let options = SDLExportOptions::new().prefer_single_line_descriptions().use_space_ident();
    let sdl = builder().finish().sdl_with_options(options);
    sdl.trim().lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

fn builder() -> SchemaBuilder<Query, Mutation, order::subscription::OrderSubscription> {
    Schema::build(Query::default(), Mutation::default(), order::subscription::OrderSubscription)
        .enable_federation()
        .override_output_type_description::<DateTime<Utc>>("A point in time: RFC 3339, in UTC.")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
