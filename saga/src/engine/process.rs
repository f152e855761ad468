//! Says where a saga is, from its row, its open call and its history.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};
use serde_json::Value as Json;
use uuid::Uuid;

use super::definition::Definitions;
use super::status::{Direction, SagaStatus};

/// Where a saga is.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// Where it stands as a whole.
    pub state: SagaStatus,
    /// The step it is at, if it is not over.
    pub current_step: Option<String>,
    /// Whether a person should look.
    pub stuck: bool,
    /// Its steps, in the order of the definition.
    pub steps: Vec<StepProgress>,
}

/// Where one step is.
#[derive(Debug, Clone, PartialEq)]
pub struct StepProgress {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub status: StepStatus,
    /// Attempts begun, those of its undo not counted.
    pub attempts: i32,
    /// When its first attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done, or last failed, or was undone.
    pub finished_at: Option<DateTime<Utc>>,
    /// What callers are told of the last attempt that did not succeed.
    pub message: Option<String>,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStatus {
    /// Its turn has not come.
    Waiting,
    /// It is being done.
    Running,
    /// An attempt did not succeed; another follows.
    Retrying,
    /// It is done.
    Succeeded,
    /// It will not be done.
    Failed,
    /// It is being undone.
    Compensating,
    /// It was undone.
    Compensated,
    /// Its turn will not come.
    Skipped,
}

#[derive(FromQueryResult)]
struct SagaRow {
    id: Uuid,
    definition: String,
    version: i32,
    status: SagaStatus,
    step: i16,
    direction: Direction,
    attempt: i32,
    stuck: bool,
    call_started_at: Option<DateTime<Utc>>,
}

#[derive(FromQueryResult)]
struct AttemptRow {
    saga_id: Uuid,
    step: String,
    direction: Direction,
    /// Whether it was an attempt; if not, an operator said how one had ended.
    is_attempt: bool,
    outcome: String,
    detail: Option<Json>,
    started_at: DateTime<Utc>,
    finished_at: DateTime<Utc>,
}

/// Reads where these sagas are; unknown ones are missing. Of a saga whose definition is not known here, as during a rolling
/// deploy, only those steps are told that its history names.
///
/// # Errors
/// Any error of the database.
pub async fn load(
    db: &impl ConnectionTrait,
    saga_ids: Vec<Uuid>,
    definitions: &Definitions,
) -> Result<HashMap<Uuid, Process>, DbErr> {
    let query =
        |sql: &str| Statement::from_sql_and_values(DbBackend::Postgres, sql, [saga_ids.clone().into()]);
    let sagas = SagaRow::find_by_statement(query(
        "SELECT saga.id, saga.definition, saga.version, saga.status, saga.step, saga.direction, saga.attempt, saga.stuck_since IS NOT NULL AS stuck,
                call.started_at AS call_started_at
         FROM saga LEFT JOIN saga_call AS call ON call.saga_id = saga.id WHERE saga.id = ANY($1)",
    ))
    .all(db)
    .await?;
    let attempts = AttemptRow::find_by_statement(query(
        "SELECT saga_id, step, direction, kind = 'ATTEMPT' AS is_attempt, outcome, detail, started_at, finished_at
         FROM saga_log
         WHERE saga_id = ANY($1)
           AND (kind = 'ATTEMPT' OR kind = 'OPERATOR' AND outcome IN ('SUCCEEDED', 'REFUSED'))
         ORDER BY saga_id, epoch",
    ))
    .all(db)
    .await?;
    let mut history: HashMap<Uuid, Vec<AttemptRow>> = HashMap::new();
    for attempt in attempts {
        history.entry(attempt.saga_id).or_default().push(attempt);
    }
    Ok(sagas
        .into_iter()
        .map(|saga| {
            let attempts = history.remove(&saga.id).unwrap_or_default();
            let known = definitions.find(&saga.definition, saga.version);
            let steps = known.map_or_else(
                || steps_of_history(&attempts),
                |definition| definition.steps.iter().map(|step| step.name).collect(),
            );
            (saga.id, describe(&saga, &attempts, &steps))
        })
        .collect())
}

/// Returns the names of the steps that were tried forward, in the order in which they were first.
fn steps_of_history(attempts: &[AttemptRow]) -> Vec<&str> {
    let mut steps: Vec<&str> = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.direction == Direction::Forward) {
        if !steps.contains(&attempt.step.as_str()) {
            steps.push(&attempt.step);
        }
    }
    steps
}

fn describe(saga: &SagaRow, attempts: &[AttemptRow], steps: &[&str]) -> Process {
    let current = usize::try_from(saga.step).ok();
    Process {
        state: saga.status,
        current_step: current
            .filter(|_| !saga.status.has_ended())
            .and_then(|index| steps.get(index))
            .map(|&name| name.to_owned()),
        stuck: saga.stuck,
        steps: steps
            .iter()
            .enumerate()
            .map(|(index, &name)| {
                let of_step: Vec<&AttemptRow> =
                    attempts.iter().filter(|attempt| attempt.step == name).collect();
                describe_step(saga, index, name, &of_step)
            })
            .collect(),
    }
}

fn describe_step(saga: &SagaRow, index: usize, name: &str, attempts: &[&AttemptRow]) -> StepProgress {
    let is_current = usize::try_from(saga.step) == Ok(index) && !saga.status.has_ended();
    let forward: Vec<&&AttemptRow> =
        attempts.iter().filter(|attempt| attempt.direction == Direction::Forward).collect();
    let made = forward.iter().filter(|attempt| attempt.is_attempt).count();
    let running = is_current && saga.direction == Direction::Forward && saga.call_started_at.is_some();
    let failed = attempts.iter().rev().find(|attempt| attempt.outcome != "SUCCEEDED");
    let status = step_status(saga, is_current, running, attempts);
    StepProgress {
        name: name.to_owned(),
        status,
        attempts: i32::try_from(made).unwrap_or(i32::MAX) + i32::from(running),
        started_at: forward
            .first()
            .map(|first| first.started_at)
            .or(saga.call_started_at.filter(|_| running)),
        finished_at: attempts.last().map(|last| last.finished_at).filter(|_| {
            !matches!(status, StepStatus::Running | StepStatus::Retrying | StepStatus::Compensating)
        }),
        message: failed.and_then(|attempt| message(attempt)),
    }
}

fn step_status(saga: &SagaRow, is_current: bool, running: bool, attempts: &[&AttemptRow]) -> StepStatus {
    let last_of = |direction| {
        attempts
            .iter()
            .rev()
            .find(|attempt| attempt.direction == direction)
            .map(|attempt| attempt.outcome.as_str())
    };
    let (forward, backward) = (last_of(Direction::Forward), last_of(Direction::Backward));
    match saga.direction {
        Direction::Forward if is_current => match saga.attempt {
            _ if running => StepStatus::Running,
            0 => StepStatus::Waiting,
            _ => StepStatus::Retrying,
        },
        Direction::Backward if is_current => StepStatus::Compensating,
        _ if backward == Some("SUCCEEDED") => StepStatus::Compensated,
        _ => match forward {
            Some("SUCCEEDED") => StepStatus::Succeeded,
            Some(_) => StepStatus::Failed,
            None if saga.direction == Direction::Backward => StepStatus::Skipped,
            None => StepStatus::Waiting,
        },
    }
}

/// What callers are told of an attempt whose step could not run: the cause names our tables, and is for operators.
const POSTPONED: &str = "it could not be done yet; it is tried again";

/// What callers are told of an attempt that ended unknown: the reason is the text of a panic or of a client, which may name
/// addresses, and is for operators.
const UNKNOWN: &str = "it is not known how the last attempt ended";

fn message(attempt: &AttemptRow) -> Option<String> {
    match attempt.outcome.as_str() {
        "RETRY" => return Some(POSTPONED.to_owned()),
        "UNKNOWN" => return Some(UNKNOWN.to_owned()),
        _ => {}
    }
    let detail = attempt.detail.as_ref()?;
    // A refusal that an operator found out has its message one level further in. What else an operator has to say is
    // between operators; what was found out is for everybody.
    let said = detail.get("failure").unwrap_or(detail);
    said.get("message")?.as_str().map(str::to_owned)
}
