//! The history of sagas, `saga_log`: each attempt and how it ended, plans, evidence, and what people did.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbErr};
use serde_json::{Value, json};
use uuid::Uuid;

use super::dispatch::CallResult;
use super::plan::Ended;
use super::status::Direction;
use super::step::{Outcome, Saga};
use super::store::{CallRow, column, statement};

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogKind {
    Attempt,
    Plan,
    Evidence,
    Operator,
}

impl LogKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Attempt => "ATTEMPT",
            Self::Plan => "PLAN",
            Self::Evidence => "EVIDENCE",
            Self::Operator => "OPERATOR",
        }
    }
}

/// A row of `saga_log`. An empty key, request or detail is stored as null.
#[derive(Debug, Clone)]
pub(super) struct LogEntry {
    pub(super) saga_id: Uuid,
    pub(super) epoch: i32,
    pub(super) kind: LogKind,
    pub(super) step: &'static str,
    pub(super) direction: Direction,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    pub(super) outcome: &'static str,
    pub(super) idempotency_key: String,
    pub(super) request: String,
    pub(super) detail: String,
    pub(super) started_at: DateTime<Utc>,
}

/// What the history says of an attempt.
pub(super) struct Attempt {
    idempotency_key: String,
    request: String,
    detail: Value,
    started_at: DateTime<Utc>,
}

impl Attempt {
    /// Of a step in our own database.
    pub(super) fn local(now: DateTime<Utc>, detail: Value) -> Self {
        Self { idempotency_key: String::new(), request: String::new(), detail, started_at: now }
    }

    /// Of a call to another system.
    pub(super) fn call(row: CallRow, outcome: &Outcome) -> Self {
        Self {
            idempotency_key: row.idempotency_key,
            request: row.request,
            detail: outcome_detail(outcome),
            started_at: row.started_at,
        }
    }

    /// Ends the attempt where the saga is.
    pub(super) fn into_entry(self, saga: &Saga, ended: &Ended) -> LogEntry {
        let detail = if self.detail.is_null() { String::new() } else { self.detail.to_string() };
        LogEntry {
            idempotency_key: self.idempotency_key,
            request: self.request,
            ..LogEntry::at_its_place(saga, LogKind::Attempt, ended_name(ended), detail, self.started_at)
        }
    }
}

impl LogEntry {
    /// Notes something about a saga where it is.
    pub(super) fn at_its_place(
        saga: &Saga,
        kind: LogKind,
        outcome: &'static str,
        detail: String,
        started_at: DateTime<Utc>,
    ) -> Self {
        Self {
            saga_id: saga.id,
            epoch: saga.epoch,
            kind,
            step: saga.definition.step_name(saga.cursor.step),
            direction: saga.cursor.direction,
            attempt: saga.cursor.attempt,
            generation: saga.cursor.generation,
            outcome,
            idempotency_key: String::new(),
            request: String::new(),
            detail,
            started_at,
        }
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    ended_name(&Ended::from(outcome))
}

fn ended_name(ended: &Ended) -> &'static str {
    match ended {
        Ended::Succeeded => "SUCCEEDED",
        Ended::Refused(_) => "REFUSED",
        Ended::Unknown(_) => "UNKNOWN",
        Ended::Postponed { .. } => "RETRY",
    }
}

fn outcome_detail(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Succeeded(answer) => answer.clone(),
        Outcome::Refused(failure) => json!(failure),
        Outcome::Unknown(reason) => json!({ "reason": reason }),
    }
}

pub(super) fn evidence(result: &CallResult) -> LogEntry {
    let dispatch = &result.dispatch;
    LogEntry {
        saga_id: dispatch.saga_id,
        epoch: dispatch.epoch,
        kind: LogKind::Evidence,
        step: dispatch.definition.step_name(dispatch.place.0),
        direction: dispatch.place.1,
        attempt: dispatch.attempt,
        generation: dispatch.generation,
        outcome: outcome_name(&result.outcome),
        idempotency_key: dispatch.call.idempotency_key.clone(),
        request: dispatch.call.request.clone(),
        detail: outcome_detail(&result.outcome).to_string(),
        started_at: result.started_at,
    }
}

/// Appends history. Evidence that is there already, the same late answer twice, is left as it is.
pub(super) async fn insert(tx: &impl ConnectionTrait, log: &[LogEntry]) -> Result<(), DbErr> {
    use sea_orm::ActiveEnum;
    if log.is_empty() {
        return Ok(());
    }
    // Looking for a conflict costs each entry a probe of its own, and only evidence can come twice.
    let conflict = match log.iter().any(|entry| entry.kind == LogKind::Evidence) {
        true => "ON CONFLICT (saga_id, epoch, kind) DO NOTHING",
        false => "",
    };
    let insert = format!(
        "INSERT INTO saga_log (saga_id, epoch, kind, step, direction, attempt, generation, outcome, idempotency_key,
                               request, detail, started_at)
         SELECT saga_id, epoch, kind, step, direction, attempt, generation, outcome, nullif(idempotency_key, ''),
                nullif(request, ''), nullif(detail, '')::jsonb, started_at
         FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                     $8::text[], $9::text[], $10::text[], $11::text[], $12::timestamptz[])
             AS input (saga_id, epoch, kind, step, direction, attempt, generation, outcome, idempotency_key, request,
                       detail, started_at)
         {conflict}"
    );
    tx.execute_raw(statement(
        &insert,
        [
            column(log, |entry| entry.saga_id),
            column(log, |entry| entry.epoch),
            column(log, |entry| entry.kind.as_str().to_owned()),
            column(log, |entry| entry.step.to_owned()),
            column(log, |entry| entry.direction.to_value()),
            column(log, |entry| entry.attempt.cast_signed()),
            column(log, |entry| entry.generation.cast_signed()),
            column(log, |entry| entry.outcome.to_owned()),
            column(log, |entry| entry.idempotency_key.clone()),
            column(log, |entry| entry.request.clone()),
            column(log, |entry| entry.detail.clone()),
            column(log, |entry| entry.started_at),
        ],
    ))
    .await
    .map(drop)
}
