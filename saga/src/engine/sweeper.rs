//! Moves what is due or abandoned back into play, from rows alone: timers, parked sagas, expired calls, calls of dead
//! workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::gauge;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::batch_error::BatchError;
use super::breaker::RELEASE_INTERVAL;
use super::runner::{Engine, chain};
use super::{advance, operate, store};

/// The most timers that fire, and the most calls that are taken over, in one transaction.
const SWEEP_LIMIT: u64 = 500;

/// How often abandoned calls are looked for, and how often a heartbeat is given.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is counted what there is to do: as often as metrics are commonly scraped.
const SURVEY_INTERVAL: Duration = Duration::from_secs(10);

/// Makes sagas ready when their timers are due.
pub(super) async fn sweep_timers(engine: Arc<Engine>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match engine.unless_silent(store::fire_timers(&engine.db, SWEEP_LIMIT)).await {
            Ok(fired) if fired > 0 => {
                engine.wakeups.sagas_ready();
                if fired == SWEEP_LIMIT {
                    continue;
                }
            }
            Ok(_) => {}
            Err(error) => warn!(error = %chain(&error), "could not look at the timers; trying again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(engine.settings.timer_interval)).await;
    }
}

/// Makes parked sagas ready: some when the system that they wait for answers or is not known to be down, one for each
/// trial when it is.
pub(super) async fn release_parked(engine: Arc<Engine>, shutdown: CancellationToken) {
    let systems = engine.definitions.systems();
    while !shutdown.is_cancelled() {
        for &system in &systems {
            let limit = engine.breakers.releasable(system, Instant::now());
            if limit == 0 {
                continue;
            }
            match store::release_parked(&engine.db, system, limit).await {
                Ok(0) => {}
                Ok(_) => engine.wakeups.sagas_ready(),
                Err(error) => {
                    warn!(error = %chain(&error), system, "could not release parked sagas; trying again")
                }
            }
        }
        shutdown.run_until_cancelled(tokio::time::sleep(RELEASE_INTERVAL)).await;
    }
}

/// Keeps the gauges of what there is to do up to date. Every runner of a database says the same.
pub(super) async fn keep_survey(engine: Arc<Engine>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        match store::survey(&engine.db).await {
            Ok(survey) => {
                let sagas = |state: &'static str, count: i64| {
                    gauge!("oms_sagas", "state" => state).set(count as f64);
                };
                sagas("stuck", survey.stuck);
                sagas("held", survey.held);
                sagas("ready", survey.ready);
                sagas("parked", survey.parked);
                sagas("calling", survey.calling);
                gauge!("oms_oldest_ready_seconds").set(survey.oldest_ready_seconds);
            }
            Err(error) => warn!(error = %chain(&error), "could not count what there is to do; trying again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(SURVEY_INTERVAL)).await;
    }
}

/// Tells once of open sagas whose definition is not known here: if no other process knows it either, nobody carries them on.
pub(super) async fn tell_unknown(engine: Arc<Engine>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let counting = engine.unless_silent(operate::count_unknown(&engine.db, &engine.definitions)).await;
        match counting {
            Ok(unknown) => {
                for operate::Unknown { definition, version, sagas } in unknown {
                    error!(
                        saga.definition = definition,
                        saga.version = version,
                        sagas,
                        "this process does not know the definition of open sagas: keep a version of the program running \
                         that does until they are over"
                    );
                }
                return;
            }
            Err(error) => {
                warn!(error = %chain(&error), "could not look for sagas of unknown definitions; trying again")
            }
        }
        shutdown.run_until_cancelled(tokio::time::sleep(SURVEY_INTERVAL)).await;
    }
}

/// Gives the first heartbeat; returns false if shutdown comes before the database lets it.
pub(super) async fn sign_on(engine: &Engine, shutdown: &CancellationToken) -> bool {
    while !shutdown.is_cancelled() {
        match give_heartbeat(engine).await {
            Ok(()) => return true,
            Err(error) => warn!(error = %chain(&error), "could not sign on; trying again"),
        }
        shutdown.run_until_cancelled(tokio::time::sleep(HEARTBEAT_INTERVAL)).await;
    }
    false
}

/// Gives this worker's heartbeat until its last call is settled.
pub(super) async fn keep_heartbeat(engine: Arc<Engine>, drained: CancellationToken) {
    while drained.run_until_cancelled(tokio::time::sleep(HEARTBEAT_INTERVAL)).await.is_some() {
        if let Err(error) = give_heartbeat(&engine).await {
            warn!(error = %chain(&error), "could not give a heartbeat; trying again");
        }
    }
}

async fn give_heartbeat(engine: &Engine) -> Result<(), sea_orm::DbErr> {
    let name = format!("pid {}", std::process::id());
    engine.unless_silent(store::record_heartbeat(&engine.db, engine.worker_id, &name)).await
}

/// Takes over calls that nobody makes any more.
pub(super) async fn sweep_abandoned(engine: Arc<Engine>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = expire_calls(&engine).await {
            warn!(error = %chain(&error), "could not take over abandoned calls; trying again");
        }
        shutdown.run_until_cancelled(tokio::time::sleep(HEARTBEAT_INTERVAL)).await;
    }
}

async fn expire_calls(engine: &Engine) -> Result<(), BatchError> {
    loop {
        // No call is made here, so that no capacity is needed: the sagas are made ready.
        let worker_lease = engine.settings.worker_lease;
        let advanced = advance::expire(&engine.db, engine.context(), worker_lease, SWEEP_LIMIT).await?;
        let moved = advanced.moved;
        engine.announce(advanced.made_ready, advanced.subject_ids);
        if (moved as u64) < SWEEP_LIMIT {
            return Ok(());
        }
    }
}
