//! `oms migrate`

use anyhow::Context;

use super::print_line;
use crate::config::DatabaseArgs;
use crate::postgres::{self, PoolSettings};

pub(super) async fn run(args: &DatabaseArgs) -> anyhow::Result<()> {
    let database = postgres::join(args).await?;
    let db = database.connect(&PoolSettings::for_command("oms migrate")).await?;
    let applied = migration::migrate(&db).await.context("cannot bring the schema up to date")?;
    for name in &applied {
        print_line(format_args!("applied {name}"))?;
    }
    print_line("the schema is up to date")?;
    db.close().await.context("cannot close the connections")?;
    Ok(database.close().await?)
}
