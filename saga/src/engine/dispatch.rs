//! Calls that a commit has promised to make, and what comes of them.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::batch::Place;
use super::definition::Definition;
use super::step::{Call, ExternalStep, Outcome};

/// A call to be made, with everything that its result has to name.
#[derive(Clone)]
pub(super) struct Dispatch {
    pub(super) saga_id: Uuid,
    pub(super) definition: Arc<Definition>,
    pub(super) place: Place,
    pub(super) epoch: i32,
    pub(super) attempt: u32,
    pub(super) generation: u32,
    /// Whether an earlier attempt may have taken effect and the other system can be asked.
    pub(super) look_up_first: bool,
    pub(super) step: Arc<dyn ExternalStep>,
    pub(super) call: Call,
    /// Sent later than this, the call could be open when its lease is over and another process makes it.
    pub(super) send_before: Instant,
}

impl std::fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The request may name a card.
        f.debug_struct("Dispatch")
            .field("saga_id", &self.saga_id)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// A call that was made, and how it ended.
pub(super) struct CallResult {
    pub(super) dispatch: Dispatch,
    pub(super) outcome: Outcome,
    pub(super) started_at: DateTime<Utc>,
}
