//! What a step is: a set function inside the transaction, or a call to another system outside of any.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::DbErr;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::definition::Definition;
use super::plan::Cursor;
use super::step_transaction::StepTransaction;

/// Why a saga does not go on, in words for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Such as `OUT_OF_STOCK`.
    pub code: String,
    /// A sentence.
    pub message: String,
}

impl Failure {
    /// Makes a failure.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// What a local step says about one saga.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Its effect is in the transaction.
    Done,
    /// It cannot be done; nothing was written for this saga. Compensate.
    Refused(Failure),
    /// Not now; nothing was written for this saga.
    RetryAfter(Duration),
}

/// How a call to another system ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The effect is there; this is the answer.
    Succeeded(Value),
    /// The other system said no for good: there is no effect and never will be under this key.
    Refused(Failure),
    /// Anything else. There may be an effect.
    Unknown(String),
}

impl Outcome {
    /// Replaces what Postgres stores in no text, U+0000, by U+FFFD: what another system says is not ours to choose, and
    /// has to be written down.
    pub(super) fn into_storable(self) -> Self {
        match self {
            Self::Succeeded(answer) => Self::Succeeded(storable_json(answer)),
            Self::Refused(Failure { code, message }) => {
                Self::Refused(Failure { code: storable(&code), message: storable(&message) })
            }
            Self::Unknown(reason) => Self::Unknown(storable(&reason)),
        }
    }
}

/// Replaces U+0000 in a text.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn storable_json(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(storable(&text)),
        Value::Array(values) => values.into_iter().map(storable_json).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, value)| (storable(&name), storable_json(value))).collect()
        }
        value => value,
    }
}

/// What another system says about a call when it is asked by key.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// It has seen the key, and this is how the call ended.
    Found(Outcome),
    /// It has never seen the key: the call had no effect, unless it is still on its way.
    Absent,
}

/// A saga in the hands of a step.
#[derive(Debug, Clone)]
pub struct Saga {
    /// Its id.
    pub id: Uuid,
    /// What it works on.
    pub subject_id: Uuid,
    /// Why it compensates, if it does.
    pub failure: Option<Failure>,
    pub(super) definition: Arc<Definition>,
    pub(super) cursor: Cursor,
    pub(super) epoch: i32,
    pub(super) stuck: bool,
    pub(super) state: Value,
}

impl Saga {
    /// Returns what the saga remembers.
    ///
    /// # Errors
    /// [`StepError::State`]: the row does not hold an `S`.
    pub fn state<S: DeserializeOwned>(&self) -> Result<S, StepError> {
        S::deserialize(&self.state).map_err(StepError::State)
    }

    /// Replaces what the saga remembers.
    ///
    /// # Errors
    /// [`StepError::State`]: the value cannot be written as JSON.
    pub fn set_state(&mut self, state: &impl Serialize) -> Result<(), StepError> {
        self.state = serde_json::to_value(state).map_err(StepError::State)?;
        Ok(())
    }
}

/// Why a step could not even give a verdict. The batch is rolled back and bisected.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A statement failed.
    #[error("the database refused a statement of the step")]
    Database(#[from] DbErr),
    /// The saga's state is not what the step wrote.
    #[error("the saga's state cannot be read or written")]
    State(#[source] serde_json::Error),
    /// The step panicked.
    #[error("the step panicked: {0}")]
    Panicked(String),
    /// The step broke its contract, or found rows that cannot be.
    #[error("{0}")]
    Broken(String),
}

/// A step whose effect is in our own database.
#[async_trait]
pub trait LocalStep: Send + Sync + 'static {
    /// Works on all sagas that have reached the step, in one transaction, with statements over the whole set.
    ///
    /// Answers in the order of `sagas`. Whatever it writes commits together with the fact that it is done.
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError>;
}

/// A call about to be made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The same for each attempt of one (saga, step, direction, generation).
    pub idempotency_key: String,
    /// The frozen bytes, the same for each attempt as well.
    pub request: String,
    /// How long to wait for the answer.
    pub time_out: Duration,
}

/// One saga and the definitive outcome of its call.
#[derive(Debug)]
pub struct Settled<'a> {
    /// The saga.
    pub saga: &'a mut Saga,
    /// The answer, or the refusal.
    pub outcome: Result<&'a Value, &'a Failure>,
}

/// A step whose effect is in another system.
#[async_trait]
pub trait ExternalStep: Send + Sync + 'static {
    /// Freezes the request. Called once for each generation; what it returns is committed before it is sent.
    ///
    /// # Errors
    /// The state does not hold what the request needs.
    fn request(&self, saga: &Saga) -> Result<String, StepError>;

    /// Returns the name of the other system, for its circuit breaker.
    fn system(&self) -> &'static str;

    /// Asks the other system by key what became of an earlier attempt. Steps declared with
    /// [`Resolution::Query`](super::Resolution::Query) implement it.
    async fn look_up(&self, _call: &Call) -> Lookup {
        Lookup::Absent
    }

    /// Makes the call. No transaction is open, and the step gets no database handle.
    async fn call(&self, call: &Call) -> Outcome;

    /// Writes what definitive outcomes mean into our own books, in the transaction that ends the calls.
    async fn record(&self, tx: &StepTransaction<'_>, settled: &mut [Settled<'_>]) -> Result<(), StepError>;
}
