//! Queries on stock and reservations, all of them over many orders at once.

use std::collections::{BTreeSet, HashMap, HashSet};

use sea_orm::{ColumnTrait, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, QueryFilter, QueryOrder};
use uuid::Uuid;

use super::{Demand, ReservationStatus, Reserved, Shortage, allocate, entity};
use crate::id::local_app;
use crate::sql::statement;

/// Returns the stock rows of these SKUs, in SKU order; unknown ones are missing.
///
/// # Errors
/// Any error of the database.
pub async fn find_stock(db: &impl ConnectionTrait, skus: Vec<String>) -> Result<Vec<entity::Model>, DbErr> {
    entity::Entity::find()
        .filter(entity::Column::Sku.eq_any(skus))
        .order_by_asc(entity::Column::Sku)
        .all(db)
        .await
}

/// Reserves stock for the orders, first come first served in the given order, each all or nothing.
///
/// Demand is summed per SKU and the stock rows are locked in SKU order, so that batches cannot deadlock; each row is
/// updated once, however many orders of the batch want it. Answers in the order of `order_ids`.
///
/// Repeating it reserves nothing more. An order that is repeated together with others counts once more while they are
/// served, so that one of them may be refused that would just have fitted.
///
/// # Errors
/// Any error of the database.
pub async fn reserve(
    tx: &impl ConnectionTrait,
    order_ids: &[Uuid],
) -> Result<Vec<Result<Reserved, Shortage>>, DbErr> {
    let demands = load_demands(tx, order_ids).await?;
    let skus: BTreeSet<&str> = demands.iter().map(|demand| demand.sku.as_str()).collect();
    let skus: Vec<String> = skus.into_iter().map(str::to_owned).collect();
    let mut available: HashMap<String, i64> = lock_stock(tx, skus)
        .await?
        .into_iter()
        .map(|row| (row.available(), row.sku))
        .map(|(n, sku)| (sku, n))
        .collect();
    let answers = allocate(&mut available, &demands);

    let granted: Vec<&Demand> = demands.iter().filter(|demand| answers[&demand.order_id].is_ok()).collect();
    let fresh = insert_reservations(tx, &granted).await?;
    add_reserved(tx, &fresh.iter().collect::<Vec<_>>(), 1).await?;
    let fresh: HashSet<Uuid> = fresh.into_iter().map(|demand| demand.order_id).collect();
    // A repeated order may find nothing left because it holds the units itself.
    let refused = order_ids.iter().filter(|id| matches!(answers.get(id), Some(Err(_)))).copied().collect();
    let holders = find_holders(tx, refused).await?;
    let answer = |id: &Uuid| match answers.get(id) {
        Some(Err(shortage)) if !holders.contains(id) => Err(shortage.clone()),
        _ if fresh.contains(id) => Ok(Reserved::Now),
        // An order without lines asks for nothing and has it already.
        _ => Ok(Reserved::Before),
    };
    Ok(order_ids.iter().map(answer).collect())
}

/// Returns those of the orders that hold something (served by reservations_pkey).
async fn find_holders(tx: &impl ConnectionTrait, order_ids: Vec<Uuid>) -> Result<HashSet<Uuid>, DbErr> {
    if order_ids.is_empty() {
        return Ok(HashSet::new());
    }
    let holders = statement(
        "SELECT order_id, sku, quantity FROM reservations WHERE order_id = ANY($1) AND status = 'HELD'",
        [order_ids.into()],
    );
    Ok(Demand::find_by_statement(holders).all(tx).await?.into_iter().map(|held| held.order_id).collect())
}

/// Gives back what the orders hold, and returns the ids of those that held something.
///
/// Only rows that are still held are released, so that repeating it changes nothing.
///
/// # Errors
/// Any error of the database.
pub async fn release_reservations(tx: &impl ConnectionTrait, order_ids: &[Uuid]) -> Result<Vec<Uuid>, DbErr> {
    // The stock rows are locked first and in SKU order, as `reserve` does, so that the two cannot deadlock.
    let skus =
        load_demands(tx, order_ids).await?.into_iter().map(|demand| demand.sku).collect::<BTreeSet<_>>();
    lock_stock(tx, skus.into_iter().collect()).await?;
    let released = Demand::find_by_statement(statement(
        "UPDATE reservations SET status = 'RELEASED', updated_at = now()
         WHERE order_id = ANY($1) AND status = 'HELD'
         RETURNING order_id, sku, quantity",
        [order_ids.to_vec().into()],
    ))
    .all(tx)
    .await?;
    add_reserved(tx, &released.iter().collect::<Vec<_>>(), -1).await?;
    let holders: BTreeSet<Uuid> = released.into_iter().map(|demand| demand.order_id).collect();
    Ok(holders.into_iter().collect())
}

/// Marks what the orders hold as theirs for good. Stock rows are not touched: the units stay reserved until they
/// leave the building.
///
/// # Errors
/// Any error of the database.
pub async fn confirm_reservations(tx: &impl ConnectionTrait, order_ids: &[Uuid]) -> Result<(), DbErr> {
    // Served by reservations_pkey.
    tx.execute_raw(statement(
        "UPDATE reservations SET status = 'CONFIRMED', updated_at = now() WHERE order_id = ANY($1) AND status = $2",
        [order_ids.to_vec().into(), ReservationStatus::Held.into()],
    ))
    .await
    .map(drop)
}

/// Sets how many units are on hand of each SKU, each named once, and records the movements. Returns the SKUs of which
/// more units than that are promised, with their number; those are left alone.
///
/// # Errors
/// Any error of the database.
pub async fn set_on_hand(
    tx: &impl ConnectionTrait,
    counts: Vec<(String, i64)>,
    reason: &str,
) -> Result<HashMap<String, i64>, DbErr> {
    let skus = counts.iter().map(|(sku, _)| sku.clone()).collect();
    let stock: HashMap<String, entity::Model> =
        lock_stock(tx, skus).await?.into_iter().map(|row| (row.sku.clone(), row)).collect();
    let mut refused = HashMap::new();
    let (mut ids, mut skus, mut deltas, mut on_hand) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (sku, count) in counts {
        match stock.get(&sku) {
            Some(row) if count < row.reserved => {
                refused.insert(sku, row.reserved);
            }
            Some(row) if count != row.on_hand => {
                ids.push(Uuid::now_v7());
                skus.push(sku);
                deltas.push(count - row.on_hand);
                on_hand.push(count);
            }
            _ => {}
        }
    }
    if ids.is_empty() {
        return Ok(refused);
    }
    tx.execute_raw(statement(
        "UPDATE stock SET on_hand = input.on_hand, updated_at = now()
         FROM unnest($1::text[], $2::bigint[]) AS input (sku, on_hand)
         WHERE stock.sku = input.sku",
        [skus.clone().into(), on_hand.clone().into()],
    ))
    .await?;
    tx.execute_raw(statement(
        "INSERT INTO stock_movements (id, sku, delta, on_hand_after, reason, app_id)
         SELECT id, sku, delta, on_hand_after, $5, $6
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) AS input (id, sku, delta, on_hand_after)",
        [ids.into(), skus.into(), deltas.into(), on_hand.into(), reason.into(), local_app().uuid().into()],
    ))
    .await?;
    Ok(refused)
}

/// Locks the stock rows in SKU order and returns them.
pub(super) async fn lock_stock(
    tx: &impl ConnectionTrait,
    skus: Vec<String>,
) -> Result<Vec<entity::Model>, DbErr> {
    // A join and not `sku = ANY(...)`: over a small table that would be a scan which compares each row with each SKU.
    let lock = if is_lock_off() { "" } else { "FOR UPDATE OF stock" };
    let rows = format!(
        "SELECT stock.* FROM unnest($1::text[]) AS input (sku) JOIN stock USING (sku) ORDER BY stock.sku {lock}"
    );
    entity::Model::find_by_statement(statement(&rows, [skus.into()])).all(tx).await
}

/// Returns whether a negative control has taken the lock away.
#[cfg(feature = "failpoints")]
fn is_lock_off() -> bool {
    fail::eval("guard_stock_lock", |_| ()).is_some()
}

/// Returns whether a negative control has taken the lock away: never.
#[cfg(not(feature = "failpoints"))]
const fn is_lock_off() -> bool {
    false
}

/// Sums the orders' lines by SKU, orders in the order of `order_ids` (served by order_lines_pkey).
async fn load_demands(tx: &impl ConnectionTrait, order_ids: &[Uuid]) -> Result<Vec<Demand>, DbErr> {
    let mut demands = Demand::find_by_statement(statement(
        "SELECT order_id, sku, quantity FROM order_lines WHERE order_id = ANY($1)",
        [order_ids.to_vec().into()],
    ))
    .all(tx)
    .await?;
    let turns: HashMap<Uuid, usize> = order_ids.iter().enumerate().map(|(turn, &id)| (id, turn)).collect();
    demands.sort_unstable_by(|left, right| {
        (turns.get(&left.order_id), &left.sku).cmp(&(turns.get(&right.order_id), &right.sku))
    });
    demands.dedup_by(|next, sum| {
        let is_same = (next.order_id, &next.sku) == (sum.order_id, &sum.sku);
        if is_same {
            // Each is at most a million, and an order has few of them.
            sum.quantity += next.quantity;
        }
        is_same
    });
    Ok(demands)
}

async fn add_reserved(tx: &impl ConnectionTrait, demands: &[&Demand], sign: i64) -> Result<(), DbErr> {
    if demands.is_empty() {
        return Ok(());
    }
    let mut by_sku: HashMap<&str, i64> = HashMap::new();
    for demand in demands {
        *by_sku.entry(&demand.sku).or_default() += sign * demand.quantity;
    }
    let (skus, deltas): (Vec<String>, Vec<i64>) =
        by_sku.into_iter().map(|(sku, delta)| (sku.to_owned(), delta)).unzip();
    tx.execute_raw(statement(
        "UPDATE stock SET reserved = reserved + input.delta, updated_at = now()
         FROM unnest($1::text[], $2::bigint[]) AS input (sku, delta)
         WHERE stock.sku = input.sku",
        [skus.into(), deltas.into()],
    ))
    .await
    .map(drop)
}

/// Writes reservations, and returns those that were not there yet.
async fn insert_reservations(tx: &impl ConnectionTrait, demands: &[&Demand]) -> Result<Vec<Demand>, DbErr> {
    if demands.is_empty() {
        return Ok(Vec::new());
    }
    let order_ids: Vec<Uuid> = demands.iter().map(|demand| demand.order_id).collect();
    let skus: Vec<String> = demands.iter().map(|demand| demand.sku.clone()).collect();
    let quantities: Vec<i64> = demands.iter().map(|demand| demand.quantity).collect();
    Demand::find_by_statement(statement(
        "INSERT INTO reservations (order_id, sku, quantity, status)
         SELECT order_id, sku, quantity, 'HELD' FROM unnest($1::uuid[], $2::text[], $3::bigint[])
             AS input (order_id, sku, quantity)
         ON CONFLICT (order_id, sku) DO NOTHING
         RETURNING order_id, sku, quantity",
        [order_ids.into(), skus.into(), quantities.into()],
    ))
    .all(tx)
    .await
}
