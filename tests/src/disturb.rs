//! Puts faults into the steps of any saga, from outside: nothing here knows what the steps do.
//!
//! [`disturb`] makes each step follow a [`Script`]; [`repeat`] makes steps run twice.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use saga::engine::definition::CONCLUSION_NAME;
use saga::engine::{
    Action, Call, Definition, Direction, ExternalStep, Failure, LocalStep, Lookup, Outcome, Saga, Settled,
    StepError, StepTransaction, Verdict,
};
use sea_orm::ConnectionTrait;
use serde_json::json;
use uuid::Uuid;

/// How a step goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It says no for good.
    Refusal,
    /// It takes effect, and never answers.
    TimeOutWithEffect,
    /// It takes no effect, and never answers.
    TimeOutWithoutEffect,
    /// It takes no effect, and says that it failed.
    ServerError,
    /// It takes effect, and the connection breaks before the answer.
    ResetAfterSend,
    /// It takes effect, and its answer makes no sense.
    MalformedAnswer,
    /// It panics.
    Panic,
    /// Its connection to our own database is cut.
    ConnectionCut,
}

impl Fault {
    /// Every way in which a call to another system goes wrong.
    pub const OF_CALLS: [Self; 6] = [
        Self::Refusal,
        Self::TimeOutWithEffect,
        Self::TimeOutWithoutEffect,
        Self::ServerError,
        Self::ResetAfterSend,
        Self::MalformedAnswer,
    ];

    /// Its name in tables and between processes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refusal => "refusal",
            Self::TimeOutWithEffect => "time-out with effect",
            Self::TimeOutWithoutEffect => "time-out without effect",
            Self::ServerError => "server error",
            Self::ResetAfterSend => "reset after send",
            Self::MalformedAnswer => "malformed answer",
            Self::Panic => "panic",
            Self::ConnectionCut => "connection cut",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::OF_CALLS
            .into_iter()
            .chain([Self::Panic, Self::ConnectionCut])
            .find(|fault| fault.name() == name)
    }
}

/// A fault of one step, in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disturbance {
    /// Name of the step; `conclude` for the conclusion.
    pub step: String,
    /// Which way.
    pub direction: Direction,
    /// What goes wrong.
    pub fault: Fault,
    /// How many attempts of each saga go wrong, in each process.
    pub times: u32,
    /// Only for this saga.
    pub saga_id: Option<Uuid>,
}

impl Disturbance {
    /// Disturbs one attempt of every saga.
    pub fn once(step: &str, direction: Direction, fault: Fault) -> Self {
        Self { step: step.to_owned(), direction, fault, times: 1, saga_id: None }
    }

    /// Disturbs this many attempts.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }

    /// Disturbs one saga only.
    #[must_use]
    pub fn of(self, saga_id: Uuid) -> Self {
        Self { saga_id: Some(saga_id), ..self }
    }
}

impl std::fmt::Display for Disturbance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { step, direction, fault, times, saga_id } = self;
        write!(f, "{step}/{}/{}/{times}", direction.as_str(), fault.name())?;
        saga_id.map_or(Ok(()), |only| write!(f, "/{only}"))
    }
}

impl FromStr for Disturbance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("not a disturbance: {text}");
        let parts: Vec<&str> = text.split('/').collect();
        let (step, direction, fault, times, only) = match parts[..] {
            [step, direction, fault, times] => (step, direction, fault, times, None),
            [step, direction, fault, times, only] => (step, direction, fault, times, Some(only)),
            _ => return Err(bad()),
        };
        let direction = match direction {
            "FORWARD" => Direction::Forward,
            "BACKWARD" => Direction::Backward,
            _ => return Err(bad()),
        };
        let fault = Fault::named(fault).ok_or_else(bad)?;
        let times = times.parse().map_err(|_| bad())?;
        let saga_id = only.map(str::parse).transpose().map_err(|_| bad())?;
        Ok(Self { times, saga_id, ..Self::once(step, direction, fault) })
    }
}

/// What goes wrong, and what has gone wrong already.
#[derive(Debug, Default)]
pub struct Script(Mutex<Scenes>);

#[derive(Debug, Default)]
struct Scenes {
    disturbances: Vec<Disturbance>,
    played: HashMap<(usize, Uuid), u32>,
}

impl Script {
    /// Begins with these.
    pub fn new(disturbances: Vec<Disturbance>) -> Arc<Self> {
        let script = Self::default();
        script.replace(disturbances);
        Arc::new(script)
    }

    /// Forgets everything, and goes on with these.
    pub fn replace(&self, disturbances: Vec<Disturbance>) {
        *self.lock() = Scenes { disturbances, played: HashMap::new() };
    }

    /// Adds one.
    pub fn add(&self, disturbance: Disturbance) {
        self.lock().disturbances.push(disturbance);
    }

    fn next_fault(&self, saga_id: Uuid, step: &str, direction: Direction) -> Option<Fault> {
        let mut scenes = self.lock();
        let Scenes { disturbances, played } = &mut *scenes;
        for (index, disturbance) in disturbances.iter().enumerate() {
            let is_meant = disturbance.step == step
                && disturbance.direction == direction
                && disturbance.saga_id.is_none_or(|only| only == saga_id);
            if !is_meant {
                continue;
            }
            let played = played.entry((index, saga_id)).or_default();
            if *played < disturbance.times {
                *played += 1;
                return Some(disturbance.fault);
            }
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Scenes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes each step of a saga follow a script.
pub fn disturb(definition: Definition, script: &Arc<Script>) -> Definition {
    map_actions(definition, |action, step, direction| {
        let script = script.clone();
        match action {
            Action::Local(inner) => Action::Local(Arc::new(Disturbed { inner, step, direction, script })),
            Action::External(inner) => {
                Action::External(Arc::new(Disturbed { inner, step, direction, script }))
            }
        }
    })
}

/// Makes each step of a saga run twice where `is_repeated` says so. A local step runs twice on what it found, in the
/// transaction of the engine; a call is sent twice, and its outcome recorded twice.
pub fn repeat(definition: Definition, is_repeated: impl Fn(Direction) -> bool) -> Definition {
    map_actions(definition, |action, _, direction| match action {
        Action::Local(inner) if is_repeated(direction) => Action::Local(Arc::new(Twice(inner))),
        Action::External(inner) if is_repeated(direction) => Action::External(Arc::new(Twice(inner))),
        action => action,
    })
}

fn map_actions(
    mut definition: Definition,
    map: impl Fn(Action, &'static str, Direction) -> Action,
) -> Definition {
    for step in &mut definition.steps {
        step.forward = map(step.forward.clone(), step.name, Direction::Forward);
        step.backward = step.backward.take().map(|action| map(action, step.name, Direction::Backward));
    }
    definition.conclusion = map(definition.conclusion.clone(), CONCLUSION_NAME, Direction::Backward);
    definition
}

struct Disturbed<S: ?Sized> {
    step: &'static str,
    direction: Direction,
    script: Arc<Script>,
    inner: Arc<S>,
}

impl<S: ?Sized> Disturbed<S> {
    fn next_fault(&self, saga_id: Uuid) -> Option<Fault> {
        self.script.next_fault(saga_id, self.step, self.direction)
    }
}

fn refusal() -> Failure {
    Failure::new("DISTURBED", "the step was told to refuse")
}

#[async_trait]
impl LocalStep for Disturbed<dyn LocalStep> {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let faults: Vec<Option<Fault>> = sagas.iter().map(|saga| self.next_fault(saga.id)).collect();
        assert!(!faults.contains(&Some(Fault::Panic)), "the step was told to panic");
        if faults.contains(&Some(Fault::ConnectionCut)) {
            tx.execute_unprepared("SELECT pg_terminate_backend(pg_backend_pid())").await?;
        }
        let is_left = |index: &usize| faults[*index] != Some(Fault::Refusal);
        let left: Vec<usize> = (0..sagas.len()).filter(is_left).collect();
        let mut undisturbed: Vec<Saga> = left.iter().map(|&index| sagas[index].clone()).collect();
        let mut verdicts = vec![Verdict::Refused(refusal()); sagas.len()];
        if !undisturbed.is_empty() {
            let given = self.inner.run(tx, &mut undisturbed).await?;
            for ((index, saga), verdict) in left.into_iter().zip(undisturbed).zip(given) {
                sagas[index] = saga;
                verdicts[index] = verdict;
            }
        }
        Ok(verdicts)
    }
}

#[async_trait]
impl ExternalStep for Disturbed<dyn ExternalStep> {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        self.inner.request(saga)
    }

    fn system(&self) -> &'static str {
        self.inner.system()
    }

    async fn look_up(&self, call: &Call) -> Lookup {
        self.inner.look_up(call).await
    }

    async fn call(&self, call: &Call) -> Outcome {
        // The key begins with the saga's id, unless a negative control has made it random.
        let saga_id = call.idempotency_key.split_once(':').and_then(|(id, _)| id.parse().ok());
        let saga_id = saga_id.unwrap_or_default();
        let fault = self.next_fault(saga_id);
        match fault {
            Some(Fault::Refusal) => return Outcome::Refused(refusal()),
            Some(Fault::ServerError) => return Outcome::Unknown("a server error".to_owned()),
            Some(Fault::TimeOutWithoutEffect) => return std::future::pending().await,
            Some(Fault::Panic) => panic!("the step was told to panic"),
            _ => {}
        }
        let outcome = self.inner.call(call).await;
        pass_sent(self.step, self.direction);
        match fault {
            Some(Fault::TimeOutWithEffect) => std::future::pending().await,
            Some(Fault::ResetAfterSend) => Outcome::Unknown("the connection was reset".to_owned()),
            // What has not been done has no answer that could be garbled.
            Some(Fault::MalformedAnswer) if matches!(outcome, Outcome::Succeeded(_)) => {
                Outcome::Succeeded(json!({ "nonsense": true }))
            }
            _ => outcome,
        }
    }

    async fn record(&self, tx: &StepTransaction<'_>, settled: &mut [Settled<'_>]) -> Result<(), StepError> {
        self.inner.record(tx, settled).await
    }
}

/// Passes the crash point at which the other system has done its work and our process does not know yet.
fn pass_sent(step: &str, direction: Direction) {
    let place = format!("after_send/{step}/{}", direction.as_str().to_lowercase());
    if fail::eval("crash_place", |wanted| wanted.as_deref() == Some(&place)) == Some(true) {
        fail::fail_point!("crash");
    }
}

struct Twice<S: ?Sized>(Arc<S>);

#[async_trait]
impl LocalStep for Twice<dyn LocalStep> {
    async fn run(&self, tx: &StepTransaction<'_>, sagas: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
        let first = self.0.run(tx, &mut sagas.to_vec()).await?;
        let second = self.0.run(tx, sagas).await?;
        if first == second {
            Ok(second)
        } else {
            Err(StepError::Broken(format!("repeated, it says {second:?} and not {first:?}")))
        }
    }
}

#[async_trait]
impl ExternalStep for Twice<dyn ExternalStep> {
    fn request(&self, saga: &Saga) -> Result<String, StepError> {
        let first = self.0.request(saga)?;
        match self.0.request(saga)? {
            second if second == first => Ok(second),
            _ => Err(StepError::Broken("frozen twice, the request differs".to_owned())),
        }
    }

    fn system(&self) -> &'static str {
        self.0.system()
    }

    async fn look_up(&self, call: &Call) -> Lookup {
        self.0.look_up(call).await
    }

    async fn call(&self, call: &Call) -> Outcome {
        let first = self.0.call(call).await;
        match self.0.call(call).await {
            second if second == first => second,
            second => Outcome::Unknown(format!("sent twice, it says {second:?} and not {first:?}")),
        }
    }

    async fn record(&self, tx: &StepTransaction<'_>, settled: &mut [Settled<'_>]) -> Result<(), StepError> {
        // A refusal is recorded once: it is what turns a saga round, and no effect that could be doubled.
        let mut sagas: Vec<Saga> = settled.iter().map(|settled| settled.saga.clone()).collect();
        let mut again: Vec<Settled<'_>> = sagas
            .iter_mut()
            .zip(&*settled)
            .filter(|(_, settled)| settled.outcome.is_ok())
            .map(|(saga, settled)| Settled { saga, outcome: settled.outcome })
            .collect();
        self.0.record(tx, &mut again).await?;
        self.0.record(tx, settled).await
    }
}
