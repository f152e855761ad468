//! Whether the database answers.
//!
//! A server that is gone from the network, or stands still, refuses nothing: whoever has asked it something waits for as long
//! as the kernel does, a quarter of an hour or for ever. So whoever works with it does so [`unless it is
//! silent`](Presence::unless_silent). Work that takes long raises a doubt, and a connection of its own tells: a server that
//! answers nothing there either is silent, and whoever waits for it gives up at once. One that refuses, or is merely slow, is
//! not silent: what it says, or what the statement time-out lets it say, is the answer.
//!
//! What was given up may still happen: a commit among it is one whose answer was lost.
//!
//! Absent on purpose: the connection that asks, which is for whoever knows where the database is.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::gauge;
use sea_orm::{DbErr, RuntimeErr, SqlxError};
use tokio::sync::{Notify, watch};
use tracing::{error, info};

/// Work that takes longer raises a doubt, and again each time that it has taken as long.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long the server may take to answer who is in doubt. With the patience before, callers know within 3 s.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Between two checks of a server that answers.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Between two checks of one that does not: work is to go on within 5 s of its return.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The longest that work may take where nobody says how long: far longer than any transaction of ours, and far shorter than a
/// kernel waits for a connection that leads nowhere.
const DEFAULT_LIMIT: Duration = Duration::from_secs(120);

/// What is known of the database.
#[derive(Debug)]
pub struct Presence {
    is_silent: watch::Sender<bool>,
    doubt: Notify,
    heard: Notify,
    /// Connections that were opened before may lead to where nobody is any more.
    trusted_since: Mutex<Option<Instant>>,
    limit: Duration,
}

impl Default for Presence {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Presence {
    /// Takes the database for one that answers, and work with it for given up when it has taken as long as `limit`: a
    /// connection may lead nowhere while others do.
    pub fn new(limit: Duration) -> Self {
        Self {
            is_silent: watch::Sender::new(false),
            doubt: Notify::new(),
            heard: Notify::new(),
            trusted_since: Mutex::default(),
            limit,
        }
    }

    /// Does what needs the database; `None` when that is silent, or the work takes longer than any may. The connection that it
    /// was done with must not be used again: [`trusts`](Self::trusts) says so.
    pub async fn unless_silent<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let over_at = tokio::time::Instant::now() + self.limit;
        let too_long = async {
            while tokio::time::Instant::now() < over_at {
                tokio::time::sleep(PATIENCE).await;
                self.doubt.notify_one();
            }
            self.distrust();
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.silence() => None,
            () = too_long => None,
        }
    }

    /// Completes when the database is silent, at once if it is.
    pub async fn silence(&self) {
        // The sender is ours, so that waiting cannot fail.
        let _ = self.is_silent.subscribe().wait_for(|is_silent| *is_silent).await.map(drop);
    }

    /// Completes when the database is not silent.
    pub async fn answering(&self) {
        let _ = self.is_silent.subscribe().wait_for(|is_silent| !is_silent).await.map(drop);
    }

    /// Notes that the server has answered somebody.
    pub fn note_answer(&self) {
        self.heard.notify_waiters();
    }

    /// Whether a connection of this age may be used: the server has not been silent since it was opened.
    pub fn trusts(&self, age: Duration) -> bool {
        let since = *self.trusted_since.lock().unwrap_or_else(PoisonError::into_inner);
        !*self.is_silent.borrow() && since.is_none_or(|since| age < since.elapsed())
    }

    /// Finds out whether the server answers whenever there is a doubt; never ends. `ask` completes when it has said anything at
    /// all, a refusal included.
    pub async fn watch<Asking: Future<Output = ()>>(&self, ask: impl Fn() -> Asking) {
        loop {
            self.doubt.notified().await;
            while !self.answers(ask()).await {
                self.learn(true);
                tokio::time::sleep(RECHECK_INTERVAL).await;
            }
            self.learn(false);
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn answers(&self, asking: impl Future<Output = ()>) -> bool {
        tokio::select! {
            () = asking => true,
            () = self.heard.notified() => true,
            () = tokio::time::sleep(CHECK_TIMEOUT) => false,
        }
    }

    fn learn(&self, is_silent: bool) {
        let learn = |known: &mut bool| std::mem::replace(known, is_silent) != is_silent;
        if *self.is_silent.borrow() == is_silent {
            return;
        }
        // Before anybody gives up, and again before anybody begins anew.
        self.distrust();
        if self.is_silent.send_if_modified(learn) {
            gauge!("oms_database_silent").set(if is_silent { 1 } else { 0 });
            if is_silent {
                error!("the database does not answer; giving up what waits for it until it does");
            } else {
                info!("the database answers again");
            }
        }
    }

    fn distrust(&self) {
        *self.trusted_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// What somebody is told who has waited for a database that is silent.
pub fn no_answer() -> DbErr {
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer");
    DbErr::Exec(RuntimeErr::SqlxError(SqlxError::Io(error).into()))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_silent_server_gives_up_and_nobody_else_does() {
        let presence = Presence::default();
        let watching = presence.watch(pending);
        let working = async {
            assert_eq!(presence.unless_silent(async { 1 }).await, Some(1));
            let begun = tokio::time::Instant::now();
            assert_eq!(presence.unless_silent(pending::<()>()).await, None);
            assert!(begun.elapsed() <= PATIENCE + CHECK_TIMEOUT);
            assert!(!presence.trusts(Duration::ZERO));
            assert_eq!(presence.unless_silent(async { 2 }).await, Some(2), "it needed nobody");
        };
        tokio::select! {
            () = watching => {}
            () = working => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_merely_slow_goes_on_up_to_its_limit() {
        let presence = Presence::new(Duration::from_secs(60));
        let slow = tokio::time::sleep(Duration::from_secs(30));
        tokio::select! {
            () = presence.watch(async || ()) => {}
            done = presence.unless_silent(slow) => assert_eq!(done, Some(())),
        }
        assert!(presence.trusts(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_somebody_settles_a_doubt() {
        let presence = Presence::default();
        let answered = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                presence.note_answer();
            }
        };
        let slow = tokio::time::sleep(Duration::from_secs(20));
        tokio::select! {
            () = presence.watch(pending) => {}
            () = answered => {}
            done = presence.unless_silent(slow) => assert_eq!(done, Some(())),
        }
    }
}
