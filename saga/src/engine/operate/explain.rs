//! Says in plain words where a saga is, why, what happens next and when, and what can be done about it.

use chrono::{DateTime, Duration, SecondsFormat, Utc};

use super::{ActKind, Listed, WaitsFor, possible_acts};
use crate::engine::definition::{Action, Definition, Definitions, StepKind};
use crate::engine::status::{Direction, SagaStatus};

/// Explains a saga in whole sentences, one for each line.
pub fn explain(saga: &Listed, definitions: &Definitions) -> Vec<String> {
    let Some(definition) = definitions.find(&saga.definition, saga.version) else {
        return vec![format!(
            "This program does not know {} version {}; ask one that does.",
            saga.definition, saga.version
        )];
    };
    if saga.status.has_ended() {
        return how_it_ended(saga);
    }
    let mut lines = vec![where_it_is(saga, definition)];
    lines.extend(why(saga));
    lines.push(what_next(saga));
    lines.extend(what_then(saga, definition));
    lines.extend(what_to_do(saga, definitions));
    lines
}

fn how_it_ended(saga: &Listed) -> Vec<String> {
    let how = match saga.status {
        SagaStatus::Succeeded => "Every step succeeded",
        _ => "What had been done was undone",
    };
    let age = saga.finished_at.map(|at| format!(" for {}", in_words(saga.now - at))).unwrap_or_default();
    let mut lines = vec![format!("{how}; it has been over{age}.")];
    lines.extend(why_it_turned(saga));
    lines
}

fn where_it_is(saga: &Listed, definition: &Definition) -> String {
    let at = match definition.step(saga.step_index) {
        Some(_) => format!("{}, step {} of {}", saga.step, saga.step_index + 1, definition.steps.len()),
        None => format!("{}, after its steps", saga.step),
    };
    let age = in_words(saga.now - saga.step_since);
    match (saga.status, saga.direction) {
        (SagaStatus::Held, _) => format!("It is held at {at}, and has been there for {age}."),
        (_, Direction::Forward) => format!("It is at {at}, and has been there for {age}."),
        (_, Direction::Backward) => {
            format!("It is being undone: it is at {at}, and has been there for {age}.")
        }
    }
}

fn why(saga: &Listed) -> Vec<String> {
    let mut lines: Vec<String> = why_it_turned(saga).into_iter().collect();
    if let Some(error) = &saga.error {
        lines.push(format!("Its last attempt did not succeed: {}.", error.trim_end_matches('.')));
    }
    if saga.in_doubt {
        let known = saga.idempotency_key.as_ref();
        let known =
            known.map(|key| format!(" The other system knows it by the key {key}.")).unwrap_or_default();
        lines.push(format!("An attempt ended unknown, so it may have taken effect there.{known}"));
    }
    if let Some(system) = &saga.parked_for {
        lines.push(format!("{system} gives no answers; calls to it are held back until it does."));
    }
    if let Some(since) = saga.stuck_since {
        lines.push(format!("It has needed a person for {}.", in_words(saga.now - since)));
    }
    lines
}

fn why_it_turned(saga: &Listed) -> Option<String> {
    let failure = saga.failure.as_ref()?;
    Some(format!("It turned round because of {}: {}.", failure.code, failure.message.trim_end_matches('.')))
}

fn what_next(saga: &Listed) -> String {
    match saga.waits_for {
        WaitsFor::Time(due_at) if saga.parked_for.is_some() => format!(
            "Next: attempt {} begins when others are answered again, or to try whether they are, or in {}.",
            saga.attempts + 1,
            in_words(due_at - saga.now)
        ),
        WaitsFor::Runner => "Next: a runner takes it, at once if one is running and free.".to_owned(),
        WaitsFor::Time(due_at) if due_at <= saga.now => {
            format!("Next: attempt {} is due now, as soon as a runner looks.", saga.attempts + 1)
        }
        WaitsFor::Time(due_at) => {
            format!("Next: attempt {} begins in {}.", saga.attempts + 1, in_words(due_at - saga.now))
        }
        WaitsFor::Answer(deadline) => format!(
            "Next: attempt {} is answered, or ends unknown in {}.",
            saga.attempts,
            in_words(deadline - saga.now)
        ),
        WaitsFor::Person => "Next: nothing, until a person decides.".to_owned(),
        WaitsFor::Nothing => "Next: nothing, and that is a mistake; run `oms verify`.".to_owned(),
    }
}

/// What becomes of a saga whose attempts go on failing; of no interest while none has.
fn what_then(saga: &Listed, definition: &Definition) -> Option<String> {
    let has_failed = saga.error.is_some() || saga.in_doubt;
    if !has_failed || matches!(saga.waits_for, WaitsFor::Person | WaitsFor::Nothing) {
        return None;
    }
    if saga.direction == Direction::Backward {
        return Some("An undo is tried until it succeeds.".to_owned());
    }
    let step = definition.step(saga.step_index)?;
    Some(if step.kind != StepKind::Retriable && !saga.in_doubt {
        "It is tried until its step can run.".to_owned()
    } else if step.kind == StepKind::Compensable {
        format!("After {} attempts without success it is given up and undone.", step.retry.max_attempts)
    } else if matches!(step.forward, Action::Local(_)) {
        "It is past the point of no return and is tried until it succeeds.".to_owned()
    } else {
        format!(
            "It is tried until {}; then the other system may have forgotten the key, and it is held for a person.",
            to_the_second(saga.step_since + definition.longest_repetition(step))
        )
    })
}

fn what_to_do(saga: &Listed, definitions: &Definitions) -> Option<String> {
    let acts: Vec<&str> = possible_acts(saga, definitions)
        .into_iter()
        .map(|act| match act {
            ActKind::Retry => "retry it (try now instead of then)",
            ActKind::Resume => "resume it (try again under the same key)",
            ActKind::Abandon => "abandon it (undo what was done)",
            ActKind::Resolve => "resolve it (say on evidence how the call ended)",
        })
        .collect();
    match (acts.split_last(), saga.waits_for) {
        (Some((only, [])), _) => Some(format!("You can {only}.")),
        (Some((last, rest)), _) => Some(format!("You can {} or {last}.", rest.join(", "))),
        (None, WaitsFor::Answer(_)) => Some("You can do nothing while an answer is awaited.".to_owned()),
        (None, _) => None,
    }
}

/// Writes a span of time in its largest fitting unit.
pub fn in_words(span: Duration) -> String {
    match span.num_milliseconds().max(0) {
        ms @ ..1_000 => format!("{ms} ms"),
        ms @ ..120_000 => format!("{} s", ms / 1_000),
        ms @ ..7_200_000 => format!("{} min", ms / 60_000),
        ms @ ..172_800_000 => format!("{} h", ms / 3_600_000),
        ms => format!("{} days", ms / 86_400_000),
    }
}

fn to_the_second(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
