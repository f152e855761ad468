//! `oms catalog`

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use super::print_line;
use crate::catalog_import::{self, Row};
use crate::config::DatabaseArgs;
use crate::postgres::{self, PoolSettings};

#[derive(Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Add or replace products, and set their counts on hand, from a CSV file
    ///
    /// The first line names the columns sku,name,price,currency,weight_grams,tax_category,on_hand in any order.
    /// Every row is checked before anything is written, and all of it is written in one transaction: a bad row is
    /// reported with its line number, and then nothing has changed.
    #[command(after_long_help = "\
Example file:
  sku,name,price,currency,weight_grams,tax_category,on_hand
  MUG-1,Coffee mug,12.50,USD,350,standard,200
  BEANS-1,\"Coffee beans, 1 kg\",24.00,USD,1050,reduced,80")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The CSV file; - reads standard input
    file: PathBuf,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) async fn run(command: &CatalogCommand) -> anyhow::Result<()> {
    match command {
        CatalogCommand::Import(args) => import(args).await,
    }
}

async fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let begun = Instant::now();
    let rows = read(&args.file).with_context(|| format!("cannot import {}", args.file.display()))?;
    let count = rows.len();

    let database = postgres::join(&args.database).await?;
    let db = database.connect(&PoolSettings::for_command("oms catalog import")).await?;
    migration::migrate(&db).await.context("cannot bring the schema up to date")?;
    let bar = progress_bar(count);
    let written = catalog_import::write_rows(&db, rows, |written| bar.set_position(written as u64)).await;
    bar.finish_and_clear();
    // The connections go before the server does, whatever the outcome.
    db.close().await.context("cannot close the connections")?;
    database.close().await?;
    written.with_context(|| format!("cannot import {}", args.file.display()))?;
    print_line(format_args!("imported {count} products in {:.1} s", begun.elapsed().as_secs_f64()))
}

fn read(file: &Path) -> anyhow::Result<Vec<Row>> {
    if file == Path::new("-") {
        return Ok(catalog_import::read_rows(std::io::stdin().lock())?);
    }
    let opened = File::open(file).context("cannot open the file")?;
    Ok(catalog_import::read_rows(opened)?)
}

/// A bar on standard error; it draws nothing where that is no terminal.
fn progress_bar(rows: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} products, {per_sec}, {eta} left")
            .expect("the template is well formed");
    ProgressBar::new(rows as u64).with_style(style)
}
