//! A saga of calls to a system that keeps no keys: what nobody knows is held, shown to a person, and goes on as that
//! person has found out. Past the pivot, a call to a system that keeps them is repeated under its key.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use oms_tests::runner_under_test::quick_settings;
use oms_tests::{TestDatabase, eventually, within};
use saga::engine::operate::{
    Act, ActKind, Filter, Finding, Listed, Operator, WaitsFor, explain, list, possible_acts, take,
};
use saga::engine::store::{NewSaga, insert_sagas};
use saga::engine::{
    Action, Call, Definition, Definitions, ExternalStep, Failure, LocalStep, Outcome, Resolution,
    RetryPolicy, Runner, Saga, SagaStatus, Settled, StepDefinition, StepError, StepKind, StepTransaction,
    Verdict, Wakeups,
};
use sea_orm::{DatabaseConnection, TransactionTrait};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Has nothing to do.
struct Idle;

#[async_trait]
impl LocalStep for Idle {
    async fn run(&self, _: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        Ok(vec![Verdict::Done; sagas.len()])
    }
}

/// A system that remembers what it was sent, and answers the calls in turn; `None` is silence.
struct System {
    answers: Vec<Option<Outcome>>,
    sent: Mutex<Vec<String>>,
}

impl System {
    fn new(answers: Vec<Option<Outcome>>) -> Arc<Self> {
        Arc::new(Self { answers, sent: Mutex::default() })
    }

    /// Returns the keys of the calls so far, without the saga's id.
    fn keys(&self) -> Vec<String> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.iter().map(|key| key.split_once(':').expect("a derived key").1.to_owned()).collect()
    }
}

#[async_trait]
impl ExternalStep for System {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        Ok(saga.id.to_string())
    }

    fn system(&self) -> &'static str {
        "post office"
    }

    async fn call(&self, call: &Call) -> Outcome {
        let turn = {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            sent.push(call.idempotency_key.clone());
            sent.len() - 1
        };
        match self.answers.get(turn).cloned().flatten() {
            Some(outcome) => outcome,
            None => std::future::pending().await,
        }
    }

    async fn record(&self, _: &StepTransaction<'_>, settled: &mut [Settled<'_>]) -> Result<(), StepError> {
        for Settled { saga, outcome } in settled {
            let mut told: Vec<Value> = saga.state()?;
            told.push(match outcome {
                Ok(answer) => (*answer).clone(),
                Err(failure) => json!(failure.code),
            });
            saga.set_state(&told)?;
        }
        Ok(())
    }
}

fn definition(post: &Arc<System>, report: &Arc<System>) -> Definition {
    let step = |name, kind, forward, backward, on_unknown| StepDefinition {
        name,
        kind,
        forward,
        backward,
        retry: RetryPolicy { interval: Duration::from_millis(20), ..RetryPolicy::DEFAULT },
        on_unknown,
        time_out: Duration::from_millis(300),
        exhausted: Failure::new("SILENCE", "nobody answered"),
    };
    let idle = || Action::Local(Arc::new(Idle));
    let (post, report) = (Action::External(post.clone()), Action::External(report.clone()));
    Definition {
        name: "letter",
        version: 1,
        steps: vec![
            step("write", StepKind::Compensable, idle(), Some(idle()), Resolution::Repeat),
            step("post", StepKind::Compensable, post, Some(idle()), Resolution::Hold),
            step("seal", StepKind::Pivot, idle(), None, Resolution::Repeat),
            step("report", StepKind::Retriable, report, None, Resolution::Repeat),
        ],
        conclusion: idle(),
        key_retention: Duration::from_hours(24),
    }
}

/// One saga whose letter was posted to silence.
struct Letter {
    db: TestDatabase,
    runner_db: DatabaseConnection,
    definitions: Definitions,
    post: Arc<System>,
    report: Arc<System>,
    id: Uuid,
    stop: CancellationToken,
    runner: Runner,
}

impl Letter {
    async fn start() -> Self {
        let post = System::new(vec![None]);
        let refusal = Outcome::Refused(Failure::new("CLOSED", "come back tomorrow"));
        let report = System::new(vec![None, Some(refusal), Some(Outcome::Succeeded(json!("reported")))]);
        let definition = definition(&post, &report);
        let db = TestDatabase::create().await;
        let runner_db = db.connect_runner().await;
        let saga = NewSaga { id: Uuid::now_v7(), subject_id: Uuid::now_v7(), state: json!([]) };
        let id = saga.id;
        insert_sagas(&runner_db, definition.name, definition.version, &[saga]).await.expect("it begins");
        let definitions = Definitions::try_new([definition]).expect("it is well defined");
        let stop = CancellationToken::new();
        let runner = Runner::start(
            runner_db.clone(),
            definitions.clone(),
            Wakeups::new(),
            quick_settings(),
            stop.clone(),
        );
        Self { db, runner_db, definitions, post, report, id, stop, runner }
    }

    /// Waits until it is among those that a person is shown as held, and returns what is shown.
    async fn held(&self) -> Listed {
        let filter = Filter { status: Some(SagaStatus::Held), ..Filter::default() };
        eventually("it is held", async || {
            let held = list(&self.db.connection(), &self.definitions, &filter, None, 100).await;
            held.expect("the list can be read").pop()
        })
        .await
    }

    async fn resolve(&self, finding: Finding) {
        let operator = Operator {
            name: "ada".to_owned(),
            via: "command line".to_owned(),
            reason: "seen in the post office's book".to_owned(),
        };
        let tx = self.runner_db.begin().await.expect("a transaction");
        let taken = take(&tx, &self.definitions, self.id, Act::Resolve(finding)).await.expect("it fits");
        taken.carry_out(&tx, &self.definitions, &operator).await.expect("it is carried out");
        tx.commit().await.expect("it is decided");
    }

    /// Waits until it is over, and returns how, what it was told, and what was done or undone on the way.
    async fn ended(self) -> (String, Vec<String>, Arc<System>, Arc<System>) {
        let ended = "SELECT format('%s %s', status, state) FROM saga WHERE finished_at IS NOT NULL";
        let ended = eventually("it is over", async || self.db.texts(ended).await.pop()).await;
        let log = "SELECT format('%s %s %s', step, lower(direction), outcome) FROM saga_log
                   WHERE kind = 'ATTEMPT' ORDER BY epoch";
        let log = self.db.texts(log).await;
        self.stop.cancel();
        within("the runner has stopped", self.runner.stopped()).await;
        self.db.discard().await;
        (ended, log, self.post, self.report)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_held_at_once_and_shown_to_a_person() {
    let letter = Letter::start().await;
    let held = letter.held().await;
    assert_eq!((held.id, held.step.as_str(), held.attempts), (letter.id, "post", 1));
    assert_eq!((held.waits_for, held.in_doubt), (WaitsFor::Person, true));
    assert!(held.stuck_since.is_some());
    assert_eq!(held.error.as_deref(), Some("no answer within 300 ms"));
    assert_eq!(
        possible_acts(&held, &letter.definitions),
        [ActKind::Resume, ActKind::Abandon, ActKind::Resolve]
    );
    let explained = explain(&held, &letter.definitions);
    assert!(explained[0].starts_with("It is held at post, step 2 of 4"), "{explained:?}");
    assert_eq!(letter.post.keys(), ["post:forward:1"], "it is not sent twice");
    letter.stop.cancel();
    within("the runner has stopped", letter.runner.stopped()).await;
    letter.db.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_found_to_have_succeeded_goes_on_and_is_not_sent_again() {
    let letter = Letter::start().await;
    letter.held().await;
    letter.resolve(Finding::Succeeded(json!("posted"))).await;
    let (ended, log, post, report) = letter.ended().await;
    assert_eq!(ended, r#"SUCCEEDED ["posted", "CLOSED", "reported"]"#);
    assert_eq!(
        log,
        [
            "write forward SUCCEEDED",
            "post forward UNKNOWN",
            "seal forward SUCCEEDED",
            "report forward UNKNOWN",
            "report forward REFUSED",
            "report forward SUCCEEDED",
        ]
    );
    assert_eq!(post.keys(), ["post:forward:1"]);
    assert_eq!(
        report.keys(),
        ["report:forward:1", "report:forward:1", "report:forward:2"],
        "silence is repeated under its key, and a refusal past the pivot is followed by a fresh one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_found_to_have_no_effect_is_not_undone() {
    let letter = Letter::start().await;
    letter.held().await;
    letter.resolve(Finding::Refused(Failure::new("LOST", "the letter was lost"))).await;
    let (ended, log, post, report) = letter.ended().await;
    assert_eq!(ended, r#"COMPENSATED ["LOST"]"#);
    assert_eq!(
        log,
        [
            "write forward SUCCEEDED",
            "post forward UNKNOWN",
            "write backward SUCCEEDED",
            "conclude backward SUCCEEDED",
        ]
    );
    assert_eq!((post.keys().len(), report.keys().len()), (1, 0));
}
