//! Carries out what a person decided about a saga.

use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, Statement};
use serde_json::json;
use uuid::Uuid;

use super::{Act, Listed, Operator, WaitsFor, find_in};
use crate::engine::advance::{self, Decision};
use crate::engine::batch::BatchError;
use crate::engine::definition::{Action, Definitions, StepKind};
use crate::engine::status::Direction;
use crate::engine::step::{Failure, Outcome, StepError};

/// Why an act is not carried out; nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// There is no such saga.
    #[error("there is no saga {id}")]
    Unknown {
        /// The id.
        id: Uuid,
    },
    /// It is over.
    #[error("saga {id} is over")]
    Over {
        /// The id.
        id: Uuid,
    },
    /// A runner has it in hand, or an answer is awaited.
    #[error("saga {id} is being worked on; try again in a moment")]
    Busy {
        /// The id.
        id: Uuid,
    },
    /// The act does not fit where the saga is.
    #[error("saga {id} cannot be told to {act}: {reason}")]
    NotNow {
        /// The id.
        id: Uuid,
        /// The act.
        act: &'static str,
        /// Why not, and what could be done instead.
        reason: &'static str,
    },
    /// This program does not know the saga's definition.
    #[error("this program does not know the definition of saga {id}")]
    UnknownDefinition {
        /// The id.
        id: Uuid,
    },
    /// The step could not record the resolved outcome.
    #[error("the outcome of saga {id} cannot be recorded")]
    Record {
        /// The id.
        id: Uuid,
        /// What the step said.
        #[source]
        source: StepError,
    },
    /// The database failed.
    #[error("cannot act on saga {id}")]
    Database {
        /// The id.
        id: Uuid,
        /// What it said.
        #[source]
        source: DbErr,
    },
}

/// Acts on one saga in the caller's transaction and returns what it works on. Wake the runners after the commit.
///
/// # Errors
/// [`ActError`]; the caller's transaction must not commit after it.
pub async fn act(
    tx: &DatabaseTransaction,
    definitions: &Definitions,
    id: Uuid,
    act: &Act,
    operator: &Operator,
) -> Result<Uuid, ActError> {
    let database = |source| ActError::Database { id, source };
    let saga = find_in(tx, definitions, id).await.map_err(database)?.ok_or(ActError::Unknown { id })?;
    check(&saga, definitions, act)?;
    if !take_lease(tx, &saga).await.map_err(database)? {
        return Err(ActError::Busy { id });
    }
    let decision = decide(act, operator);
    let note = json!({ "act": act.name(), "by": operator.name, "reason": operator.reason });
    advance::apply_decision(tx, definitions, id, decision, &note).await.map_err(|error| match error {
        BatchError::Database { source, .. } | BatchError::CommitLost { source, .. } => {
            ActError::Database { id, source }
        }
        BatchError::Step { source, .. } => ActError::Record { id, source },
    })?;
    Ok(saga.subject_id)
}

/// Refuses acts that do not fit where the saga is.
fn check(saga: &Listed, definitions: &Definitions, act: &Act) -> Result<(), ActError> {
    let id = saga.id;
    let not_now = |reason| Err(ActError::NotNow { id, act: act.name(), reason });
    let Some(definition) = definitions.find(&saga.definition, saga.version) else {
        return Err(ActError::UnknownDefinition { id });
    };
    match saga.waits_for {
        WaitsFor::Nothing => return Err(ActError::Over { id }),
        WaitsFor::Answer(_) => return Err(ActError::Busy { id }),
        _ => {}
    }
    let step = definition.step(saga.row.step);
    let is_pivot = step.is_some_and(|step| step.kind == StepKind::Pivot);
    match act {
        Act::Retry if saga.waits_for == WaitsFor::Person => {
            not_now("it is held; resume it, or resolve its outcome")
        }
        Act::Resume if saga.waits_for != WaitsFor::Person => not_now("it is not held; retry it"),
        Act::Abandon if saga.direction == Direction::Backward => not_now("it is being undone already"),
        Act::Abandon if step.is_some_and(|step| step.kind == StepKind::Retriable) => {
            not_now("it is past the point of no return")
        }
        Act::Abandon if is_pivot && saga.row.in_doubt => {
            not_now("nobody knows whether its pivot took effect; resolve that first")
        }
        Act::Resolve(_) if !saga.row.in_doubt => not_now("no attempt of its step has ended unknown"),
        Act::Resolve(Outcome::Unknown(_)) => not_now("give the outcome as succeeded or refused"),
        Act::Resolve(_)
            if !matches!(definition.action(saga.row.step, saga.direction), Some(Action::External(_))) =>
        {
            not_now("its step calls no other system")
        }
        _ => Ok(()),
    }
}

/// Deletes the row that says what the saga waits for, as a runner would; false if somebody else has it in hand.
async fn take_lease(tx: &DatabaseTransaction, saga: &Listed) -> Result<bool, DbErr> {
    let sql = match saga.waits_for {
        WaitsFor::Runner => {
            "DELETE FROM saga_ready WHERE saga_id IN
                 (SELECT saga_id FROM saga_ready WHERE saga_id = $1 FOR UPDATE SKIP LOCKED)"
        }
        WaitsFor::Time(_) => {
            "DELETE FROM saga_timer WHERE saga_id IN
                 (SELECT saga_id FROM saga_timer WHERE saga_id = $1 FOR UPDATE SKIP LOCKED)"
        }
        // A held saga has no such row: its own row is the lease.
        WaitsFor::Person => {
            "UPDATE saga SET updated_at = now() WHERE id IN
                 (SELECT id FROM saga WHERE id = $1 AND status = 'HELD' FOR UPDATE SKIP LOCKED)"
        }
        WaitsFor::Answer(_) | WaitsFor::Nothing => return Ok(false),
    };
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [saga.id.into()]);
    Ok(tx.execute_raw(statement).await?.rows_affected() == 1)
}

fn decide(act: &Act, operator: &Operator) -> Decision {
    match act {
        Act::Retry | Act::Resume => Decision::TryAgain,
        Act::Abandon => {
            let message = format!("abandoned by {}: {}", operator.name, operator.reason);
            Decision::Abandon(Failure::new("ABANDONED", message))
        }
        Act::Resolve(outcome) => Decision::Resolve(outcome.clone()),
    }
}
