//! Carries out what a person decided about a saga.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Act, ActKind, Finding, Listed, Operator, WaitsFor, find};
use crate::engine::advance::{self, Decision};
use crate::engine::batch_error::BatchError;
use crate::engine::definition::{Action, Definitions, StepKind};
use crate::engine::status::Direction;
use crate::engine::step::{Failure, Outcome, StepError};

/// The code with which an abandoned saga compensates.
const ABANDONED: &str = "ABANDONED";

/// What everybody is told who sees the subject; the operator's reason is between operators.
const CALLED_OFF: &str = "it was called off";

/// Why an act is not carried out; nothing was written. The caller knows which saga.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such saga.
    #[error("there is no such saga")]
    Missing,
    /// It is over.
    #[error("it is over; nothing can be done to it any more")]
    Over,
    /// A runner has it in hand, or an answer is awaited.
    #[error("it is being worked on; try again in a moment")]
    Busy,
    /// The act does not fit where the saga is.
    #[error("it cannot be {}: {reason}", act.done())]
    NotPossible {
        /// The act.
        act: ActKind,
        /// Why not, and what could be done instead.
        reason: &'static str,
    },
    /// This program does not know the saga's definition.
    #[error("this program does not know {definition} version {version}; use one that does")]
    UnknownDefinition {
        /// The definition's name.
        definition: String,
        /// Its version.
        version: i32,
    },
    /// The step could not record the resolved outcome.
    #[error("the step cannot record this outcome")]
    Record(#[source] StepError),
    /// The database failed.
    #[error("cannot act on the saga")]
    Database(#[from] DbErr),
}

/// A saga whose lease an operator holds until the transaction ends.
#[derive(Debug)]
pub struct Taken {
    saga: Listed,
    act: Act,
}

/// Takes a saga to act on it, if the act fits where the saga is.
///
/// # Errors
/// [`ActError`]; the caller's transaction must not commit after it.
pub async fn take(
    tx: &DatabaseTransaction,
    definitions: &Definitions,
    id: Uuid,
    act: Act,
) -> Result<Taken, ActError> {
    // The lease comes before the look: what was seen without it may have moved on.
    let is_ours = lock_lease(tx, id).await?;
    let saga = find(tx, definitions, id).await?.ok_or(ActError::Missing)?;
    check(&saga, definitions, act.kind())?;
    if is_ours { Ok(Taken { saga, act }) } else { Err(ActError::Busy) }
}

impl Taken {
    /// Returns what the saga works on.
    pub fn subject_id(&self) -> Uuid {
        self.saga.subject_id
    }

    /// Carries the act out and writes it into the history. Wake the runners after the commit.
    ///
    /// # Errors
    /// [`ActError::Record`] and [`ActError::Database`]; the caller's transaction must not commit after it.
    pub async fn carry_out(
        self,
        tx: &DatabaseTransaction,
        definitions: &Definitions,
        operator: &Operator,
    ) -> Result<(), ActError> {
        let Self { saga, act } = self;
        release_lease(tx, saga.id).await?;
        let note = note(&act, operator);
        let decision = match act {
            Act::Retry => Decision::TryNow,
            Act::Resume => Decision::TryAfresh,
            Act::Abandon => Decision::Abandon(Failure::new(ABANDONED, CALLED_OFF)),
            Act::Resolve(Finding::Succeeded(answer)) => Decision::Resolve(Outcome::Succeeded(answer)),
            Act::Resolve(Finding::Refused(failure)) => Decision::Resolve(Outcome::Refused(failure)),
        };
        advance::apply_decision(tx, definitions, saga.id, decision, &note).await.map_err(
            |error| match error {
                BatchError::Database { source, .. } | BatchError::CommitLost { source, .. } => {
                    ActError::Database(source)
                }
                BatchError::Step { source, .. } => ActError::Record(source),
            },
        )
    }
}

/// Returns whether an act fits where the saga is.
///
/// # Errors
/// Why it does not.
pub fn check(saga: &Listed, definitions: &Definitions, act: ActKind) -> Result<(), ActError> {
    if saga.status.has_ended() {
        return Err(ActError::Over);
    }
    let Some(definition) = definitions.find(&saga.definition, saga.version) else {
        let (definition, version) = (saga.definition.clone(), saga.version);
        return Err(ActError::UnknownDefinition { definition, version });
    };
    let kind = definition.step(saga.step_index).map(|step| step.kind);
    let action = definition.action(saga.step_index, saga.direction);
    let is_held = saga.waits_for == WaitsFor::Person;
    let reason = match act {
        ActKind::Retry if is_held => "it is held; resume it, or resolve its outcome",
        ActKind::Retry if saga.waits_for == WaitsFor::Runner => {
            "it is ready already; the next free runner takes it"
        }
        ActKind::Resume if !is_held => "it is not held; retry it",
        ActKind::Abandon if saga.direction == Direction::Backward => "it is being undone already",
        ActKind::Abandon if kind == Some(StepKind::Retriable) => "it is past the point of no return",
        ActKind::Abandon if kind == Some(StepKind::Pivot) && saga.in_doubt => {
            "nobody knows whether the point of no return was passed; resolve that first"
        }
        ActKind::Resolve if !matches!(action, Some(Action::External(_))) => "its step calls no other system",
        // What is stuck has been refused, or cannot even be tried: a person may have seen to it by other means.
        ActKind::Resolve if !saga.in_doubt && saga.stuck_since.is_none() => {
            "no attempt of its step has ended unknown, and it is not stuck"
        }
        _ if matches!(saga.waits_for, WaitsFor::Answer(_)) => return Err(ActError::Busy),
        _ => return Ok(()),
    };
    Err(ActError::NotPossible { act, reason })
}

/// Returns the acts that fit where the saga is.
pub fn possible_acts(saga: &Listed, definitions: &Definitions) -> Vec<ActKind> {
    ActKind::ALL.into_iter().filter(|&act| check(saga, definitions, act).is_ok()).collect()
}

/// Locks the row that says what the saga waits for, as a runner would; false if somebody else has it in hand or the
/// saga waits for an answer. A held saga has no such row: its own row is the lease.
async fn lock_lease(tx: &DatabaseTransaction, id: Uuid) -> Result<bool, DbErr> {
    let locked = tx
        .query_one_raw(Statement::from_sql_and_values(
            DbBackend::Postgres,
            "WITH ready AS (SELECT FROM saga_ready WHERE saga_id = $1 FOR UPDATE SKIP LOCKED),
                  timer AS (SELECT FROM saga_timer WHERE saga_id = $1 FOR UPDATE SKIP LOCKED),
                  held AS (SELECT FROM saga WHERE id = $1 AND status = 'HELD' FOR UPDATE SKIP LOCKED)
             SELECT true AS is_ours FROM ready UNION ALL SELECT true FROM timer UNION ALL SELECT true FROM held",
            [id.into()],
        ))
        .await?;
    Ok(locked.is_some())
}

/// Deletes the locked row: the decision writes what the saga waits for next.
async fn release_lease(tx: &DatabaseTransaction, id: Uuid) -> Result<(), DbErr> {
    for sql in ["DELETE FROM saga_ready WHERE saga_id = $1", "DELETE FROM saga_timer WHERE saga_id = $1"] {
        tx.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, [id.into()])).await?;
    }
    Ok(())
}

/// What the history keeps of an act.
fn note(act: &Act, operator: &Operator) -> Json {
    let mut note = json!({ "act": act.kind().as_str(), "by": operator.name, "via": operator.via, "reason": operator.reason });
    match act {
        Act::Resolve(Finding::Succeeded(answer)) => note["answer"] = answer.clone(),
        Act::Resolve(Finding::Refused(failure)) => note["failure"] = json!(failure),
        Act::Retry | Act::Resume | Act::Abandon => {}
    }
    note
}
