//! Small helpers for hand-written SQL.

use sea_orm::{DbBackend, Statement, Value};

/// Makes a statement of Postgres with its parameters `$1..$n`.
pub(crate) fn statement<const N: usize>(text: &str, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, text, values)
}

/// Makes an array parameter of one value of each row.
pub(crate) fn column<'a, T: 'a, V>(rows: impl IntoIterator<Item = &'a T>, value: impl Fn(&'a T) -> V) -> Value
where
    Vec<V>: Into<Value>,
{
    rows.into_iter().map(value).collect::<Vec<V>>().into()
}

/// Writes bytes as `decode(…, 'hex')` reads them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to memory cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
