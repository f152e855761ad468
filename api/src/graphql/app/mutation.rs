//! Making apps and keys, and taking them away.

use async_graphql::{Context, ID, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};
use domain::app::key::{self, MAX_GRANTED_APPS, NewKey, Secret};
use domain::app::{Scope, Scopes, Visibility, store};
use domain::id::{AppId, KeyId};
use domain::input::Violation;
use sea_orm::{DbErr, TransactionTrait};
use uuid::Uuid;

use super::{ApiKey, App, find_app};
use crate::access::{Caller, Needs, caller};
use crate::app::Services;
use crate::graphql::error::{OrReport, UserError};
use crate::graphql::ids;
use crate::run_to_end::run_to_end;

/// The longest that a rotated key stays good beside its successor: a month of 31 days.
const MAX_GRACE_SECONDS: i64 = 31 * 24 * 60 * 60;

/// The most points per second that an app may be given.
const MAX_POINTS: i32 = 1_000_000;

/// Makes apps and keys, and takes them away.
#[derive(Debug, Default)]
pub(crate) struct AppMutation;

#[Object]
impl AppMutation {
    /// Makes an app. It can do nothing until it has a key.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn create_app(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The app.")] input: CreateAppInput,
    ) -> Result<CreateAppPayload> {
        let mut violations: Vec<Violation> = key::check_name(&input.name).err().into_iter().collect();
        if input.points_per_second.is_some_and(|points| !(0..=MAX_POINTS).contains(&points)) {
            let message = format!("must be between 0, for no limit, and {MAX_POINTS}");
            violations.push(Violation::new(&["pointsPerSecond"], message));
        }
        if !violations.is_empty() {
            return Ok(CreateAppPayload { app: None, user_errors: to_errors(violations) });
        }
        let db = &ctx.data_unchecked::<Services>().db;
        let app = store::create_app(db, &input.name, input.points_per_second).await;
        let app = app.or_report(ctx, "make an app")?;
        Ok(CreateAppPayload { app: Some(App(app)), user_errors: Vec::new() })
    }

    /// Makes a key of an app. Its secret is returned this once and kept nowhere.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn create_api_key(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key.")] input: CreateApiKeyInput,
    ) -> Result<CreateApiKeyPayload> {
        let mut violations = Vec::new();
        if find_app(ctx, &input.app_id).await?.is_none() {
            let message = format!("there is no app {:?}", input.app_id.as_str());
            violations.push(Violation::new(&["appId"], message));
        }
        let granted = input.row_filter.as_ref().map_or(&[][..], |filter| &filter.apps);
        for (index, id) in granted.iter().take(MAX_GRANTED_APPS).enumerate() {
            if find_app(ctx, id).await?.is_none() {
                let path = ["rowFilter", "apps", &index.to_string()];
                violations.push(Violation::new(&path, format!("there is no app {:?}", id.as_str())));
            }
        }
        if !may_give(caller(ctx)?, &input.scopes, &input.app_id, granted) {
            violations.push(Violation::new(&["scopes"], BEYOND_ROWS));
        }
        let new_key = match input.check(caller(ctx)?.scopes()) {
            Ok(new_key) if violations.is_empty() => new_key,
            Ok(_) => return Ok(CreateApiKeyPayload::refused(violations)),
            Err(others) => {
                violations.extend(others);
                return Ok(CreateApiKeyPayload::refused(violations));
            }
        };
        make(ctx, &new_key).await
    }

    /// Takes a key away. It is refused at once here, within half a minute everywhere, and subscriptions that it has opened
    /// are closed within a minute. Repeating it changes nothing.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn revoke_api_key(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The key's id. Example: `key_01jx2v3q8kf0v8c9m5w6r7t2ab`")] id: ID,
    ) -> Result<RevokeApiKeyPayload> {
        let services = ctx.data_unchecked::<Services>();
        let revoked = match id.parse::<KeyId>() {
            Ok(id) => store::revoke_key(&services.db, id.uuid()).await.or_report(ctx, "revoke a key")?,
            Err(_) => None,
        };
        if revoked.is_some() {
            services.door.forget();
        }
        Ok(match revoked {
            Some(api_key) => {
                tracing::info!(key.prefix = api_key.prefix, "revoked an API key");
                RevokeApiKeyPayload { api_key: Some(api_key.into()), user_errors: Vec::new() }
            }
            None => RevokeApiKeyPayload { api_key: None, user_errors: to_errors(vec![no_key(&id)]) },
        })
    }

    /// Makes a key like another one, which ends after a while: for replacing a secret without an interruption.
    #[graphql(guard = "Needs([Scope::AppsManage])")]
    async fn rotate_api_key(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which key, and how long it stays good.")] input: RotateApiKeyInput,
    ) -> Result<CreateApiKeyPayload> {
        let services = ctx.data_unchecked::<Services>();
        let grace = i64::from(input.grace_seconds);
        if !(0..=MAX_GRACE_SECONDS).contains(&grace) {
            let message = format!("must be between 0 and {MAX_GRACE_SECONDS}");
            return Ok(CreateApiKeyPayload::refused(vec![Violation::new(&["graceSeconds"], message)]));
        }
        let old = match input.id.parse::<KeyId>() {
            Ok(id) => store::find_key(&services.db, id.uuid()).await.or_report(ctx, "read a key")?,
            Err(_) => None,
        };
        let Some(old) = old else {
            return Ok(CreateApiKeyPayload::refused(vec![no_key(&input.id)]));
        };
        if !caller(ctx)?.scopes().include(old.scopes()) {
            return Ok(CreateApiKeyPayload::refused(vec![Violation::new(&["id"], BEYOND_CALLER)]));
        }
        let granted: Vec<ID> = old.granted_apps.iter().map(|app_id| super::app_id(*app_id)).collect();
        if !may_give(caller(ctx)?, &old.scopes, &super::app_id(old.app_id), &granted) {
            return Ok(CreateApiKeyPayload::refused(vec![Violation::new(&["id"], BEYOND_ROWS)]));
        }
        let new_key = NewKey {
            app_id: old.app_id,
            name: old.name.clone(),
            scopes: old.scopes(),
            expires_at: old.expires_at,
            granted_apps: old.granted_apps.clone(),
        };
        let (db, secret, old_id) = (services.db.clone(), Secret::generate(), old.id);
        let revealed = secret.reveal().to_owned();
        let rotated = run_to_end(async move {
            let tx = db.begin().await?;
            // First, so that whoever revokes it meanwhile waits, or was first.
            if !store::expire_key(&tx, old_id, grace).await? {
                return Ok(None);
            }
            let key = store::create_key(&tx, &new_key, &secret).await?;
            tx.commit().await?;
            Ok::<_, DbErr>(Some(key))
        });
        let Some(api_key) = rotated.await.or_report(ctx, "rotate a key")? else {
            return Ok(CreateApiKeyPayload::refused(vec![no_key(&input.id)]));
        };
        services.door.forget();
        tracing::info!(key.prefix = api_key.prefix, replaces = old.prefix, "rotated an API key");
        Ok(CreateApiKeyPayload {
            api_key: Some(api_key.into()),
            secret: Some(revealed),
            user_errors: Vec::new(),
        })
    }

    /// Takes back the access token of an order for good: for a link that got into the wrong hands. The order gets no
    /// other. It must be an order of the app's own; with apps:manage, of any.
    #[graphql(guard = "Needs([Scope::OrdersWrite])")]
    async fn revoke_order_access_tokens(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The order's id. Example: `order_01jx2v3q8kf0v8c9m5w6r7t2ab`")] order_id: ID,
    ) -> Result<RevokeOrderAccessTokensPayload> {
        let services = ctx.data_unchecked::<Services>();
        let caller = caller(ctx)?;
        // A row filter lets an app look at orders of others, and no more.
        let app_ids = (!caller.may(Scope::AppsManage)).then(|| vec![caller.app_id().uuid()]);
        let revoked = match ids::parse_order_id(&order_id) {
            Some(id) => store::revoke_order_tokens(&services.db, id, app_ids)
                .await
                .or_report(ctx, "take back the access tokens of an order")?,
            None => false,
        };
        if revoked {
            services.door.forget();
        }
        let user_errors = match revoked {
            true => Vec::new(),
            false => {
                let message = format!("there is no order {:?}", order_id.as_str());
                vec![UserError::at(&["orderId"], message)]
            }
        };
        Ok(RevokeOrderAccessTokensPayload { revoked, user_errors })
    }
}

const BEYOND_CALLER: &str = "must not open more than the key that makes it: a scope is missing there";

const BEYOND_ROWS: &str = "must not show orders that the key which makes it does not see; that takes orders:read_all, or a key without orders:*";

/// Whether a key of this app with this row filter shows no order that its maker does not see.
fn may_give(maker: &Caller, scopes: &[String], app_id: &ID, granted: &[ID]) -> bool {
    let Visibility::Apps(seen) = maker.visibility() else { return maker.may(Scope::OrdersReadAll) };
    let sees = |id: &ID| id.parse::<AppId>().is_ok_and(|id| seen.contains(&id.uuid()));
    !scopes.iter().any(|scope| scope.starts_with("orders:")) || (sees(app_id) && granted.iter().all(sees))
}

fn no_key(id: &ID) -> Violation {
    Violation::new(&["id"], format!("there is no good key {:?}", id.as_str()))
}

pub(super) fn to_errors(violations: Vec<Violation>) -> Vec<UserError> {
    violations.into_iter().map(UserError::from).collect()
}

async fn make(ctx: &Context<'_>, new_key: &NewKey) -> Result<CreateApiKeyPayload> {
    let secret = Secret::generate();
    let api_key = store::create_key(&ctx.data_unchecked::<Services>().db, new_key, &secret).await;
    let api_key = api_key.or_report(ctx, "make a key")?;
    tracing::info!(key.prefix = api_key.prefix, app.id = %api_key.app_id, "made an API key");
    Ok(CreateApiKeyPayload {
        api_key: Some(api_key.into()),
        secret: Some(secret.reveal().to_owned()),
        user_errors: Vec::new(),
    })
}

/// An app to be made.
#[derive(Debug, Clone, InputObject)]
pub(super) struct CreateAppInput {
    /// What people call it, 1 to 100 characters. Example: `warehouse`
    name: String,
    /// Points that flow back into its budget in a second, 0 for no limit; the server's setting unless said.
    /// Example: `500`
    points_per_second: Option<i32>,
}

/// What became of making an app.
#[derive(Debug, SimpleObject)]
pub(super) struct CreateAppPayload {
    /// The app; null when it was refused.
    app: Option<App>,
    /// Why it was refused; empty when it was not.
    user_errors: Vec<UserError>,
}

/// A key to be made.
#[derive(Debug, Clone, InputObject)]
pub(super) struct CreateApiKeyInput {
    /// Whose it is. Example: `app_01jx2v3q8kf0v8c9m5w6r7t2ab`
    app_id: ID,
    /// What people call it, 1 to 100 characters. Example: `warehouse, spring 2026`
    name: String,
    /// What it may do: orders:read, orders:read_pii, orders:read_all, orders:write, catalog:write, sagas:operate,
    /// apps:manage. Not more than the caller; without orders:read_all, orders:* only for apps whose orders the caller sees.
    /// Example: `orders:read`
    scopes: Vec<String>,
    /// Until when it is good (RFC 3339); for ever unless said. Example: `2027-11-25T10:00:00Z`
    expires_at: Option<DateTime<Utc>>,
    /// Which orders it sees besides those of its app.
    row_filter: Option<RowFilterInput>,
}

/// Orders that a key sees besides those of its own app.
#[derive(Debug, Clone, InputObject)]
pub(super) struct RowFilterInput {
    /// Those that one of these apps has placed, at most 100.
    apps: Vec<ID>,
}

impl CreateApiKeyInput {
    /// Checks what needs no row; `own` is what the caller may do.
    fn check(&self, own: Scopes) -> Result<NewKey, Vec<Violation>> {
        let mut violations: Vec<Violation> = key::check_name(&self.name).err().into_iter().collect();
        let scopes = key::check_scopes(&self.scopes).unwrap_or_else(|violation| {
            violations.push(violation);
            Scopes::default()
        });
        if !own.include(scopes) {
            violations.push(Violation::new(&["scopes"], BEYOND_CALLER));
        }
        if self.expires_at.is_some_and(|expires_at| expires_at <= Utc::now()) {
            violations.push(Violation::new(&["expiresAt"], "must be in the future"));
        }
        let granted = self.row_filter.as_ref().map_or(&[][..], |filter| &filter.apps);
        if granted.len() > MAX_GRANTED_APPS {
            let message = format!("must not hold more than {MAX_GRANTED_APPS} apps");
            violations.push(Violation::new(&["rowFilter", "apps"], message));
        }
        let app_id = self.app_id.parse::<AppId>().map_or(Uuid::nil(), |id| id.uuid());
        let granted_apps =
            granted.iter().filter_map(|id| id.parse::<AppId>().ok()).map(|id| id.uuid()).collect();
        match violations.is_empty() {
            true => Ok(NewKey {
                app_id,
                name: self.name.clone(),
                scopes,
                expires_at: self.expires_at,
                granted_apps,
            }),
            false => Err(violations),
        }
    }
}

/// Which key to rotate.
#[derive(Debug, Clone, InputObject)]
pub(super) struct RotateApiKeyInput {
    /// The key's id. Example: `key_01jx2v3q8kf0v8c9m5w6r7t2ab`
    id: ID,
    /// Seconds for which the old secret stays good, 0 to 2678400. Example: `86400`
    #[graphql(default = 86_400)]
    grace_seconds: i32,
}

/// What became of making a key.
#[derive(Debug, SimpleObject)]
pub(super) struct CreateApiKeyPayload {
    /// The key; null when it was refused.
    api_key: Option<ApiKey>,
    /// Its secret: shown this once and kept nowhere. Example: `oms_live_a1B2c3D4_...`
    secret: Option<String>,
    /// Why it was refused; empty when it was not.
    user_errors: Vec<UserError>,
}

impl CreateApiKeyPayload {
    fn refused(violations: Vec<Violation>) -> Self {
        Self { api_key: None, secret: None, user_errors: to_errors(violations) }
    }
}

/// What became of taking a key away.
#[derive(Debug, SimpleObject)]
pub(super) struct RevokeApiKeyPayload {
    /// The key; null when there is none.
    api_key: Option<ApiKey>,
    /// Why it was not taken away; empty when it was.
    user_errors: Vec<UserError>,
}

/// What became of taking back the access tokens of an order.
#[derive(Debug, SimpleObject)]
pub(super) struct RevokeOrderAccessTokensPayload {
    /// Whether they are no good any more. Example: `true`
    revoked: bool,
    /// Why they were not taken back; empty when they were.
    user_errors: Vec<UserError>,
}
