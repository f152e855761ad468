//! Tells the database's failures apart, by SQLSTATE (PostgreSQL manual, appendix A) or, where the server said nothing, by what the
//! driver says.
//!
//! One list for the engine and for whoever answers callers, since what is the database's trouble for one is so for all. They
//! differ where the question is another, and each difference is a function with a name:
//!
//! - A statement that took too long, or waited too long for a lock, is [a time-out](is_time_out). Whoever answers a caller
//!   says "later"; the engine cannot tell the database's trouble from one saga's own, and asks about the saga alone before it
//!   puts it off.
//! - The server's resources (class 53) are everybody's, but for [its memory](is_unavailable): one saga's statement may be what
//!   needs too much of it, so that the engine looks for the culprit.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

/// Returns the SQLSTATE that the server gave, if it was the server that spoke.
pub fn sql_state(error: &DbErr) -> Option<String> {
    driver_error(error)?.as_database_error()?.code().map(|code| code.into_owned())
}

/// Returns whether the database is away, or shutting somebody out, whatever the statement was: the same statement is as good
/// as any when it is back.
pub fn is_unavailable(error: &DbErr) -> bool {
    // Whatever keeps us from a connection, a changed password included, keeps everybody from the database.
    if matches!(error, DbErr::Conn(_) | DbErr::ConnectionAcquire(_)) {
        return true;
    }
    match driver_error(error) {
        Some(SqlxError::Database(error)) => shuts_out(error.code().as_deref().unwrap_or_default()),
        Some(
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolTimedOut
            | SqlxError::PoolClosed
            | SqlxError::WorkerCrashed,
        ) => true,
        _ => false,
    }
}

/// Returns whether the transaction lost a deadlock or a serialization conflict and may simply be run again.
pub fn is_conflict(error: &DbErr) -> bool {
    // serialization_failure, deadlock_detected
    matches!(sql_state(error).as_deref(), Some("40001" | "40P01"))
}

/// Returns whether a statement was broken off because it took too long, or waited too long for a lock. Nobody knows whose
/// fault that is.
pub fn is_time_out(error: &DbErr) -> bool {
    // query_canceled, lock_not_available
    matches!(sql_state(error).as_deref(), Some("57014" | "55P03"))
}

/// Returns whether the server had no memory for a statement (`out_of_memory`).
pub fn is_out_of_memory(error: &DbErr) -> bool {
    sql_state(error).as_deref() == Some(OUT_OF_MEMORY)
}

const OUT_OF_MEMORY: &str = "53200";

fn shuts_out(code: &str) -> bool {
    match code {
        "57014" | OUT_OF_MEMORY => false,
        // read_only_sql_transaction: we talk to a server that is a standby now. idle_in_transaction_session_timeout: it is
        // gone, and says so to whoever comes next.
        "25006" | "25P03" => true,
        // connection exception, insufficient resources, operator intervention, system error
        _ => ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
    }
}

fn driver_error(error: &DbErr) -> Option<&SqlxError> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => Some(error),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::error::Error;
    use std::sync::Arc;

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// What a server says.
    #[derive(Debug, thiserror::Error)]
    #[error("SQLSTATE {0}")]
    struct Said(&'static str);

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn query(error: SqlxError) -> DbErr {
        DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
    }

    fn said(code: &'static str) -> DbErr {
        query(SqlxError::Database(Box::new(Said(code))))
    }

    /// What is said of an error: unavailable, conflict, time-out, out of memory.
    fn kinds(error: &DbErr) -> [bool; 4] {
        [is_unavailable(error), is_conflict(error), is_time_out(error), is_out_of_memory(error)]
    }

    #[test]
    fn each_sqlstate_is_of_one_kind() {
        let (unavailable, conflict, time_out, out_of_memory, other) = (
            [true, false, false, false],
            [false, true, false, false],
            [false, false, true, false],
            [false, false, false, true],
            [false; 4],
        );
        let table = [
            ("08006", unavailable),
            ("22003", other),
            ("23514", other),
            ("25006", unavailable),
            ("25P02", other),
            ("25P03", unavailable),
            ("40001", conflict),
            ("40P01", conflict),
            ("42P01", other),
            ("53000", unavailable),
            ("53100", unavailable),
            ("53200", out_of_memory),
            ("53300", unavailable),
            ("53400", unavailable),
            ("54001", other),
            ("55P03", time_out),
            ("57014", time_out),
            ("57P01", unavailable),
            ("57P03", unavailable),
            ("58000", unavailable),
            ("58030", unavailable),
            ("XX000", other),
        ];
        for (code, expected) in table {
            assert_eq!(kinds(&said(code)), expected, "{code}");
        }
    }

    #[test]
    fn a_server_that_says_nothing_is_away() {
        let away = [
            DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout),
            DbErr::Conn(RuntimeErr::Internal("no such host".to_owned())),
            query(SqlxError::Io(std::io::ErrorKind::ConnectionReset.into())),
            query(SqlxError::Protocol("unexpected message".to_owned())),
            query(SqlxError::Tls("closed".into())),
            query(SqlxError::PoolTimedOut),
            query(SqlxError::WorkerCrashed),
        ];
        for error in away {
            assert_eq!(kinds(&error), [true, false, false, false], "{error}");
        }
        for error in [DbErr::RecordNotInserted, query(SqlxError::RowNotFound)] {
            assert_eq!(kinds(&error), [false; 4], "{error}");
        }
    }
}
