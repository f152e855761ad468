//! Wake-ups: in process by memory, between processes by Postgres notifications.
//!
//! A notification is never the only way to learn something: runners and viewers look by themselves every now and then,
//! so a lost one costs latency and nothing else, and everything works with notifications off.
//!
//! Between processes at most one notification is sent in five milliseconds, on a connection of its own and never
//! inside a transaction that does work: NOTIFY takes a lock that serializes the commits of whoever uses it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::runner::chain;

/// The Postgres channel all processes share.
const CHANNEL: &str = "oms_wakeups";

/// The shortest time between two notifications of one process.
const SEND_INTERVAL: Duration = Duration::from_millis(5);

/// How long to wait before a lost connection is opened again.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// The most subjects named in one notification; more are announced as "all". A payload holds 8,000 bytes
/// (PostgreSQL manual, "NOTIFY"), an id takes 32 and a comma.
const MAX_NAMED: usize = 200;

/// The most batches of changes a slow subscriber may lag behind before it is told "all".
const MAX_LAG: usize = 1_024;

/// Which subjects have changed.
#[derive(Debug, Clone)]
pub enum Changed {
    /// These.
    Subjects(Arc<[Uuid]>),
    /// Any of them may have.
    All,
}

/// Tells runners that sagas are ready and viewers that subjects have changed.
#[derive(Debug)]
pub struct Wakeups {
    process: Uuid,
    ready: Notify,
    changed: broadcast::Sender<Changed>,
    outbound: Mutex<Outbound>,
    outbound_filled: Notify,
}

/// What other processes have not been told yet.
#[derive(Debug, Default)]
struct Outbound {
    ready: bool,
    changed: HashSet<Uuid>,
    all_changed: bool,
}

impl Wakeups {
    /// Makes the wake-ups of one process.
    pub fn new() -> Arc<Self> {
        let (changed, _) = broadcast::channel(MAX_LAG);
        Arc::new(Self {
            process: Uuid::now_v7(),
            ready: Notify::new(),
            changed,
            outbound: Mutex::default(),
            outbound_filled: Notify::new(),
        })
    }

    /// Says that sagas have become ready. Call it after the commit that made them so.
    pub fn sagas_ready(&self) {
        self.ready.notify_one();
        self.outbound().ready = true;
        self.outbound_filled.notify_one();
    }

    /// Says that subjects have changed. Call it after the commit that changed them.
    pub fn subjects_changed(&self, subject_ids: Vec<Uuid>) {
        if subject_ids.is_empty() {
            return;
        }
        {
            let mut outbound = self.outbound();
            if outbound.changed.len() + subject_ids.len() > MAX_NAMED {
                outbound.all_changed = true;
                outbound.changed.clear();
            } else if !outbound.all_changed {
                outbound.changed.extend(&subject_ids);
            }
        }
        self.outbound_filled.notify_one();
        // Nobody listening is no error.
        let _ = self.changed.send(Changed::Subjects(subject_ids.into()));
    }

    /// Returns what tells of every change from now on.
    pub fn subscribe_changed(&self) -> broadcast::Receiver<Changed> {
        self.changed.subscribe()
    }

    /// Waits until sagas have become ready; remembers one wake-up that came while nobody waited.
    pub async fn wait_ready(&self) {
        self.ready.notified().await;
    }

    /// Wakes one runner of this process, without telling the others.
    pub(super) fn wake_runner(&self) {
        self.ready.notify_one();
    }

    /// Exchanges wake-ups with the other processes on this database until `shutdown`.
    pub async fn link(self: Arc<Self>, pool: PgPool, shutdown: CancellationToken) {
        let both = async { tokio::join!(self.send_loop(&pool), self.receive_loop(&pool)) };
        shutdown.run_until_cancelled(both).await;
    }

    fn outbound(&self) -> std::sync::MutexGuard<'_, Outbound> {
        // The lock is held for an assignment at a time; a poisoned one still holds a usable value.
        self.outbound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the other processes now: for one that is about to end and has no link.
    pub async fn send(&self, pool: &PgPool) {
        let payload = encode(self.process, std::mem::take(&mut *self.outbound()));
        let sent = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(pool).await;
        if let Err(error) = sent {
            debug!(error = %chain(&error), "could not notify other processes; they will look by themselves");
        }
    }

    async fn send_loop(&self, pool: &PgPool) {
        loop {
            self.outbound_filled.notified().await;
            self.send(pool).await;
            tokio::time::sleep(SEND_INTERVAL).await;
        }
    }

    async fn receive_loop(&self, pool: &PgPool) {
        loop {
            if let Err(error) = self.receive(pool).await {
                warn!(error = %chain(&error), "lost the connection that listens for wake-ups; opening another");
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    async fn receive(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        // Whatever was announced while nobody listened is unknown: look at everything once.
        self.apply(Outbound { ready: true, changed: HashSet::new(), all_changed: true });
        loop {
            let notification = listener.recv().await?;
            if let Some(inbound) = decode(self.process, notification.payload()) {
                self.apply(inbound);
            }
        }
    }

    fn apply(&self, inbound: Outbound) {
        if inbound.ready {
            self.ready.notify_one();
        }
        // Nobody listening is no error.
        if inbound.all_changed {
            let _ = self.changed.send(Changed::All);
        } else if !inbound.changed.is_empty() {
            let _ = self.changed.send(Changed::Subjects(inbound.changed.into_iter().collect()));
        }
    }
}

/// Writes `process|ready|all or ids`.
fn encode(process: Uuid, outbound: Outbound) -> String {
    let ids: Vec<String> = outbound.changed.iter().map(|id| id.simple().to_string()).collect();
    let changed = if outbound.all_changed { "*".to_owned() } else { ids.join(",") };
    format!("{}|{}|{changed}", process.simple(), u8::from(outbound.ready))
}

/// Reads what [`encode`] wrote; `None` for this process's own notifications and for anything else.
fn decode(own_process: Uuid, payload: &str) -> Option<Outbound> {
    let mut parts = payload.splitn(3, '|');
    let process: Uuid = parts.next()?.parse().ok()?;
    let ready = parts.next()? == "1";
    let changed = parts.next()?;
    if process == own_process {
        return None;
    }
    if changed == "*" {
        return Some(Outbound { ready, changed: HashSet::new(), all_changed: true });
    }
    let changed = changed.split(',').filter_map(|id| id.parse().ok()).collect();
    Some(Outbound { ready, changed, all_changed: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_survives_the_wire_and_one_s_own_is_ignored() {
        let (here, there) = (Uuid::now_v7(), Uuid::now_v7());
        let changed: HashSet<Uuid> = (0..MAX_NAMED).map(|_| Uuid::now_v7()).collect();
        let payload = encode(there, Outbound { ready: true, changed: changed.clone(), all_changed: false });
        assert!(payload.len() < 8_000, "fits into a notification");
        let inbound = decode(here, &payload).expect("a notification");
        assert!(inbound.ready && !inbound.all_changed);
        assert_eq!(inbound.changed, changed);
        assert!(decode(there, &payload).is_none());
        assert!(decode(here, "nonsense").is_none());
    }

    #[tokio::test]
    async fn too_many_changes_are_announced_as_all() {
        let wakeups = Wakeups::new();
        for _ in 0..MAX_NAMED + 1 {
            wakeups.subjects_changed(vec![Uuid::now_v7()]);
        }
        let outbound = std::mem::take(&mut *wakeups.outbound());
        assert!(outbound.all_changed && outbound.changed.is_empty());
    }
}
