//! Tells the database's failures apart by what can be done about them.

use saga::engine::database_error::{is_conflict, is_out_of_memory, is_time_out, is_unavailable, sql_state};
use sea_orm::{DbErr, RuntimeErr, SqlxError};

/// What a failure of the database means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nobody answers, no connection is free, or the server is busy or stopping: ask again later.
    Unavailable,
    /// Two transactions got in each other's way and this one was rolled back: repeat it.
    Conflict,
    /// Anything else: repeating the same thing fails the same way.
    Other,
}

/// Sorts a failure by what the engine knows of it. Whoever answers a caller does not ask whose fault it is that a statement
/// took too long, or needed too much memory: later it may not.
pub(crate) fn classify(error: &DbErr) -> Trouble {
    if is_conflict(error) {
        Trouble::Conflict
    } else if is_unavailable(error) || is_time_out(error) || is_out_of_memory(error) {
        Trouble::Unavailable
    } else {
        Trouble::Other
    }
}

/// Whether the server gave a statement up because it took too long, or because somebody asked it to (`query_canceled`).
pub(crate) fn is_canceled(error: &DbErr) -> bool {
    has_sqlstate(error, "57014")
}

/// Whether a statement has waited too long for a lock (`lock_not_available`).
pub(crate) fn is_locked_out(error: &DbErr) -> bool {
    has_sqlstate(error, "55P03")
}

fn has_sqlstate(error: &DbErr, sqlstate: &str) -> bool {
    sql_state(error).as_deref() == Some(sqlstate)
}

/// Returns the name of the constraint that a statement violated, if that is what happened.
pub(crate) fn violated_constraint(error: &DbErr) -> Option<&str> {
    match driver_error(error)? {
        SqlxError::Database(error) => error.constraint(),
        _ => None,
    }
}

fn driver_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_busy_pool_and_a_lost_connection_mean_later() {
        let timeout = DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout);
        assert_eq!(classify(&timeout), Trouble::Unavailable);
        let reset = SqlxError::Io(std::io::ErrorKind::ConnectionReset.into());
        assert_eq!(classify(&DbErr::Query(RuntimeErr::SqlxError(Arc::new(reset)))), Trouble::Unavailable);
        assert_eq!(classify(&DbErr::RecordNotInserted), Trouble::Other);
    }
}
