//! Loads rows for nested fields: what is asked for at the same moment goes into one query.

use std::collections::HashMap;

use domain::order::entity::line;
use domain::{order, stock};
use saga::engine::operate;
use saga::engine::process::Process;
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::batching::Batching;

/// Every kind of row that a field asks for one by one.
#[derive(Debug)]
pub(super) struct Loaders {
    /// Orders by id.
    pub(super) orders: Batching<Uuid, order::entity::Model>,
    /// Lines by the order's id.
    pub(super) lines: Batching<Uuid, Vec<line::Model>>,
    /// Processes by the order's id.
    pub(super) processes: Batching<Uuid, Process>,
    /// Histories by the saga's id, and how many of their newest entries.
    pub(super) histories: Batching<(Uuid, u64), Vec<operate::Entry>>,
    /// Stock by SKU.
    pub(super) stock: Batching<String, stock::entity::Model>,
}

impl Loaders {
    /// Starts the loaders, which read from the pool.
    pub(super) fn start(db: &DatabaseConnection) -> Self {
        let pool = || db.clone();
        let (orders, lines, processes, histories, stock) = (pool(), pool(), pool(), pool(), pool());
        Self {
            orders: Batching::start(move |ids| find_orders(orders.clone(), ids)),
            lines: Batching::start(move |ids| find_lines(lines.clone(), ids)),
            processes: Batching::start(move |ids| find_processes(processes.clone(), ids)),
            histories: Batching::start(move |keys| find_histories(histories.clone(), keys)),
            stock: Batching::start(move |skus| find_stock(stock.clone(), skus)),
        }
    }
}

async fn find_orders(
    db: DatabaseConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, order::entity::Model>, DbErr> {
    let orders = order::store::find_orders(&db, ids).await?;
    Ok(orders.into_iter().map(|order| (order.id, order)).collect())
}

async fn find_lines(
    db: DatabaseConnection,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<line::Model>>, DbErr> {
    let mut by_order: HashMap<Uuid, Vec<line::Model>> = HashMap::new();
    for line in order::store::find_lines(&db, ids).await? {
        by_order.entry(line.order_id).or_default().push(line);
    }
    Ok(by_order)
}

async fn find_processes(db: DatabaseConnection, ids: Vec<Uuid>) -> Result<HashMap<Uuid, Process>, DbErr> {
    place_order::load_processes(&db, ids).await
}

async fn find_histories(
    db: DatabaseConnection,
    keys: Vec<(Uuid, u64)>,
) -> Result<HashMap<(Uuid, u64), Vec<operate::Entry>>, DbErr> {
    // One query for each length; a request names one.
    let mut by_length: HashMap<u64, Vec<Uuid>> = HashMap::new();
    for (saga_id, last) in keys {
        by_length.entry(last).or_default().push(saga_id);
    }
    let mut found = HashMap::new();
    for (last, saga_ids) in by_length {
        let histories = operate::history(&db, saga_ids, last).await?;
        found.extend(histories.into_iter().map(|(saga_id, entries)| ((saga_id, last), entries)));
    }
    Ok(found)
}

async fn find_stock(
    db: DatabaseConnection,
    mut skus: Vec<String>,
) -> Result<HashMap<String, stock::entity::Model>, DbErr> {
    // Postgres cannot hold a NUL, so that no SKU has one.
    skus.retain(|sku| !sku.contains('\0'));
    let rows = stock::store::find_stock(&db, skus).await?;
    Ok(rows.into_iter().map(|row| (row.sku.clone(), row)).collect())
}
