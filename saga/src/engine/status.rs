//! The enum columns of the `saga` table.

use sea_orm::entity::prelude::*;

/// Where a saga stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SagaStatus {
    /// On its way forward.
    Running,
    /// Undoing what may have been done.
    Compensating,
    /// Waiting for a person: nothing more can be tried without risking a second effect.
    Held,
    /// Every step succeeded.
    Succeeded,
    /// Everything that may have been done was undone.
    Compensated,
}

impl SagaStatus {
    /// Returns whether the saga is over.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Compensated)
    }
}

/// Which way a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EnumIter, DeriveActiveEnum)]
#[sea_orm(rs_type = "String", db_type = "Text", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Direction {
    /// Doing it.
    Forward,
    /// Undoing it.
    Backward,
}

impl Direction {
    /// Returns the word that idempotency keys and the database use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "FORWARD",
            Self::Backward => "BACKWARD",
        }
    }
}
