//! Tells the database's failures apart by what can be done about them.

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

/// Sorts a failure by its SQLSTATE (PostgreSQL documentation, appendix A) or, without one, by its kind.
pub(crate) fn classify(error: &DbErr) -> Trouble {
    // Whatever keeps us from a connection, a changed password included, keeps everybody from the database.
    if matches!(error, DbErr::Conn(_) | DbErr::ConnectionAcquire(_)) {
        return Trouble::Unavailable;
    }
    let Some(error) = driver_error(error) else {
        return Trouble::Other;
    };
    match error {
        SqlxError::Database(error) => by_sqlstate(error.code().as_deref().unwrap_or_default()),
        SqlxError::Io(_)
        | SqlxError::Tls(_)
        | SqlxError::Protocol(_)
        | SqlxError::PoolTimedOut
        | SqlxError::PoolClosed
        | SqlxError::WorkerCrashed => Trouble::Unavailable,
        _ => Trouble::Other,
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
    match driver_error(error) {
        Some(SqlxError::Database(error)) => error.code().is_some_and(|code| code == sqlstate),
        _ => false,
    }
}

/// Returns the name of the constraint that a statement violated, if that is what happened.
pub(crate) fn violated_constraint(error: &DbErr) -> Option<&str> {
    match driver_error(error)? {
        SqlxError::Database(error) => error.constraint(),
        _ => None,
    }
}

fn by_sqlstate(code: &str) -> Trouble {
    match code {
        // serialization_failure, deadlock_detected
        "40001" | "40P01" => Trouble::Conflict,
        // read_only_sql_transaction: we talk to a server that is a standby now; lock_not_available
        "25006" | "55P03" => Trouble::Unavailable,
        // connection exception, insufficient resources, operator intervention (statement time-out among them), system error
        _ if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => Trouble::Unavailable,
        _ => Trouble::Other,
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

    #[test]
    fn sqlstates_are_sorted_by_class() {
        assert_eq!(by_sqlstate("40P01"), Trouble::Conflict);
        assert_eq!(by_sqlstate("57P01"), Trouble::Unavailable);
        assert_eq!(by_sqlstate("53300"), Trouble::Unavailable);
        assert_eq!(by_sqlstate("23514"), Trouble::Other);
    }
}
