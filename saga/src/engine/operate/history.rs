//! What a saga did, and what was done to it.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};
use serde_json::Value as Json;
use uuid::Uuid;

use crate::engine::status::Direction;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EntryKind {
    /// An attempt of a step, or of its undo, ended.
    Attempt,
    /// The saga turned round; this is what it is going to undo.
    Plan,
    /// An answer came too late to count.
    Evidence,
    /// A person acted.
    Operator,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryOutcome {
    /// With its effect.
    Succeeded,
    /// Without effect, for good.
    Refused,
    /// Nobody knows.
    Unknown,
    /// Without effect: the step could not run, or asked to wait.
    Postponed,
}

/// One entry of a saga's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The saga.
    pub saga_id: Uuid,
    /// What kind of thing happened.
    pub kind: EntryKind,
    /// Name of the step it was at.
    pub step: String,
    /// Which way it went.
    pub direction: Direction,
    /// Which attempt of the step, counted from 1; 0 before the first.
    pub attempt: i32,
    /// How the attempt ended; of an act, how the operator says that it did.
    pub outcome: Option<EntryOutcome>,
    /// The key under which the other system knows the call.
    pub idempotency_key: Option<String>,
    /// What was said, in words for people.
    pub text: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was written down.
    pub finished_at: DateTime<Utc>,
}

#[derive(Debug, FromQueryResult)]
struct Row {
    saga_id: Uuid,
    kind: EntryKind,
    step: String,
    direction: Direction,
    attempt: i32,
    outcome: String,
    idempotency_key: Option<String>,
    detail: Option<Json>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
}

/// Reads up to `last` entries of the history of each of these sagas, the newest ones, in the order in which they
/// happened. Requests stay out of it: they may name a card.
///
/// # Errors
/// Any error of the database.
pub async fn history(
    db: &impl ConnectionTrait,
    saga_ids: Vec<Uuid>,
    last: u64,
) -> Result<HashMap<Uuid, Vec<Entry>>, DbErr> {
    // Served by saga_log_pkey. What one transaction wrote has one time; within it the plan follows what caused it.
    let rows = Row::find_by_statement(Statement::from_sql_and_values(
        DbBackend::Postgres,
        "SELECT log.*
         FROM unnest($1::uuid[]) AS input (id),
              LATERAL (SELECT saga_id, kind, step, direction, attempt, outcome, idempotency_key, detail, started_at,
                              finished_at, epoch
                       FROM saga_log WHERE saga_id = input.id
                       ORDER BY finished_at DESC, epoch DESC, kind DESC LIMIT $2) AS log
         ORDER BY log.saga_id, log.finished_at, log.epoch, log.kind",
        [saga_ids.into(), last.into()],
    ))
    .all(db)
    .await?;
    let mut histories: HashMap<Uuid, Vec<Entry>> = HashMap::new();
    for row in rows {
        histories.entry(row.saga_id).or_default().push(Entry::from(row));
    }
    Ok(histories)
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        let outcome = match row.outcome.as_str() {
            "SUCCEEDED" => Some(EntryOutcome::Succeeded),
            "REFUSED" => Some(EntryOutcome::Refused),
            "UNKNOWN" => Some(EntryOutcome::Unknown),
            "RETRY" => Some(EntryOutcome::Postponed),
            _ => None,
        };
        Self {
            saga_id: row.saga_id,
            kind: row.kind,
            step: row.step,
            direction: row.direction,
            attempt: row.attempt,
            outcome,
            idempotency_key: row.idempotency_key,
            text: in_words(row.kind, row.detail.as_ref()),
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

fn in_words(kind: EntryKind, detail: Option<&Json>) -> String {
    let Some(detail) = detail else { return String::new() };
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    match kind {
        EntryKind::Attempt | EntryKind::Evidence => {
            if let Some(delay_ms) = detail["retryAfterMs"].as_u64() {
                return format!("the step asked to wait {delay_ms} ms");
            }
            let said = ["message", "reason", "id"].into_iter().map(|field| text(&detail[field]));
            said.into_iter().find(|said| !said.is_empty()).unwrap_or_default()
        }
        EntryKind::Plan => {
            let undo: Vec<String> =
                detail["undo"].as_array().map(|steps| steps.iter().map(text).collect()).unwrap_or_default();
            let undo = if undo.is_empty() { "nothing".to_owned() } else { undo.join(", ") };
            let failure = &detail["failure"];
            format!("undo {undo}, because of {}: {}", text(&failure["code"]), text(&failure["message"]))
        }
        EntryKind::Operator => {
            format!("{} by {}: {}", text(&detail["act"]), text(&detail["by"]), text(&detail["reason"]))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_entry_is_put_into_words() {
        let words = |kind, detail| in_words(kind, Some(&detail));
        let refused = json!({ "code": "CARD_DECLINED", "message": "the card was declined" });
        assert_eq!(words(EntryKind::Attempt, refused.clone()), "the card was declined");
        assert_eq!(words(EntryKind::Attempt, json!({ "reason": "no answer" })), "no answer");
        assert_eq!(words(EntryKind::Attempt, json!({ "retryAfterMs": 40 })), "the step asked to wait 40 ms");
        assert_eq!(words(EntryKind::Evidence, json!({ "id": "capture_1" })), "capture_1");
        let plan = json!({ "failure": refused, "undo": ["authorize_payment", "reserve_stock"] });
        assert_eq!(
            words(EntryKind::Plan, plan),
            "undo authorize_payment, reserve_stock, because of CARD_DECLINED: the card was declined"
        );
        let act = json!({ "act": "retry", "by": "ada", "reason": "the gateway is back" });
        assert_eq!(words(EntryKind::Operator, act), "retry by ada: the gateway is back");
        assert_eq!(in_words(EntryKind::Attempt, None), "");
    }
}
