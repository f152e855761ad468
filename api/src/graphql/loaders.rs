//! Loads rows for nested fields: what is asked for at the same moment goes into one query.

use std::collections::HashMap;
use std::sync::Arc;

use domain::app::Visibility;
use domain::app::document::DocumentId;
use domain::app::store::{self, ApiKey, Document};
use domain::order::entity::{event, line};
use domain::order::read::{self, Columns, OrderRow};
use domain::{catalog, payment, stock};
use saga::engine::Definitions;
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
    /// Orders by id, among those with who sees them and with where and what is read of them in common.
    pub(super) orders: Batching<(Visibility, Source, Wanted), Uuid, LoadedOrder>,
    /// Lines by the order's id, among those with who sees them and where they are read in common.
    pub(super) lines: Batching<(Visibility, Source), Uuid, Vec<line::Model>>,
    /// Events by the order's id, among those with who sees them, where they are read, and which of an order's events they
    /// are in common.
    pub(super) events: Batching<(Visibility, Source, EventsPage), Uuid, Vec<event::Model>>,
    /// Payments by the order's id, among those with who sees them and where they are read in common.
    pub(super) payments: Batching<(Visibility, Source), Uuid, Vec<payment::read::Payment>>,
    /// Processes by the order's id, among those with who sees them. They move between events, and are read on the primary.
    pub(super) processes: Batching<Visibility, Uuid, Process>,
    /// Histories by the saga's id, among those with how many of their newest entries are wanted in common.
    pub(super) histories: Batching<u64, Uuid, Vec<operate::Entry>>,
    /// Keys by the app's id.
    pub(super) keys: Batching<(), Uuid, Vec<ApiKey>>,
    /// Documents by the app's id, among those with which of an app's documents they are in common.
    pub(super) documents: Batching<DocumentsPage, Uuid, Vec<Document>>,
    /// Products by SKU.
    pub(super) products: Batching<(), String, catalog::entity::Model>,
    /// Stock by SKU.
    pub(super) stock: Batching<(), String, stock::entity::Model>,
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

/// Which documents of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct DocumentsPage {
    /// Those after this one.
    pub(super) after: Option<DocumentId>,
    /// The most of them.
    pub(super) first: u64,
}

/// The most keys that an app shows.
const MAX_KEYS: u64 = 100;

impl Loaders {
    /// Makes the loaders, which read orders as whoever asks sees them, and the rest from the pool.
    pub(super) fn start(db: &DatabaseConnection, reader: &Reader, definitions: &Definitions) -> Self {
        let pool = || (reader.clone(), db.clone());
        let (histories, products, stock) = (pool(), pool(), pool());
        let (keys, documents) = (pool(), pool());
        let (orders, lines, events) = (reader.clone(), reader.clone(), reader.clone());
        let (payments, processes) = (reader.clone(), reader.clone());
        let definitions = Arc::new(definitions.clone());
        Self {
            orders: Batching::new(move |common, ids| find_orders(orders.clone(), common, ids)),
            lines: Batching::new(move |common, ids| find_lines(lines.clone(), common, ids)),
            events: Batching::new(move |common, ids| find_events(events.clone(), common, ids)),
            payments: Batching::new(move |common, ids| find_payments(payments.clone(), common, ids)),
            processes: Batching::new(move |visibility, ids| {
                find_processes(processes.clone(), definitions.clone(), visibility, ids)
            }),
            histories: Batching::new(move |last, saga_ids| {
                attended(&histories, move |db| find_histories(db, last, saga_ids))
            }),
            keys: Batching::new(move |(), app_ids| attended(&keys, |db| find_keys(db, app_ids))),
            documents: Batching::new(move |page, app_ids| {
                attended(&documents, move |db| find_documents(db, page, app_ids))
            }),
            products: Batching::new(move |(), skus| attended(&products, |db| find_products(db, skus))),
            stock: Batching::new(move |(), skus| attended(&stock, |db| find_stock(db, skus))),
        }
    }
}

/// Looks something up over the pool, unless the database is silent.
fn attended<T, Find, Finding>(
    (reader, db): &(Reader, DatabaseConnection),
    find: Find,
) -> impl Future<Output = Result<T, DbErr>> + use<T, Find, Finding>
where
    Find: FnOnce(DatabaseConnection) -> Finding,
    Finding: Future<Output = Result<T, DbErr>>,
{
    let (reader, finding) = (reader.clone(), find(db.clone()));
    async move { reader.unless_silent(finding).await }
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

async fn find_payments(
    reader: Reader,
    (visibility, source): (Visibility, Source),
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<payment::read::Payment>>, DbErr> {
    let (sees, ids) = (&visibility, &ids);
    let found = reader.read(source, sees, |view| async move {
        let payments = payment::read::find_payments(&view, sees, ids.clone()).await?;
        view.commit().await?;
        Ok(payments)
    });
    let (payments, _) = found.await?;
    let mut of_orders: HashMap<Uuid, Vec<payment::read::Payment>> = HashMap::new();
    for payment in payments {
        of_orders.entry(payment.order_id).or_default().push(payment);
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

async fn find_processes(
    reader: Reader,
    definitions: Arc<Definitions>,
    visibility: Visibility,
    ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Process>, DbErr> {
    let (sees, ids, definitions) = (&visibility, &ids, &definitions);
    let found = reader.read(Source::Primary, sees, |view| async move {
        let processes = place_order::load_processes(&view, sees, ids.clone(), definitions).await?;
        view.commit().await?;
        Ok(processes)
    });
    let (processes, _) = found.await?;
    Ok(processes)
}

async fn find_histories(
    db: DatabaseConnection,
    last: u64,
    saga_ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<operate::Entry>>, DbErr> {
    operate::history(&db, saga_ids, last).await
}

async fn find_keys(db: DatabaseConnection, app_ids: Vec<Uuid>) -> Result<HashMap<Uuid, Vec<ApiKey>>, DbErr> {
    let mut of_apps: HashMap<Uuid, Vec<ApiKey>> = HashMap::new();
    for key in store::list_keys_of_apps(&db, app_ids, MAX_KEYS).await? {
        of_apps.entry(key.app_id).or_default().push(key);
    }
    Ok(of_apps)
}

async fn find_documents(
    db: DatabaseConnection,
    page: DocumentsPage,
    app_ids: Vec<Uuid>,
) -> Result<HashMap<Uuid, Vec<Document>>, DbErr> {
    let mut of_apps: HashMap<Uuid, Vec<Document>> = HashMap::new();
    for (app_id, document) in store::list_documents_of_apps(&db, app_ids, page.after, page.first).await? {
        of_apps.entry(app_id).or_default().push(document);
    }
    Ok(of_apps)
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
