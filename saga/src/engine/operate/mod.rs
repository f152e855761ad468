//! What a person can see of sagas and do to them: one implementation for the command line and for GraphQL.
//!
//! [`list()`], [`find`] and [`history()`] read; [`explain()`] says it in plain words; [`take`] and [`Taken::carry_out`] act.
//! An act takes the saga's lease like a runner does, so it never meets one in the middle of a transaction; it leaves
//! an entry in the saga's history that names who did it. Acts join the caller's transaction, so that the caller can
//! write what the act means for the subject into the same commit.
//!
//! Absent on purpose: who may act, and what a saga's subject is.

use chrono::{DateTime, Utc};
use serde_json::Value as Json;
use uuid::Uuid;

use super::status::{Direction, SagaStatus};
use super::step::Failure;

mod act;
mod explain;
mod history;
mod list;

pub use act::{ActError, Taken, check, possible_acts, take};
pub use explain::{explain, in_words};
pub use history::{Entry, EntryKind, EntryOutcome, history};
pub use list::{
    Filter, MAX_LISTED, Parked, Unknown, count, count_parked, count_unknown, find, list, step_names,
};

/// A saga as a person sees it.
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
    /// Index of the step it is at.
    pub step_index: i16,
    /// Name of that step.
    pub step: String,
    /// Which way it goes.
    pub direction: Direction,
    /// Attempts begun of that step.
    pub attempts: i32,
    /// Whether an attempt of that step ended unknown, so that it may have taken effect.
    pub in_doubt: bool,
    /// Since when it is at that step.
    pub step_since: DateTime<Utc>,
    /// Since when a person should look.
    pub stuck_since: Option<DateTime<Utc>>,
    /// When it was over.
    pub finished_at: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// The other system that gives no answers, if that is why it waits.
    pub parked_for: Option<String>,
    /// What its last attempt said, if that did not succeed.
    pub error: Option<String>,
    /// The key under which the other system knows its last call.
    pub idempotency_key: Option<String>,
    /// Why it compensates.
    pub failure: Option<Failure>,
    /// The database's clock when all this was true.
    pub now: DateTime<Utc>,
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
    /// Say how a call ended whose outcome is unknown or that is stuck, on evidence. That a stuck one succeeded means that
    /// its effect is there by other means.
    Resolve(Finding),
}

/// How a call ended, as a person found out.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// The effect is there; this is what the other system answered, or would have.
    Succeeded(Json),
    /// There is no effect, and there never will be under this key.
    Refused(Failure),
}

/// Which act, whatever its particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActKind {
    /// [`Act::Retry`].
    Retry,
    /// [`Act::Resume`].
    Resume,
    /// [`Act::Abandon`].
    Abandon,
    /// [`Act::Resolve`].
    Resolve,
}

impl Act {
    /// Returns which act it is.
    pub fn kind(&self) -> ActKind {
        match self {
            Self::Retry => ActKind::Retry,
            Self::Resume => ActKind::Resume,
            Self::Abandon => ActKind::Abandon,
            Self::Resolve(_) => ActKind::Resolve,
        }
    }
}

impl ActKind {
    /// Every act.
    pub const ALL: [Self; 4] = [Self::Retry, Self::Resume, Self::Abandon, Self::Resolve];

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Resume => "resume",
            Self::Abandon => "abandon",
            Self::Resolve => "resolve",
        }
    }

    /// Returns the word for what has been done.
    pub fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Resume => "resumed",
            Self::Abandon => "abandoned",
            Self::Resolve => "resolved",
        }
    }
}

/// Who acts, and why.
#[derive(Debug, Clone)]
pub struct Operator {
    /// A name that the history keeps, as they gave it.
    pub name: String,
    /// What they came in with, which nobody can choose: the app and its key, or the command line.
    pub via: String,
    /// The reason, or the evidence.
    pub reason: String,
}

#[cfg(test)]
mod tests;
