//! A replica that reads come from for as long as it answers.
//!
//! Whether it does is found out beside the requests: one that fails, or takes long, raises a doubt, and a connection of its
//! own tells. While the replica is away nobody waits for it, whoever is waiting goes on to the primary at once, and once a
//! second it is tried again. A replica that is merely busy stays in use: its load must not fall on the primary. One that is
//! promoted answers as before and is none any more, which raises no doubt: so it is asked now and then without any.
//!
//! One that is further behind than the settings let it be counts as away. Absent on purpose: any other knowledge of how far
//! behind it is. Who has seen more says so (`getOrder(minSequence:)`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::app::Visibility;
use metrics::{counter, gauge};
use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

use super::{Pool, Source, View};
use crate::database_error::{Trouble, classify, is_canceled, is_locked_out};
use crate::postgres::PoolSettings;
use crate::postgres::replica::{ReplicaError, ReplicaServer};
use crate::telemetry::chain;

/// A look that takes longer raises a doubt: a server that is gone from the network says nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries of a replica that is away, and after a doubt that was none.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The longest time between two checks of a replica that nobody doubts.
const RECHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The least time between two warnings about looks that failed.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The replica does not answer.
const AWAY: &str = "away";

/// What it replays got in the way of a look.
const CONFLICT: &str = "conflict";

/// Anything else, such as a table that has not arrived there.
const FAILED: &str = "failed";

/// It has not got as far as the caller has.
pub(super) const BEHIND: &str = "behind";

/// What is known of a replica.
#[derive(Debug)]
enum Standing {
    /// It answers over these connections. Each time that it comes back they are others: those of before may be stuck.
    There(Pool),
    /// It does not, or shows what is too old.
    Away,
    /// Another database answers in its place.
    Foreign,
}

/// A replica of the database.
#[derive(Debug)]
pub struct Replica {
    server: ReplicaServer,
    settings: PoolSettings,
    standing: watch::Sender<Standing>,
    doubt: Notify,
    last_warning: Mutex<Option<Instant>>,
}

impl Replica {
    /// Looks whether the replica is there, and reads from the primary until it is.
    ///
    /// # Errors
    /// It is no replica of the database.
    pub async fn open(server: ReplicaServer, settings: PoolSettings) -> Result<Self, ReplicaError> {
        let standing = match server.check().await {
            Ok(()) => Standing::There(connect(&server, &settings)),
            Err(foreign @ ReplicaError::Foreign { .. }) => return Err(foreign),
            Err(cause) => {
                tell_away(&cause);
                Standing::Away
            }
        };
        let doubt = Notify::new();
        if matches!(standing, Standing::Away) {
            doubt.notify_one();
        }
        count_up(&standing);
        let standing = watch::Sender::new(standing);
        Ok(Self { server, settings, standing, doubt, last_warning: Mutex::default() })
    }

    /// The connections that are in use.
    pub(super) fn connections(&self) -> Option<DatabaseConnection> {
        self.pool().map(|pool| pool.connections)
    }

    fn pool(&self) -> Option<Pool> {
        match &*self.standing.borrow() {
            Standing::There(pool) => Some(pool.clone()),
            Standing::Away | Standing::Foreign => None,
        }
    }

    /// Looks at what a caller sees here; `None` when the primary has to answer.
    ///
    /// # Errors
    /// The caller has too many looks on their way, or this one has taken too long: the primary would fare no better.
    pub(super) async fn read<T, Looking>(
        &self,
        visibility: &Visibility,
        look: impl Fn(View) -> Looking,
    ) -> Result<Option<T>, DbErr>
    where
        Looking: Future<Output = Result<T, DbErr>>,
    {
        let leave_it = || {
            count_fallback(AWAY);
            Ok(None)
        };
        let Some(pool) = self.pool() else { return leave_it() };
        // The wait for a share is apart, because its failure is the caller's own.
        let share = self.unless_gone(pool.share(visibility)).await.transpose()?;
        let Some(share) = share else { return leave_it() };
        let looking = async { look(pool.begin(share, visibility).await?).await };
        match self.unless_gone(looking).await {
            Some(Ok(found)) => Ok(Some(found)),
            Some(Err(error)) if is_canceled(&error) => Err(error),
            Some(Err(error)) => {
                self.fall_back(&error);
                Ok(None)
            }
            None => leave_it(),
        }
    }

    /// Finds out whether the replica is there and still is one, whenever there is a doubt and now and then without one; never
    /// ends.
    pub(super) async fn watch(&self) {
        loop {
            // That the time is over is as good a reason as a doubt.
            let _ = tokio::time::timeout(RECHECK_INTERVAL, self.doubt.notified()).await;
            loop {
                self.learn(self.server.check().await);
                tokio::time::sleep(CHECK_INTERVAL).await;
                if self.pool().is_some() {
                    break;
                }
            }
        }
    }

    /// Takes note of what a check has found; says so in the log when it is news.
    fn learn(&self, checked: Result<(), ReplicaError>) {
        self.standing.send_if_modified(|standing| {
            let learned = match (&*standing, checked) {
                (Standing::There(_), Ok(())) => return false,
                (Standing::Away, Err(ReplicaError::Away(_) | ReplicaError::Behind { .. })) => return false,
                (Standing::Foreign, Err(ReplicaError::Foreign { .. })) => return false,
                (_, Ok(())) => {
                    info!("the replica answers; reading from it");
                    Standing::There(connect(&self.server, &self.settings))
                }
                (_, Err(cause @ ReplicaError::Foreign { .. })) => {
                    error!("{cause}; reading from the primary");
                    Standing::Foreign
                }
                (_, Err(cause)) => {
                    tell_away(&cause);
                    Standing::Away
                }
            };
            count_up(&learned);
            *standing = learned;
            true
        });
    }

    /// Does what needs the replica; `None` when it is found to be away meanwhile, which taking long makes somebody find out.
    async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut standing = self.standing.subscribe();
        let gone = async {
            // The sender is ours, so that waiting cannot fail.
            let is_gone = |standing: &Standing| !matches!(standing, Standing::There(_));
            let _ = standing.wait_for(is_gone).await.map(drop);
        };
        let doubt = async {
            tokio::time::sleep(PATIENCE).await;
            self.doubt.notify_one();
            std::future::pending().await
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = gone => None,
            () = doubt => None,
        }
    }

    fn fall_back(&self, cause: &DbErr) {
        let reason = match classify(cause) {
            Trouble::Unavailable if !is_locked_out(cause) => AWAY,
            Trouble::Unavailable | Trouble::Conflict => CONFLICT,
            Trouble::Other => FAILED,
        };
        count_fallback(reason);
        if reason == AWAY {
            self.doubt.notify_one();
        }
        let mut last = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL) {
            *last = Some(Instant::now());
            warn!(reason, error = chain(cause), "the replica cannot answer; reading from the primary");
        }
    }
}

fn connect(server: &ReplicaServer, settings: &PoolSettings) -> Pool {
    Pool::new(server.connect_lazily(settings), Source::Replica)
}

fn tell_away(cause: &ReplicaError) {
    warn!(error = chain(cause), "the replica is away or behind; reading from the primary until it is back");
}

fn count_up(standing: &Standing) {
    gauge!("oms_replica_up").set(if matches!(standing, Standing::There(_)) { 1 } else { 0 });
}

/// Counts a look that the primary has to answer in the replica's place.
pub(super) fn count_fallback(reason: &'static str) {
    counter!("oms_replica_fallbacks_total", "reason" => reason).increment(1);
}
