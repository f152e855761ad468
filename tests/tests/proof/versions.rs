//! A running saga goes on with the version of its definition that it began with.

use std::sync::Arc;

use async_trait::async_trait;
use oms_tests::runner_under_test::{RunnerUnderTest, quick_settings};
use oms_tests::{TestDatabase, eventually, within};
use saga::engine::{
    Action, Definition, Definitions, LocalStep, Runner, Saga, StepError, StepKind, StepTransaction, Verdict,
    Wakeups,
};
use sea_orm::DatabaseConnection;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::OMS;
use crate::bench::{Bench, End};

/// A step that only the second version has.
struct Wrap;

#[async_trait]
impl LocalStep for Wrap {
    async fn run(&self, _: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        Ok(vec![Verdict::Done; sagas.len()])
    }
}

/// The next version, with one step more at the beginning: every index means another step.
fn second_version(mut definition: Definition) -> Definition {
    let mut wrap = definition.steps[0].clone();
    (wrap.name, wrap.kind) = ("wrap", StepKind::Compensable);
    (wrap.forward, wrap.backward) = (Action::Local(Arc::new(Wrap)), None);
    definition.steps.insert(0, wrap);
    definition.version += 1;
    definition
}

async fn steps_of(db: &TestDatabase, saga_id: Uuid) -> Vec<String> {
    let steps =
        format!("SELECT step FROM saga_log WHERE saga_id = '{saga_id}' AND kind = 'ATTEMPT' ORDER BY epoch");
    db.texts(&steps).await
}

/// Starts a runner of these definitions.
fn start(db: &DatabaseConnection, definitions: Vec<Definition>) -> (Runner, CancellationToken) {
    let definitions = Definitions::try_new(definitions).expect("they are well defined");
    let stop = CancellationToken::new();
    let runner = Runner::start(db.clone(), definitions, Wakeups::new(), quick_settings(), stop.clone());
    (runner, stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_saga_continues_on_its_version() {
    for mut bench in Bench::for_every_saga().await {
        let first = bench.definition();
        let names: Vec<&str> = first.steps.iter().map(|step| step.name).collect();
        // A process of the old version dies half way through a saga.
        let place = first.steps.iter().find(|step| matches!(step.forward, Action::External(_)));
        let place = format!("after_send/{}/forward", place.expect("a call").name);
        let mut old = RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, &[]).await;
        old.arm(&place, &[]).await;
        let begun_before = bench.begin(End::Succeeded, &[]).await;
        old.stopped().await;
        old.kill().await;
        let begun_after = bench.begin(End::Succeeded, &[]).await;
        bench.db.execute(&format!("UPDATE saga SET version = version + 1 WHERE id = '{begun_after}'")).await;

        let db = bench.db.connect_runner().await;
        let (runner, stop) = start(&db, vec![bench.definition(), second_version(bench.definition())]);
        bench.settled().await;
        stop.cancel();
        within("the runner has stopped", runner.stopped()).await;
        let mut steps = steps_of(&bench.db, begun_before).await;
        steps.dedup();
        assert_eq!(steps, names, "the old one");
        assert_eq!(steps_of(&bench.db, begun_after).await, [&["wrap"], &names[..]].concat(), "the new one");
        db.close().await.expect("the pool closes");
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_does_not_know_a_version_leaves_its_sagas_and_their_calls_alone() {
    for mut bench in Bench::for_every_saga().await {
        let first = bench.definition();
        let call =
            first.steps.iter().find(|step| matches!(step.forward, Action::External(_))).expect("a call");
        let mut old = RunnerUnderTest::start(OMS, &bench.db.url(), bench.name, &[]).await;
        old.arm(&format!("after_send/{}/forward", call.name), &[]).await;
        let abandoned = bench.begin(End::Succeeded, &[]).await;
        old.stopped().await;
        old.kill().await;

        let db = bench.db.connect_runner().await;
        let (stranger, stop) = start(&db, vec![second_version(bench.definition())]);
        // Another saga's call expires meanwhile, so the stranger has looked.
        let known = bench.begin(End::Succeeded, &[]).await;
        bench.db.execute(&format!("UPDATE saga SET version = version + 1 WHERE id = '{known}'")).await;
        bench.db.execute("UPDATE saga_call SET lease_expires_at = now() - interval '1 minute'").await;
        eventually("the stranger has done its own work", async || {
            let finished =
                format!("SELECT count(*) FROM saga WHERE id = '{known}' AND finished_at IS NOT NULL");
            (bench.db.number(&finished).await == 1).then_some(())
        })
        .await;
        eventually("it has looked at the workers twice", async || {
            let looked = "SELECT count(*) FROM worker WHERE heartbeat_at > started_at + interval '2 seconds'";
            (bench.db.number(looked).await > 0).then_some(())
        })
        .await;
        let open = format!("SELECT count(*) FROM saga_call WHERE saga_id = '{abandoned}'");
        assert_eq!(bench.db.number(&open).await, 1, "nobody has taken a call that it cannot carry on");
        stop.cancel();
        within("the runner has stopped", stranger.stopped()).await;

        let (runner, stop) = start(&db, vec![first]);
        bench.settled().await;
        stop.cancel();
        within("the runner has stopped", runner.stopped()).await;
        let unknown =
            format!("SELECT count(*) FROM saga_log WHERE saga_id = '{abandoned}' AND outcome = 'UNKNOWN'");
        assert_eq!(bench.db.number(&unknown).await, 1, "the attempt is not forgotten");
        db.close().await.expect("the pool closes");
        bench.close().await;
    }
}
