//! What a person can see of sagas and do to them: one implementation for the command line and for GraphQL.
//!
//! An act takes the saga's lease like a runner does, so it never meets one in the middle of a transaction; it leaves
//! an entry in the saga's history that names who did it. Acts join the caller's transaction, so that the caller can
//! write what the act means for the subject into the same commit.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, FromQueryResult, Statement};
use serde_json::Value as Json;
use uuid::Uuid;

use super::definition::Definitions;
use super::status::{Direction, SagaStatus};
use super::step::{Failure, Outcome};

mod act;
mod explain;

pub use act::{ActError, act};
pub use explain::explain;

/// The most sagas that one list returns.
pub const MAX_LISTED: u64 = 1_000;

/// Which sagas.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these.
    pub ids: Option<Vec<Uuid>>,
    /// Only those that stand like this.
    pub status: Option<SagaStatus>,
    /// Only those that a person should look at.
    pub stuck: bool,
    /// Only those at the step of this name.
    pub step: Option<String>,
    /// Only those that have been at their step for at least this long.
    pub older_than: Option<Duration>,
    /// Only those whose last attempt that did not succeed said something that contains this.
    pub error_contains: Option<String>,
    /// Also those that are over.
    pub include_ended: bool,
}

/// A saga as a list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its id.
    pub id: Uuid,
    /// What it works on.
    pub subject_id: Uuid,
    /// Name of its definition.
    pub definition: String,
    /// Version of its definition.
    pub version: i32,
    /// How it stands.
    pub status: SagaStatus,
    /// Name of the step it is at.
    pub step: String,
    /// Which way it goes.
    pub direction: Direction,
    /// Attempts begun of that step.
    pub attempt: i32,
    /// Since when it is at that step.
    pub step_since: DateTime<Utc>,
    /// Since when a person should look.
    pub stuck_since: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// What the last attempt that did not succeed said.
    pub last_error: Option<String>,
    /// Why it compensates.
    pub failure: Option<Failure>,
    row: Row,
}

/// What a saga waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    /// A runner.
    Runner,
    /// A time.
    Time(DateTime<Utc>),
    /// An answer, until this deadline.
    Answer(DateTime<Utc>),
    /// A person.
    Person,
    /// Nothing: it is over.
    Nothing,
}

/// What a person can do to a saga.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Try again now instead of when the timer is due.
    Retry,
    /// Let a held saga try again with the same key: the person vouches that this is still safe.
    Resume,
    /// Give up and undo what may have been done.
    Abandon,
    /// Say how an attempt of unknown outcome ended, on evidence.
    Resolve(Outcome),
}

impl Act {
    /// Returns the word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resume => "resume",
            Self::Abandon => "abandon",
            Self::Resolve(_) => "resolve",
        }
    }
}

/// Who acts, and why.
#[derive(Debug, Clone)]
pub struct Operator {
    /// A name that the history keeps.
    pub name: String,
    /// The reason, or the evidence.
    pub reason: String,
}

#[derive(Debug, Clone, FromQueryResult)]
struct Row {
    id: Uuid,
    subject_id: Uuid,
    definition: String,
    version: i32,
    status: SagaStatus,
    step: i16,
    direction: Direction,
    attempt: i32,
    in_doubt: bool,
    step_since: DateTime<Utc>,
    stuck_since: Option<DateTime<Utc>>,
    failure: Option<Json>,
    is_ready: bool,
    due_at: Option<DateTime<Utc>>,
    deadline: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

/// Lists sagas, the oldest first, up to [`MAX_LISTED`].
///
/// Sagas that are over are looked at only when asked for, and then by id: the tables hold every saga there ever was,
/// and the list of those on their way is read from what they wait for.
///
/// # Errors
/// Any error of the database.
pub async fn list(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
    filter: &Filter,
    limit: u64,
) -> Result<Vec<Listed>, DbErr> {
    use sea_orm::ActiveEnum;
    let places: Vec<(String, i32, i16)> =
        filter.step.as_deref().map(|name| places_of(definitions, name)).unwrap_or_default();
    let values = [
        filter.ids.clone().unwrap_or_default().into(),
        filter.ids.is_some().into(),
        filter.status.map(|status| status.to_value()).unwrap_or_default().into(),
        filter.stuck.into(),
        filter.step.is_some().into(),
        places.iter().map(|(name, ..)| name.clone()).collect::<Vec<_>>().into(),
        places.iter().map(|(_, version, _)| *version).collect::<Vec<_>>().into(),
        places.iter().map(|(.., step)| *step).collect::<Vec<_>>().into(),
        i64::try_from(filter.older_than.unwrap_or_default().as_millis()).unwrap_or(i64::MAX).into(),
        filter.error_contains.clone().unwrap_or_default().into(),
        filter.include_ended.into(),
        limit.min(MAX_LISTED).into(),
    ];
    let rows = Row::find_by_statement(Statement::from_sql_and_values(DbBackend::Postgres, LIST, values));
    Ok(rows.all(db).await?.into_iter().map(|row| describe(row, definitions)).collect())
}

/// Reads one saga, whether it is over or not.
///
/// # Errors
/// Any error of the database.
pub async fn find(
    db: &impl ConnectionTrait,
    definitions: &Definitions,
    id: Uuid,
) -> Result<Option<Listed>, DbErr> {
    let filter = Filter { ids: Some(vec![id]), include_ended: true, ..Filter::default() };
    Ok(list(db, definitions, &filter, 1).await?.pop())
}

const LIST: &str = "
SELECT saga.id, saga.subject_id, saga.definition, saga.version, saga.status, saga.step, saga.direction, saga.attempt,
       saga.in_doubt, saga.step_since, saga.stuck_since, saga.failure,
       ready.saga_id IS NOT NULL AS is_ready, timer.due_at, call.deadline, last.error AS last_error
FROM saga
LEFT JOIN saga_ready AS ready ON ready.saga_id = saga.id
LEFT JOIN saga_timer AS timer ON timer.saga_id = saga.id
LEFT JOIN saga_call AS call ON call.saga_id = saga.id
LEFT JOIN LATERAL (
    SELECT coalesce(detail ->> 'message', detail ->> 'reason') AS error
    FROM saga_log
    WHERE saga_log.saga_id = saga.id AND kind = 'ATTEMPT' AND outcome <> 'SUCCEEDED'
    ORDER BY epoch DESC LIMIT 1
) AS last ON true
WHERE (NOT $2 OR saga.id = ANY($1))
  AND ($3 = '' OR saga.status = $3)
  AND (NOT $4 OR saga.stuck_since IS NOT NULL)
  AND (NOT $5 OR (saga.definition, saga.version, saga.step) IN
                 (SELECT * FROM unnest($6::text[], $7::integer[], $8::smallint[])))
  AND saga.step_since <= now() - $9 * interval '1 millisecond'
  AND ($10 = '' OR strpos(last.error, $10) > 0)
  AND ($11 OR saga.finished_at IS NULL)
ORDER BY saga.id
LIMIT $12";

fn places_of(definitions: &Definitions, name: &str) -> Vec<(String, i32, i16)> {
    let mut places = Vec::new();
    for definition in definitions.iter() {
        for (index, step) in definition.steps.iter().enumerate() {
            if step.name == name {
                let index = i16::try_from(index).unwrap_or(i16::MAX);
                places.push((definition.name.to_owned(), definition.version, index));
            }
        }
    }
    places
}

fn describe(row: Row, definitions: &Definitions) -> Listed {
    let definition = definitions.find(&row.definition, row.version);
    let step =
        definition.map_or_else(|| format!("step {}", row.step), |found| found.step_name(row.step).to_owned());
    let waits_for = match (row.status, row.is_ready, row.due_at, row.deadline) {
        (status, ..) if status.has_ended() => WaitsFor::Nothing,
        (_, true, ..) => WaitsFor::Runner,
        (_, _, Some(due_at), _) => WaitsFor::Time(due_at),
        (_, _, _, Some(deadline)) => WaitsFor::Answer(deadline),
        _ => WaitsFor::Person,
    };
    Listed {
        id: row.id,
        subject_id: row.subject_id,
        definition: row.definition.clone(),
        version: row.version,
        status: row.status,
        step,
        direction: row.direction,
        attempt: row.attempt,
        step_since: row.step_since,
        stuck_since: row.stuck_since,
        waits_for,
        last_error: row.last_error.clone(),
        failure: row.failure.clone().and_then(|failure| serde_json::from_value(failure).ok()),
        row,
    }
}

/// Reads one saga inside an act's transaction.
async fn find_in(
    tx: &DatabaseTransaction,
    definitions: &Definitions,
    id: Uuid,
) -> Result<Option<Listed>, DbErr> {
    find(tx, definitions, id).await
}
