//! Loads rows for nested fields: what is asked for at the same moment goes into one query.

use std::collections::HashMap;
use std::hash::Hash;

use domain::app::Visibility;
use domain::order::entity::{event, line};
use domain::order::read::{self, Columns, OrderRow};
use domain::{catalog, stock};
use futures_util::{StreamExt, stream};
use saga::engine::operate;
use saga::engine::process::Process;
use saga::place_order;
use sea_orm::{DatabaseConnection, DbErr};
use uuid::Uuid;

use super::batching::Batching;
use crate::reader::{Reader, Source};

/// Every kind of row that a field asks for one by one.
#[derive(Debug)]
pub(super) struct Loaders {
    /// Orders by who sees them, by where and what is read of them, and by id.
    pub(super) orders: OrderBatching<(Visibility, Source, Wanted), LoadedOrder>,
    /// Lines by who sees them, by where they are read, and by the order's id.
    pub(super) lines: OrderBatching<(Visibility, Source), Vec<line::Model>>,
    /// Events by who sees them, by where they are read, by which of an order's events they are, and by the order's id.
    pub(super) events: OrderBatching<(Visibility, Source, EventsPage), Vec<event::Model>>,
    /// Processes by the order's id.
    pub(super) processes: Batching<Uuid, Process>,
    /// Histories by the saga's id, and how many of their newest entries.
    pub(super) histories: Batching<(Uuid, u64), Vec<operate::Entry>>,
    /// Products by SKU.
    pub(super) products: Batching<String, catalog::entity::Model>,
    /// Stock by SKU.
    pub(super) stock: Batching<String, stock::entity::Model>,
}

/// Batching of what hangs on orders, by what its readers have in common and by the order's id.
#[derive(Debug)]
pub(super) struct OrderBatching<C, V>(Batching<(C, Uuid), Result<V, DbErr>>);

impl<C, V> OrderBatching<C, V>
where
    C: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn start<Found>(
        reader: &Reader,
        find: impl Fn(Reader, C, Vec<Uuid>) -> Found + Clone + Send + Sync + 'static,
    ) -> Self
    where
        Found: Future<Output = Result<HashMap<Uuid, V>, DbErr>> + Send + 'static,
    {
        let reader = reader.clone();
        Self(Batching::start(move |keys| {
            let (reader, find) = (reader.clone(), find.clone());
            async move { Ok(in_groups(keys, move |common, ids| find(reader.clone(), common, ids)).await) }
        }))
    }

    /// Looks up what hangs on one order.
    ///
    /// # Errors
    /// Any error of the database, the same for each key of the query.
    pub(super) async fn load(&self, common: C, id: Uuid) -> Result<Option<V>, DbErr> {
        self.0.load((common, id)).await?.transpose()
    }
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
    /// Where it was read.
    pub(super) source: Source,
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
        let (processes, histories, products, stock) = (pool(), pool(), pool(), pool());
        Self {
            orders: OrderBatching::start(reader, find_orders),
            lines: OrderBatching::start(reader, find_lines),
            events: OrderBatching::start(reader, find_events),
            processes: Batching::start(move |ids| find_processes(processes.clone(), ids)),
            histories: Batching::start(move |keys| find_histories(histories.clone(), keys)),
            products: Batching::start(move |skus| find_products(products.clone(), skus)),
            stock: Batching::start(move |skus| find_stock(stock.clone(), skus)),
        }
    }
}

/// Queries of one batch that are on their way at a time: as many as there are apps that ask at the same moment.
const GROUPS_IN_FLIGHT: usize = 4;

/// Rows by what their readers have in common and by the order's id. Each group's query fails for itself alone.
type Grouped<C, V> = HashMap<(C, Uuid), Result<V, DbErr>>;

/// Gathers keys by what they have in common, and makes one query for each: callers of one app that ask for the same have
/// all of it in common.
async fn in_groups<C, V, Found>(keys: Vec<(C, Uuid)>, find: impl Fn(C, Vec<Uuid>) -> Found) -> Grouped<C, V>
where
    C: Clone + Eq + Hash,
    Found: Future<Output = Result<HashMap<Uuid, V>, DbErr>>,
{
    let mut groups: HashMap<C, Vec<Uuid>> = HashMap::new();
    for (common, id) in keys {
        groups.entry(common).or_default().push(id);
    }
    let queries = groups.into_iter().map(|(common, ids)| {
        let found = find(common.clone(), ids.clone());
        async move { (common, ids, found.await) }
    });
    let mut answers = std::pin::pin!(stream::iter(queries).buffer_unordered(GROUPS_IN_FLIGHT));
    let mut found = HashMap::new();
    while let Some((common, ids, rows)) = answers.next().await {
        match rows {
            Ok(rows) => found.extend(rows.into_iter().map(|(id, row)| ((common.clone(), id), Ok(row)))),
            Err(error) => found.extend(ids.into_iter().map(|id| ((common.clone(), id), Err(error.clone())))),
        }
    }
    found
}

async fn find_orders(
    reader: Reader,
    (visibility, source, wanted): (Visibility, Source, Wanted),
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, LoadedOrder>, DbErr> {
    let (sees, ids) = (&visibility, &ids);
    let found = reader.read(source, sees, |view| async move {
        // An order may arrive at a replica between the two: where there is its row, there are its lines.
        let rows = read::find_orders(&view, sees, wanted.columns, ids.clone()).await?;
        let lines = match wanted.lines {
            true => Some(by_order(read::find_lines(&view, sees, ids.clone()).await?)),
            false => None,
        };
        view.commit().await?;
        Ok((rows, lines))
    });
    let ((rows, mut lines), source) = found.await?;
    let orders = rows.into_iter().map(|row| {
        let lines = lines.as_mut().map(|lines| lines.remove(&row.id).unwrap_or_default());
        (row.id, LoadedOrder { row, lines, source })
    });
    Ok(orders.collect())
}

async fn find_lines(
    reader: Reader,
    (visibility, source): (Visibility, Source),
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<line::Model>>, DbErr> {
    let (sees, ids) = (&visibility, &ids);
    let found = reader.read(source, sees, |view| async move {
        let lines = read::find_lines(&view, sees, ids.clone()).await?;
        view.commit().await?;
        Ok(lines)
    });
    let (lines, _) = found.await?;
    Ok(by_order(lines))
}

fn by_order(lines: Vec<line::Model>) -> HashMap<Uuid, Vec<line::Model>> {
    let mut of_orders: HashMap<Uuid, Vec<line::Model>> = HashMap::new();
    for line in lines {
        of_orders.entry(line.order_id).or_default().push(line);
    }
    of_orders
}

async fn find_events(
    reader: Reader,
    (visibility, source, page): (Visibility, Source, EventsPage),
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<event::Model>>, DbErr> {
    let (sees, ids) = (&visibility, &ids);
    let found = reader.read(source, sees, |view| async move {
        let events = read::find_events(&view, sees, ids.clone(), page.after, page.first).await?;
        view.commit().await?;
        Ok(events)
    });
    let (events, _) = found.await?;
    let mut of_orders: HashMap<Uuid, Vec<event::Model>> = HashMap::new();
    for event in events {
        of_orders.entry(event.order_id).or_default().push(event);
    }
    Ok(of_orders)
}

async fn find_products(
    db: DatabaseConnection,
    skus: Vec<String>,
) -> Result<HashMap<String, catalog::entity::Model>, DbErr> {
    // Postgres cannot hold a NUL, so that no SKU has one.
    let skus = skus.iter().map(String::as_str).filter(|sku| !sku.contains('\0')).collect();
    catalog::store::find_products(&db, &skus).await
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
