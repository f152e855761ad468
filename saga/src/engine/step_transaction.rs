//! The transaction of a batch, as its steps see it.

use std::any::Any;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult, Statement};

use super::step::StepError;

/// Writes that steps put off until the transaction has run its last step, so that what many steps do to the same rows is
/// one statement.
///
/// They are written before the commit and fail like the steps that put them off: the transaction is rolled back and its
/// sagas are bisected. Where a transaction has one saga they are written after each step, so that it is known which of
/// its steps is to blame.
#[async_trait]
pub trait Deferred: Any + Send {
    /// Writes everything that was put off.
    ///
    /// # Errors
    /// Whatever a step may fail with.
    async fn write(self: Box<Self>, tx: &DatabaseTransaction) -> Result<(), StepError>;
}

/// A transaction in which steps run. It is a connection like any other, and remembers what they put off.
pub struct StepTransaction<'a> {
    tx: &'a DatabaseTransaction,
    /// At most one of each type.
    deferred: Mutex<Vec<Box<dyn Deferred>>>,
}

impl<'a> StepTransaction<'a> {
    pub(super) fn new(tx: &'a DatabaseTransaction) -> Self {
        Self { tx, deferred: Mutex::default() }
    }

    /// Puts something off: adds it to what was put off already in writes of this type.
    pub fn defer<D: Deferred + Default>(&self, add: impl FnOnce(&mut D)) {
        let mut deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = deferred.iter_mut().map(|writes| -> &mut dyn Any { writes.as_mut() });
        if let Some(writes) = known.find_map(|writes| writes.downcast_mut()) {
            add(writes);
        } else {
            let mut writes = D::default();
            add(&mut writes);
            deferred.push(Box::new(writes));
        }
    }

    /// Writes what was put off so far.
    pub(super) async fn write_deferred(&self) -> Result<(), StepError> {
        let deferred = std::mem::take(&mut *self.deferred.lock().unwrap_or_else(PoisonError::into_inner));
        for writes in deferred {
            writes.write(self.tx).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl ConnectionTrait for StepTransaction<'_> {
    fn get_database_backend(&self) -> DbBackend {
        self.tx.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.tx.execute_raw(statement).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.tx.execute_unprepared(sql).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.tx.query_one_raw(statement).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.tx.query_all_raw(statement).await
    }
}

impl std::fmt::Debug for StepTransaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StepTransaction").finish_non_exhaustive()
    }
}
