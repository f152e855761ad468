//! Negative controls: each guard of the engine is taken away in a process of its own, and the scenario that it guards
//! against must then go wrong. With the guard in place the same scenario goes right.

use std::time::Duration;

use oms_tests::TestDatabase;
use oms_tests::disturb::{Disturbance, Fault};
use oms_tests::eventually;
use oms_tests::runner_under_test::{APPLICATION_NAME, FAIL_POINTS, RunnerUnderTest, WORKER_LEASE_MS};
use oms_tests::subject::SUBJECTS;
use rustix::process::Signal;
use saga::engine::Direction::Forward;
use saga::place_order;

use crate::OMS;
use crate::bench::{Bench, End};

/// How long a saga may take that nothing hinders any more.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Leaves the guards as they are.
const ALL_ON: &str = "";

async fn place_order_bench() -> Bench {
    let (name, subject) =
        SUBJECTS.into_iter().find(|(name, _)| *name == place_order::NAME).expect("place_order has a subject");
    Bench::new(name, subject, TestDatabase::create().await)
}

async fn start(bench: &Bench, guards_off: &str, worker_lease_ms: &str) -> RunnerUnderTest {
    let settings = [(FAIL_POINTS, guards_off), (WORKER_LEASE_MS, worker_lease_ms)];
    RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, &settings).await
}

/// Waits for the sagas as long as they may take, says what is wrong, and removes the database.
async fn judge(bench: Bench) -> Vec<String> {
    let mut wrong = Vec::new();
    if !bench.settle_within(LONG_ENOUGH).await {
        wrong.push(format!("not over: {}", bench.describe_open().await));
    }
    wrong.extend(bench.violations().await);
    bench.db.discard().await;
    wrong
}

/// Leaves so many units of a SKU on hand.
async fn count_stock(db: &TestDatabase, sku: &str, on_hand: i64) {
    db.execute(&format!(
        "WITH counted AS (
             UPDATE stock AS counted SET on_hand = {on_hand} FROM stock AS before
             WHERE counted.sku = '{sku}' AND before.sku = '{sku}'
             RETURNING counted.on_hand - before.on_hand AS delta
         )
         INSERT INTO stock_movements (id, sku, delta, on_hand_after, reason, app_id)
         SELECT gen_random_uuid(), '{sku}', delta, {on_hand}, 'count', '00000000-0000-0000-0000-000000000000'
         FROM counted"
    ))
    .await;
}

/// The answer to a capture is lost, although the money was taken.
async fn a_capture_s_answer_is_lost(guards_off: &str) -> Vec<String> {
    let mut bench = place_order_bench().await;
    let lost = Disturbance::once("capture_payment", Forward, Fault::TimeOutWithEffect);
    bench.begin(End::Succeeded, std::slice::from_ref(&lost)).await;
    let mut runner = start(&bench, guards_off, "1000").await;
    runner.arm("", &[lost]).await;
    let wrong = judge(bench).await;
    runner.kill().await;
    wrong
}

/// A process dies with its transaction, and when the saga begins anew, the goods are gone.
async fn a_process_dies_before_the_commit_of_an_intent(guards_off: &str) -> Vec<String> {
    let mut bench = place_order_bench().await;
    let mut doomed = start(&bench, guards_off, "1000").await;
    doomed.arm("before_intent_commit/authorize_payment/forward", &[]).await;
    bench.begin(End::Unwound, &[]).await;
    doomed.stopped().await;
    doomed.kill().await;
    count_stock(&bench.db, "SKU-1", 0).await;
    let heir = start(&bench, ALL_ON, "1000").await;
    let wrong = judge(bench).await;
    heir.kill().await;
    wrong
}

/// A runner stands still with an answer in its hands. Another one takes the call over, and dies before it makes the next
/// one. Then the first goes on, and after it a third.
async fn an_answer_comes_after_the_epoch_has_moved_on(guards_off: &str) -> Vec<String> {
    let mut bench = place_order_bench().await;
    // It does not take over anything itself.
    let mut zombie = start(&bench, guards_off, "600000").await;
    zombie.arm("after_answer/authorize_payment/forward", &[]).await;
    bench.begin(End::Succeeded, &[]).await;
    zombie.stopped().await;
    let mut heir = start(&bench, guards_off, "1000").await;
    heir.arm("before_send/capture_payment/forward", &[]).await;
    heir.stopped().await;
    zombie.signal(Signal::CONT);
    eventually("the late answer is settled", async || {
        let evidence = "SELECT count(*) FROM saga_log WHERE kind = 'EVIDENCE'";
        (bench.db.number(evidence).await == 1).then_some(())
    })
    .await;
    heir.kill().await;
    let last = start(&bench, ALL_ON, "1000").await;
    let wrong = judge(bench).await;
    zombie.kill().await;
    last.kill().await;
    wrong
}

/// Two processes reserve the last units for two orders at the same time.
async fn two_processes_reserve_the_last_units(guards_off: &str, with_constraint: bool) -> Vec<String> {
    let mut bench = place_order_bench().await;
    count_stock(&bench.db, "SKU-1", 2).await;
    if !with_constraint {
        bench.db.execute("ALTER TABLE stock DROP CONSTRAINT stock_never_oversold").await;
    }
    let mut first = start(&bench, guards_off, "1000").await;
    first.arm("before_result_commit/reserve_stock/forward", &[]).await;
    bench.begin(End::Succeeded, &[]).await;
    first.stopped().await;
    bench.begin(End::Unwound, &[]).await;
    let second = start(&bench, guards_off, "1000").await;
    eventually("the second waits for the first", async || {
        let waiting = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                                                     AND application_name = '{APPLICATION_NAME}'"
        );
        (bench.db.number(&waiting).await > 0).then_some(())
    })
    .await;
    first.signal(Signal::CONT);
    let wrong = judge(bench).await;
    first.kill().await;
    second.kill().await;
    wrong
}

fn assert_right(wrong: &[String]) {
    assert!(wrong.is_empty(), "with the guard in place:\n{}", wrong.join("\n"));
}

fn assert_noticed(wrong: &[String], what: &str) {
    let is_noticed = wrong.iter().any(|violation| violation.contains(what));
    assert!(is_noticed, "nobody notices that the guard is gone ({what}): {wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_derived_keys_a_lost_answer_is_noticed() {
    assert_right(&a_capture_s_answer_is_lost(ALL_ON).await);
    assert_noticed(&a_capture_s_answer_is_lost("guard_derived_key").await, "should be Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_intent_before_each_call_a_crash_is_noticed() {
    assert_right(&a_process_dies_before_the_commit_of_an_intent(ALL_ON).await);
    let wrong = a_process_dies_before_the_commit_of_an_intent("guard_intent_before_send").await;
    assert_noticed(&wrong, "holds no open authorization for an order that failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_epochs_a_late_answer_is_noticed() {
    assert_right(&an_answer_comes_after_the_epoch_has_moved_on(ALL_ON).await);
    let wrong = an_answer_comes_after_the_epoch_has_moved_on("guard_epoch_match").await;
    // The late answer to the authorization was taken for the capture's.
    assert_noticed(&wrong, "gateway captured 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stock_lock_and_its_constraint_overselling_is_noticed() {
    assert_right(&two_processes_reserve_the_last_units(ALL_ON, true).await);
    // Either of the two is enough.
    assert_right(&two_processes_reserve_the_last_units(ALL_ON, false).await);
    assert_right(&two_processes_reserve_the_last_units("guard_stock_lock", true).await);
    let wrong = two_processes_reserve_the_last_units("guard_stock_lock", false).await;
    assert_noticed(&wrong, "a stock row lies between nothing reserved and everything reserved");
}
