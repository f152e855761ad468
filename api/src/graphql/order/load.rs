//! Loads the orders that fields ask for, as far as their selections need them.

use async_graphql::{Context, Result};
use domain::app::Scope;
use domain::order::entity::Column;
use domain::order::read::Columns;
use futures_util::future::try_join_all;
use sea_orm::DbErr;
use uuid::Uuid;

use super::{Order, selection};
use crate::access::Caller;
use crate::app::Services;
use crate::graphql::error::OrReport;
use crate::graphql::loaders::{LoadedOrder, Loaders, Wanted};
use crate::reader::{Reader, Source};

/// Returns the order, or `None` if the caller sees none of this id. Reads what the field is asked for, through fragments
/// and under any name.
///
/// # Errors
/// The database could not be asked; reported already.
pub(crate) async fn load_order(ctx: &Context<'_>, source: Source, id: Uuid) -> Result<Option<Order>> {
    let order = load(ctx, source, id, wanted(ctx)).await.or_report(ctx, "read an order")?;
    Ok(order.map(Order::from))
}

/// Returns the order as it was with the event of this sequence or later, as far as it has come; `None` as
/// [`load_order`].
///
/// # Errors
/// The database could not be asked; reported already.
pub(super) async fn load_order_at_least(
    ctx: &Context<'_>,
    id: Uuid,
    min_sequence: i32,
) -> Result<Option<Order>> {
    let (reader, mut wanted) = (reader(ctx), wanted(ctx));
    if reader.source() == Source::Primary {
        return load_order(ctx, Source::Primary, id).await;
    }
    wanted.columns.insert(Column::Sequence);
    let order = load(ctx, Source::Replica, id, wanted).await.or_report(ctx, "read an order")?;
    let is_new_enough = |order: &LoadedOrder| {
        order.source == Source::Primary || order.row.sequence.is_some_and(|sequence| sequence >= min_sequence)
    };
    if let Some(order) = order.filter(is_new_enough) {
        return Ok(Some(order.into()));
    }
    // One that is not there may be one that has not arrived, or that the caller does not see: the primary is asked about
    // either.
    reader.note_behind();
    load_order(ctx, Source::Primary, id).await
}

/// Returns those of these orders that the caller sees, in this order. Reads what the field is asked for in its `nodes`,
/// its `edges { node }`, or right under it.
///
/// # Errors
/// The database could not be asked; reported already.
pub(crate) async fn load_orders(
    ctx: &Context<'_>,
    source: Source,
    ids: &[Uuid],
) -> Result<Vec<Option<Order>>> {
    let wanted = wanted(ctx);
    let orders = try_join_all(ids.iter().map(|id| load(ctx, source, *id, wanted))).await;
    Ok(orders.or_report(ctx, "read orders")?.into_iter().map(|order| order.map(Order::from)).collect())
}

/// Whether the caller sees an order of this id. Reads nothing of it, and asks the primary, where its events come from.
///
/// # Errors
/// The database could not be asked; reported already.
pub(super) async fn sees_order(ctx: &Context<'_>, id: Uuid) -> Result<bool> {
    let wanted = Wanted { columns: Columns::default(), lines: false };
    Ok(load(ctx, Source::Primary, id, wanted).await.or_report(ctx, "watch an order")?.is_some())
}

/// Who reads orders on the caller's behalf.
pub(crate) fn reader<'a>(ctx: &Context<'a>) -> &'a Reader {
    &ctx.data_unchecked::<Services>().reader
}

fn wanted(ctx: &Context<'_>) -> Wanted {
    Wanted { columns: selection::columns(&ctx.field()), lines: selection::lines(&ctx.field()) }
}

pub(super) async fn load(
    ctx: &Context<'_>,
    source: Source,
    id: Uuid,
    mut wanted: Wanted,
) -> Result<Option<LoadedOrder>, DbErr> {
    // The door says who calls; without a caller nothing is visible.
    let Some(caller) = ctx.data_opt::<Caller>() else { return Ok(None) };
    if !caller.may(Scope::OrdersReadPii) {
        wanted.columns = wanted.columns.without(Columns::PERSONAL);
    }
    ctx.data_unchecked::<Loaders>().orders.load((caller.visibility().clone(), source, wanted), id).await
}
