//! Who is calling, as the caller is told.

use async_graphql::{Context, ID, Object, Result, SimpleObject};

use crate::access::{NeedsApp, caller};

/// Tells callers who they are.
#[derive(Debug, Default)]
pub(crate) struct ViewerQuery;

#[Object]
impl ViewerQuery {
    /// Returns which app is calling, and what it may do.
    #[graphql(guard = "NeedsApp")]
    async fn viewer(&self, ctx: &Context<'_>) -> Result<Viewer> {
        let caller = caller(ctx)?;
        Ok(Viewer {
            app: ViewerApp { id: ID(caller.app_id().to_string()), name: caller.app_name().to_owned() },
            scopes: caller.scopes().names(),
            limits: ViewerLimits { points_per_second: caller.points_per_second() },
        })
    }
}

/// Who is calling.
#[derive(Debug, SimpleObject)]
pub(super) struct Viewer {
    /// The app that calls.
    app: ViewerApp,
    /// What it may do. Example: `["orders:read"]`
    scopes: Vec<String>,
    /// How much it may do.
    limits: ViewerLimits,
}

/// The app that calls.
#[derive(Debug, SimpleObject)]
pub(super) struct ViewerApp {
    /// Its id. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    id: ID,
    /// What people call it. Example: `web shop`
    name: String,
}

/// How much a caller may do.
#[derive(Debug, SimpleObject)]
pub(super) struct ViewerLimits {
    /// Points that flow back into its budget in a second; null without a limit. Example: `100`
    points_per_second: Option<u32>,
}
