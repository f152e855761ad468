//! What a saga consists of, checked when it is loaded.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::retry::RetryPolicy;
use super::status::Direction;
use super::step::{ExternalStep, Failure, LocalStep};

/// The index that stands for the conclusion: what is done once everything was undone.
pub const CONCLUSION: i16 = -1;

/// The name under which the conclusion is logged.
pub const CONCLUSION_NAME: &str = "conclude";

/// What a step's place in the saga allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Before the pivot: it can be undone.
    Compensable,
    /// The point of no return: until it succeeds everything can be undone, afterwards everything will be done.
    Pivot,
    /// After the pivot: it is tried until it succeeds.
    Retriable,
}

/// How a step, or its undo, is carried out.
#[derive(Clone)]
pub enum Action {
    /// In the transaction.
    Local(Arc<dyn LocalStep>),
    /// By a call to another system.
    External(Arc<dyn ExternalStep>),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local(_) => "Local",
            Self::External(_) => "External",
        })
    }
}

/// One step.
#[derive(Debug, Clone)]
pub struct StepDefinition {
    /// Its name, part of idempotency keys: it never changes for a version.
    pub name: &'static str,
    /// What its place allows.
    pub kind: StepKind,
    /// How it is done.
    pub forward: Action,
    /// How it is undone, if there is anything to undo. A call that undoes must be safe to repeat without its key.
    pub backward: Option<Action>,
    /// How often and how patiently it is tried.
    pub retry: RetryPolicy,
    /// What is done about an outcome that nobody knows.
    pub on_unknown: Resolution,
    /// How long one call may take; shorter than its lease by [`LEASE_MARGIN`].
    pub time_out: Duration,
    /// What is said of a saga that gave up on this step because nobody answered, or because it asked to wait too often.
    pub exhausted: Failure,
}

/// What is done about an outcome that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The call is repeated with the same key and bytes.
    Repeat,
    /// The other system is asked by key what became of the call; only if it knows nothing is the call repeated.
    Query,
    /// A person decides: the other system keeps no keys.
    Hold,
}

/// How much longer a call's lease is than the call may take: room for one slow commit. A call that has not been sent when
/// this is over is not sent.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// A saga's steps, pinned by name and version.
#[derive(Debug, Clone)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// Its version: a running saga goes on with the version it began with.
    pub version: i32,
    /// Its steps: compensable ones, one pivot, retriable ones.
    pub steps: Vec<StepDefinition>,
    /// What is done once everything was undone.
    pub conclusion: Action,
    /// For how long the other systems remember an idempotency key. The call of a step is never repeated after that, unless
    /// a person vouches for it. Undos are repeated without end: they must be safe to repeat under whatever key.
    pub key_retention: Duration,
}

/// Why a definition does not load.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// There is no step.
    #[error("saga {saga} has no steps")]
    NoSteps {
        /// The saga.
        saga: &'static str,
    },
    /// There is not exactly one pivot.
    #[error("saga {saga} has {pivots} pivots; declare exactly one")]
    PivotCount {
        /// The saga.
        saga: &'static str,
        /// How many there are.
        pivots: usize,
    },
    /// A step stands on the wrong side of the pivot.
    #[error("step {step} of saga {saga} is {kind:?} but stands {side} the pivot")]
    OutOfOrder {
        /// The saga.
        saga: &'static str,
        /// The step.
        step: &'static str,
        /// What it is declared as.
        kind: StepKind,
        /// `before` or `after`.
        side: &'static str,
    },
    /// A step after the pivot declares an undo that will never run.
    #[error("step {step} of saga {saga} cannot be undone: it stands at or after the pivot")]
    UndoAfterPivot {
        /// The saga.
        saga: &'static str,
        /// The step.
        step: &'static str,
    },
    /// A call before the pivot cannot be undone.
    #[error("step {step} of saga {saga} calls another system before the pivot and has no undo")]
    CallWithoutUndo {
        /// The saga.
        saga: &'static str,
        /// The step.
        step: &'static str,
    },
    /// Retrying may take longer than the other system remembers the key.
    #[error(
        "step {step} of saga {saga} may be retried for {age:?}, longer than keys are kept ({retention:?})"
    )]
    RetriedPastRetention {
        /// The saga.
        saga: &'static str,
        /// The step.
        step: &'static str,
        /// The longest time between its first attempt and the end of its last.
        age: Duration,
        /// For how long keys are kept.
        retention: Duration,
    },
    /// Two steps, or two definitions, have one name.
    #[error("the name {name} is used twice")]
    Duplicate {
        /// The name.
        name: &'static str,
    },
    /// The conclusion calls another system.
    #[error("the conclusion of saga {saga} is not local")]
    ExternalConclusion {
        /// The saga.
        saga: &'static str,
    },
}

impl Definition {
    /// Checks the rules that make a saga safe to run: compensable* pivot retriable*, and retries that end before keys
    /// are forgotten.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let saga = self.name;
        if self.steps.is_empty() {
            return Err(DefinitionError::NoSteps { saga });
        }
        let pivots = self.steps.iter().filter(|step| step.kind == StepKind::Pivot).count();
        if pivots != 1 {
            return Err(DefinitionError::PivotCount { saga, pivots });
        }
        if matches!(self.conclusion, Action::External(_)) {
            return Err(DefinitionError::ExternalConclusion { saga });
        }
        let mut before_pivot = true;
        for (index, step) in self.steps.iter().enumerate() {
            self.check_step(step, before_pivot)?;
            before_pivot &= step.kind != StepKind::Pivot;
            if self.steps[..index].iter().any(|earlier| earlier.name == step.name) {
                return Err(DefinitionError::Duplicate { name: step.name });
            }
        }
        Ok(())
    }

    fn check_step(&self, step: &StepDefinition, before_pivot: bool) -> Result<(), DefinitionError> {
        let (saga, name) = (self.name, step.name);
        match (step.kind, before_pivot) {
            (StepKind::Retriable, true) => {
                return Err(DefinitionError::OutOfOrder {
                    saga,
                    step: name,
                    kind: step.kind,
                    side: "before",
                });
            }
            (StepKind::Compensable, false) => {
                return Err(DefinitionError::OutOfOrder { saga, step: name, kind: step.kind, side: "after" });
            }
            _ => {}
        }
        if step.kind != StepKind::Compensable && step.backward.is_some() {
            return Err(DefinitionError::UndoAfterPivot { saga, step: name });
        }
        if matches!(step.forward, Action::External(_)) {
            if step.kind == StepKind::Compensable && step.backward.is_none() {
                return Err(DefinitionError::CallWithoutUndo { saga, step: name });
            }
            let age = step.retry.longest_age(step.time_out);
            if age >= self.key_retention {
                let retention = self.key_retention;
                return Err(DefinitionError::RetriedPastRetention { saga, step: name, age, retention });
            }
        }
        Ok(())
    }

    /// Returns the step at an index, or `None` for the conclusion.
    pub fn step(&self, index: i16) -> Option<&StepDefinition> {
        usize::try_from(index).ok().and_then(|index| self.steps.get(index))
    }

    /// Returns the name under which an index is logged.
    pub fn step_name(&self, index: i16) -> &'static str {
        self.step(index).map_or(CONCLUSION_NAME, |step| step.name)
    }

    /// Returns what carries out the step at an index in a direction; `None` where there is nothing to do.
    pub fn action(&self, index: i16, direction: Direction) -> Option<&Action> {
        match (self.step(index), direction) {
            (Some(step), Direction::Forward) => Some(&step.forward),
            (Some(step), Direction::Backward) => step.backward.as_ref(),
            (None, _) => Some(&self.conclusion),
        }
    }

    /// Returns for how long after its arrival at a step a saga may repeat the call: an attempt that begins later could
    /// end after the other system has forgotten the key.
    pub fn longest_repetition(&self, step: &StepDefinition) -> Duration {
        self.key_retention.saturating_sub(step.retry.max_delay + step.time_out)
    }

    /// Returns how the step at an index is retried.
    pub fn retry(&self, index: i16) -> RetryPolicy {
        self.step(index).map_or(RetryPolicy::DEFAULT, |step| step.retry)
    }
}

/// The definitions a runner knows, by name and version.
#[derive(Debug, Clone, Default)]
pub struct Definitions(HashMap<(String, i32), Arc<Definition>>);

impl Definitions {
    /// Checks and collects definitions.
    ///
    /// # Errors
    /// The first rule that one of them breaks.
    pub fn try_new(definitions: impl IntoIterator<Item = Definition>) -> Result<Self, DefinitionError> {
        let mut known = HashMap::new();
        for definition in definitions {
            definition.check()?;
            let name = definition.name;
            if known.insert((name.to_owned(), definition.version), Arc::new(definition)).is_some() {
                return Err(DefinitionError::Duplicate { name });
            }
        }
        Ok(Self(known))
    }

    /// Returns the definition a saga is pinned to.
    pub fn find(&self, name: &str, version: i32) -> Option<&Arc<Definition>> {
        self.0.get(&(name.to_owned(), version))
    }

    /// Returns every definition, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.0.values()
    }

    /// Returns the names of the other systems that their steps call.
    pub(super) fn systems(&self) -> BTreeSet<&'static str> {
        let steps = self.iter().flat_map(|definition| &definition.steps);
        let actions = steps.flat_map(|step| [Some(&step.forward), step.backward.as_ref()]);
        let called = actions.filter_map(|action| match action? {
            Action::External(step) => Some(step.system()),
            Action::Local(_) => None,
        });
        called.collect()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::engine::step::{Call, Outcome, Saga, Settled, StepError, Verdict};
    use crate::engine::step_transaction::StepTransaction;

    struct Never;

    #[async_trait]
    impl LocalStep for Never {
        async fn run(&self, _: &StepTransaction<'_>, _: &mut [Saga]) -> Result<Vec<Verdict>, StepError> {
            Ok(Vec::new())
        }
    }

    #[async_trait]
    impl ExternalStep for Never {
        fn request(&self, _: &Saga) -> Result<String, StepError> {
            Ok(String::new())
        }

        fn system(&self) -> &'static str {
            "nowhere"
        }

        async fn call(&self, _: &Call) -> Outcome {
            Outcome::Unknown("declared, not run".to_owned())
        }

        async fn record(&self, _: &StepTransaction<'_>, _: &mut [Settled<'_>]) -> Result<(), StepError> {
            Ok(())
        }
    }

    fn definition(kinds: &[StepKind]) -> Definition {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let steps = kinds.iter().zip(NAMES).map(|(&kind, name)| StepDefinition {
            name,
            kind,
            forward: Action::Local(Arc::new(Never)),
            backward: None,
            retry: RetryPolicy::DEFAULT,
            on_unknown: Resolution::Repeat,
            time_out: Duration::from_secs(1),
            exhausted: Failure::new("E", "e"),
        });
        Definition {
            name: "test",
            version: 1,
            steps: steps.collect(),
            conclusion: Action::Local(Arc::new(Never)),
            key_retention: Duration::from_hours(24),
        }
    }

    #[test]
    fn compensable_pivot_retriable_loads_and_nothing_else_does() {
        use StepKind::{Compensable, Pivot, Retriable};
        assert_eq!(definition(&[Compensable, Pivot, Retriable]).check(), Ok(()));
        assert_eq!(definition(&[Pivot]).check(), Ok(()));
        assert!(matches!(definition(&[]).check(), Err(DefinitionError::NoSteps { .. })));
        assert!(matches!(
            definition(&[Compensable]).check(),
            Err(DefinitionError::PivotCount { pivots: 0, .. })
        ));
        assert!(matches!(
            definition(&[Pivot, Pivot]).check(),
            Err(DefinitionError::PivotCount { pivots: 2, .. })
        ));
        assert!(matches!(definition(&[Retriable, Pivot]).check(), Err(DefinitionError::OutOfOrder { .. })));
        assert!(matches!(definition(&[Pivot, Compensable]).check(), Err(DefinitionError::OutOfOrder { .. })));
    }

    #[test]
    fn a_name_or_a_version_is_used_once() {
        let mut twice = definition(&[StepKind::Compensable, StepKind::Pivot]);
        twice.steps[1].name = "a";
        assert_eq!(twice.check(), Err(DefinitionError::Duplicate { name: "a" }));
        let one = definition(&[StepKind::Pivot]);
        assert!(Definitions::try_new([one.clone(), one]).is_err());
    }

    #[test]
    fn a_call_that_cannot_be_undone_or_outlasts_its_key_does_not_load() {
        let mut calling = definition(&[StepKind::Compensable, StepKind::Pivot, StepKind::Retriable]);
        calling.steps[0].forward = Action::External(Arc::new(Never));
        assert_eq!(calling.check(), Err(DefinitionError::CallWithoutUndo { saga: "test", step: "a" }));
        calling.steps[0].backward = Some(Action::Local(Arc::new(Never)));
        assert_eq!(calling.check(), Ok(()));

        for (index, step) in [(0, "a"), (1, "b"), (2, "c")] {
            let mut patient = calling.clone();
            patient.steps[index].forward = Action::External(Arc::new(Never));
            patient.steps[index].retry.max_attempts = 9;
            let age = patient.steps[index].retry.longest_age(patient.steps[index].time_out);
            patient.key_retention = age + Duration::from_nanos(1);
            assert_eq!(patient.check(), Ok(()));
            patient.key_retention = age;
            let refused = DefinitionError::RetriedPastRetention { saga: "test", step, age, retention: age };
            assert_eq!(patient.check(), Err(refused));
        }
    }

    #[test]
    fn a_conclusion_that_calls_another_system_does_not_load() {
        let mut calling = definition(&[StepKind::Pivot]);
        calling.conclusion = Action::External(Arc::new(Never));
        assert_eq!(calling.check(), Err(DefinitionError::ExternalConclusion { saga: "test" }));
    }

    #[test]
    fn an_undo_behind_the_pivot_is_refused() {
        let mut late = definition(&[StepKind::Pivot, StepKind::Retriable]);
        late.steps[1].backward = Some(Action::Local(Arc::new(Never)));
        assert!(matches!(late.check(), Err(DefinitionError::UndoAfterPivot { step: "b", .. })));
    }
}
