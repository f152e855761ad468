//! Every statement of the engine, each over a whole set of sagas.
//!
//! The lease of a saga is the row that says what it waits for: whoever deletes its `saga_ready`, `saga_timer` or
//! `saga_call` row may move it, and commits the deletion together with the move. A crash gives the row back.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};
use serde_json::Value as Json;
use uuid::Uuid;

use super::definition::Definitions;
use super::guard::Guard;
use super::history::{self, LogEntry};
use super::status::{Direction, SagaStatus};

pub(super) fn statement<const N: usize>(text: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// A saga to begin.
#[derive(Debug, Clone)]
pub struct NewSaga {
    /// Its id.
    pub id: Uuid,
    /// What it works on.
    pub subject_id: Uuid,
    /// What its steps remember.
    pub state: Json,
}

/// Begins sagas in the caller's transaction: they are ready when it commits.
///
/// # Errors
/// Any error of the database.
pub async fn insert_sagas(
    tx: &impl ConnectionTrait,
    definition: &str,
    version: i32,
    sagas: &[NewSaga],
) -> Result<(), DbErr> {
    if sagas.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = sagas.iter().map(|saga| saga.id).collect();
    let subject_ids: Vec<Uuid> = sagas.iter().map(|saga| saga.subject_id).collect();
    let states: Vec<String> = sagas.iter().map(|saga| saga.state.to_string()).collect();
    tx.execute_raw(statement(
        "WITH begun AS (
             INSERT INTO saga (id, subject_id, definition, version, state)
             SELECT id, subject_id, $1, $2, state::jsonb
             FROM unnest($3::uuid[], $4::uuid[], $5::text[]) AS input (id, subject_id, state)
             RETURNING id
         )
         INSERT INTO saga_ready (saga_id) SELECT id FROM begun",
        [definition.into(), version.into(), ids.into(), subject_ids.into(), states.into()],
    ))
    .await
    .map(drop)
}

#[derive(FromQueryResult)]
struct SagaId {
    saga_id: Uuid,
}

fn ids(rows: Vec<SagaId>) -> Vec<Uuid> {
    let mut ids: Vec<Uuid> = rows.into_iter().map(|row| row.saga_id).collect();
    ids.sort_unstable();
    ids
}

/// Takes up to `limit` ready sagas that nobody else is taking, the oldest first.
///
/// # Errors
/// Any error of the database.
pub async fn claim_ready(tx: &impl ConnectionTrait, limit: u64) -> Result<Vec<Uuid>, DbErr> {
    // Served by saga_ready_pkey, from its left edge. The rows are deleted by their place on the page, which they keep
    // while they are locked: by id, the planner would read the whole backlog to find a batch of it.
    let rows = SagaId::find_by_statement(statement(
        "DELETE FROM saga_ready WHERE ctid = ANY (ARRAY
             (SELECT ctid FROM saga_ready ORDER BY saga_id LIMIT $1 FOR UPDATE SKIP LOCKED))
         RETURNING saga_id",
        [limit.into()],
    ));
    rows.all(tx).await.map(ids)
}

/// Takes those of these sagas that are ready and that nobody else is taking.
///
/// # Errors
/// Any error of the database.
pub async fn claim_these(tx: &impl ConnectionTrait, saga_ids: &[Uuid]) -> Result<Vec<Uuid>, DbErr> {
    let rows = SagaId::find_by_statement(statement(
        "DELETE FROM saga_ready WHERE ctid = ANY (ARRAY
             (SELECT ctid FROM saga_ready WHERE saga_id = ANY($1) ORDER BY saga_id FOR UPDATE SKIP LOCKED))
         RETURNING saga_id",
        [saga_ids.to_vec().into()],
    ));
    rows.all(tx).await.map(ids)
}

/// A row of `saga` as the runner reads it.
#[derive(Debug, Clone, FromQueryResult)]
pub struct SagaRow {
    /// Its id.
    pub id: Uuid,
    /// What it works on.
    pub subject_id: Uuid,
    /// Name of its definition.
    pub definition: String,
    /// Version of its definition.
    pub version: i32,
    /// Where it stands.
    pub status: SagaStatus,
    /// Index of its step.
    pub step: i16,
    /// Which way it goes.
    pub direction: Direction,
    /// Attempts begun of this step, direction and generation.
    pub attempt: i32,
    /// Part of the idempotency key.
    pub generation: i32,
    /// Whether an attempt of this step ended unknown.
    pub in_doubt: bool,
    /// Attempts begun in all.
    pub epoch: i32,
    /// What its steps remember.
    pub state: Json,
    /// Why it compensates.
    pub failure: Option<Json>,
    /// When it came to this step.
    pub step_since: DateTime<Utc>,
    /// Since when a person should look.
    pub stuck_since: Option<DateTime<Utc>>,
    /// When it last moved.
    pub updated_at: DateTime<Utc>,
    /// The database's clock.
    pub now: DateTime<Utc>,
}

/// Reads these sagas, in the order of their ids. The caller holds their leases.
///
/// # Errors
/// Any error of the database.
pub async fn load_sagas(tx: &impl ConnectionTrait, saga_ids: &[Uuid]) -> Result<Vec<SagaRow>, DbErr> {
    SagaRow::find_by_statement(statement(
        "SELECT id, subject_id, definition, version, status, step, direction, attempt, generation, in_doubt, epoch,
                state, failure, step_since, stuck_since, updated_at, now() AS now
         FROM saga WHERE id = ANY($1) ORDER BY id",
        [saga_ids.to_vec().into()],
    ))
    .all(tx)
    .await
}

/// The request that was frozen when a step was first attempted.
#[derive(Debug, Clone, FromQueryResult)]
pub struct FrozenRequest {
    /// The saga.
    pub saga_id: Uuid,
    /// Name of the step.
    pub step: String,
    /// Which way.
    pub direction: Direction,
    /// Which generation of the key.
    pub generation: i32,
    /// The bytes.
    pub request: String,
}

/// Reads the frozen requests of these sagas from their history.
///
/// # Errors
/// Any error of the database.
pub async fn load_frozen_requests(
    tx: &impl ConnectionTrait,
    saga_ids: Vec<Uuid>,
) -> Result<Vec<FrozenRequest>, DbErr> {
    // Served by saga_log_pkey.
    FrozenRequest::find_by_statement(statement(
        "SELECT DISTINCT ON (saga_id, step, direction, generation) saga_id, step, direction, generation, request
         FROM saga_log WHERE saga_id = ANY($1) AND request IS NOT NULL
         ORDER BY saga_id, step, direction, generation, epoch",
        [saga_ids.into()],
    ))
    .all(tx)
    .await
}

/// An open call, or one that was open until it was taken.
#[derive(Debug, Clone, FromQueryResult)]
pub struct CallRow {
    /// The saga that makes it.
    pub saga_id: Uuid,
    /// Index of the step.
    pub step: i16,
    /// Which way.
    pub direction: Direction,
    /// Whoever records the result names this.
    pub epoch: i32,
    /// Counted from 1.
    pub attempt: i32,
    /// Which generation of the key.
    pub generation: i32,
    /// The key.
    pub idempotency_key: String,
    /// The frozen bytes.
    pub request: String,
    /// When the intent was committed.
    pub started_at: DateTime<Utc>,
}

/// Names an open call: nothing else that a saga has called or will call has the same.
#[derive(Debug, Clone, Copy)]
pub struct CallName {
    /// The saga.
    pub saga_id: Uuid,
    /// Index of the step.
    pub step: i16,
    /// Which way.
    pub direction: Direction,
    /// Counts the attempts of the saga.
    pub epoch: i32,
}

/// Ends the open calls that have these names, and returns them. A miss changes nothing.
///
/// # Errors
/// Any error of the database.
pub async fn take_calls(tx: &impl ConnectionTrait, names: &[CallName]) -> Result<Vec<CallRow>, DbErr> {
    use sea_orm::ActiveEnum;
    CallRow::find_by_statement(statement(
        "DELETE FROM saga_call
         USING unnest($1::uuid[], $2::smallint[], $3::text[], $4::integer[]) AS input (saga_id, step, direction, epoch)
         WHERE saga_call.saga_id = input.saga_id
           AND ((saga_call.step, saga_call.direction, saga_call.epoch) = (input.step, input.direction, input.epoch) OR $5)
         RETURNING saga_call.*",
        [
            column(names, |name| name.saga_id),
            column(names, |name| name.step),
            column(names, |name| name.direction.to_value()),
            column(names, |name| name.epoch),
            Guard::EpochMatch.is_off().into(),
        ],
    ))
    .all(tx)
    .await
}

/// Waits until no other transaction is moving these sagas.
///
/// # Errors
/// Any error of the database.
pub async fn await_writers(db: &impl ConnectionTrait, saga_ids: Vec<Uuid>) -> Result<(), DbErr> {
    // Whoever moves a saga updates its row. A statement of its own, since another one would not see what it has waited for.
    let sql = "SELECT count(*) FROM (SELECT FROM saga WHERE id = ANY($1) ORDER BY id FOR SHARE) AS moved";
    db.query_one_raw(statement(sql, [saga_ids.into()])).await.map(drop)
}

/// Returns the epochs of the open calls that this worker has for these sagas.
///
/// # Errors
/// Any error of the database.
pub async fn find_open_epochs(
    db: &impl ConnectionTrait,
    saga_ids: Vec<Uuid>,
    worker_id: Uuid,
) -> Result<HashMap<Uuid, i32>, DbErr> {
    let rows = db
        .query_all_raw(statement(
            "SELECT saga_id, epoch FROM saga_call WHERE saga_id = ANY($1) AND worker_id = $2",
            [saga_ids.into(), worker_id.into()],
        ))
        .await?;
    rows.iter().map(|row| Ok((row.try_get("", "saga_id")?, row.try_get("", "epoch")?))).collect()
}

/// Ends up to `limit` open calls whose lease is over or whose worker is dead, and returns them. Calls of sagas that are
/// not defined here are left to a process that can carry them on.
///
/// # Errors
/// Any error of the database.
pub async fn take_abandoned_calls(
    tx: &impl ConnectionTrait,
    definitions: &Definitions,
    worker_lease: Duration,
    limit: u64,
) -> Result<Vec<CallRow>, DbErr> {
    let names = definitions.iter().map(|definition| definition.name.to_owned()).collect::<Vec<_>>();
    let versions = definitions.iter().map(|definition| definition.version).collect::<Vec<_>>();
    // A scan of the open calls, of which there are as many as processes may have. A worker that left takes its row
    // along.
    CallRow::find_by_statement(statement(
        "DELETE FROM saga_call WHERE saga_id IN (
             SELECT saga_id FROM saga_call
             WHERE (lease_expires_at < now()
                    -- Whoever has begun a call lately is alive, even if the database was away for its heartbeat.
                    OR (started_at < now() - $1 * interval '1 millisecond'
                        AND worker_id <> ALL (ARRAY (
                            SELECT id FROM worker WHERE heartbeat_at > now() - $1 * interval '1 millisecond'))))
               -- One value for each call that is left, so that it cannot become a join with all sagas there ever were.
               AND (SELECT (definition, version) IN (SELECT * FROM unnest($3::text[], $4::integer[]))
                    FROM saga WHERE saga.id = saga_call.saga_id)
             ORDER BY saga_id LIMIT $2 FOR UPDATE OF saga_call SKIP LOCKED)
         RETURNING saga_call.*",
        [millis(worker_lease).into(), limit.into(), names.into(), versions.into()],
    ))
    .all(tx)
    .await
}

/// Makes up to `limit` sagas ready whose timer is due, and returns how many.
///
/// # Errors
/// Any error of the database.
pub async fn fire_timers(db: &impl ConnectionTrait, limit: u64) -> Result<u64, DbErr> {
    // Served by saga_timer_due, and by their places on the page as in claim_ready. One statement, so one commit: the saga
    // is never without a row.
    let result = db
        .execute_raw(statement(
            "WITH due AS (
                 DELETE FROM saga_timer WHERE ctid = ANY (ARRAY
                     (SELECT ctid FROM saga_timer WHERE due_at <= now() ORDER BY due_at LIMIT $1
                      FOR UPDATE SKIP LOCKED))
                 RETURNING saga_id
             )
             INSERT INTO saga_ready (saga_id) SELECT saga_id FROM due",
            [limit.into()],
        ))
        .await?;
    Ok(result.rows_affected())
}

/// Makes up to `limit` sagas ready that are parked until this system answers, those first that were parked first, and
/// returns how many.
///
/// # Errors
/// Any error of the database.
pub async fn release_parked(db: &impl ConnectionTrait, system: &str, limit: u64) -> Result<u64, DbErr> {
    // Served by saga_timer_parked, and by their places on the page as above. Who has waited longest is due first.
    let result = db
        .execute_raw(statement(
            "WITH released AS (
                 DELETE FROM saga_timer WHERE ctid = ANY (ARRAY
                     (SELECT ctid FROM saga_timer WHERE parked_for = $1 ORDER BY due_at LIMIT $2
                      FOR UPDATE SKIP LOCKED))
                 RETURNING saga_id
             )
             INSERT INTO saga_ready (saga_id) SELECT saga_id FROM released",
            [system.into(), limit.into()],
        ))
        .await?;
    Ok(result.rows_affected())
}

/// What one transaction leaves behind: columns of the sagas, history, and what each saga waits for.
#[derive(Debug, Default)]
pub(super) struct Writes {
    pub(super) sagas: Vec<SagaUpdate>,
    pub(super) log: Vec<LogEntry>,
    pub(super) calls: Vec<NewCall>,
    pub(super) timers: Vec<Timer>,
    pub(super) ready: Vec<Uuid>,
}

/// A row of `saga_timer` to be written.
#[derive(Debug)]
pub(super) struct Timer {
    pub(super) saga_id: Uuid,
    pub(super) delay: Duration,
    /// The system whose answers the saga is parked for.
    pub(super) parked_for: Option<&'static str>,
}

/// The columns of a saga that change.
#[derive(Debug)]
pub(super) struct SagaUpdate {
    pub(super) id: Uuid,
    pub(super) status: SagaStatus,
    pub(super) step: i16,
    pub(super) direction: Direction,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    pub(super) in_doubt: bool,
    pub(super) epoch: i32,
    pub(super) state: Json,
    pub(super) failure: Option<Json>,
    pub(super) step_since: DateTime<Utc>,
    pub(super) stuck: bool,
}

/// A row of `saga_call` to be written: an intent.
#[derive(Debug, Clone)]
pub(super) struct NewCall {
    pub(super) saga_id: Uuid,
    pub(super) step: i16,
    pub(super) direction: Direction,
    pub(super) epoch: i32,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    pub(super) idempotency_key: String,
    pub(super) request: String,
    pub(super) time_out: Duration,
    pub(super) lease: Duration,
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn column<T, V>(rows: &[T], value: impl Fn(&T) -> V) -> Value
where
    Vec<V>: Into<Value>,
{
    rows.iter().map(value).collect::<Vec<V>>().into()
}

/// Writes everything, one statement for each table.
pub(super) async fn write(tx: &impl ConnectionTrait, writes: Writes, worker_id: Uuid) -> Result<(), DbErr> {
    update_sagas(tx, &writes.sagas).await?;
    history::insert(tx, &writes.log).await?;
    insert_calls(tx, &writes.calls, worker_id).await?;
    if !writes.timers.is_empty() {
        let sql = "INSERT INTO saga_timer (saga_id, due_at, parked_for)
                   SELECT saga_id, now() + delay_ms * interval '1 millisecond', nullif(parked_for, '')
                   FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS input (saga_id, delay_ms, parked_for)";
        let timers = &writes.timers;
        let values = [
            column(timers, |timer| timer.saga_id),
            column(timers, |timer| millis(timer.delay)),
            column(timers, |timer| timer.parked_for.unwrap_or_default().to_owned()),
        ];
        tx.execute_raw(statement(sql, values)).await?;
    }
    if !writes.ready.is_empty() {
        let sql = "INSERT INTO saga_ready (saga_id) SELECT * FROM unnest($1::uuid[])";
        tx.execute_raw(statement(sql, [writes.ready.into()])).await?;
    }
    Ok(())
}

async fn update_sagas(tx: &impl ConnectionTrait, sagas: &[SagaUpdate]) -> Result<(), DbErr> {
    use sea_orm::ActiveEnum;
    if sagas.is_empty() {
        return Ok(());
    }
    let json = |value: &Option<Json>| value.as_ref().map(Json::to_string).unwrap_or_default();
    // A failure is for good: one that this program cannot read is left as it is.
    let updated = tx.execute_raw(statement(
        "UPDATE saga
         SET status = input.status, step = input.step, direction = input.direction, attempt = input.attempt,
             generation = input.generation, in_doubt = input.in_doubt, epoch = input.epoch,
             state = input.state::jsonb, failure = coalesce(nullif(input.failure, '')::jsonb, saga.failure),
             step_since = input.step_since,
             stuck_since = CASE WHEN input.stuck THEN coalesce(saga.stuck_since, now()) END,
             updated_at = now(),
             finished_at = CASE WHEN input.status IN ('SUCCEEDED', 'COMPENSATED') THEN now() END
         FROM unnest($1::uuid[], $2::text[], $3::smallint[], $4::text[], $5::integer[], $6::integer[], $7::boolean[],
                     $8::integer[], $9::text[], $10::text[], $11::timestamptz[], $12::boolean[])
             AS input (id, status, step, direction, attempt, generation, in_doubt, epoch, state, failure, step_since,
                       stuck)
         WHERE saga.id = input.id",
        [
            column(sagas, |saga| saga.id),
            column(sagas, |saga| saga.status.to_value()),
            column(sagas, |saga| saga.step),
            column(sagas, |saga| saga.direction.to_value()),
            column(sagas, |saga| saga.attempt.cast_signed()),
            column(sagas, |saga| saga.generation.cast_signed()),
            column(sagas, |saga| saga.in_doubt),
            column(sagas, |saga| saga.epoch),
            column(sagas, |saga| saga.state.to_string()),
            column(sagas, |saga| json(&saga.failure)),
            column(sagas, |saga| saga.step_since),
            column(sagas, |saga| saga.stuck),
        ],
    ))
    .await?;
    // Whoever writes holds the leases, so each row is there; without it, what else is written must not be true.
    match updated.rows_affected() == sagas.len() as u64 {
        true => Ok(()),
        false => Err(DbErr::RecordNotUpdated),
    }
}

async fn insert_calls(tx: &impl ConnectionTrait, calls: &[NewCall], worker_id: Uuid) -> Result<(), DbErr> {
    use sea_orm::ActiveEnum;
    if calls.is_empty() {
        return Ok(());
    }
    tx.execute_raw(statement(
        "INSERT INTO saga_call (saga_id, step, direction, epoch, attempt, generation, worker_id, idempotency_key,
                                request, deadline, lease_expires_at)
         SELECT saga_id, step, direction, epoch, attempt, generation, $1, idempotency_key, request,
                now() + time_out_ms * interval '1 millisecond', now() + lease_ms * interval '1 millisecond'
         FROM unnest($2::uuid[], $3::smallint[], $4::text[], $5::integer[], $6::integer[], $7::integer[], $8::text[],
                     $9::text[], $10::bigint[], $11::bigint[])
             AS input (saga_id, step, direction, epoch, attempt, generation, idempotency_key, request, time_out_ms,
                       lease_ms)",
        [
            worker_id.into(),
            column(calls, |call| call.saga_id),
            column(calls, |call| call.step),
            column(calls, |call| call.direction.to_value()),
            column(calls, |call| call.epoch),
            column(calls, |call| call.attempt.cast_signed()),
            column(calls, |call| call.generation.cast_signed()),
            column(calls, |call| call.idempotency_key.clone()),
            column(calls, |call| call.request.clone()),
            column(calls, |call| millis(call.time_out)),
            column(calls, |call| millis(call.lease)),
        ],
    ))
    .await
    .map(drop)
}

/// What there is to do, in numbers; none of them is counted beyond [`MOST_COUNTED`].
#[derive(Debug, Clone, PartialEq, FromQueryResult)]
pub struct Survey {
    /// Sagas that keep trying though a person should look.
    pub stuck: i64,
    /// Sagas that wait for a person.
    pub held: i64,
    /// Sagas that a runner could take.
    pub ready: i64,
    /// Sagas that are parked because another system gives no answers.
    pub parked: i64,
    /// Calls whose answers are awaited.
    pub calling: i64,
    /// For how long the oldest saga that a runner could take has not moved; zero if there is none.
    pub oldest_ready_seconds: f64,
}

/// How far the sagas of one kind are counted: beyond it the number says nothing new, and counting is to stay cheap.
pub const MOST_COUNTED: i64 = 100_000;

/// Counts what there is to do.
///
/// # Errors
/// Any error of the database.
pub async fn survey(db: &impl ConnectionTrait) -> Result<Survey, DbErr> {
    // Served by saga_stuck, saga_ready_pkey, saga_timer_parked, and a scan of the open calls, which are few.
    let survey = Survey::find_by_statement(statement(
        "SELECT stuck.*, ready.*, parked.*, calling.*, coalesce(oldest.seconds, 0)::float8 AS oldest_ready_seconds
         FROM (SELECT count(*) FILTER (WHERE status <> 'HELD') AS stuck, count(*) FILTER (WHERE status = 'HELD') AS held
               FROM (SELECT status FROM saga WHERE stuck_since IS NOT NULL LIMIT $1) AS counted) AS stuck,
              (SELECT count(*) AS ready FROM (SELECT FROM saga_ready LIMIT $1) AS counted) AS ready,
              (SELECT count(*) AS parked
               FROM (SELECT FROM saga_timer WHERE parked_for IS NOT NULL LIMIT $1) AS counted) AS parked,
              (SELECT count(*) AS calling FROM saga_call) AS calling
              LEFT JOIN LATERAL (
                  SELECT extract(epoch FROM now() - updated_at) AS seconds FROM saga
                  WHERE id = (SELECT saga_id FROM saga_ready ORDER BY saga_id LIMIT 1)) AS oldest ON true",
        [MOST_COUNTED.into()],
    ));
    survey.one(db).await?.ok_or_else(|| DbErr::RecordNotFound("the survey".to_owned()))
}

/// Says that a worker is alive, for the first time or again.
///
/// # Errors
/// Any error of the database.
pub async fn record_heartbeat(db: &impl ConnectionTrait, worker_id: Uuid, name: &str) -> Result<(), DbErr> {
    db.execute_raw(statement(
        "INSERT INTO worker (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET heartbeat_at = now()",
        [worker_id.into(), name.into()],
    ))
    .await
    .map(drop)
}

/// Removes a worker that left, and those that have been silent for a day.
///
/// # Errors
/// Any error of the database.
pub async fn remove_worker(db: &impl ConnectionTrait, worker_id: Uuid) -> Result<(), DbErr> {
    db.execute_raw(statement(
        "DELETE FROM worker WHERE id = $1 OR heartbeat_at < now() - interval '1 day'",
        [worker_id.into()],
    ))
    .await
    .map(drop)
}
