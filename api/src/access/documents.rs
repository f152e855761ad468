//! Documents that are registered for apps, remembered for as long as the door remembers who a credential stands for: a
//! document that is added or removed by another process is known here that much later, and one that is asked for again
//! and again costs no statement.

use std::sync::Arc;
use std::time::Duration;

use domain::app::document::DocumentId;
use domain::app::store;
use domain::id::AppId;
use moka::sync::Cache;
use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::door::REMEMBER_FOR;
use super::remembered::{Generation, Remembered};

/// Bytes of memory for what is remembered.
const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes that remembering takes beyond a text.
const BYTES_OF_ENTRY: usize = 200;

/// Documents that are looked up at a time, so that whoever names unknown ones leaves connections to others.
const TURNS: usize = 4;

/// How long a look-up waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);

/// The text of a document, or that the app has none of this name.
pub(crate) type Found = Option<Arc<str>>;

/// The documents of all apps. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RegisteredDocuments(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    db: DatabaseConnection,
    remembered: Remembered<(Uuid, DocumentId), Found>,
    turns: Semaphore,
}

impl RegisteredDocuments {
    /// Reads them from this database.
    pub(crate) fn of(db: DatabaseConnection) -> Self {
        let bytes_of = |_: &(Generation, (Uuid, DocumentId)), found: &Found| {
            let bytes = found.as_ref().map_or(0, |text| text.len()) + BYTES_OF_ENTRY;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let remembered =
            Cache::builder().max_capacity(MAX_BYTES).weigher(bytes_of).time_to_live(REMEMBER_FOR).build();
        Self(Arc::new(Parts { db, remembered: Remembered::new(remembered), turns: Semaphore::new(TURNS) }))
    }

    /// What is remembered of this name; `None` where nobody has asked for it lately.
    pub(crate) fn recall(&self, app_id: AppId, id: DocumentId) -> Option<Found> {
        self.0.remembered.get((app_id.uuid(), id))
    }

    /// Looks for the app's document of this name, and remembers what came of it.
    ///
    /// # Errors
    /// Any error of the database, or too many look for theirs.
    pub(crate) async fn look_up(&self, app_id: AppId, id: DocumentId) -> Result<Found, DbErr> {
        let turn = tokio::time::timeout(TURN_TIMEOUT, self.0.turns.acquire()).await;
        let _turn = turn.map_err(|_| DbErr::ConnectionAcquire(sea_orm::error::ConnAcquireErr::Timeout))?;
        // Somebody may have found it meanwhile.
        if let Some(found) = self.recall(app_id, id) {
            return Ok(found);
        }
        let generation = self.0.remembered.generation();
        let found: Found = store::find_document(&self.0.db, app_id.uuid(), id).await?.map(Arc::from);
        self.0.remembered.insert(generation, (app_id.uuid(), id), found.clone());
        Ok(found)
    }

    /// Forgets what is remembered: something was changed.
    pub(super) fn forget(&self) {
        self.0.remembered.forget();
    }
}
