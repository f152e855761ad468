//! What fits where a saga is, and how it is explained. The queries and the acts themselves need a database and are
//! tested with the whole system.

use chrono::Duration;

use super::*;
use crate::engine::definition::{CONCLUSION, CONCLUSION_NAME, Definitions};
use crate::engine::plan::tests::{AUTHORIZE, CAPTURE, CONFIRM, QUOTE, definition};

fn definitions() -> Definitions {
    Definitions::try_new([definition()]).expect("a well-formed definition")
}

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + Duration::days(20_000)
}

fn ago(span: Duration) -> DateTime<Utc> {
    now() - span
}

fn soon(seconds: i64) -> WaitsFor {
    WaitsFor::Time(now() + Duration::seconds(seconds))
}

/// A saga that has just come to a step and is ready to take it.
fn at(step: i16) -> Listed {
    let definition = definition();
    Listed {
        id: Uuid::nil(),
        subject_id: Uuid::nil(),
        definition: definition.name.to_owned(),
        version: definition.version,
        status: SagaStatus::Running,
        step_index: step,
        step: definition.step_name(step).to_owned(),
        direction: Direction::Forward,
        attempts: 0,
        in_doubt: false,
        step_since: ago(Duration::milliseconds(40)),
        stuck_since: None,
        finished_at: None,
        waits_for: WaitsFor::Runner,
        parked_for: None,
        error: None,
        idempotency_key: None,
        failure: None,
        now: now(),
    }
}

/// A saga whose last attempt at a step ended without an answer.
fn unanswered(step: i16) -> Listed {
    Listed {
        attempts: 2,
        in_doubt: true,
        step_since: ago(Duration::seconds(3)),
        waits_for: soon(1),
        error: Some("no answer within 10000 ms".to_owned()),
        idempotency_key: Some("0:capture:forward:1".to_owned()),
        ..at(step)
    }
}

fn stuck(step: i16) -> Listed {
    Listed {
        attempts: 9,
        step_since: ago(Duration::minutes(4)),
        stuck_since: Some(ago(Duration::minutes(3))),
        waits_for: soon(12),
        ..unanswered(step)
    }
}

fn held(step: i16) -> Listed {
    let since = ago(Duration::hours(25));
    Listed {
        status: SagaStatus::Held,
        waits_for: WaitsFor::Person,
        step_since: since,
        stuck_since: Some(since),
        ..stuck(step)
    }
}

fn undoing(step: i16) -> Listed {
    Listed {
        status: SagaStatus::Compensating,
        direction: Direction::Backward,
        step: if step == CONCLUSION { CONCLUSION_NAME.to_owned() } else { at(step).step },
        failure: Some(Failure::new("CARD_DECLINED", "the card was declined")),
        ..unanswered(step)
    }
}

fn over(status: SagaStatus) -> Listed {
    let finished_at = Some(ago(Duration::minutes(5)));
    Listed { status, finished_at, waits_for: WaitsFor::Nothing, ..at(CONFIRM) }
}

fn fitting(saga: &Listed) -> String {
    let acts = possible_acts(saga, &definitions());
    acts.into_iter().map(ActKind::as_str).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_fits_depends_on_where_the_saga_is() {
    assert_eq!(fitting(&at(AUTHORIZE)), "abandon", "nothing to retry before the first attempt");
    assert_eq!(fitting(&unanswered(AUTHORIZE)), "retry abandon resolve");
    assert_eq!(fitting(&at(CAPTURE)), "abandon", "the pivot has not been tried");
    assert_eq!(fitting(&unanswered(CAPTURE)), "retry resolve", "the money may have been taken");
    assert_eq!(fitting(&stuck(CAPTURE)), "retry resolve");
    assert_eq!(fitting(&held(CAPTURE)), "resume resolve");
    assert_eq!(fitting(&Listed { waits_for: soon(1), ..at(CONFIRM) }), "retry", "there is no way back");
    assert_eq!(fitting(&undoing(AUTHORIZE)), "retry resolve");
    let refused = |saga| Listed { in_doubt: false, attempts: 0, ..saga };
    assert_eq!(fitting(&refused(undoing(AUTHORIZE))), "retry", "nobody knows yet that it will not succeed");
    let stuck_since = Some(ago(Duration::minutes(3)));
    assert_eq!(fitting(&Listed { stuck_since, ..refused(undoing(AUTHORIZE)) }), "retry resolve");
    assert_eq!(fitting(&Listed { stuck_since, ..refused(undoing(CONCLUSION)) }), "retry");
}

#[test]
fn nothing_fits_a_saga_that_is_over_or_awaits_an_answer() {
    for status in [SagaStatus::Succeeded, SagaStatus::Compensated] {
        assert!(matches!(check(&over(status), &definitions(), ActKind::Retry), Err(ActError::Over)));
    }
    let awaiting = Listed { waits_for: WaitsFor::Answer(now()), ..unanswered(AUTHORIZE) };
    assert_eq!(fitting(&awaiting), "");
    assert!(matches!(check(&awaiting, &definitions(), ActKind::Abandon), Err(ActError::Busy)));
}

#[test]
fn what_will_never_fit_is_said_even_while_an_answer_is_awaited() {
    let awaiting = Listed { waits_for: WaitsFor::Answer(now()), ..at(CONFIRM) };
    let refused = check(&awaiting, &definitions(), ActKind::Abandon);
    assert_eq!(
        refused.expect_err("past the pivot").to_string(),
        "it cannot be abandoned: it is past the point of no return"
    );
}

#[test]
fn a_saga_of_an_unknown_version_is_left_alone() {
    let newer = Listed { version: 2, ..unanswered(AUTHORIZE) };
    assert_eq!(fitting(&newer), "");
    assert_eq!(
        explain(&newer, &definitions()),
        ["This program does not know test version 2; ask one that does."]
    );
}

fn explained(saga: &Listed) -> String {
    explain(saga, &definitions()).join("\n")
}

#[test]
fn a_healthy_saga_is_explained_in_three_sentences() {
    let deadline = now() + Duration::seconds(9);
    let awaiting = Listed { waits_for: WaitsFor::Answer(deadline), attempts: 1, ..at(CAPTURE) };
    insta::assert_snapshot!(explained(&awaiting), @"
    It is at capture, step 4 of 5, and has been there for 40 ms.
    Next: attempt 1 is answered, or ends unknown in 9 s.
    You can do nothing while an answer is awaited.
    ");
}

#[test]
fn a_retrying_saga_says_why_and_until_when() {
    insta::assert_snapshot!(explained(&unanswered(AUTHORIZE)), @"
    It is at authorize, step 3 of 5, and has been there for 3 s.
    Its last attempt did not succeed: no answer within 10000 ms.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key 0:capture:forward:1.
    Next: attempt 3 begins in 1 s.
    After 3 attempts without success it is given up and undone.
    You can retry it (try now instead of then), abandon it (undo what was done) or resolve it (say on evidence how the call ended).
    ");
    let broken = Listed { in_doubt: false, error: Some("the step panicked".to_owned()), ..stuck(QUOTE) };
    insta::assert_snapshot!(explained(&broken), @"
    It is at quote, step 2 of 5, and has been there for 4 min.
    Its last attempt did not succeed: the step panicked.
    It has needed a person for 3 min.
    Next: attempt 10 begins in 12 s.
    It is tried until its step can run.
    You can retry it (try now instead of then) or abandon it (undo what was done).
    ");
    let local = Listed { in_doubt: false, waits_for: soon(-1), ..unanswered(CONFIRM) };
    insta::assert_snapshot!(explained(&local), @"
    It is at confirm, step 5 of 5, and has been there for 3 s.
    Its last attempt did not succeed: no answer within 10000 ms.
    Next: attempt 3 is due now, as soon as a runner looks.
    It is past the point of no return and is tried until it succeeds.
    You can retry it (try now instead of then).
    ");
}

#[test]
fn a_parked_saga_says_which_system_gives_no_answers() {
    let parked = Listed { waits_for: soon(3_000), parked_for: Some("bank".to_owned()), ..at(AUTHORIZE) };
    insta::assert_snapshot!(explained(&parked), @"
    It is at authorize, step 3 of 5, and has been there for 40 ms.
    bank gives no answers; calls to it are held back until it does.
    Next: attempt 1 begins when others are answered again, or to try whether they are, or in 50 min.
    You can retry it (try now instead of then) or abandon it (undo what was done).
    ");
}

#[test]
fn a_stuck_saga_says_that_a_person_should_look() {
    insta::assert_snapshot!(explained(&stuck(CAPTURE)), @"
    It is at capture, step 4 of 5, and has been there for 4 min.
    Its last attempt did not succeed: no answer within 10000 ms.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key 0:capture:forward:1.
    It has needed a person for 3 min.
    Next: attempt 10 begins in 12 s.
    It is tried until 2024-10-04T23:55:20Z; then the other system may have forgotten the key, and it is held for a person.
    You can retry it (try now instead of then) or resolve it (say on evidence how the call ended).
    ");
}

#[test]
fn a_held_saga_waits_for_a_decision() {
    insta::assert_snapshot!(explained(&held(CAPTURE)), @"
    It is held at capture, step 4 of 5, and has been there for 25 h.
    Its last attempt did not succeed: no answer within 10000 ms.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key 0:capture:forward:1.
    It has needed a person for 25 h.
    Next: nothing, until a person decides.
    You can resume it (try again under the same key) or resolve it (say on evidence how the call ended).
    ");
}

#[test]
fn a_compensating_saga_says_why_it_turned_round() {
    insta::assert_snapshot!(explained(&undoing(AUTHORIZE)), @"
    It is being undone: it is at authorize, step 3 of 5, and has been there for 3 s.
    It turned round because of CARD_DECLINED: the card was declined.
    Its last attempt did not succeed: no answer within 10000 ms.
    An attempt ended unknown, so it may have taken effect there. The other system knows it by the key 0:capture:forward:1.
    Next: attempt 3 begins in 1 s.
    An undo is tried until it succeeds.
    You can retry it (try now instead of then) or resolve it (say on evidence how the call ended).
    ");
    let last = Listed { in_doubt: false, error: None, waits_for: WaitsFor::Runner, ..undoing(CONCLUSION) };
    insta::assert_snapshot!(explained(&last), @"
    It is being undone: it is at conclude, after its steps, and has been there for 3 s.
    It turned round because of CARD_DECLINED: the card was declined.
    Next: a runner takes it, at once if one is running and free.
    ");
}

#[test]
fn a_saga_that_is_over_says_how_it_ended() {
    insta::assert_snapshot!(explained(&over(SagaStatus::Succeeded)), @"Every step succeeded; it has been over for 5 min.");
    let failure = Some(Failure::new("ABANDONED", "the customer called"));
    let undone = Listed { failure, ..over(SagaStatus::Compensated) };
    insta::assert_snapshot!(explained(&undone), @"
    What had been done was undone; it has been over for 5 min.
    It turned round because of ABANDONED: the customer called.
    ");
}

#[test]
fn a_span_is_written_in_its_largest_fitting_unit() {
    let spans = [-5, 999, 1_000, 119_999, 120_000, 7_200_000, 172_800_000];
    let words = spans.map(|ms| in_words(Duration::milliseconds(ms)));
    assert_eq!(words, ["0 ms", "999 ms", "1 s", "119 s", "2 min", "2 h", "2 days"]);
}
