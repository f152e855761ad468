//! `oms verify`

use anyhow::Context;
use domain::books::{self, Report};
use sea_orm::DatabaseConnection;

use super::print_line;
use crate::config::DatabaseArgs;
use crate::postgres::{self, PoolSettings};

pub(super) async fn run(args: &DatabaseArgs) -> anyhow::Result<()> {
    let database = postgres::join(args).await?;
    let db = database.connect(&PoolSettings::for_command("oms verify")).await?;
    let report = verify(&db).await;
    db.close().await.context("cannot close the connections")?;
    database.close().await?;

    let report = report?;
    for (name, count) in &report.counts {
        print_line(format_args!("{count:>12}  {name}"))?;
    }
    for violation in &report.violations {
        print_line(format_args!("does not hold: {}: {}", violation.rule, violation.detail))?;
    }
    anyhow::ensure!(report.violations.is_empty(), "{} things do not add up", report.violations.len());
    print_line("everything adds up")
}

/// Checks every rule of the books.
pub(super) async fn verify(db: &DatabaseConnection) -> anyhow::Result<Report> {
    let pending = migration::pending(db).await.context("cannot read the state of the schema")?;
    anyhow::ensure!(pending.is_empty(), "the schema is not up to date; run `oms migrate` first");
    let mut report = books::verify(db).await.context("cannot read the books")?;
    report.merge(saga::verify::verify(db).await.context("cannot read the sagas")?);
    Ok(report)
}
