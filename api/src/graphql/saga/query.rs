//! Reading sagas.

use async_graphql::{Context, ID, Object, Result};
use saga::engine::operate;

use super::{Saga, SagaConnection, SagaFilter, connect, decode_cursor};
use crate::access::OPERATES;
use crate::app::Services;
use crate::graphql::error::OrReport;
use crate::graphql::{ids, page};

/// Reads sagas.
#[derive(Debug, Default)]
pub(crate) struct SagaQuery;

#[Object]
impl SagaQuery {
    /// Returns a page of sagas: those on their way, the one that began first leading, or by a filter on their end,
    /// the newest leading. For operators.
    #[graphql(guard = "OPERATES")]
    async fn sagas(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `20`", default = 20)] first: i32,
        #[graphql(
            desc = "Return those after this cursor; from the start unless said. Example: `3031396162`"
        )]
        after: Option<String>,
        #[graphql(desc = "Which ones; all that are on their way unless said.")] filter: Option<SagaFilter>,
    ) -> Result<SagaConnection> {
        let Services { db, definitions, .. } = ctx.data_unchecked::<Services>();
        let first = page::check_first(first)?;
        let after = decode_cursor(after.as_deref())?;
        let filter = filter.unwrap_or_default().check(definitions).map_err(|violation| {
            page::invalid_argument(format!("filter.{} {}", violation.path.join("."), violation.message))
        })?;
        // One more than asked for tells whether there is a next page.
        let found = operate::list(db, definitions, &filter, after, first + 1).await;
        let mut sagas = found.or_report(ctx, "list sagas")?;
        let has_next_page = sagas.len() as u64 > first;
        sagas.truncate(first as usize);
        Ok(connect(sagas, after.is_some(), has_next_page))
    }

    /// Returns the saga of this order; null when there is none. For operators.
    #[graphql(guard = "OPERATES")]
    async fn saga(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] order_id: ID,
    ) -> Option<Result<Saga>> {
        let Services { db, definitions, .. } = ctx.data_unchecked::<Services>();
        let id = ids::parse_order_id(&order_id)?;
        let found = operate::find(db, definitions, id).await;
        found.map(|saga| saga.map(Saga)).or_report(ctx, "read a saga").transpose()
    }
}
