//! Queries on apps, their keys and documents, and the access tokens of orders.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, QueryResult};
use uuid::Uuid;

use super::document::{DocumentId, MAX_DOCUMENTS};
use super::key::{NewKey, Secret};
use super::{Scope, Scopes};
use crate::id::AppId;
use crate::sql::statement;

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct App {
    /// Its id.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Points that flow back into its budget in a second; `None` for the server's setting, 0 for no limit.
    pub points_per_second: Option<i32>,
    /// Whether it may execute registered documents only.
    pub only_registered_documents: bool,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl App {
    /// An app for which nothing is set.
    pub fn new(id: AppId, name: &str) -> Self {
        Self {
            id: id.uuid(),
            name: name.to_owned(),
            points_per_second: None,
            only_registered_documents: false,
            created_at: Utc::now(),
        }
    }
}

/// What [`App`] is read from.
const APP_COLUMNS: &str =
    "apps.id, apps.name, apps.points_per_second, apps.only_registered_documents, apps.created_at";

/// An API key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct ApiKey {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub app_id: Uuid,
    /// What people call it.
    pub name: String,
    /// The beginning of its secret.
    pub prefix: String,
    /// Names of what it may do; see [`ApiKey::scopes`].
    pub scopes: Vec<String>,
    /// Apps whose orders it sees besides its own.
    pub granted_apps: Vec<Uuid>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when it is good; `None` for ever.
    pub expires_at: Option<DateTime<Utc>>,
    /// Since when it is not; `None` while it is.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to within a minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// What it may do. A scope that this program does not know grants nothing.
    pub fn scopes(&self) -> Scopes {
        scopes(&self.scopes)
    }
}

fn scopes(names: &[String]) -> Scopes {
    names.iter().filter_map(|name| name.parse::<Scope>().ok()).collect()
}

const KEY_COLUMNS: &str =
    "id, app_id, name, prefix, scopes, granted_apps, created_at, expires_at, revoked_at, last_used_at";

/// What a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The key.
    pub key_id: Uuid,
    /// SHA-256 of its secret, to be compared in constant time.
    pub secret_hash: Vec<u8>,
    /// Whose it is.
    pub app: App,
    /// What it may do.
    pub scopes: Scopes,
    /// Apps whose orders it sees besides its own.
    pub granted_apps: Vec<Uuid>,
}

/// Returns the key that begins like this, if it is good now.
///
/// # Errors
/// Any error of the database.
pub async fn find_credential(db: &impl ConnectionTrait, prefix: &str) -> Result<Option<Credential>, DbErr> {
    let sql = format!(
        "SELECT api_keys.id AS key_id, secret_hash, scopes, granted_apps, {APP_COLUMNS}
         FROM api_keys JOIN apps ON apps.id = app_id
         WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"
    );
    let row = db.query_one_raw(statement(&sql, [prefix.into()])).await?;
    row.map(|row: QueryResult| {
        Ok(Credential {
            key_id: row.try_get("", "key_id")?,
            secret_hash: row.try_get("", "secret_hash")?,
            app: App::from_query_result(&row, "")?,
            scopes: scopes(&row.try_get::<Vec<String>>("", "scopes")?),
            granted_apps: row.try_get("", "granted_apps")?,
        })
    })
    .transpose()
}

/// Makes an app.
///
/// # Errors
/// Any error of the database.
pub async fn create_app(
    db: &impl ConnectionTrait,
    name: &str,
    points_per_second: Option<i32>,
) -> Result<App, DbErr> {
    let sql =
        format!("INSERT INTO apps (id, name, points_per_second) VALUES ($1, $2, $3) RETURNING {APP_COLUMNS}");
    let values = [Uuid::now_v7().into(), name.into(), points_per_second.into()];
    App::find_by_statement(statement(&sql, values)).one(db).await?.ok_or(DbErr::RecordNotInserted)
}

/// Returns the app that an identity provider calls `client`, and makes it when it calls for the first time.
///
/// # Errors
/// Any error of the database.
pub async fn app_of_client(db: &impl ConnectionTrait, issuer: &str, client: &str) -> Result<App, DbErr> {
    let sql = format!("SELECT {APP_COLUMNS} FROM apps WHERE issuer = $1 AND client = $2");
    let find = || App::find_by_statement(statement(&sql, [issuer.into(), client.into()]));
    if let Some(app) = find().one(db).await? {
        return Ok(app);
    }
    db.execute_raw(statement(
        "INSERT INTO apps (id, name, issuer, client) VALUES ($1, $2, $3, $2) ON CONFLICT (issuer, client) DO NOTHING",
        [Uuid::now_v7().into(), client.into(), issuer.into()],
    ))
    .await?;
    find().one(db).await?.ok_or(DbErr::RecordNotInserted)
}

/// Returns the app with this id.
///
/// # Errors
/// Any error of the database.
pub async fn find_app(db: &impl ConnectionTrait, id: Uuid) -> Result<Option<App>, DbErr> {
    let sql = format!("SELECT {APP_COLUMNS} FROM apps WHERE id = $1");
    App::find_by_statement(statement(&sql, [id.into()])).one(db).await
}

/// Returns the oldest app of this name. Apps that an identity provider names are not among them: whoever picks a name there
/// must not come by keys that are meant for another.
///
/// # Errors
/// Any error of the database.
pub async fn find_app_by_name(db: &impl ConnectionTrait, name: &str) -> Result<Option<App>, DbErr> {
    let sql = format!(
        "SELECT {APP_COLUMNS} FROM apps WHERE name = $1 AND issuer IS NULL ORDER BY created_at, id LIMIT 1"
    );
    App::find_by_statement(statement(&sql, [name.into()])).one(db).await
}

/// Returns up to `limit` apps, oldest id first, from the first after `after`.
///
/// # Errors
/// Any error of the database.
pub async fn list_apps(
    db: &impl ConnectionTrait,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<App>, DbErr> {
    let sql =
        format!("SELECT {APP_COLUMNS} FROM apps WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2");
    App::find_by_statement(statement(&sql, [after.into(), limit.cast_signed().into()])).all(db).await
}

/// Says whether the app may execute registered documents only. Returns it, or `None` if there is none.
///
/// # Errors
/// Any error of the database.
pub async fn set_only_registered_documents(
    db: &impl ConnectionTrait,
    id: Uuid,
    only: bool,
) -> Result<Option<App>, DbErr> {
    let sql = format!("UPDATE apps SET only_registered_documents = $2 WHERE id = $1 RETURNING {APP_COLUMNS}");
    App::find_by_statement(statement(&sql, [id.into(), only.into()])).one(db).await
}

/// A document that an app may name instead of sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What names it.
    pub id: DocumentId,
    /// The document.
    pub text: String,
    /// Since when it is registered.
    pub created_at: DateTime<Utc>,
}

impl FromQueryResult for Document {
    fn from_query_result(row: &QueryResult, prefix: &str) -> Result<Self, DbErr> {
        let hash: Vec<u8> = row.try_get(prefix, "hash")?;
        let id = DocumentId::from_hash(&hash).ok_or_else(|| DbErr::Type("a hash has 32 bytes".to_owned()))?;
        Ok(Self { id, text: row.try_get(prefix, "text")?, created_at: row.try_get(prefix, "created_at")? })
    }
}

/// Why documents are not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddDocumentsError {
    /// There is no such app.
    #[error("there is no such app")]
    UnknownApp,
    /// It would have too many.
    #[error("an app must not have more than {MAX_DOCUMENTS} documents; with these it would have {count}")]
    TooMany {
        /// How many it would have.
        count: i64,
    },
}

/// Registers documents for an app, in the caller's transaction, and returns them; those that it has already stay as they are.
/// A refusal leaves what was written to be rolled back.
///
/// # Errors
/// Any error of the database.
pub async fn add_documents(
    tx: &impl ConnectionTrait,
    app_id: Uuid,
    texts: &[String],
) -> Result<Result<Vec<Document>, AddDocumentsError>, DbErr> {
    // Locked, so that two that add at once do not both find room.
    let lock = "SELECT FROM apps WHERE id = $1 FOR UPDATE";
    if tx.query_one_raw(statement(lock, [app_id.into()])).await?.is_none() {
        return Ok(Err(AddDocumentsError::UnknownApp));
    }
    let hashes: Vec<Vec<u8>> = texts.iter().map(|text| DocumentId::of(text).hash().to_vec()).collect();
    tx.execute_raw(statement(
        "INSERT INTO app_documents (app_id, hash, text)
         SELECT DISTINCT $1::uuid, added.hash, added.text FROM unnest($2::bytea[], $3::text[]) AS added (hash, text)
         ON CONFLICT (app_id, hash) DO NOTHING",
        [app_id.into(), hashes.clone().into(), texts.to_vec().into()],
    ))
    .await?;
    let sql = "SELECT count(*) AS count FROM app_documents WHERE app_id = $1";
    let row = tx.query_one_raw(statement(sql, [app_id.into()])).await?;
    let count: i64 = row.map_or(Ok(0), |row| row.try_get("", "count"))?;
    if usize::try_from(count).is_ok_and(|count| count > MAX_DOCUMENTS) {
        return Ok(Err(AddDocumentsError::TooMany { count }));
    }
    let sql = "SELECT hash, text, created_at FROM app_documents WHERE app_id = $1 AND hash = ANY ($2) ORDER BY hash";
    Document::find_by_statement(statement(sql, [app_id.into(), hashes.into()])).all(tx).await.map(Ok)
}

/// Removes documents of an app; returns the names of those that it had.
///
/// # Errors
/// Any error of the database.
pub async fn remove_documents(
    db: &impl ConnectionTrait,
    app_id: Uuid,
    ids: &[DocumentId],
) -> Result<Vec<DocumentId>, DbErr> {
    let hashes: Vec<Vec<u8>> = ids.iter().map(|id| id.hash().to_vec()).collect();
    let sql =
        "DELETE FROM app_documents WHERE app_id = $1 AND hash = ANY ($2) RETURNING hash, text, created_at";
    let removed = Document::find_by_statement(statement(sql, [app_id.into(), hashes.into()])).all(db).await?;
    Ok(removed.into_iter().map(|document| document.id).collect())
}

/// Returns the text of an app's document, by the primary key.
///
/// # Errors
/// Any error of the database.
pub async fn find_document(
    db: &impl ConnectionTrait,
    app_id: Uuid,
    id: DocumentId,
) -> Result<Option<String>, DbErr> {
    let sql = "SELECT text FROM app_documents WHERE app_id = $1 AND hash = $2";
    let row = db.query_one_raw(statement(sql, [app_id.into(), id.hash().to_vec().into()])).await?;
    row.map(|row| row.try_get("", "text")).transpose()
}

/// Returns up to `limit` documents of each of these apps with the app's id, as [`list_documents`] does for one. The primary
/// key serves it.
///
/// # Errors
/// Any error of the database.
pub async fn list_documents_of_apps(
    db: &impl ConnectionTrait,
    app_ids: Vec<Uuid>,
    after: Option<DocumentId>,
    limit: u64,
) -> Result<Vec<(Uuid, Document)>, DbErr> {
    let after = after.map(|id| id.hash().to_vec());
    let sql = "SELECT app.id AS app_id, document.hash, document.text, document.created_at
               FROM unnest($1::uuid[]) AS app (id)
               CROSS JOIN LATERAL (
                   SELECT hash, text, created_at FROM app_documents
                   WHERE app_id = app.id AND ($2::bytea IS NULL OR hash > $2) ORDER BY hash LIMIT $3
               ) AS document
               ORDER BY app.id, document.hash";
    let rows = db.query_all_raw(statement(sql, [app_ids.into(), after.into(), limit.cast_signed().into()]));
    let rows = rows.await?;
    rows.iter().map(|row| Ok((row.try_get("", "app_id")?, Document::from_query_result(row, "")?))).collect()
}

/// Returns up to `limit` documents of an app, in the order of their names, from the first after `after`.
///
/// # Errors
/// Any error of the database.
pub async fn list_documents(
    db: &impl ConnectionTrait,
    app_id: Uuid,
    after: Option<DocumentId>,
    limit: u64,
) -> Result<Vec<Document>, DbErr> {
    let after = after.map(|id| id.hash().to_vec());
    let sql = "SELECT hash, text, created_at FROM app_documents
               WHERE app_id = $1 AND ($2::bytea IS NULL OR hash > $2) ORDER BY hash LIMIT $3";
    let values = [app_id.into(), after.into(), limit.cast_signed().into()];
    Document::find_by_statement(statement(sql, values)).all(db).await
}

/// Makes a key.
///
/// # Errors
/// Any error of the database: among them the violated name of a foreign key, if there is no such app.
pub async fn create_key(db: &impl ConnectionTrait, key: &NewKey, secret: &Secret) -> Result<ApiKey, DbErr> {
    let sql = format!(
        "INSERT INTO api_keys (id, app_id, name, prefix, secret_hash, scopes, granted_apps, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING {KEY_COLUMNS}"
    );
    let values = [
        Uuid::now_v7().into(),
        key.app_id.into(),
        key.name.as_str().into(),
        secret.prefix().into(),
        secret.hash().into(),
        key.scopes.names().into(),
        key.granted_apps.clone().into(),
        key.expires_at.into(),
    ];
    ApiKey::find_by_statement(statement(&sql, values)).one(db).await?.ok_or(DbErr::RecordNotInserted)
}

/// Returns the key with this id.
///
/// # Errors
/// Any error of the database.
pub async fn find_key(db: &impl ConnectionTrait, id: Uuid) -> Result<Option<ApiKey>, DbErr> {
    let sql = format!("SELECT {KEY_COLUMNS} FROM api_keys WHERE id = $1");
    ApiKey::find_by_statement(statement(&sql, [id.into()])).one(db).await
}

/// Returns the key whose secret begins like this.
///
/// # Errors
/// Any error of the database.
pub async fn find_key_by_prefix(db: &impl ConnectionTrait, prefix: &str) -> Result<Option<ApiKey>, DbErr> {
    let sql = format!("SELECT {KEY_COLUMNS} FROM api_keys WHERE prefix = $1");
    ApiKey::find_by_statement(statement(&sql, [prefix.into()])).one(db).await
}

/// Returns up to `limit` keys of all apps together, the newest first.
///
/// # Errors
/// Any error of the database.
pub async fn list_keys(db: &impl ConnectionTrait, limit: u64) -> Result<Vec<ApiKey>, DbErr> {
    let sql = format!("SELECT {KEY_COLUMNS} FROM api_keys ORDER BY id DESC LIMIT $1");
    ApiKey::find_by_statement(statement(&sql, [limit.cast_signed().into()])).all(db).await
}

/// Returns up to `limit` keys of each of these apps, the newest first. Served by api_keys_by_app.
///
/// # Errors
/// Any error of the database.
pub async fn list_keys_of_apps(
    db: &impl ConnectionTrait,
    app_ids: Vec<Uuid>,
    limit: u64,
) -> Result<Vec<ApiKey>, DbErr> {
    let sql = format!(
        "SELECT key.* FROM unnest($1::uuid[]) AS app (id)
         CROSS JOIN LATERAL (
             SELECT {KEY_COLUMNS} FROM api_keys WHERE app_id = app.id ORDER BY api_keys.id DESC LIMIT $2
         ) AS key
         ORDER BY key.id DESC"
    );
    ApiKey::find_by_statement(statement(&sql, [app_ids.into(), limit.cast_signed().into()])).all(db).await
}

/// Whether there is any key.
///
/// # Errors
/// Any error of the database.
pub async fn has_keys(db: &impl ConnectionTrait) -> Result<bool, DbErr> {
    let sql = "SELECT FROM api_keys LIMIT 1";
    Ok(db.query_one_raw(statement(sql, [])).await?.is_some())
}

/// Takes a key away; one that is gone already stays as it was. Returns it, or `None` if there is none.
///
/// # Errors
/// Any error of the database.
pub async fn revoke_key(db: &impl ConnectionTrait, id: Uuid) -> Result<Option<ApiKey>, DbErr> {
    let sql = format!(
        "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1 RETURNING {KEY_COLUMNS}"
    );
    ApiKey::find_by_statement(statement(&sql, [id.into()])).one(db).await
}

/// Lets a good key end so many seconds from now, unless it ends earlier. Returns whether there is such a good key.
///
/// # Errors
/// Any error of the database.
pub async fn expire_key(db: &impl ConnectionTrait, id: Uuid, seconds: i64) -> Result<bool, DbErr> {
    let result = db.execute_raw(statement(
        "UPDATE api_keys SET expires_at = least(expires_at, now() + make_interval(secs => $2))
         WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
        [id.into(), (seconds as f64).into()],
    ));
    Ok(result.await?.rows_affected() == 1)
}

/// Notes that these keys were used.
///
/// # Errors
/// Any error of the database.
pub async fn note_use(db: &impl ConnectionTrait, key_ids: Vec<Uuid>) -> Result<(), DbErr> {
    let sql = "UPDATE api_keys SET last_used_at = now() WHERE id = ANY ($1)";
    db.execute_raw(statement(sql, [key_ids.into()])).await.map(drop)
}

/// Returns what signs the access tokens of orders.
///
/// # Errors
/// Any error of the database.
pub async fn signing_secret(db: &impl ConnectionTrait) -> Result<Vec<u8>, DbErr> {
    let row = db.query_one_raw(statement("SELECT secret FROM signing_keys WHERE id = 1", [])).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("the signing key".to_owned()))?.try_get("", "secret")
}

/// Returns the app of an order, if the order's access token is not taken back. When that was does not matter: an order has
/// one token, made when it is placed, and the clock that its maker went by may be ahead of the database's.
///
/// # Errors
/// Any error of the database.
pub async fn app_of_order_token(db: &impl ConnectionTrait, order_id: Uuid) -> Result<Option<App>, DbErr> {
    let sql = format!(
        "SELECT {APP_COLUMNS} FROM orders JOIN apps ON apps.id = orders.app_id
         WHERE orders.id = $1 AND NOT EXISTS (SELECT FROM order_token_revocations WHERE order_id = $1)"
    );
    App::find_by_statement(statement(&sql, [order_id.into()])).one(db).await
}

/// Takes back the access token of these apps' order (of any app's with `None`), for good. Returns whether there is such an
/// order.
///
/// # Errors
/// Any error of the database.
pub async fn revoke_order_tokens(
    db: &impl ConnectionTrait,
    order_id: Uuid,
    app_ids: Option<Vec<Uuid>>,
) -> Result<bool, DbErr> {
    let result = db
        .execute_raw(statement(
            "INSERT INTO order_token_revocations (order_id)
             SELECT id FROM orders WHERE id = $1 AND ($2::uuid[] IS NULL OR app_id = ANY ($2))
             ON CONFLICT (order_id) DO UPDATE SET revoked_at = order_token_revocations.revoked_at",
            [order_id.into(), app_ids.into()],
        ))
        .await?;
    Ok(result.rows_affected() == 1)
}
