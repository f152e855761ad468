//! A running saga goes on with the version of its definition that it began with.

use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use oms_tests::runner_under_test::{RunnerUnderTest, quick_settings};
use oms_tests::{TestDatabase, eventually, oms_command, within};
use saga::engine::operate::{Unknown, count_unknown};
use saga::engine::{
    Action, Definition, Definitions, LocalStep, Runner, Saga, StepError, StepKind, StepTransaction, Verdict,
    Wakeups,
};
use sea_orm::DatabaseConnection;
use tokio::io::{AsyncBufReadExt, BufReader};
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

#[tokio::test(flavor = "multi_thread")]
async fn sagas_of_a_version_that_nobody_knows_are_told_of_and_looked_at_ever_more_seldom() {
    for mut bench in Bench::for_every_saga().await {
        let mut newer = bench.definition();
        newer.version += 1;
        for waited in ["0 seconds", "20 seconds", "1 hour"] {
            let id = bench.begin(End::Succeeded, &[]).await;
            let update = format!(
                "UPDATE saga SET version = version + 1, updated_at = now() - interval '{waited}' WHERE id = '{id}'"
            );
            bench.db.execute(&update).await;
        }
        let db = bench.db.connection();
        let known = Definitions::try_new([bench.definition()]).expect("it is well defined");
        let unknown = count_unknown(&db, &known).await.expect("they can be counted");
        assert_eq!(
            unknown,
            [Unknown { definition: newer.name.to_owned(), version: newer.version, sagas: 3 }]
        );

        let mut stranger = oms_command(OMS, &bench.db, &["serve", "--role", "runner"]);
        stranger.env("OMS_LOG", "error").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut stranger = stranger.spawn().expect("oms-under-test starts");
        let mut log = BufReader::new(stranger.stderr.take().expect("it was asked for as a pipe")).lines();
        let told = within("it is told of", async {
            loop {
                let line = log.next_line().await.expect("text").expect("it is told of before the end");
                if line.contains("does not know the definition of open sagas") {
                    return line;
                }
            }
        })
        .await;
        assert!(told.contains(newer.name) && told.contains("sagas=3"), "{told}");
        let listed = oms_command(OMS, &bench.db, &["sagas", "list"]).output().await.expect("it runs");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let line = format!("does not know {} version {}", newer.name, newer.version);
        assert!(listed.contains(&line), "{listed}");

        // The longest waiting first.
        let delays = "SELECT extract(epoch FROM due_at - now())::bigint::text FROM saga_timer
                      JOIN saga ON saga.id = saga_id ORDER BY updated_at";
        let delays = eventually("those that have waited are put off", async || {
            let delays = bench.db.texts(delays).await;
            (delays.len() == 3).then_some(delays)
        })
        .await;
        let delays: Vec<i64> = delays.iter().map(|delay| delay.parse().expect("a number")).collect();
        assert!((45..=60).contains(&delays[0]), "a minute at most: {delays:?}");
        assert!((10..45).contains(&delays[1]), "as long as it has waited: {delays:?}");
        assert!(delays[2] < 10, "soon again: {delays:?}");
        stranger.kill().await.expect("it is killed");

        let runner_db = bench.db.connect_runner().await;
        let (runner, stop) = start(&runner_db, vec![newer.clone()]);
        bench.db.fire_timers().await;
        bench.settled().await;
        stop.cancel();
        within("the runner has stopped", runner.stopped()).await;
        let known = Definitions::try_new([bench.definition()]).expect("it is well defined");
        assert_eq!(count_unknown(&db, &known).await.expect("they can be counted"), [], "none is open");
        runner_db.close().await.expect("the pool closes");
        bench.close().await;
    }
}
