//! The laws of sagas, for every saga: it succeeds; it succeeds with every step repeated; every failure unwinds; every
//! failure unwinds with every undo repeated; a crash after every write resumes.

use oms_tests::disturb::{Disturbance, Fault, repeat};
use oms_tests::fail_points::KILL_AT;
use oms_tests::runner_under_test::RunnerUnderTest;
use oms_tests::{TestDatabase, eventually};
use saga::engine::{Action, Direction, Resolution, StepKind};

use crate::OMS;
use crate::bench::{Bench, End};

/// More attempts than any step has.
const ALWAYS: u32 = 1_000;

/// Begins a subject for each way in which one step of the saga fails for good, or fails at first where it may not give
/// up.
async fn begin_every_failure(bench: &mut Bench) {
    for step in bench.definition().steps {
        let fault = |fault| Disturbance::once(step.name, Direction::Forward, fault);
        let is_call = matches!(step.forward, Action::External(_));
        match step.kind {
            StepKind::Compensable if is_call => {
                bench.begin(End::Unwound, &[fault(Fault::Refusal)]).await;
                for given_up in [Fault::ServerError, Fault::TimeOutWithoutEffect] {
                    bench.begin(End::Unwound, &[fault(given_up).times(ALWAYS)]).await;
                }
                // Whoever asks by key finds the effect.
                let end = if step.on_unknown == Resolution::Query { End::Succeeded } else { End::Unwound };
                bench.begin(end, &[fault(Fault::TimeOutWithEffect).times(ALWAYS)]).await;
            }
            // A refusal belongs to a batch that another step may take back, so it is given each time.
            StepKind::Compensable => {
                bench.begin(End::Unwound, &[fault(Fault::Refusal).times(ALWAYS)]).await;
                // That it cannot run fails nobody, however long it takes.
                let broken = fault(Fault::Panic).times(step.retry.max_attempts * 2);
                bench.begin(End::Succeeded, &[broken]).await;
            }
            // Its outcome is never guessed, so silence does not turn it round.
            StepKind::Pivot => {
                bench.begin(End::Unwound, &[fault(Fault::Refusal)]).await;
            }
            StepKind::Retriable => {
                bench.begin(End::Succeeded, &[fault(Fault::Refusal).times(3)]).await;
                bench.begin(End::Succeeded, &[fault(Fault::Panic).times(3)]).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_succeeds() {
    for mut bench in Bench::for_every_saga().await {
        for _ in 0..20 {
            bench.begin(End::Succeeded, &[]).await;
        }
        bench.prove(|saga| saga).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_succeeds_with_every_step_repeated() {
    for mut bench in Bench::for_every_saga().await {
        for _ in 0..20 {
            bench.begin(End::Succeeded, &[]).await;
        }
        bench.prove(|saga| repeat(saga, |direction| direction == Direction::Forward)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_unwinds() {
    for mut bench in Bench::for_every_saga().await {
        begin_every_failure(&mut bench).await;
        bench.prove(|saga| saga).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_unwinds_with_every_undo_repeated() {
    for mut bench in Bench::for_every_saga().await {
        begin_every_failure(&mut bench).await;
        bench.prove(|saga| repeat(saga, |direction| direction == Direction::Backward)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_trouble_fails_nobody() {
    for mut bench in Bench::for_every_saga().await {
        for step in bench.definition().steps {
            if matches!(step.forward, Action::Local(_)) {
                let cut = Disturbance::once(step.name, Direction::Forward, Fault::ConnectionCut);
                bench.begin(End::Succeeded, &[cut.times(step.retry.max_attempts * 3)]).await;
            }
        }
        bench.prove(|saga| saga).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_every_write_of_a_success_resumes() {
    for bench in Bench::for_every_saga().await {
        crash_after_every_write(bench, End::Succeeded).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_every_write_of_a_failure_resumes() {
    for bench in Bench::for_every_saga().await {
        crash_after_every_write(bench, End::Unwound).await;
    }
}

/// Kills a runner after its first commit, the next one after its second, and so on, until one comes to the end.
async fn crash_after_every_write(mut bench: Bench, end: End) {
    let pivot = bench.definition().steps.into_iter().find(|step| step.kind == StepKind::Pivot);
    let pivot = pivot.expect("a saga has a pivot").name;
    let faults = match end {
        End::Succeeded => Vec::new(),
        End::Unwound => vec![Disturbance::once(pivot, Direction::Forward, Fault::Refusal)],
    };
    let mut writes = 1;
    loop {
        bench.begin(end, &faults).await;
        // The faults of a runner in another process are its own.
        let mut doomed = start(&bench, &[(KILL_AT, &format!("after_batch_commit:{writes}"))]).await;
        doomed.arm("", &faults).await;
        let has_ended = eventually("the runner is killed, or the saga over", async || {
            if doomed.has_died() {
                return Some(false);
            }
            (open_sagas(&bench.db).await == 0).then_some(true)
        })
        .await;
        if has_ended && !doomed.has_died() {
            doomed.kill().await;
            break;
        }
        let mut heir = start(&bench, &[]).await;
        heir.arm("", &faults).await;
        bench.settled().await;
        heir.kill().await;
        writes += 1;
    }
    // A runner that is killed at the very last commit leaves a saga that is over.
    assert!(writes >= 3, "the saga commits more than {writes} times");
    bench.close().await;
}

async fn start(bench: &Bench, settings: &[(&str, &str)]) -> RunnerUnderTest {
    RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, settings).await
}

async fn open_sagas(db: &TestDatabase) -> i64 {
    db.number("SELECT count(*) FROM saga WHERE finished_at IS NULL").await
}
