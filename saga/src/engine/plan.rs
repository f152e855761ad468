//! Decides what a saga does next.
//!
//! Everything here is a pure function of the definition, where the saga is, how its last attempt ended, and the time;
//! the [runner](super::runner) carries the decision out. Keeping the two apart lets the tests walk through every way
//! in which a saga can go without a database.
//!
//! Absent on purpose: no I/O, no logging, no jitter, no knowledge of any particular saga.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::definition::{Action, CONCLUSION, Definition, Resolution, StepKind};
use super::status::{Direction, SagaStatus};
use super::step::{Failure, Outcome, Verdict};

/// Where a saga is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the step to be done or undone; [`CONCLUSION`] once everything was undone.
    pub step: i16,
    /// Which way.
    pub direction: Direction,
    /// Attempts begun of this step, direction and generation.
    pub attempt: u32,
    /// Part of the idempotency key; grows only after a definitive refusal.
    pub generation: u32,
    /// Whether an attempt of this step and direction ended unknown, so that it may have taken effect.
    pub in_doubt: bool,
    /// When the saga arrived here.
    pub since: DateTime<Utc>,
}

impl Cursor {
    /// Returns the place at which a saga arrives when it comes to a step.
    pub fn at(step: i16, direction: Direction, now: DateTime<Utc>) -> Self {
        Self { step, direction, attempt: 0, generation: 1, in_doubt: false, since: now }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// With its effect.
    Succeeded,
    /// Without effect, for good.
    Refused(Failure),
    /// Nobody knows: there may be an effect in another system.
    Unknown(String),
    /// Without effect, because the step itself could not run or asked to wait.
    Postponed {
        /// How long to wait, where the step said so; `None` where it could not run.
        delay: Option<Duration>,
        /// What was the matter.
        reason: String,
    },
}

impl From<Verdict> for Ended {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Done => Self::Succeeded,
            Verdict::Refused(failure) => Self::Refused(failure),
            Verdict::RetryAfter(delay) => {
                Self::Postponed { delay: Some(delay), reason: "the step asked to wait".to_owned() }
            }
        }
    }
}

impl From<&Outcome> for Ended {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Succeeded(_) => Self::Succeeded,
            Outcome::Refused(failure) => Self::Refused(failure.clone()),
            Outcome::Unknown(reason) => Self::Unknown(reason.clone()),
        }
    }
}

/// What a saga does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Takes this step now.
    Step(Cursor),
    /// Tries again later.
    Retry {
        /// Where it is, the ended attempt counted.
        cursor: Cursor,
        /// The wait: as the step asked, or the longest of a wait that is to be jittered.
        wait: Wait,
        /// Whether a person should look meanwhile.
        stuck: bool,
    },
    /// Turns round and undoes what may have been done.
    Compensate {
        /// The first step to undo, or the conclusion.
        cursor: Cursor,
        /// Every step that will be undone, in that order.
        plan: Vec<i16>,
        /// Why.
        failure: Failure,
    },
    /// Is over.
    End(SagaStatus),
    /// Waits for a person: another attempt could take effect a second time.
    Hold(Cursor),
}

/// How long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Exactly this long.
    Exactly(Duration),
    /// Anything up to this long.
    UpTo(Duration),
}

/// Decides what a saga does after the attempt at `cursor` (which counts that attempt) ended.
pub fn next(definition: &Definition, cursor: Cursor, ended: Ended, now: DateTime<Utc>) -> Next {
    match cursor.direction {
        Direction::Forward => next_forward(definition, cursor, ended, now),
        Direction::Backward => next_backward(definition, cursor, ended, now),
    }
}

fn next_forward(definition: &Definition, mut cursor: Cursor, ended: Ended, now: DateTime<Utc>) -> Next {
    let Some(step) = definition.step(cursor.step) else { return Next::End(SagaStatus::Succeeded) };
    match ended {
        Ended::Succeeded => match definition.step(cursor.step + 1) {
            Some(_) => Next::Step(Cursor::at(cursor.step + 1, Direction::Forward, now)),
            None => Next::End(SagaStatus::Succeeded),
        },
        // After the pivot there is no way back: what was refused is tried again, and a person is told.
        Ended::Refused(_) if step.kind == StepKind::Retriable => retry(
            definition,
            Cursor { attempt: 0, generation: cursor.generation + 1, in_doubt: false, ..cursor },
            None,
            true,
        ),
        Ended::Refused(failure) => compensate(definition, cursor, failure, now),
        Ended::Unknown(_) => {
            cursor.in_doubt = true;
            match step.on_unknown {
                Resolution::Hold => Next::Hold(cursor),
                Resolution::Repeat | Resolution::Query => after_failure(definition, cursor, None, now),
            }
        }
        Ended::Postponed { delay: Some(delay), .. } => after_failure(definition, cursor, Some(delay), now),
        // That a step cannot run is a fault of ours, and says nothing about what it is to do: a person is told, and
        // may abandon the saga; whoever mends the step has it carried on.
        Ended::Postponed { delay: None, .. } => {
            retry(definition, cursor, None, needs_person(definition, &cursor))
        }
    }
}

/// A forward attempt failed without a definitive answer: try again, or give up as far as the step's kind allows.
fn after_failure(
    definition: &Definition,
    cursor: Cursor,
    delay: Option<Duration>,
    now: DateTime<Utc>,
) -> Next {
    let Some(step) = definition.step(cursor.step) else { return Next::Hold(cursor) };
    if cursor.attempt < step.retry.max_attempts {
        return retry(definition, cursor, delay, needs_person(definition, &cursor));
    }
    match step.kind {
        StepKind::Compensable => compensate(definition, cursor, step.exhausted.clone(), now),
        // A pivot that nothing is known of to have happened can still be given up.
        StepKind::Pivot if !cursor.in_doubt => compensate(definition, cursor, step.exhausted.clone(), now),
        StepKind::Pivot | StepKind::Retriable if may_be_forgotten(definition, &cursor, now) => {
            Next::Hold(cursor)
        }
        StepKind::Pivot | StepKind::Retriable => retry(definition, cursor, delay, true),
    }
}

fn next_backward(definition: &Definition, mut cursor: Cursor, ended: Ended, now: DateTime<Utc>) -> Next {
    match ended {
        Ended::Succeeded if cursor.step == CONCLUSION => Next::End(SagaStatus::Compensated),
        Ended::Succeeded => {
            let below = undo_plan(definition, cursor.step - 1).first().copied().unwrap_or(CONCLUSION);
            Next::Step(Cursor::at(below, Direction::Backward, now))
        }
        // The key of a refused undo is spent: the next attempt takes a fresh one, and a person is told.
        Ended::Refused(_) => retry(
            definition,
            Cursor { attempt: 0, generation: cursor.generation + 1, in_doubt: false, ..cursor },
            None,
            true,
        ),
        Ended::Unknown(_) => {
            cursor.in_doubt = true;
            retry(definition, cursor, None, needs_person(definition, &cursor))
        }
        Ended::Postponed { delay, .. } => retry(definition, cursor, delay, needs_person(definition, &cursor)),
    }
}

/// Returns whether a person should look at what does not give up: it has failed often, or was refused before.
fn needs_person(definition: &Definition, cursor: &Cursor) -> bool {
    cursor.generation > 1 || cursor.attempt >= definition.retry(cursor.step).max_attempts
}

/// Decides what a saga does instead of making a call again that may have taken effect, if the other system may have
/// forgotten its key: `None` if the call may be made. Whoever has the attempts counted afresh vouches for the next one.
///
/// An undo is made again without end: it has to be safe to repeat under whatever key.
pub fn instead_of_call(definition: &Definition, cursor: Cursor, now: DateTime<Utc>) -> Option<Next> {
    let is_repetition = cursor.attempt > 0 && cursor.in_doubt && cursor.direction == Direction::Forward;
    if !is_repetition || !may_be_forgotten(definition, &cursor, now) {
        return None;
    }
    let step = definition.step(cursor.step)?;
    Some(match step.kind {
        StepKind::Compensable => compensate(definition, cursor, step.exhausted.clone(), now),
        StepKind::Pivot | StepKind::Retriable => Next::Hold(cursor),
    })
}

/// Decides what a saga does that a person gives up, though no attempt has failed for good.
pub fn abandon(definition: &Definition, cursor: Cursor, failure: Failure, now: DateTime<Utc>) -> Next {
    compensate(definition, cursor, failure, now)
}

fn retry(definition: &Definition, cursor: Cursor, delay: Option<Duration>, stuck: bool) -> Next {
    // Each generation before this one was ended by a refusal. Without them, what is refused again and again would be
    // asked for without end at the shortest wait.
    let failures = cursor.attempt.saturating_add(cursor.generation.saturating_sub(1));
    let longest = definition.retry(cursor.step).longest_wait(failures.max(1));
    let wait = delay.map_or(Wait::UpTo(longest), Wait::Exactly);
    Next::Retry { cursor, wait, stuck }
}

fn compensate(definition: &Definition, cursor: Cursor, failure: Failure, now: DateTime<Utc>) -> Next {
    // The failed step is undone too, unless it is certain that it took no effect.
    let from = if cursor.in_doubt { cursor.step } else { cursor.step - 1 };
    let plan = undo_plan(definition, from);
    let first = plan.first().copied().unwrap_or(CONCLUSION);
    Next::Compensate { cursor: Cursor::at(first, Direction::Backward, now), plan, failure }
}

/// Returns the steps from `from` down to the first that have something to undo.
fn undo_plan(definition: &Definition, from: i16) -> Vec<i16> {
    (0..=from).rev().filter(|&step| definition.action(step, Direction::Backward).is_some()).collect()
}

/// Returns whether the other system may have forgotten the key, so that repeating the call could do it twice.
fn may_be_forgotten(definition: &Definition, cursor: &Cursor, now: DateTime<Utc>) -> bool {
    let Some(step) = definition.step(cursor.step) else { return false };
    if matches!(step.forward, Action::Local(_)) {
        return false;
    }
    let age = (now - cursor.since).to_std().unwrap_or(Duration::ZERO);
    age >= definition.longest_repetition(step)
}

#[cfg(test)]
pub(super) mod tests;
