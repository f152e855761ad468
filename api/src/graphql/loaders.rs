//! Loads rows for nested fields: what is asked for at the same moment goes into one query.

use std::collections::HashMap;

use async_graphql::dataloader::Loader;
use domain::{order, stock};
use saga::engine::operate;
use saga::engine::process::Process;
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

/// Loads from the pool.
pub(super) struct Rows {
    db: DatabaseConnection,
}

impl Rows {
    pub(super) fn new(db: DatabaseConnection) -> Self {
        Self { db }
    }
}

/// The order with this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct OrderKey(pub(super) Uuid);

/// The lines of the order with this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LinesKey(pub(super) Uuid);

/// The process of the order with this id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ProcessKey(pub(super) Uuid);

/// The newest entries of the history of the saga with this id, as many as `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct HistoryKey {
    pub(super) saga_id: Uuid,
    pub(super) last: u64,
}

/// The stock of this SKU.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StockKey(pub(super) String);

impl Loader<OrderKey> for Rows {
    type Value = order::entity::Model;
    type Error = DbErr;

    async fn load(&self, keys: &[OrderKey]) -> Result<HashMap<OrderKey, Self::Value>, DbErr> {
        let orders = order::store::find_orders(&self.db, keys.iter().map(|key| key.0).collect()).await?;
        Ok(orders.into_iter().map(|order| (OrderKey(order.id), order)).collect())
    }
}

impl Loader<LinesKey> for Rows {
    type Value = Vec<order::entity::line::Model>;
    type Error = DbErr;

    async fn load(&self, keys: &[LinesKey]) -> Result<HashMap<LinesKey, Self::Value>, DbErr> {
        let lines = order::store::find_lines(&self.db, keys.iter().map(|key| key.0).collect()).await?;
        let mut by_order: HashMap<LinesKey, Self::Value> = HashMap::new();
        for line in lines {
            by_order.entry(LinesKey(line.order_id)).or_default().push(line);
        }
        Ok(by_order)
    }
}

impl Loader<ProcessKey> for Rows {
    type Value = Process;
    type Error = DbErr;

    async fn load(&self, keys: &[ProcessKey]) -> Result<HashMap<ProcessKey, Process>, DbErr> {
        let processes = place_order::load_processes(&self.db, keys.iter().map(|key| key.0).collect()).await?;
        Ok(processes.into_iter().map(|(order_id, process)| (ProcessKey(order_id), process)).collect())
    }
}

impl Loader<HistoryKey> for Rows {
    type Value = Vec<operate::Entry>;
    type Error = DbErr;

    async fn load(&self, keys: &[HistoryKey]) -> Result<HashMap<HistoryKey, Self::Value>, DbErr> {
        // One query for each length; a request names one.
        let mut by_length: HashMap<u64, Vec<Uuid>> = HashMap::new();
        for key in keys {
            by_length.entry(key.last).or_default().push(key.saga_id);
        }
        let mut found = HashMap::new();
        for (last, saga_ids) in by_length {
            let histories = operate::history(&self.db, saga_ids, last).await?;
            found.extend(
                histories.into_iter().map(|(saga_id, entries)| (HistoryKey { saga_id, last }, entries)),
            );
        }
        Ok(found)
    }
}

impl Loader<StockKey> for Rows {
    type Value = stock::entity::Model;
    type Error = DbErr;

    async fn load(&self, keys: &[StockKey]) -> Result<HashMap<StockKey, Self::Value>, DbErr> {
        // Postgres cannot hold a NUL, so that no SKU has one.
        let skus = keys.iter().map(|key| key.0.clone()).filter(|sku| !sku.contains('\0')).collect();
        let rows = stock::store::find_stock(&self.db, skus).await?;
        Ok(rows.into_iter().map(|row| (StockKey(row.sku.clone()), row)).collect())
    }
}
