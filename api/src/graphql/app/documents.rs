//! Registering documents for an app, and letting it execute nothing else.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use domain::app::Scope;
use domain::app::document::{DocumentId, MAX_DOCUMENTS_AT_A_TIME};
use domain::app::store::{self, AddDocumentsError};
use domain::input::Violation;
use sea_orm::{DatabaseConnection, DbErr, TransactionTrait};
use uuid::Uuid;

use super::mutation::to_errors;
use super::{App, Document, find_app};
use crate::access::Needs;
use crate::app::Services;
use crate::graphql::DocumentChecker;
use crate::graphql::error::{OrReport, UserError};
use crate::run_to_end::run_to_end;

/// Changes what an app may execute.
#[derive(Debug, Default)]
pub(crate) struct DocumentMutation;

#[Object]
impl DocumentMutation {
    /// Registers documents for an app, which executes them by their names then. All are refused if one is not GraphQL, does
    /// not fit the schema or goes beyond a limit. Repeating it changes nothing.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn add_documents(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The documents, and the app.")] input: AddDocumentsInput,
    ) -> Result<AddDocumentsPayload> {
        let Some(app) = find_app(ctx, &input.app_id).await? else {
            return Ok(AddDocumentsPayload::refused(vec![no_app(&input.app_id)]));
        };
        if let Err(violation) = check_count("documents", input.documents.len()) {
            return Ok(AddDocumentsPayload::refused(vec![violation]));
        }
        let violations = ctx.data_unchecked::<DocumentChecker>().check(&input.documents).await;
        if !violations.is_empty() {
            return Ok(AddDocumentsPayload::refused(violations));
        }
        let services = ctx.data_unchecked::<Services>();
        let (db, texts) = (services.db.clone(), input.documents);
        let added = run_to_end(async move { add(&db, app.id, &texts).await }).await;
        Ok(match added.or_report(ctx, "register documents")? {
            Ok(documents) => {
                services.door.forget();
                tracing::info!(app.id = %app.id, documents = documents.len(), "registered documents");
                let documents = documents.into_iter().map(Document).collect();
                AddDocumentsPayload { documents, user_errors: Vec::new() }
            }
            Err(refusal) => {
                AddDocumentsPayload::refused(vec![Violation::new(&["documents"], refusal.to_string())])
            }
        })
    }

    /// Removes documents of an app. Their names are good no more: at once by way of this process, within half a minute by way
    /// of others. Repeating it changes nothing.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn remove_documents(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which documents, and the app.")] input: RemoveDocumentsInput,
    ) -> Result<RemoveDocumentsPayload> {
        let Some(app) = find_app(ctx, &input.app_id).await? else {
            return Ok(RemoveDocumentsPayload::refused(vec![no_app(&input.app_id)]));
        };
        let ids = match input.check() {
            Ok(ids) => ids,
            Err(violations) => return Ok(RemoveDocumentsPayload::refused(violations)),
        };
        let services = ctx.data_unchecked::<Services>();
        let removed = store::remove_documents(&services.db, app.id, &ids).await;
        let removed = removed.or_report(ctx, "remove documents")?;
        services.door.forget();
        tracing::info!(app.id = %app.id, documents = removed.len(), "removed documents");
        let removed_ids = removed.into_iter().map(|id| ID(id.to_string())).collect();
        Ok(RemoveDocumentsPayload { removed_ids, user_errors: Vec::new() })
    }

    /// Changes an app. What its credentials and the access tokens of its orders may execute is so at once by way of this
    /// process, within half a minute by way of others, and within a minute over sockets that are open.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn update_app(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What to change.")] input: UpdateAppInput,
    ) -> Result<UpdateAppPayload> {
        let Some(app) = find_app(ctx, &input.app_id).await? else {
            return Ok(UpdateAppPayload { app: None, user_errors: to_errors(vec![no_app(&input.app_id)]) });
        };
        let services = ctx.data_unchecked::<Services>();
        let only = input.only_registered_documents;
        let updated = store::set_only_registered_documents(&services.db, app.id, only).await;
        let updated = updated.or_report(ctx, "change an app")?;
        services.door.forget();
        tracing::info!(app.id = %app.id, only_registered_documents = only, "changed an app");
        Ok(UpdateAppPayload { app: updated.map(App), user_errors: Vec::new() })
    }
}

fn no_app(id: &ID) -> Violation {
    Violation::new(&["appId"], format!("there is no app {:?}", id.as_str()))
}

fn check_count(list: &str, count: usize) -> Result<(), Violation> {
    match (1..=MAX_DOCUMENTS_AT_A_TIME).contains(&count) {
        true => Ok(()),
        false => {
            let message = format!("must hold 1 to {MAX_DOCUMENTS_AT_A_TIME} documents; it holds {count}");
            Err(Violation::new(&[list], message))
        }
    }
}

/// Registers documents in a transaction of its own, which a refusal rolls back.
async fn add(
    db: &DatabaseConnection,
    app_id: Uuid,
    texts: &[String],
) -> Result<Result<Vec<store::Document>, AddDocumentsError>, DbErr> {
    let tx = db.begin().await?;
    let added = store::add_documents(&tx, app_id, texts).await?;
    if added.is_ok() {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok(added)
}

/// Documents to be registered.
#[derive(Debug, Clone, InputObject)]
pub(super) struct AddDocumentsInput {
    /// For which app. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    app_id: ID,
    /// The documents, 1 to 100, each at most 100000 bytes; an app has at most 1000. Byte by byte what clients name by its
    /// hash. Example: `query($id:ID!){getOrder(id:$id){status}}`
    documents: Vec<String>,
}

/// What became of registering documents.
#[derive(Debug, SimpleObject)]
pub(super) struct AddDocumentsPayload {
    /// The documents, in the order of their ids; empty when they were refused.
    documents: Vec<Document>,
    /// Why they were refused; empty when they were not. `path` ends with the place of the document.
    user_errors: Vec<UserError>,
}

impl AddDocumentsPayload {
    fn refused(violations: Vec<Violation>) -> Self {
        Self { documents: Vec::new(), user_errors: to_errors(violations) }
    }
}

/// Documents to be removed.
#[derive(Debug, Clone, InputObject)]
pub(super) struct RemoveDocumentsInput {
    /// Whose they are. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    app_id: ID,
    /// Their ids, 1 to 100. Example: `sha256:71f7dc5758652baac68e4a10c50be732b741c892ade2883a99358f52b555286b`
    ids: Vec<ID>,
}

impl RemoveDocumentsInput {
    fn check(&self) -> Result<Vec<DocumentId>, Vec<Violation>> {
        check_count("ids", self.ids.len()).map_err(|violation| vec![violation])?;
        let mut violations = Vec::new();
        let mut ids = Vec::new();
        for (index, id) in self.ids.iter().enumerate() {
            match id.parse::<DocumentId>() {
                Ok(id) => ids.push(id),
                Err(error) => {
                    violations.push(Violation::new(&["ids", &index.to_string()], error.to_string()))
                }
            }
        }
        if violations.is_empty() { Ok(ids) } else { Err(violations) }
    }
}

/// What became of removing documents.
#[derive(Debug, SimpleObject)]
pub(super) struct RemoveDocumentsPayload {
    /// The ids of those that there were.
    removed_ids: Vec<ID>,
    /// Why nothing was removed; empty when it was.
    user_errors: Vec<UserError>,
}

impl RemoveDocumentsPayload {
    fn refused(violations: Vec<Violation>) -> Self {
        Self { removed_ids: Vec::new(), user_errors: to_errors(violations) }
    }
}

/// A change of an app.
#[derive(Debug, Clone, InputObject)]
pub(super) struct UpdateAppInput {
    /// Which app. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    app_id: ID,
    /// Whether it may execute nothing but documents that are registered for it. Example: `true`
    only_registered_documents: bool,
}

/// What became of changing an app.
#[derive(Debug, SimpleObject)]
pub(super) struct UpdateAppPayload {
    /// The app; null when there is none.
    app: Option<App>,
    /// Why it was not changed; empty when it was.
    user_errors: Vec<UserError>,
}
