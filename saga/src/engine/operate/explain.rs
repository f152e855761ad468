//! Says in plain words where a saga is, why, and what happens next and when.

use chrono::{DateTime, Utc};

use super::{Listed, WaitsFor};
use crate::engine::definition::{Action, Definitions, StepKind};
use crate::engine::status::{Direction, SagaStatus};

/// Explains a saga, one sentence for each line.
pub fn explain(saga: &Listed, definitions: &Definitions, now: DateTime<Utc>) -> Vec<String> {
    let mut lines = vec![where_it_is(saga, now)];
    lines.extend(why(saga));
    lines.extend(what_next(saga, now));
    lines.extend(what_to_do(saga, definitions));
    lines
}

fn where_it_is(saga: &Listed, now: DateTime<Utc>) -> String {
    let age = in_words(now - saga.step_since);
    let step = &saga.step;
    match (saga.status, saga.direction) {
        (SagaStatus::Succeeded, _) => "It is over: every step succeeded.".to_owned(),
        (SagaStatus::Compensated, _) => "It is over: whatever had been done was undone.".to_owned(),
        (SagaStatus::Held, _) => format!("It is held at {step}, and has been there for {age}."),
        (_, Direction::Forward) => format!("It is at {step}, for {age}, attempt {}.", saga.attempt),
        (_, Direction::Backward) => format!("It is undoing {step}, for {age}, attempt {}.", saga.attempt),
    }
}

fn why(saga: &Listed) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(failure) = &saga.failure {
        lines.push(format!("It turned round because of {}: {}.", failure.code, failure.message));
    }
    if let Some(error) = &saga.last_error {
        lines.push(format!("The last attempt that did not succeed said: {error}."));
    }
    if saga.row.in_doubt && !saga.status.has_ended() {
        lines
            .push("An attempt ended unknown: the step may have taken effect in the other system.".to_owned());
    }
    lines
}

fn what_next(saga: &Listed, now: DateTime<Utc>) -> Vec<String> {
    let mut lines = Vec::new();
    match saga.waits_for {
        WaitsFor::Runner => lines.push("Next: a runner takes it, at once if one is running.".to_owned()),
        WaitsFor::Time(due_at) => {
            lines.push(format!("Next: it is tried again in {}.", in_words(due_at - now)))
        }
        WaitsFor::Answer(deadline) => lines.push(format!(
            "Next: the other system answers, or the call is given up in {}.",
            in_words(deadline - now)
        )),
        WaitsFor::Person => lines.push("Next: nothing, until a person decides.".to_owned()),
        WaitsFor::Nothing => {}
    }
    if let (Some(since), false) = (saga.stuck_since, saga.status == SagaStatus::Held) {
        lines.push(format!(
            "It has been stuck for {}: it keeps trying, and a person should look.",
            in_words(now - since)
        ));
    }
    lines
}

fn what_to_do(saga: &Listed, definitions: &Definitions) -> Vec<String> {
    let Some(definition) = definitions.find(&saga.definition, saga.version) else {
        return vec![format!(
            "This program does not know {} version {}; run one that does.",
            saga.definition, saga.version
        )];
    };
    let may_abandon = saga.direction == Direction::Forward
        && definition.step(saga.row.step).is_some_and(|step| step.kind != StepKind::Retriable)
        && !(saga.row.in_doubt
            && definition.step(saga.row.step).is_some_and(|step| step.kind == StepKind::Pivot));
    let is_call = matches!(definition.action(saga.row.step, saga.direction), Some(Action::External(_)));
    let mut acts = Vec::new();
    match saga.waits_for {
        WaitsFor::Time(_) => acts.push("retry (try now)"),
        WaitsFor::Person => acts.push("resume (same key again)"),
        _ => {}
    }
    if matches!(saga.waits_for, WaitsFor::Time(_) | WaitsFor::Person | WaitsFor::Runner) && may_abandon {
        acts.push("abandon (undo and fail it)");
    }
    if matches!(saga.waits_for, WaitsFor::Time(_) | WaitsFor::Person) && saga.row.in_doubt && is_call {
        acts.push("resolve (say how the call ended)");
    }
    if acts.is_empty() { Vec::new() } else { vec![format!("You can: {}.", acts.join(", "))] }
}

fn in_words(span: chrono::Duration) -> String {
    match span.num_milliseconds().max(0) {
        ms @ ..1_000 => format!("{ms} ms"),
        ms @ ..120_000 => format!("{} s", ms / 1_000),
        ms @ ..7_200_000 => format!("{} min", ms / 60_000),
        ms @ ..172_800_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} days", ms / 86_400_000),
    }
}
