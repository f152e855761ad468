//! The database schema, one migration per noun, each column explained where it is made.
//!
//! Migrations are plain SQL, because the schema leans on what Postgres has (partial indexes, fill factors, named
//! checks, `xid8`) and because an operator can read them next to `\d`. Each runs in a transaction of its own
//! together with its record.
//!
//! Absent on purpose: foreign keys into `orders` and `saga`. Their child rows are written in the transaction that
//! writes the parent and nothing deletes a parent, so a foreign key could only cost a lock on the parent row for
//! each of the rows an order gathers on its way; `oms verify` looks for orphans instead.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{DatabaseConnection, DbBackend, Statement, TransactionTrait};

mod m20261125_000001_catalog;
mod m20261125_000002_stock;
mod m20261125_000003_rates;
mod m20261125_000004_orders;
mod m20261125_000005_payments;
mod m20261125_000006_engine;
mod m20261125_000007_simulated_gateway;
mod m20261125_000008_access;
mod m20261125_000009_order_visibility;
mod m20261125_000010_order_lists;
mod m20261125_000011_documents;
mod m20261125_000012_open_calls;
mod m20261125_000013_parked_sagas;
mod m20261125_000014_process_visibility;

/// Key of the advisory lock that lets one process at a time migrate ("oms" in ASCII, and a digit).
const MIGRATION_LOCK: i64 = 0x6f_6d_73_01;

/// After a restore from a dump, events carry the ids of transactions of another cluster, which may be far ahead of this
/// one's: the feed of changes would hide them until the counter has come there, and show them among others then. They
/// become the oldest of the feed. Finds nothing otherwise, by one probe of the index.
const FORGET_FOREIGN_TRANSACTIONS: &str = "
UPDATE order_events SET xid = '3' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())";

/// The list of migrations in the order in which they run.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261125_000001_catalog::Migration),
            Box::new(m20261125_000002_stock::Migration),
            Box::new(m20261125_000003_rates::Migration),
            Box::new(m20261125_000004_orders::Migration),
            Box::new(m20261125_000005_payments::Migration),
            Box::new(m20261125_000006_engine::Migration),
            Box::new(m20261125_000007_simulated_gateway::Migration),
            Box::new(m20261125_000008_access::Migration),
            Box::new(m20261125_000010_order_lists::Migration),
            // It sees lines by the app that the one above gives them.
            Box::new(m20261125_000009_order_visibility::Migration),
            Box::new(m20261125_000011_documents::Migration),
            Box::new(m20261125_000012_open_calls::Migration),
            Box::new(m20261125_000013_parked_sagas::Migration),
            Box::new(m20261125_000014_process_visibility::Migration),
        ]
    }
}

/// Brings the schema up to date and returns the names of the migrations that ran; a second process that asks at the
/// same time waits for the first, and has nothing left to do.
///
/// # Errors
/// Any error of the database. Migrations that had run before the failing one stay, the failing one leaves nothing.
pub async fn migrate(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    // The lock lives in a transaction of its own, so that it goes away with the connection whatever happens.
    let lock = db.begin().await?;
    lock.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")).await?;
    let pending = pending(db).await?;
    Migrator::up(db, None).await?;
    db.execute_unprepared(FORGET_FOREIGN_TRANSACTIONS).await?;
    lock.commit().await?;
    Ok(pending)
}

/// Returns the names of the migrations that this binary knows and the database does not have yet.
///
/// It only looks. `Migrator` would make its table where there is none, and two that make it at once collide.
///
/// # Errors
/// Any error of the database.
pub async fn pending(db: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    let mut pending: Vec<String> =
        Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect();
    let query = |sql: &str| Statement::from_string(DbBackend::Postgres, sql);
    let table = db.query_one_raw(query("SELECT to_regclass('seaql_migrations')::text AS name")).await?;
    if table.map(|row| row.try_get::<Option<String>>("", "name")).transpose()?.flatten().is_some() {
        for row in db.query_all_raw(query("SELECT version FROM seaql_migrations")).await? {
            let applied: String = row.try_get("", "version")?;
            pending.retain(|name| *name != applied);
        }
    }
    Ok(pending)
}
