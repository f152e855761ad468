//! A circuit breaker for each other system: while one gives no answers, sagas are parked instead of burning attempts.
//!
//! It opens after a run of unknown outcomes, lets one trial call through now and then, and closes with the first
//! definitive answer. It lives in memory and forgets with the process: losing it costs a few attempts.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tracing::{info, warn};

use super::step::Outcome;

/// Unknown outcomes in a row after which a system counts as down: more than a few slow cards, less than a batch.
const TRIP_AFTER: u32 = 25;

/// How often a trial call is let through to a system that is down: often enough that work goes on soon after it is
/// back, seldom enough to be no load.
const TRIAL_INTERVAL: Duration = Duration::from_millis(250);

/// The breakers of one process, by the name of the other system.
#[derive(Debug, Default)]
pub(super) struct Breakers(Mutex<HashMap<&'static str, Breaker>>);

#[derive(Debug, Default)]
struct Breaker {
    unknown_in_a_row: u32,
    next_trial: Option<Instant>,
}

impl Breakers {
    /// Returns whether a call may be made now; if not, how long to wait before asking again.
    pub(super) fn admit(&self, system: &'static str, now: Instant) -> Result<(), Duration> {
        let mut breakers = self.lock();
        let breaker = breakers.entry(system).or_default();
        match breaker.next_trial {
            None => Ok(()),
            Some(at) if at <= now => {
                breaker.next_trial = Some(now + TRIAL_INTERVAL);
                Ok(())
            }
            Some(at) => {
                counter!("oms_calls_parked_total", "system" => system).increment(1);
                Err(at - now)
            }
        }
    }

    /// Learns from how a call ended.
    pub(super) fn observe(&self, system: &'static str, outcome: &Outcome, now: Instant) {
        let mut breakers = self.lock();
        let breaker = breakers.entry(system).or_default();
        if !matches!(outcome, Outcome::Unknown(_)) {
            if breaker.next_trial.is_some() {
                info!(system, "the system answers again; its circuit breaker closes");
                gauge!("oms_breaker_open", "system" => system).set(0);
            }
            *breaker = Breaker::default();
            return;
        }
        breaker.unknown_in_a_row = breaker.unknown_in_a_row.saturating_add(1);
        if breaker.unknown_in_a_row >= TRIP_AFTER && breaker.next_trial.is_none() {
            warn!(system, "the system gives no answers; its circuit breaker opens and sagas are parked");
            gauge!("oms_breaker_open", "system" => system).set(1);
            breaker.next_trial = Some(now + TRIAL_INTERVAL);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Breaker>> {
        // Each critical section leaves a usable value behind, whatever happened in it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown() -> Outcome {
        Outcome::Unknown("silence".to_owned())
    }

    #[test]
    fn a_run_of_silence_opens_it_and_one_answer_closes_it() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        for _ in 0..TRIP_AFTER {
            assert_eq!(breakers.admit("bank", start), Ok(()));
            breakers.observe("bank", &unknown(), start);
        }
        assert_eq!(breakers.admit("bank", start), Err(TRIAL_INTERVAL));
        assert_eq!(breakers.admit("other bank", start), Ok(()), "each system has its own");

        let later = start + TRIAL_INTERVAL;
        assert_eq!(breakers.admit("bank", later), Ok(()), "one trial");
        assert_eq!(breakers.admit("bank", later), Err(TRIAL_INTERVAL), "and only one");
        breakers.observe("bank", &Outcome::Succeeded(serde_json::Value::Null), later);
        assert_eq!(breakers.admit("bank", later), Ok(()));
    }

    #[test]
    fn scattered_silence_does_not_open_it() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..TRIP_AFTER * 2 {
            breakers.observe("bank", &unknown(), now);
            breakers.observe("bank", &Outcome::Succeeded(serde_json::Value::Null), now);
        }
        assert_eq!(breakers.admit("bank", now), Ok(()));
    }
}
