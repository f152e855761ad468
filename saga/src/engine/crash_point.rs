//! Says where a process is, so that a test can stop it at one instruction of one step, and kill it there.
//!
//! The fail point `crash_place` names the place, as `POINT/STEP/DIRECTION`; the fail point `crash` is what happens
//! there. Without the `failpoints` feature all of this compiles to nothing.

use super::dispatch::Dispatch;
#[cfg(feature = "failpoints")]
use super::history::LogKind;
#[cfg(feature = "failpoints")]
use super::status::Direction;
use super::store::Writes;

/// An instruction at which a crash could hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only the tests ask for some of them"))]
pub(super) enum CrashPoint {
    /// The call is decided on, and nothing says so yet.
    BeforeIntentCommit,
    /// The intent is committed, and nobody has begun to carry it out.
    AfterIntentCommit,
    /// The call is in time and about to be made, and nothing has been sent.
    BeforeSend,
    /// The answer is here, and nobody has begun to write it down.
    AfterAnswer,
    /// The result is written, and may still be rolled back.
    BeforeResultCommit,
    /// The result is committed, and nobody has been told.
    AfterResultCommit,
}

impl CrashPoint {
    #[cfg(feature = "failpoints")]
    fn name(self) -> &'static str {
        match self {
            Self::BeforeIntentCommit => "before_intent_commit",
            Self::AfterIntentCommit => "after_intent_commit",
            Self::BeforeSend => "before_send",
            Self::AfterAnswer => "after_answer",
            Self::BeforeResultCommit => "before_result_commit",
            Self::AfterResultCommit => "after_result_commit",
        }
    }

    /// Passes this point with a call.
    #[cfg(feature = "failpoints")]
    pub(super) fn pass(self, dispatch: &Dispatch) {
        self.pass_at(dispatch.definition.step_name(dispatch.place.0), dispatch.place.1);
    }

    /// Passes this point with a call: nothing happens.
    #[cfg(not(feature = "failpoints"))]
    pub(super) const fn pass(self, _: &Dispatch) {}

    #[cfg(feature = "failpoints")]
    fn pass_at(self, step: &str, direction: Direction) {
        let place = format!("{}/{step}/{}", self.name(), direction.as_str().to_lowercase());
        if fail::eval("crash_place", |wanted| wanted.as_deref() == Some(&place)) == Some(true) {
            fail::fail_point!("crash");
        }
    }
}

/// The places that one commit makes true.
pub(super) struct CommitPlaces {
    #[cfg(feature = "failpoints")]
    intents: Vec<(&'static str, Direction)>,
    #[cfg(feature = "failpoints")]
    results: Vec<(&'static str, Direction)>,
}

#[cfg(feature = "failpoints")]
impl CommitPlaces {
    /// Notes what is about to be committed.
    pub(super) fn of(writes: &Writes, dispatches: &[Dispatch]) -> Self {
        let results = writes.log.iter().filter(|entry| entry.kind == LogKind::Attempt);
        let intent =
            |dispatch: &Dispatch| (dispatch.definition.step_name(dispatch.place.0), dispatch.place.1);
        Self {
            intents: dispatches.iter().map(intent).collect(),
            results: results.map(|entry| (entry.step, entry.direction)).collect(),
        }
    }

    /// Passes the points before the commit.
    pub(super) fn pass_before(&self) {
        self.intents.iter().for_each(|&(step, way)| CrashPoint::BeforeIntentCommit.pass_at(step, way));
        self.results.iter().for_each(|&(step, way)| CrashPoint::BeforeResultCommit.pass_at(step, way));
    }

    /// Passes the points after the commit.
    pub(super) fn pass_after(&self) {
        self.intents.iter().for_each(|&(step, way)| CrashPoint::AfterIntentCommit.pass_at(step, way));
        self.results.iter().for_each(|&(step, way)| CrashPoint::AfterResultCommit.pass_at(step, way));
    }
}

#[cfg(not(feature = "failpoints"))]
impl CommitPlaces {
    /// Notes nothing.
    pub(super) const fn of(_: &Writes, _: &[Dispatch]) -> Self {
        Self {}
    }

    /// Does nothing.
    pub(super) const fn pass_before(&self) {}

    /// Does nothing.
    pub(super) const fn pass_after(&self) {}
}
