//! Apps, their keys and their documents as administrators see them.

use async_graphql::{Context, ID, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::app::document::DocumentId;
use domain::app::store;
use domain::id::{AppId, KeyId};
use sea_orm::DbErr;

use super::error::OrReport;
use super::loaders::{DocumentsPage, Loaders};
use super::page;
use crate::app::Services;

pub(super) mod documents;
pub(super) mod mutation;
pub(super) mod query;

/// An API client with credentials of its own. It sees the orders that it has placed.
#[derive(Debug, Clone)]
pub(super) struct App(store::App);

/// An API client with credentials of its own. It sees the orders that it has placed.
#[Object]
impl App {
    /// Names the app everywhere: a TypeID. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    async fn id(&self) -> ID {
        app_id(self.0.id)
    }

    /// What people call it. Example: `warehouse`
    async fn name(&self) -> &str {
        &self.0.name
    }

    /// Points that flow back into its budget in a second; null for the server's setting, 0 for no limit. Example: `100`
    async fn points_per_second(&self) -> Option<i32> {
        self.0.points_per_second
    }

    /// When it was made (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }

    /// Its keys, the newest first, at most 100; those that are no good any more as well.
    async fn keys(&self, ctx: &Context<'_>) -> Result<Vec<ApiKey>> {
        let keys = ctx.data_unchecked::<Loaders>().keys.load((), self.0.id).await;
        let keys = keys.or_report(ctx, "read the keys of an app")?.unwrap_or_default();
        Ok(keys.into_iter().map(ApiKey::from).collect())
    }

    /// Whether it may execute nothing but the documents that are registered for it. Example: `false`
    async fn only_registered_documents(&self) -> bool {
        self.0.only_registered_documents
    }

    /// The documents that it may name instead of sending them, in the order of their ids.
    async fn documents(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many to return, 1 to 100. Example: `50`", default = 50)] first: i32,
        #[graphql(
            desc = "Return those after the document of this id. Example: `sha256:71f7dc5758652baac68e4a10c50be732b741c892ade2883a99358f52b555286b`"
        )]
        after: Option<ID>,
    ) -> Result<Vec<Document>> {
        let first = page::check_first(first)?;
        let after = after.map(|id| {
            id.parse::<DocumentId>().map_err(|error| page::invalid_argument(format!("after: {error}")))
        });
        let page = DocumentsPage { after: after.transpose()?, first };
        let documents = ctx.data_unchecked::<Loaders>().documents.load(page, self.0.id).await;
        let documents = documents.or_report(ctx, "read the documents of an app")?.unwrap_or_default();
        Ok(documents.into_iter().map(Document).collect())
    }
}

/// A document that an app may name instead of sending it.
#[derive(Debug, Clone)]
pub(super) struct Document(store::Document);

/// A document that an app may name instead of sending it.
#[Object]
impl Document {
    /// Names it, as `documentId` in requests of its app: the SHA-256 of its text.
    /// Example: `sha256:71f7dc5758652baac68e4a10c50be732b741c892ade2883a99358f52b555286b`
    async fn id(&self) -> ID {
        ID(self.0.id.to_string())
    }

    /// What is executed. Example: `query($id:ID!){getOrder(id:$id){status}}`
    async fn text(&self) -> &str {
        &self.0.text
    }

    /// Since when it is registered (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
}

/// A credential of an app, without its secret.
#[derive(Debug, Clone, SimpleObject)]
pub(super) struct ApiKey {
    /// Names the key; it opens nothing. Example: `key_01jx2v3q8kf0v8c9m5w6r7t2ab`
    id: ID,
    /// Whose it is. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    app_id: ID,
    /// What people call it. Example: `warehouse, spring 2026`
    name: String,
    /// The beginning of its secret, to tell keys apart. Example: `oms_live_a1B2c3D4`
    prefix: String,
    /// What it may do. Example: `orders:read`
    scopes: Vec<String>,
    /// Its row filter: apps whose orders it sees besides its own.
    granted_apps: Vec<ID>,
    /// When it was made (RFC 3339, UTC). Example: `2026-11-25T10:00:00.123456+00:00`
    created_at: DateTime<Utc>,
    /// Until when it is good (RFC 3339, UTC); null for ever. Example: `2027-11-25T10:00:00+00:00`
    expires_at: Option<DateTime<Utc>>,
    /// Since when it is revoked (RFC 3339, UTC); null if it is not. Example: `2026-12-01T10:00:00.123456+00:00`
    revoked_at: Option<DateTime<Utc>>,
    /// When it was last used (RFC 3339, UTC), to within a minute; null if it never was.
    /// Example: `2026-11-25T10:00:00.123456+00:00`
    last_used_at: Option<DateTime<Utc>>,
}

impl From<store::ApiKey> for ApiKey {
    fn from(key: store::ApiKey) -> Self {
        Self {
            id: ID(KeyId::from_uuid(key.id).to_string()),
            app_id: app_id(key.app_id),
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            granted_apps: key.granted_apps.into_iter().map(app_id).collect(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
        }
    }
}

fn app_id(id: uuid::Uuid) -> ID {
    ID(AppId::from_uuid(id).to_string())
}

/// Returns the app that the text names; `None` if there is none.
async fn find_app(ctx: &Context<'_>, id: &ID) -> Result<Option<store::App>> {
    let db = &ctx.data_unchecked::<Services>().db;
    let found: Result<Option<store::App>, DbErr> = match id.parse::<AppId>() {
        Ok(id) => store::find_app(db, id.uuid()).await,
        Err(_) => Ok(None),
    };
    found.or_report(ctx, "read an app")
}
