//! `oms documents`: which documents an app may name, and whether it executes others, for whoever has the database.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use domain::app::document::{DocumentId, MAX_DOCUMENTS};
use domain::app::store;
use domain::id::AppId;
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde_json::json;

use super::keys::find_app;
use super::print_line;
use crate::config::{DatabaseArgs, LimitArgs};
use crate::graphql::DocumentChecker;
use crate::postgres::{self, PoolSettings};

/// Characters of a document that a list shows.
const SHOWN_CHARS: usize = 60;

const EXAMPLES: &str = "\
A document is named by the SHA-256 of its text, byte by byte: sha256: and 64 digits. Clients send
{\"documentId\": \"sha256:...\", \"variables\": {...}} in place of a query.

Examples:
  oms documents allow --app storefront queries/*.graphql     each file is a document, as it is
  oms documents allow --app storefront persisted.json        the values of a JSON object
  oms documents list --app storefront                        what there is
  oms documents only --app storefront on                     from now on, nothing else is executed
  oms documents remove --app storefront sha256:71f7dc57...   by its name, or by a file with its text";

/// Subcommands of `oms documents`.
#[derive(Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub(super) enum DocumentsCommand {
    /// Register documents for an app; all or none, after each was checked against the schema and the limits
    Allow(AllowArgs),
    /// List the documents of an app, in the order of their names
    List(ListArgs),
    /// Remove documents of an app: they are refused within half a minute
    Remove(RemoveArgs),
    /// Say whether an app may execute nothing but its registered documents; it holds within half a minute, and within a
    /// minute over sockets that are open
    Only(OnlyArgs),
}

#[derive(Debug, Args)]
pub(super) struct AllowArgs {
    /// Files: GraphQL, each one document; *.json an object whose values are documents; - reads one from standard input
    #[arg(required = true, value_name = "FILES")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    app: AppArgs,

    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    app: AppArgs,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Names of documents, such as sha256:71f7..., or files as `allow` takes them
    #[arg(required = true, value_name = "NAMES")]
    names: Vec<String>,

    #[command(flatten)]
    app: AppArgs,
}

#[derive(Debug, Args)]
pub(super) struct OnlyArgs {
    /// Whether it may execute nothing else
    switch: Switch,

    #[command(flatten)]
    app: AppArgs,
}

/// Whether something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// Registered documents only.
    On,
    /// Any document.
    Off,
}

/// What each subcommand takes.
#[derive(Debug, Args)]
struct AppArgs {
    /// The app, by name or id
    #[arg(long)]
    app: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(command: &DocumentsCommand) -> anyhow::Result<()> {
    let args = match command {
        DocumentsCommand::Allow(args) => &args.app,
        DocumentsCommand::List(args) => &args.app,
        DocumentsCommand::Remove(args) => &args.app,
        DocumentsCommand::Only(args) => &args.app,
    };
    let database = postgres::join(&args.database).await?;
    let db = database.connect(&PoolSettings::for_command("oms documents")).await?;
    let result = match migration::migrate(&db).await.context("cannot bring the schema up to date") {
        Ok(_) => match command {
            DocumentsCommand::Allow(args) => allow(&db, args).await,
            DocumentsCommand::List(args) => list(&db, args).await,
            DocumentsCommand::Remove(args) => remove(&db, args).await,
            DocumentsCommand::Only(args) => only(&db, args).await,
        },
        Err(error) => Err(error),
    };
    // The connections go before the server does, whatever the outcome.
    db.close().await.context("cannot close the connections")?;
    database.close().await?;
    result
}

impl AppArgs {
    async fn find(&self, db: &DatabaseConnection) -> anyhow::Result<store::App> {
        let app = find_app(db, &self.app).await?;
        app.with_context(|| format!("--app: there is no app {:?}; `oms keys create` makes one", self.app))
    }
}

/// A document and where it was read from.
struct Sourced {
    source: String,
    text: String,
}

async fn allow(db: &DatabaseConnection, args: &AllowArgs) -> anyhow::Result<()> {
    let app = args.app.find(db).await?;
    let mut sourced = Vec::new();
    for file in &args.files {
        sourced.extend(read(file)?);
    }
    let texts: Vec<String> = sourced.iter().map(|sourced| sourced.text.clone()).collect();
    let violations = DocumentChecker::new(args.limits.clone()).check(&texts).await;
    if let Some(violation) = violations.first() {
        let index: Option<usize> = violation.path.last().and_then(|index| index.parse().ok());
        let source =
            index.and_then(|index| sourced.get(index)).map_or("a document", |sourced| &sourced.source);
        bail!("{source}: {}; nothing was registered", violation.message);
    }
    let tx = db.begin().await?;
    store::add_documents(&tx, app.id, &texts).await??;
    tx.commit().await?;
    let named = sourced.iter().map(|sourced| (DocumentId::of(&sourced.text).to_string(), &sourced.source));
    if args.app.json {
        let named: Vec<serde_json::Value> =
            named.map(|(id, source)| json!({ "id": id, "source": source })).collect();
        return print_line(json!({ "app": describe(&app), "documents": named }));
    }
    for (id, source) in named {
        print_line(format_args!("{id}  {source}"))?;
    }
    Ok(())
}

/// Reads the documents of a file.
fn read(file: &Path) -> anyhow::Result<Vec<Sourced>> {
    let source = file.display().to_string();
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("cannot read {source}"))?;
    if file.extension().is_none_or(|extension| extension != "json") {
        return Ok(vec![Sourced { source, text }]);
    }
    let texts: BTreeMap<String, String> = serde_json::from_str(&text)
        .with_context(|| format!("{source} is not a JSON object whose values are documents"))?;
    Ok(texts.into_iter().map(|(key, text)| Sourced { source: format!("{source}, {key}"), text }).collect())
}

async fn list(db: &DatabaseConnection, args: &ListArgs) -> anyhow::Result<()> {
    let app = args.app.find(db).await?;
    let documents = store::list_documents(db, app.id, None, MAX_DOCUMENTS as u64).await?;
    if args.app.json {
        let documents: Vec<serde_json::Value> = documents
            .iter()
            .map(|document| {
                json!({
                    "id": document.id.to_string(),
                    "text": document.text,
                    "createdAt": document.created_at,
                })
            })
            .collect();
        return print_line(json!({ "app": describe(&app), "documents": documents }));
    }
    let what = match app.only_registered_documents {
        true => "executes these and nothing else",
        false => "may name these, and executes others as well",
    };
    print_line(format_args!("The app {:?} {what}.", app.name))?;
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(["DOCUMENT", "TEXT"]);
    for document in &documents {
        table.add_row([document.id.to_string(), beginning(&document.text)]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    print_line(table.trim_fmt())
}

/// The beginning of a document, in one line.
fn beginning(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

async fn remove(db: &DatabaseConnection, args: &RemoveArgs) -> anyhow::Result<()> {
    let app = args.app.find(db).await?;
    let mut ids = Vec::new();
    for name in &args.names {
        match name.parse::<DocumentId>() {
            Ok(id) => ids.push(id),
            Err(_) if name.starts_with("sha256:") => bail!("{name:?} names no document"),
            Err(_) => ids.extend(read(Path::new(name))?.iter().map(|sourced| DocumentId::of(&sourced.text))),
        }
    }
    let removed = store::remove_documents(db, app.id, &ids).await?;
    if args.app.json {
        let removed: Vec<String> = removed.iter().map(DocumentId::to_string).collect();
        return print_line(json!({ "app": describe(&app), "removed": removed }));
    }
    if removed.is_empty() {
        bail!("the app {:?} has none of these; `oms documents list` shows what it has", app.name);
    }
    for id in removed {
        print_line(format_args!("removed {id}"))?;
    }
    Ok(())
}

async fn only(db: &DatabaseConnection, args: &OnlyArgs) -> anyhow::Result<()> {
    let app = args.app.find(db).await?;
    let only = args.switch == Switch::On;
    let app = store::set_only_registered_documents(db, app.id, only).await?.unwrap_or(app);
    if args.app.json {
        return print_line(describe(&app));
    }
    print_line(match only {
        true => format!("The app {:?} executes its registered documents and nothing else.", app.name),
        false => format!("The app {:?} executes any document.", app.name),
    })
}

fn describe(app: &store::App) -> serde_json::Value {
    json!({
        "id": AppId::from_uuid(app.id).to_string(),
        "name": app.name,
        "onlyRegisteredDocuments": app.only_registered_documents,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_document_is_shown_by_its_beginning() {
        assert_eq!(beginning("query {\n  a\n}\n"), "query { a }");
        assert_eq!(beginning(&"ä".repeat(100)), format!("{}...", "ä".repeat(SHOWN_CHARS)));
    }
}
