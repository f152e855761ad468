//! Reading apps.

use async_graphql::{Context, ID, Object, Result};
use domain::app::{Scope, store};
use domain::id::AppId;

use super::App;
use crate::access::Needs;
use crate::app::Services;
use crate::graphql::error::OrReport;
use crate::graphql::page;

/// Reads apps.
#[derive(Debug, Default)]
pub(crate) struct AppQuery;

#[Object]
impl AppQuery {
    /// Lists the apps, the oldest first.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn apps(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `50`", default = 50)] first: i32,
        #[graphql(desc = "Return those after the app of this id. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`")]
        after: Option<ID>,
    ) -> Result<Vec<App>> {
        let first = page::check_first(first)?;
        let after = after.map(|id| {
            id.parse::<AppId>().map(|id| id.uuid()).map_err(|_| {
                page::invalid_argument(format!("after must be the id of an app; {:?} is none", id.as_str()))
            })
        });
        let db = &ctx.data_unchecked::<Services>().db;
        let apps = store::list_apps(db, after.transpose()?, first).await;
        Ok(apps.or_report(ctx, "list apps")?.into_iter().map(App).collect())
    }
}
