//! `oms keys`: API keys from the command line, for whoever has the database.

use anyhow::{Context, bail};
use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};
use comfy_table::Table;
use domain::app::key::{self, NewKey, Secret};
use domain::app::{Scopes, store};
use domain::id::{AppId, KeyId, local_app};
use domain::input::Violation;
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde_json::json;
use uuid::Uuid;

use super::print_line;
use crate::config::DatabaseArgs;
use crate::postgres::{self, PoolSettings};

/// The most keys that a list shows.
const MAX_LISTED: u64 = 1_000;

const CREATE_EXAMPLES: &str = "\
Examples:
  oms keys create --scopes all                                   a key of the shop itself, for its own programs
  oms keys create --app warehouse --scopes orders:read           a key of an app, which is made when it is missing
  oms keys create --app warehouse --scopes orders:read --grant-app shop --expires-in-days 90
  curl -H \"Authorization: Bearer $(oms keys create --scopes all --json | jq -r .secret)\" ...

Scopes:
  orders:read       read the orders of the app, without personal data
  orders:read_pii   read e-mail and addresses as well
  orders:read_all   read the orders of every app
  orders:write      place orders; implies orders:read
  catalog:write     change products and stock
  sagas:operate     see and move sagas; takes orders:read_all as well, since they are of every app
  apps:manage       make apps and keys, and take them away; no limit on what requests cost";

/// Subcommands of `oms keys`.
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make an API key and print its secret, which is shown this once
    #[command(after_long_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the keys, the newest first, without their secrets
    List(ListArgs),
    /// Take a key away: it is refused within half a minute, and its subscriptions are closed within a minute
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// App whose key it is, by name or id; made when there is none of that name
    #[arg(long, default_value = "shop")]
    app: String,

    /// What people call the key
    #[arg(long, default_value = "made on the command line")]
    name: String,

    /// What it may do: scopes with commas between them, or all
    #[arg(long, value_name = "SCOPES", required = true, value_delimiter = ',')]
    scopes: Vec<String>,

    /// Days until it is no good any more [default: never]
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(i64).range(1..=36_500))]
    expires_in_days: Option<i64>,

    /// Row filter: an app, by name or id, whose orders it sees as well; may be given several times
    #[arg(long = "grant-app", value_name = "APP")]
    grant_apps: Vec<String>,

    /// Points per second of an app that is made by this; 0 for no limit [default: the server's setting]
    #[arg(long, value_name = "POINTS", value_parser = clap::value_parser!(i32).range(0..=1_000_000))]
    points_per_second: Option<i32>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    database: DatabaseArgs,

    /// The key: its id, or the beginning of its secret as the list shows it
    key: String,
}

pub(super) async fn run(command: &KeysCommand) -> anyhow::Result<()> {
    let args = match command {
        KeysCommand::Create(args) => &args.database,
        KeysCommand::List(args) => &args.database,
        KeysCommand::Revoke(args) => &args.database,
    };
    let database = postgres::join(args).await?;
    let db = database.connect(&PoolSettings::for_command("oms keys")).await?;
    let result = match migration::migrate(&db).await.context("cannot bring the schema up to date") {
        Ok(_) => match command {
            KeysCommand::Create(args) => create(&db, args).await,
            KeysCommand::List(args) => list(&db, args).await,
            KeysCommand::Revoke(args) => revoke(&db, &args.key).await,
        },
        Err(error) => Err(error),
    };
    // The connections go before the server does, whatever the outcome.
    db.close().await.context("cannot close the connections")?;
    database.close().await?;
    result
}

async fn create(db: &DatabaseConnection, args: &CreateArgs) -> anyhow::Result<()> {
    let scopes = match args.scopes.as_slice() {
        [all] if all == "all" => Scopes::all(),
        names => key::check_scopes(names).map_err(of_flag)?,
    };
    key::check_name(&args.name).map_err(of_flag)?;
    let mut granted_apps = Vec::new();
    for name in &args.grant_apps {
        let app = find_app(db, name).await?;
        granted_apps.push(app.with_context(|| format!("--grant-app: there is no app {name:?}"))?.id);
    }
    let tx = db.begin().await?;
    let app = match find_app(&tx, &args.app).await? {
        Some(app) => app,
        None if args.app.parse::<AppId>().is_ok() => bail!("--app: there is no app {:?}", args.app),
        None => {
            key::check_name(&args.app).map_err(|violation| anyhow::anyhow!("--app {}", violation.message))?;
            store::create_app(&tx, &args.app, args.points_per_second).await?
        }
    };
    let secret = Secret::generate();
    let expires_at = args.expires_in_days.map(|days| Utc::now() + TimeDelta::days(days));
    let new_key = NewKey { app_id: app.id, name: args.name.clone(), scopes, expires_at, granted_apps };
    let key = store::create_key(&tx, &new_key, &secret).await?;
    tx.commit().await?;
    if args.json {
        return print_line(json!({
            "id": KeyId::from_uuid(key.id).to_string(),
            "app": { "id": AppId::from_uuid(app.id).to_string(), "name": app.name },
            "name": key.name,
            "prefix": key.prefix,
            "scopes": key.scopes,
            "expiresAt": key.expires_at,
            "secret": secret.reveal(),
        }));
    }
    print_line(format_args!("{}", secret.reveal()))?;
    print_line(format_args!(
        "A key of the app {:?} with {}. It is shown this once; send it as Authorization: Bearer.",
        app.name,
        key.scopes.join(", ")
    ))
}

/// Names the flag that a violation is about.
fn of_flag(violation: Violation) -> anyhow::Error {
    anyhow::anyhow!("--{} {}", violation.path.join("-"), violation.message)
}

/// Returns the app of this name or id.
pub(super) async fn find_app(
    db: &impl sea_orm::ConnectionTrait,
    text: &str,
) -> anyhow::Result<Option<store::App>> {
    let found = match text.parse::<AppId>() {
        Ok(id) => store::find_app(db, id.uuid()).await?,
        // The shop itself cannot be taken over by an app that bears its name.
        Err(_) if text == "shop" => store::find_app(db, local_app().uuid()).await?,
        Err(_) => store::find_app_by_name(db, text).await?,
    };
    Ok(found)
}

async fn list(db: &DatabaseConnection, args: &ListArgs) -> anyhow::Result<()> {
    let keys = store::list_keys(db, MAX_LISTED).await?;
    let state = |key: &store::ApiKey| match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(expires_at)) if expires_at <= Utc::now() => "expired",
        (None, _) => "good",
    };
    if args.json {
        let keys: Vec<serde_json::Value> = keys
            .iter()
            .map(|key| {
                json!({
                    "id": KeyId::from_uuid(key.id).to_string(),
                    "appId": AppId::from_uuid(key.app_id).to_string(),
                    "name": key.name,
                    "prefix": key.prefix,
                    "scopes": key.scopes,
                    "state": state(key),
                    "createdAt": key.created_at,
                    "expiresAt": key.expires_at,
                    "revokedAt": key.revoked_at,
                    "lastUsedAt": key.last_used_at,
                })
            })
            .collect();
        return print_line(json!(keys));
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "KEY",
        "APP",
        "STATE",
        "SCOPES",
        "LAST USED",
        "NAME",
    ]);
    for key in &keys {
        let app = store::find_app(db, key.app_id).await?.map_or_else(String::new, |app| app.name);
        let used = key.last_used_at.map_or("never".to_owned(), |at| at.format("%Y-%m-%d %H:%M").to_string());
        table.add_row([&key.prefix, &app, state(key), &key.scopes.join(","), &used, &key.name]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    print_line(table.trim_fmt())
}

async fn revoke(db: &DatabaseConnection, text: &str) -> anyhow::Result<()> {
    let id: Option<Uuid> = match text.parse::<KeyId>() {
        Ok(id) => Some(id.uuid()),
        Err(_) => store::find_key_by_prefix(db, text).await?.map(|key| key.id),
    };
    let revoked = match id {
        Some(id) => store::revoke_key(db, id).await?,
        None => None,
    };
    match revoked {
        Some(key) => print_line(format_args!("revoked {}", key.prefix)),
        None => bail!("there is no key {text:?}; `oms keys list` shows those there are"),
    }
}
