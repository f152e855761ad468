//! Small helpers for hand-written SQL.

use sea_orm::{DbBackend, Statement, Value};

/// Makes a statement of Postgres with its parameters `$1..$n`.
pub(crate) fn statement<const N: usize>(text: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}
