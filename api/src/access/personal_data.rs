//! What a request is shown of personal data: told to the client where it was masked, recorded where it was shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_graphql::{Context, Error, ErrorExtensions, Pos, Response, Result, ServerError, Value, value};
use domain::app::Scope;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};
use uuid::Uuid;

use super::{Caller, Kind, caller};
use crate::graphql::error::{RequestId, UNAVAILABLE};
use crate::telemetry::chain;

/// Name of the extension that says what was masked.
const EXTENSION: &str = "personalData";

/// Collects while one answer is made. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PersonalData(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Names of fields.
    masked: BTreeSet<&'static str>,
    /// Names of fields by order.
    shown: BTreeMap<Uuid, BTreeSet<&'static str>>,
}

/// Returns whether the caller may see a field with personal data, and remembers that it may not.
///
/// # Errors
/// The request has no caller, or nobody collects: then nothing is shown.
pub(crate) fn may_see(ctx: &Context<'_>, field: &'static str) -> Result<bool> {
    let may = caller(ctx)?.may(Scope::OrdersReadPii);
    if !may {
        ctx.data::<PersonalData>()?.lock().masked.insert(field);
    }
    Ok(may)
}

/// Remembers that a field of an order is shown.
///
/// # Errors
/// Nobody collects: then it must not be shown.
pub(crate) fn show(ctx: &Context<'_>, order_id: Uuid, field: &'static str) -> Result<()> {
    ctx.data::<PersonalData>()?.lock().shown.entry(order_id).or_default().insert(field);
    Ok(())
}

impl PersonalData {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finishes an answer: says what was masked in it and records what it shows. What cannot be recorded is not shown.
    pub(crate) async fn finish(
        &self,
        db: &DatabaseConnection,
        caller: &Caller,
        request_id: &str,
        mut response: Response,
    ) -> Response {
        let Seen { masked, shown } = std::mem::take(&mut *self.lock());
        if !masked.is_empty() {
            let masked: Vec<Value> = masked.into_iter().map(Value::from).collect();
            let told = value!({ "masked": masked, "scope": Scope::OrdersReadPii.name() });
            response.extensions.insert(EXTENSION.to_owned(), told);
        }
        if shown.is_empty() {
            return response;
        }
        match record(db, caller, request_id, shown).await {
            Ok(()) => response,
            Err(error) => {
                tracing::warn!(
                    request.id = request_id,
                    error = chain(&error),
                    "cannot record who reads personal data"
                );
                Response::from_errors(vec![unavailable(request_id)])
            }
        }
    }
}

async fn record(
    db: &DatabaseConnection,
    caller: &Caller,
    request_id: &str,
    shown: BTreeMap<Uuid, BTreeSet<&'static str>>,
) -> Result<(), DbErr> {
    let key_id = match caller.kind() {
        Kind::App { key_id } => key_id,
        Kind::Shopper { .. } | Kind::Anonymous => None,
    };
    let ids: Vec<Uuid> = shown.iter().map(|_| Uuid::now_v7()).collect();
    let order_ids: Vec<Uuid> = shown.keys().copied().collect();
    let fields: Vec<String> =
        shown.into_values().map(|fields| fields.into_iter().collect::<Vec<_>>().join(",")).collect();
    let values = [
        ids.into(),
        caller.app_id().uuid().into(),
        key_id.into(),
        order_ids.into(),
        fields.into(),
        request_id.into(),
    ];
    db.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, RECORD, values)).await.map(drop)
}

const RECORD: &str = "
INSERT INTO personal_data_reads (id, app_id, key_id, order_id, fields, request_id)
SELECT input.id, $2, $3, input.order_id, string_to_array(input.fields, ','), $6
FROM unnest($1::uuid[], $4::uuid[], $5::text[]) AS input (id, order_id, fields)";

fn unavailable(request_id: &str) -> ServerError {
    let message = "the service is busy or its database cannot be reached; try again later";
    let error = Error::new(message).extend_with(|_, extensions| {
        extensions.set("code", UNAVAILABLE);
        extensions.set("requestId", request_id);
    });
    error.into_server_error(Pos::default())
}

/// Returns the id under which a request is known in the log.
pub(crate) fn request_id(request: &async_graphql::Request) -> String {
    let id = request.data.get(&std::any::TypeId::of::<RequestId>());
    let id = id.and_then(|id| id.downcast_ref::<RequestId>());
    id.map_or_else(|| "none".to_owned(), |id| id.0.clone())
}
