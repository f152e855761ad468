//! Loads rows for nested fields: what is asked for at the same moment goes into one query.

use std::collections::HashMap;
use std::hash::Hash;

use domain::app::Visibility;
use domain::order::entity::{event, line};
use domain::order::read::{self, Columns, OrderRow};
use domain::stock;
use saga::engine::operate;
use saga::engine::process::Process;
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::batching::Batching;
use crate::reader::Reader;

/// Every kind of row that a field asks for one by one.
#[derive(Debug)]
pub(super) struct Loaders {
    /// Orders by who sees them, by what is read of them, and by id.
    pub(super) orders: Batching<(Visibility, Wanted, Uuid), LoadedOrder>,
    /// Lines by who sees them and by the order's id.
    pub(super) lines: Batching<(Visibility, Uuid), Vec<line::Model>>,
    /// Events by who sees them, by which of an order's events they are, and by the order's id.
    pub(super) events: Batching<(Visibility, EventsPage, Uuid), Vec<event::Model>>,
    /// Processes by the order's id.
    pub(super) processes: Batching<Uuid, Process>,
    /// Histories by the saga's id, and how many of their newest entries.
    pub(super) histories: Batching<(Uuid, u64), Vec<operate::Entry>>,
    /// Stock by SKU.
    pub(super) stock: Batching<String, stock::entity::Model>,
}

/// What is read of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    /// Of its row.
    pub(super) columns: Columns,
    /// Whether its lines are read in the same transaction.
    pub(super) lines: bool,
}

/// An order as it was read.
#[derive(Debug, Clone)]
pub(super) struct LoadedOrder {
    /// Its row.
    pub(super) row: OrderRow,
    /// Its lines, if they were wanted.
    pub(super) lines: Option<Vec<line::Model>>,
}

/// Which events of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EventsPage {
    /// Those with a greater sequence.
    pub(super) after: i32,
    /// The most of them.
    pub(super) first: u64,
}

impl Loaders {
    /// Starts the loaders, which read orders as whoever asks sees them, and the rest from the pool.
    pub(super) fn start(db: &DatabaseConnection, reader: &Reader) -> Self {
        let pool = || db.clone();
        let (orders, lines, events) = (reader.clone(), reader.clone(), reader.clone());
        let (processes, histories, stock) = (pool(), pool(), pool());
        Self {
            orders: Batching::start(move |keys| find_orders(orders.clone(), keys)),
            lines: Batching::start(move |keys| find_lines(lines.clone(), keys)),
            events: Batching::start(move |keys| find_events(events.clone(), keys)),
            processes: Batching::start(move |ids| find_processes(processes.clone(), ids)),
            histories: Batching::start(move |keys| find_histories(histories.clone(), keys)),
            stock: Batching::start(move |skus| find_stock(stock.clone(), skus)),
        }
    }
}

/// Gathers keys by what they have in common: one query for each. Callers of one app that ask for the same have all of it
/// in common.
fn by_common<C: Eq + Hash>(keys: impl IntoIterator<Item = (C, Uuid)>) -> HashMap<C, Vec<Uuid>> {
    let mut groups: HashMap<C, Vec<Uuid>> = HashMap::new();
    for (common, id) in keys {
        groups.entry(common).or_default().push(id);
    }
    groups
}

async fn find_orders(
    reader: Reader,
    keys: Vec<(Visibility, Wanted, Uuid)>,
) -> Result<HashMap<(Visibility, Wanted, Uuid), LoadedOrder>, DbErr> {
    let groups = by_common(keys.into_iter().map(|(visibility, wanted, id)| ((visibility, wanted), id)));
    let mut found = HashMap::new();
    for ((visibility, wanted), ids) in groups {
        let tx = reader.begin(&visibility).await?;
        let mut lines = match wanted.lines {
            true => Some(by_order(read::find_lines(&tx, &visibility, ids.clone()).await?)),
            false => None,
        };
        let rows = read::find_orders(&tx, &visibility, wanted.columns, ids).await?;
        tx.commit().await?;
        found.extend(rows.into_iter().map(|row| {
            let lines = lines.as_mut().map(|lines| lines.remove(&row.id).unwrap_or_default());
            ((visibility.clone(), wanted, row.id), LoadedOrder { row, lines })
        }));
    }
    Ok(found)
}

fn by_order(lines: Vec<line::Model>) -> HashMap<Uuid, Vec<line::Model>> {
    let mut of_orders: HashMap<Uuid, Vec<line::Model>> = HashMap::new();
    for line in lines {
        of_orders.entry(line.order_id).or_default().push(line);
    }
    of_orders
}

async fn find_lines(
    reader: Reader,
    keys: Vec<(Visibility, Uuid)>,
) -> Result<HashMap<(Visibility, Uuid), Vec<line::Model>>, DbErr> {
    let mut found = HashMap::new();
    for (visibility, ids) in by_common(keys) {
        let tx = reader.begin(&visibility).await?;
        let lines = read::find_lines(&tx, &visibility, ids).await?;
        tx.commit().await?;
        let of_orders = by_order(lines).into_iter();
        found.extend(of_orders.map(|(order_id, lines)| ((visibility.clone(), order_id), lines)));
    }
    Ok(found)
}

async fn find_events(
    reader: Reader,
    keys: Vec<(Visibility, EventsPage, Uuid)>,
) -> Result<HashMap<(Visibility, EventsPage, Uuid), Vec<event::Model>>, DbErr> {
    let groups = by_common(keys.into_iter().map(|(visibility, page, id)| ((visibility, page), id)));
    let mut found: HashMap<(Visibility, EventsPage, Uuid), Vec<event::Model>> = HashMap::new();
    for ((visibility, page), ids) in groups {
        let tx = reader.begin(&visibility).await?;
        let events = read::find_events(&tx, &visibility, ids, page.after, page.first).await?;
        tx.commit().await?;
        for event in events {
            found.entry((visibility.clone(), page, event.order_id)).or_default().push(event);
        }
    }
    Ok(found)
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
