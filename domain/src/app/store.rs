//! Queries on apps, their keys, and the access tokens of orders.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, QueryResult};
use uuid::Uuid;

use super::key::{NewKey, Secret};
use super::{Scope, Scopes};
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
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

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
    let row = db
        .query_one_raw(statement(
            "SELECT api_keys.id AS key_id, secret_hash, scopes, granted_apps,
                    apps.id, apps.name, points_per_second, apps.created_at
             FROM api_keys JOIN apps ON apps.id = app_id
             WHERE prefix = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            [prefix.into()],
        ))
        .await?;
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
    let row = App::find_by_statement(statement(
        "INSERT INTO apps (id, name, points_per_second) VALUES ($1, $2, $3)
         RETURNING id, name, points_per_second, created_at",
        [Uuid::now_v7().into(), name.into(), points_per_second.into()],
    ));
    row.one(db).await?.ok_or(DbErr::RecordNotInserted)
}

/// Returns the app that an identity provider calls `client`, and makes it when it calls for the first time.
///
/// # Errors
/// Any error of the database.
pub async fn app_of_client(db: &impl ConnectionTrait, issuer: &str, client: &str) -> Result<App, DbErr> {
    let find = || {
        App::find_by_statement(statement(
            "SELECT id, name, points_per_second, created_at FROM apps WHERE issuer = $1 AND client = $2",
            [issuer.into(), client.into()],
        ))
    };
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
    let sql = "SELECT id, name, points_per_second, created_at FROM apps WHERE id = $1";
    App::find_by_statement(statement(sql, [id.into()])).one(db).await
}

/// Returns the oldest app of this name. Apps that an identity provider names are not among them: whoever picks a name there
/// must not come by keys that are meant for another.
///
/// # Errors
/// Any error of the database.
pub async fn find_app_by_name(db: &impl ConnectionTrait, name: &str) -> Result<Option<App>, DbErr> {
    let sql = "SELECT id, name, points_per_second, created_at FROM apps WHERE name = $1 AND issuer IS NULL ORDER BY created_at, id LIMIT 1";
    App::find_by_statement(statement(sql, [name.into()])).one(db).await
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
    App::find_by_statement(statement(
        "SELECT id, name, points_per_second, created_at FROM apps
         WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2",
        [after.into(), limit.cast_signed().into()],
    ))
    .all(db)
    .await
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

/// Returns up to `limit` keys, of these apps or of all, the newest first.
///
/// # Errors
/// Any error of the database.
pub async fn list_keys(
    db: &impl ConnectionTrait,
    app_ids: Option<Vec<Uuid>>,
    limit: u64,
) -> Result<Vec<ApiKey>, DbErr> {
    let sql = format!(
        "SELECT {KEY_COLUMNS} FROM api_keys WHERE $1::uuid[] IS NULL OR app_id = ANY ($1) ORDER BY id DESC LIMIT $2"
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

/// Returns the app of an order whose access token was made at this time, if the token is not taken back.
///
/// # Errors
/// Any error of the database.
pub async fn app_of_order_token(
    db: &impl ConnectionTrait,
    order_id: Uuid,
    made_at: DateTime<Utc>,
) -> Result<Option<App>, DbErr> {
    App::find_by_statement(statement(
        "SELECT apps.id, apps.name, apps.points_per_second, apps.created_at
         FROM orders JOIN apps ON apps.id = orders.app_id
         WHERE orders.id = $1 AND NOT EXISTS (
             SELECT FROM order_token_revocations WHERE order_id = $1 AND revoked_at >= $2)",
        [order_id.into(), made_at.into()],
    ))
    .one(db)
    .await
}

/// Takes back every access token of these apps' order (of any app's with `None`) that was made until now. Returns whether
/// there is such an order.
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
             ON CONFLICT (order_id) DO UPDATE SET revoked_at = now()",
            [order_id.into(), app_ids.into()],
        ))
        .await?;
    Ok(result.rows_affected() == 1)
}
