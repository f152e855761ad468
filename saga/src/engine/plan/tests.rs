//! The plan over its cases, and over every way in which attempts can end.

use std::sync::Arc;

use async_trait::async_trait;
use proptest::prelude::*;

use super::*;
use crate::engine::definition::StepDefinition;
use crate::engine::retry::RetryPolicy;
use crate::engine::step::{Call, ExternalStep, LocalStep, Saga, Settled, StepError};
use crate::engine::step_transaction::StepTransaction;

/// A step that is planned and never run.
struct Never;

#[async_trait]
impl LocalStep for Never {
    async fn run(&self, _: &StepTransaction<'_>, _: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        Err(StepError::Broken("planned, not run".to_owned()))
    }
}

#[async_trait]
impl ExternalStep for Never {
    fn request(&self, _: &Saga) -> Result<String, StepError> {
        Err(StepError::Broken("planned, not run".to_owned()))
    }

    fn system(&self) -> &'static str {
        "nowhere"
    }

    async fn call(&self, _: &Call) -> Outcome {
        Outcome::Unknown("planned, not run".to_owned())
    }

    async fn record(&self, _: &StepTransaction<'_>, _: &mut [Settled<'_>]) -> Result<(), StepError> {
        Ok(())
    }
}

fn local() -> Action {
    Action::Local(Arc::new(Never))
}

fn external() -> Action {
    Action::External(Arc::new(Never))
}

fn step(name: &'static str, kind: StepKind, forward: Action, backward: Option<Action>) -> StepDefinition {
    StepDefinition {
        name,
        kind,
        forward,
        backward,
        retry: RetryPolicy { max_attempts: 3, ..RetryPolicy::DEFAULT },
        on_unknown: Resolution::Repeat,
        time_out: Duration::from_secs(10),
        exhausted: Failure::new("EXHAUSTED", "gave up"),
    }
}

const RESERVE: i16 = 0;
pub(in crate::engine) const QUOTE: i16 = 1;
pub(in crate::engine) const AUTHORIZE: i16 = 2;
pub(in crate::engine) const CAPTURE: i16 = 3;
pub(in crate::engine) const CONFIRM: i16 = 4;

/// The shape of place_order: undo, nothing to undo, undo by a call, pivot, retriable.
pub(in crate::engine) fn definition() -> Definition {
    Definition {
        name: "test",
        version: 1,
        steps: vec![
            step("reserve", StepKind::Compensable, local(), Some(local())),
            step("quote", StepKind::Compensable, local(), None),
            step("authorize", StepKind::Compensable, external(), Some(external())),
            step("capture", StepKind::Pivot, external(), None),
            step("confirm", StepKind::Retriable, local(), None),
        ],
        conclusion: local(),
        key_retention: Duration::from_hours(24),
    }
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH
}

/// A saga whose `attempt`-th attempt of a step has just ended.
fn attempted(step: i16, direction: Direction, attempt: u32) -> Cursor {
    Cursor { attempt, ..Cursor::at(step, direction, now()) }
}

fn forward(step: i16, attempt: u32, ended: Ended) -> Next {
    next(&definition(), attempted(step, Direction::Forward, attempt), ended, now())
}

fn backward(step: i16, attempt: u32, ended: Ended) -> Next {
    next(&definition(), attempted(step, Direction::Backward, attempt), ended, now())
}

fn refused() -> Ended {
    Ended::Refused(Failure::new("NO", "no"))
}

fn unknown() -> Ended {
    Ended::Unknown("silence".to_owned())
}

fn postponed() -> Ended {
    Ended::Postponed { delay: None, reason: "broken".to_owned() }
}

fn undone(next: Next) -> Vec<i16> {
    match next {
        Next::Compensate { cursor, plan, .. } => {
            assert_eq!(cursor.step, plan.first().copied().unwrap_or(CONCLUSION));
            assert_eq!((cursor.attempt, cursor.generation, cursor.in_doubt), (0, 1, false));
            plan
        }
        other => panic!("not a compensation: {other:?}"),
    }
}

#[test]
fn success_goes_on_to_the_next_step_and_ends_after_the_last() {
    assert_eq!(
        forward(RESERVE, 1, Ended::Succeeded),
        Next::Step(Cursor::at(QUOTE, Direction::Forward, now()))
    );
    assert_eq!(forward(CONFIRM, 1, Ended::Succeeded), Next::End(SagaStatus::Succeeded));
}

#[test]
fn a_refused_first_step_leaves_nothing_to_undo() {
    assert_eq!(undone(forward(RESERVE, 1, refused())), Vec::<i16>::new());
}

#[test]
fn a_refusal_undoes_what_came_before_and_skips_what_has_nothing_to_undo() {
    assert_eq!(undone(forward(AUTHORIZE, 1, refused())), [RESERVE]);
    assert_eq!(undone(forward(CAPTURE, 1, refused())), [AUTHORIZE, RESERVE]);
}

#[test]
fn a_step_that_may_have_taken_effect_is_undone_too() {
    assert_eq!(undone(forward(AUTHORIZE, 3, unknown())), [AUTHORIZE, RESERVE]);
    // Refused at last, but an earlier attempt may have got through.
    let in_doubt = Cursor { in_doubt: true, ..attempted(AUTHORIZE, Direction::Forward, 2) };
    assert_eq!(undone(next(&definition(), in_doubt, refused(), now())), [AUTHORIZE, RESERVE]);
}

#[test]
fn an_unknown_outcome_is_tried_again_with_the_same_key() {
    match forward(AUTHORIZE, 1, unknown()) {
        Next::Retry { cursor, wait, stuck } => {
            assert_eq!((cursor.attempt, cursor.generation, cursor.in_doubt), (1, 1, true));
            assert_eq!(wait, Wait::UpTo(Duration::from_millis(200)));
            assert!(!stuck);
        }
        other => panic!("not a retry: {other:?}"),
    }
}

#[test]
fn an_unknown_outcome_is_held_at_once_where_the_other_system_keeps_no_keys() {
    let mut definition = definition();
    definition.steps[2].on_unknown = Resolution::Hold;
    let cursor = attempted(AUTHORIZE, Direction::Forward, 1);
    assert!(matches!(next(&definition, cursor, unknown(), now()), Next::Hold(cursor) if cursor.in_doubt));
}

#[test]
fn an_unknown_capture_is_never_guessed() {
    match forward(CAPTURE, 3, unknown()) {
        Next::Retry { cursor, stuck, .. } => assert!(stuck && cursor.generation == 1),
        other => panic!("not a retry: {other:?}"),
    }
    // Once the gateway may have forgotten the key, another attempt could take the money twice.
    let cursor = Cursor { in_doubt: true, ..attempted(CAPTURE, Direction::Forward, 900) };
    let a_day_later = now() + chrono::Duration::hours(24);
    assert!(matches!(next(&definition(), cursor, unknown(), a_day_later), Next::Hold(_)));
}

#[test]
fn no_call_that_may_have_taken_effect_is_repeated_once_its_key_may_be_forgotten() {
    let a_day_later = now() + chrono::Duration::hours(24);
    let in_doubt = |step| Cursor { in_doubt: true, ..attempted(step, Direction::Forward, 1) };
    let next = |cursor| instead_of_call(&definition(), cursor, a_day_later);
    assert!(matches!(next(in_doubt(CAPTURE)), Some(Next::Hold(_))));
    let Some(turned) = next(in_doubt(AUTHORIZE)) else { panic!("it is not called") };
    assert_eq!(undone(turned), [AUTHORIZE, RESERVE]);
    // What took no effect may be tried at any age, and what a person has counted afresh once.
    assert_eq!(next(attempted(CAPTURE, Direction::Forward, 1)), None);
    assert_eq!(next(Cursor { attempt: 0, ..in_doubt(CAPTURE) }), None);
    assert_eq!(instead_of_call(&definition(), in_doubt(CAPTURE), now()), None);
}

#[test]
fn a_step_that_cannot_run_waits_for_whoever_mends_it_and_can_be_abandoned() {
    for (step, left) in [(RESERVE, vec![]), (QUOTE, vec![RESERVE]), (CAPTURE, vec![AUTHORIZE, RESERVE])] {
        for (attempt, expected) in [(1, false), (2, false), (3, true), (10_000, true)] {
            let Next::Retry { cursor, stuck, .. } = forward(step, attempt, postponed()) else {
                panic!("it gave up");
            };
            assert_eq!((cursor.attempt, cursor.generation, stuck), (attempt, 1, expected));
        }
        let cursor = attempted(step, Direction::Forward, 10_000);
        assert_eq!(undone(abandon(&definition(), cursor, Failure::new("NO", "no"), now())), left);
    }
}

#[test]
fn a_step_that_asks_to_wait_too_often_is_given_up() {
    let asked = |attempt| forward(CAPTURE, attempt, Verdict::RetryAfter(Duration::from_secs(7)).into());
    let Next::Retry { wait, stuck, .. } = asked(2) else { panic!("it gave up") };
    assert_eq!((wait, stuck), (Wait::Exactly(Duration::from_secs(7)), false));
    assert_eq!(undone(asked(3)), [AUTHORIZE, RESERVE]);
}

#[test]
fn nothing_after_the_pivot_is_ever_given_up() {
    let a_week_later = now() + chrono::Duration::days(7);
    for ended in [refused(), unknown(), postponed()] {
        let cursor = attempted(CONFIRM, Direction::Forward, 1_000);
        match next(&definition(), cursor, ended, a_week_later) {
            Next::Retry { stuck, .. } => assert!(stuck),
            other => panic!("not a retry: {other:?}"),
        }
    }
}

#[test]
fn an_undo_goes_down_to_the_conclusion_and_then_is_over() {
    assert_eq!(
        backward(AUTHORIZE, 1, Ended::Succeeded),
        Next::Step(Cursor::at(RESERVE, Direction::Backward, now())),
        "the quote has nothing to undo"
    );
    assert_eq!(
        backward(RESERVE, 1, Ended::Succeeded),
        Next::Step(Cursor::at(CONCLUSION, Direction::Backward, now()))
    );
    assert_eq!(backward(CONCLUSION, 1, Ended::Succeeded), Next::End(SagaStatus::Compensated));
}

#[test]
fn an_undo_is_tried_without_end_and_a_person_is_told_after_a_while() {
    for (attempt, expected) in [(1, false), (2, false), (3, true), (10_000, true)] {
        for ended in [unknown(), postponed()] {
            match backward(AUTHORIZE, attempt, ended) {
                Next::Retry { cursor, stuck, .. } => {
                    assert_eq!((stuck, cursor.generation), (expected, 1));
                }
                other => panic!("not a retry: {other:?}"),
            }
        }
    }
}

#[test]
fn a_refused_undo_takes_a_fresh_key() {
    match backward(AUTHORIZE, 2, refused()) {
        Next::Retry { cursor, wait, stuck } => {
            assert_eq!((cursor.generation, cursor.attempt), (2, 0));
            assert_eq!(wait, Wait::UpTo(Duration::from_millis(200)));
            assert!(stuck);
        }
        other => panic!("not a retry: {other:?}"),
    }
}

#[test]
fn what_was_refused_stays_stuck_however_its_next_attempt_ends() {
    for (step, direction) in [(AUTHORIZE, Direction::Backward), (CONFIRM, Direction::Forward)] {
        for ended in [refused(), unknown(), postponed()] {
            let cursor = Cursor { generation: 2, ..attempted(step, direction, 1) };
            assert!(matches!(next(&definition(), cursor, ended, now()), Next::Retry { stuck: true, .. }));
        }
    }
}

#[test]
fn what_is_refused_again_and_again_is_tried_ever_more_patiently() {
    for (step, direction) in [(AUTHORIZE, Direction::Backward), (CONFIRM, Direction::Forward)] {
        let mut cursor = Cursor::at(step, direction, now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            cursor.attempt += 1;
            match next(&definition(), cursor, refused(), now()) {
                Next::Retry { cursor: next, wait: Wait::UpTo(longest), .. } => {
                    cursor = next;
                    waits.push(longest.as_millis());
                }
                other => panic!("not a retry: {other:?}"),
            }
        }
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
    }
}

/// What the world looks like after a walk: which steps may have taken effect and which were undone.
struct Walk {
    may_have_effect: Vec<bool>,
    undone: Vec<bool>,
    ending: Option<SagaStatus>,
}

/// Follows the plan with these endings of attempts, and success once they are used up.
fn walk(endings: &[u8]) -> Walk {
    let definition = definition();
    let mut walk =
        Walk { may_have_effect: vec![false; definition.steps.len()], undone: vec![false; 5], ending: None };
    let mut cursor = Cursor::at(0, Direction::Forward, now());
    let mut endings = endings.iter().copied();
    for _ in 0..200 {
        cursor.attempt += 1;
        let is_call = matches!(definition.action(cursor.step, cursor.direction), Some(Action::External(_)));
        let ended = match endings.next().unwrap_or(0) {
            1 => refused(),
            2 if is_call => unknown(),
            3 => postponed(),
            _ => Ended::Succeeded,
        };
        if let Ok(index) = usize::try_from(cursor.step) {
            match cursor.direction {
                Direction::Forward => {
                    walk.may_have_effect[index] |= matches!(ended, Ended::Succeeded | Ended::Unknown(_));
                }
                Direction::Backward => walk.undone[index] |= ended == Ended::Succeeded,
            }
        }
        match next(&definition, cursor, ended, now()) {
            Next::Step(next) | Next::Retry { cursor: next, .. } | Next::Compensate { cursor: next, .. } => {
                cursor = next;
            }
            Next::End(status) => {
                walk.ending = Some(status);
                return walk;
            }
            Next::Hold(_) => return walk,
        }
    }
    walk
}

proptest! {
    #[test]
    fn what_may_not_give_up_waits_as_long_as_its_failures_ask_for(
        endings in proptest::collection::vec(1_u8..4, 1..60),
        is_undo in any::<bool>(),
    ) {
        let policy = definition().retry(AUTHORIZE);
        let mut cursor = if is_undo {
            Cursor::at(AUTHORIZE, Direction::Backward, now())
        } else {
            Cursor::at(CONFIRM, Direction::Forward, now())
        };
        let (mut refusals, mut since_refused) = (0, 0);
        for ending in endings {
            cursor.attempt += 1;
            let ended = match ending {
                1 => refused(),
                2 => unknown(),
                _ => postponed(),
            };
            (refusals, since_refused) =
                if ending == 1 { (refusals + 1, 0) } else { (refusals, since_refused + 1) };
            let Next::Retry { cursor: next, wait: Wait::UpTo(longest), .. } =
                next(&definition(), cursor, ended, now())
            else {
                return Err(TestCaseError::fail("it gave up"));
            };
            prop_assert!(longest >= policy.longest_wait(refusals.max(since_refused)));
            prop_assert!(longest <= policy.max_delay);
            cursor = next;
        }
    }

    #[test]
    fn every_saga_ends_and_leaves_either_everything_or_nothing(endings in proptest::collection::vec(0_u8..4, 0..40)) {
        let walk = walk(&endings);
        let definition = definition();
        match walk.ending {
            Some(SagaStatus::Succeeded) => {
                prop_assert!(walk.may_have_effect.iter().all(|&effect| effect));
                prop_assert!(walk.undone.iter().all(|&undone| !undone));
            }
            Some(SagaStatus::Compensated) => {
                for (index, step) in definition.steps.iter().enumerate() {
                    if walk.may_have_effect[index] && step.backward.is_some() {
                        prop_assert!(walk.undone[index], "{} may have taken effect and was not undone", step.name);
                    }
                    let captured_for_certain = step.kind == StepKind::Retriable && walk.may_have_effect[index];
                    prop_assert!(!captured_for_certain, "nothing after the pivot ran");
                }
            }
            other => prop_assert!(false, "the saga did not end: {other:?}"),
        }
    }
}
