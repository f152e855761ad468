//! One saga that breaks whatever touches it, among many others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use oms_tests::disturb::{Disturbance, Fault};
use oms_tests::runner_under_test::quick_settings;
use oms_tests::{TestDatabase, eventually};
use saga::engine::operate::{Filter, Listed, list};
use saga::engine::store::{NewSaga, insert_sagas};
use saga::engine::{
    Action, Call, Definition, Definitions, Direction, ExternalStep, Failure, LocalStep, Outcome, Resolution,
    RetryPolicy, Runner, Saga, Settled, StepDefinition, StepError, StepKind, StepTransaction, Verdict,
    Wakeups,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bench::{Bench, End};

const NEIGHBORS: usize = 99;

/// More attempts than any test makes.
const ALWAYS: u32 = 1_000_000;

/// Returns the sagas that a person is shown.
async fn listed(db: &TestDatabase, definitions: &Definitions, filter: Filter) -> Vec<Listed> {
    list(&db.connection(), definitions, &filter, None, 100).await.expect("the list can be read")
}

async fn open_sagas(db: &TestDatabase) -> i64 {
    db.number("SELECT count(*) FROM saga WHERE finished_at IS NULL").await
}

/// A step that panics for one saga of a batch, after its call as well as before.
async fn one_panics(step: &str, direction: Direction) {
    for mut bench in Bench::for_every_saga().await {
        let definition = bench.definition();
        let pivot = definition.steps.iter().find(|step| step.kind == StepKind::Pivot).expect("a pivot").name;
        let (end, mut faults) = match direction {
            Direction::Forward => (End::Succeeded, Vec::new()),
            Direction::Backward => {
                (End::Unwound, vec![Disturbance::once(pivot, Direction::Forward, Fault::Refusal)])
            }
        };
        for _ in 0..NEIGHBORS {
            bench.begin(end, &faults).await;
        }
        faults.push(Disturbance::once(step, direction, Fault::Panic).times(ALWAYS));
        let culprit = bench.begin(end, &faults).await;
        let definitions = Definitions::try_new([definition]).expect("it is well defined");
        let runner = bench.start_runner(|saga| saga).await;
        eventually("everybody but the culprit is done, and a person is told", async || {
            let stuck = listed(&bench.db, &definitions, Filter { stuck: true, ..Filter::default() }).await;
            let is_alone = open_sagas(&bench.db).await == 1;
            (is_alone && stuck.len() == 1).then(|| {
                assert_eq!((stuck[0].id, stuck[0].step.as_str()), (culprit, step));
                let error = stuck[0].error.clone().unwrap_or_default();
                assert!(error.contains("the step was told to panic"), "{error}");
            })
        })
        .await;
        // The cause is removed, as by a deploy.
        bench.forgive();
        bench.settled().await;
        runner.stop().await;
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_before_the_pivot_that_panics_for_one_of_many_is_parked_alone() {
    one_panics("quote", Direction::Forward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_after_a_call_that_panics_for_one_of_many_is_parked_alone() {
    one_panics("confirm", Direction::Forward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_panics_for_one_of_many_is_parked_alone() {
    one_panics("reserve_stock", Direction::Backward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conclusion_that_panics_for_one_of_many_is_parked_alone() {
    one_panics("conclude", Direction::Backward).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_whose_state_is_broken_is_parked_alone() {
    for mut bench in Bench::for_every_saga().await {
        for _ in 0..NEIGHBORS {
            bench.begin(End::Succeeded, &[]).await;
        }
        let culprit = bench.begin(End::Succeeded, &[]).await;
        let state = format!("SELECT state::text FROM saga WHERE id = '{culprit}'");
        let state = bench.db.texts(&state).await.pop().expect("it has begun");
        let break_it = format!("UPDATE saga SET state = '\"?\"' WHERE id = '{culprit}'");
        bench.db.execute(&break_it).await;
        let runner = bench.start_runner(|saga| saga).await;
        let stuck = "SELECT count(*) FROM saga WHERE stuck_since IS NOT NULL";
        eventually("everybody but the culprit is done, and a person is told", async || {
            (open_sagas(&bench.db).await == 1 && bench.db.number(stuck).await == 1).then_some(())
        })
        .await;
        // A runner that has it in hand writes what it has read.
        eventually("it is mended, and carried on", async || {
            let mend =
                format!("UPDATE saga SET state = '{state}' WHERE id = '{culprit}' AND state = '\"?\"'");
            bench.db.execute(&mend).await;
            (open_sagas(&bench.db).await == 0).then_some(())
        })
        .await;
        runner.stop().await;
        let told = format!(
            "SELECT DISTINCT detail ->> 'reason' FROM saga_log WHERE saga_id = '{culprit}' AND outcome = 'RETRY'"
        );
        let told = bench.db.texts(&told).await;
        assert!(told.iter().any(|reason| reason.contains("the saga's state cannot be read")), "{told:?}");
        bench.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_cannot_be_read_is_kept_as_it_is() {
    for mut bench in Bench::for_every_saga().await {
        let id = bench.begin(End::Succeeded, &[]).await;
        bench.db.execute(&format!("UPDATE saga SET failure = '\"?\"' WHERE id = '{id}'")).await;
        let runner = bench.start_runner(|saga| saga).await;
        bench.settled().await;
        runner.stop().await;
        let kept = bench.db.texts(&format!("SELECT failure::text FROM saga WHERE id = '{id}'")).await;
        assert_eq!(kept, ["\"?\""]);
        bench.close().await;
    }
}

/// A call that never answers.
struct Silent;

#[async_trait]
impl ExternalStep for Silent {
    fn request(&self, _: &Saga) -> Result<String, StepError> {
        Ok("?".to_owned())
    }

    fn system(&self) -> &'static str {
        "silent"
    }

    async fn call(&self, _: &Call) -> Outcome {
        std::future::pending().await
    }

    async fn record(&self, _: &StepTransaction<'_>, _: &mut [Settled<'_>]) -> Result<(), StepError> {
        Ok(())
    }
}

/// Does nothing, but panics for the saga whose state says so.
struct Picky;

#[async_trait]
impl LocalStep for Picky {
    async fn run(&self, _: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        for saga in &*sagas {
            let is_poisonous: bool = saga.state()?;
            assert!(!is_poisonous, "this one is poisonous");
        }
        Ok(vec![Verdict::Done; sagas.len()])
    }
}

/// Panics before it calls for the saga whose state says so; the other system says what Postgres cannot store.
struct Brittle;

#[async_trait]
impl ExternalStep for Brittle {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        let is_poisonous: bool = saga.state()?;
        assert!(!is_poisonous, "there is nothing to ask for");
        Ok("?".to_owned())
    }

    fn system(&self) -> &'static str {
        "brittle"
    }

    async fn call(&self, _: &Call) -> Outcome {
        Outcome::Succeeded(json!({ "id": "1", "n\0te": ["\0"] }))
    }

    async fn record(&self, _: &StepTransaction<'_>, _: &mut [Settled<'_>]) -> Result<(), StepError> {
        Ok(())
    }
}

fn silent_saga() -> Definition {
    let step = |name, kind, forward, backward| StepDefinition {
        name,
        kind,
        forward,
        backward,
        retry: RetryPolicy { max_attempts: 1, interval: Duration::from_millis(20), ..RetryPolicy::DEFAULT },
        on_unknown: Resolution::Repeat,
        time_out: Duration::from_secs(60),
        exhausted: Failure::new("SILENCE", "nobody answered"),
    };
    let picky = || Action::Local(Arc::new(Picky));
    Definition {
        name: "silent",
        version: 1,
        steps: vec![
            step("ask", StepKind::Compensable, Action::External(Arc::new(Silent)), Some(picky())),
            step("go", StepKind::Pivot, picky(), None),
        ],
        conclusion: picky(),
        key_retention: Duration::from_hours(24),
    }
}

/// Ten sagas of one definition and their runner. The state of the fourth says that it is poisonous.
struct Ten {
    db: TestDatabase,
    definitions: Definitions,
    culprit: Uuid,
    stop: CancellationToken,
    runner: Runner,
}

impl Ten {
    async fn start(definition: Definition, prepare: impl AsyncFnOnce(&TestDatabase, Uuid)) -> Self {
        let db = TestDatabase::create().await;
        let runner_db = db.connect_runner().await;
        let sagas: Vec<NewSaga> = (0..10)
            .map(|turn| NewSaga { id: Uuid::now_v7(), subject_id: Uuid::now_v7(), state: json!(turn == 3) })
            .collect();
        let culprit = sagas[3].id;
        insert_sagas(&runner_db, definition.name, definition.version, &sagas).await.expect("they begin");
        prepare(&db, culprit).await;
        let definitions = Definitions::try_new([definition]).expect("it is well defined");
        let stop = CancellationToken::new();
        let runner =
            Runner::start(runner_db, definitions.clone(), Wakeups::new(), quick_settings(), stop.clone());
        Self { db, definitions, culprit, stop, runner }
    }

    /// Waits until so many have come to this status.
    async fn are(&self, count: i64, status: &str) {
        let there = format!("SELECT count(*) FROM saga WHERE status = '{status}'");
        eventually("so many are there", async || (self.db.number(&there).await == count).then_some(())).await;
    }

    async fn stop(self) {
        self.stop.cancel();
        self.runner.stopped().await;
        self.db.discard().await;
    }
}

fn brittle_saga() -> Definition {
    let mut definition = silent_saga();
    definition.steps[0].forward = Action::External(Arc::new(Brittle));
    definition
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_panics_parks_one_saga_and_an_answer_that_cannot_be_stored_none() {
    let ten = Ten::start(brittle_saga(), async |_, _| ()).await;
    ten.are(9, "SUCCEEDED").await;
    let answers = "SELECT count(*) FROM saga_log WHERE step = 'ask' AND detail ->> 'id' = '1'";
    assert_eq!(ten.db.number(answers).await, 9, "the answers are on record");
    eventually("the other is parked, and the reason is on record", async || {
        let told =
            format!("SELECT detail ->> 'reason' FROM saga_log WHERE saga_id = '{}' LIMIT 1", ten.culprit);
        let told = ten.db.texts(&told).await.pop()?;
        assert!(told.contains("there is nothing to ask for"), "{told}");
        Some(())
    })
    .await;
    ten.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_cannot_even_be_parked_stops_nobody() {
    let ten = Ten::start(brittle_saga(), async |db, culprit| {
        db.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$",
        )
        .await;
        db.execute(&format!(
            "CREATE TRIGGER refuse BEFORE INSERT ON saga_log FOR EACH ROW
             WHEN (NEW.saga_id = '{culprit}') EXECUTE FUNCTION refuse()"
        ))
        .await;
    })
    .await;
    ten.are(9, "SUCCEEDED").await;
    // Once it can be written what is the matter, it is.
    ten.db.execute("DROP TRIGGER refuse ON saga_log").await;
    let parked =
        format!("SELECT count(*) FROM saga_log WHERE saga_id = '{}' AND outcome = 'RETRY'", ten.culprit);
    eventually("the other is parked", async || (ten.db.number(&parked).await > 0).then_some(())).await;
    ten.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_expire_together_do_not_wait_for_the_one_that_cannot_be_undone() {
    let ten = Ten::start(silent_saga(), async |_, _| ()).await;
    eventually("every call is open", async || {
        (ten.db.number("SELECT count(*) FROM saga_call").await == 10).then_some(())
    })
    .await;
    ten.db.execute("UPDATE saga_call SET lease_expires_at = now()").await;
    ten.are(9, "COMPENSATED").await;
    eventually("a person is told of the other", async || {
        let stuck = listed(&ten.db, &ten.definitions, Filter { stuck: true, ..Filter::default() }).await;
        (stuck.len() == 1).then(|| assert_eq!(stuck[0].id, ten.culprit))
    })
    .await;
    ten.stop().await;
}
