//! A circuit breaker for each other system: while one gives no answers, sagas are parked instead of burning attempts.
//!
//! It opens after a run of unknown outcomes, lets one trial call through now and then, and closes with the first
//! definitive answer. It lives in memory and forgets with the process: losing it costs a few attempts.
//!
//! A parked saga is in `saga_timer`, which says what it is parked for, and nobody looks at it: the
//! [sweeper](super::sweeper) takes one out for each trial, and the others, at a bounded rate, once the system answers. A
//! process that has no reason to think that the system is down takes them out as well, so that they depend on nobody's
//! memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use tracing::{info, warn};

use super::step::Outcome;

/// Unknown outcomes in a row after which a system counts as down: more than a few slow cards, less than a batch.
const TRIP_AFTER: u32 = 25;

/// The shortest time between two trial calls: often enough that work goes on soon after a short outage, seldom enough to
/// be no load.
const SHORTEST_TRIAL_INTERVAL: Duration = Duration::from_millis(250);

/// The longest time between two trial calls, and so the longest that it takes to notice that a system is back, the call
/// itself apart.
const LONGEST_TRIAL_INTERVAL: Duration = Duration::from_secs(5);

/// Trials are as far apart as a system has been down, divided by this: whoever has waited for long waits a twentieth
/// longer, and a long outage does not burn attempts for nothing.
const TRIALS_PER_OUTAGE: u32 = 20;

/// After this a parked saga looks for itself whether the system answers, should no process take it out before. That many
/// sagas that wait are looked at in this time, so that a backlog of 360,000 costs no more than 100 looks in a second.
pub(super) const LONGEST_PARKING: Duration = Duration::from_hours(1);

/// How often parked sagas are taken out, and how many at a time: 2,000 in a second and process, about as many as it
/// carries on, so that they do not stand in the way of others.
pub(super) const RELEASE_INTERVAL: Duration = Duration::from_millis(250);
const RELEASED_AT_A_TIME: u64 = 500;

/// The breakers of one process, by the name of the other system.
#[derive(Debug, Default)]
pub(super) struct Breakers(Mutex<HashMap<&'static str, Breaker>>);

#[derive(Debug, Default)]
struct Breaker {
    unknown_in_a_row: u32,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    since: Instant,
    next_trial: Instant,
}

impl Open {
    fn new(now: Instant) -> Self {
        Self { since: now, next_trial: now + SHORTEST_TRIAL_INTERVAL }
    }

    /// Returns whether a trial is due, and if so lets the next one wait.
    fn take_trial(&mut self, now: Instant) -> bool {
        let is_due = self.next_trial <= now;
        if is_due {
            self.next_trial = now + trial_interval(now - self.since);
        }
        is_due
    }
}

/// Returns the time until the next trial of a system that has been down for so long.
fn trial_interval(down_for: Duration) -> Duration {
    (down_for / TRIALS_PER_OUTAGE).clamp(SHORTEST_TRIAL_INTERVAL, LONGEST_TRIAL_INTERVAL)
}

impl Breakers {
    /// Returns whether a call may be made now; if not, the saga is to be parked.
    pub(super) fn admit(&self, system: &'static str, now: Instant) -> bool {
        let mut breakers = self.lock();
        let breaker = breakers.entry(system).or_default();
        let is_admitted = breaker.open.as_mut().is_none_or(|open| open.take_trial(now));
        if !is_admitted {
            counter!("oms_calls_parked_total", "system" => system).increment(1);
        }
        is_admitted
    }

    /// Returns how many parked sagas may be taken out now: one for a trial that is due, a batch of them where the system
    /// is not known to be down.
    pub(super) fn releasable(&self, system: &'static str, now: Instant) -> u64 {
        match self.lock().get(system).and_then(|breaker| breaker.open) {
            None => RELEASED_AT_A_TIME,
            Some(open) => u64::from(open.next_trial <= now),
        }
    }

    /// Learns from how a call ended.
    pub(super) fn observe(&self, system: &'static str, outcome: &Outcome, now: Instant) {
        let mut breakers = self.lock();
        let breaker = breakers.entry(system).or_default();
        if !matches!(outcome, Outcome::Unknown(_)) {
            if breaker.open.is_some() {
                info!(system, "the system answers again; its circuit breaker closes");
                gauge!("oms_breaker_open", "system" => system).set(0);
            }
            *breaker = Breaker::default();
            return;
        }
        breaker.unknown_in_a_row = breaker.unknown_in_a_row.saturating_add(1);
        if breaker.unknown_in_a_row >= TRIP_AFTER && breaker.open.is_none() {
            warn!(system, "the system gives no answers; its circuit breaker opens and sagas are parked");
            gauge!("oms_breaker_open", "system" => system).set(1);
            breaker.open = Some(Open::new(now));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<&'static str, Breaker>> {
        // Each critical section leaves a usable value behind, whatever happened in it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOON: Duration = SHORTEST_TRIAL_INTERVAL;

    fn unknown() -> Outcome {
        Outcome::Unknown("silence".to_owned())
    }

    fn trip(breakers: &Breakers, now: Instant) {
        for _ in 0..TRIP_AFTER {
            assert!(breakers.admit("bank", now));
            breakers.observe("bank", &unknown(), now);
        }
    }

    #[test]
    fn a_run_of_silence_opens_it_and_one_answer_closes_it() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        trip(&breakers, start);
        assert!(!breakers.admit("bank", start));
        assert!(breakers.admit("other bank", start), "each system has its own");

        let later = start + SOON;
        assert!(breakers.admit("bank", later), "one trial");
        assert!(!breakers.admit("bank", later), "and only one");
        breakers.observe("bank", &Outcome::Succeeded(serde_json::Value::Null), later);
        assert!(breakers.admit("bank", later));
    }

    #[test]
    fn scattered_silence_does_not_open_it() {
        let (breakers, now) = (Breakers::default(), Instant::now());
        for _ in 0..TRIP_AFTER * 2 {
            breakers.observe("bank", &unknown(), now);
            breakers.observe("bank", &Outcome::Succeeded(serde_json::Value::Null), now);
        }
        assert!(breakers.admit("bank", now));
    }

    #[test]
    fn parked_sagas_are_taken_out_one_by_one_while_it_is_open_and_by_batches_once_it_is_not() {
        let (breakers, start) = (Breakers::default(), Instant::now());
        assert_eq!(breakers.releasable("bank", start), RELEASED_AT_A_TIME, "nothing is known against it");
        trip(&breakers, start);
        assert_eq!(breakers.releasable("bank", start), 0);
        assert_eq!(breakers.releasable("bank", start + SOON), 1, "a trial is due");
        assert!(breakers.admit("bank", start + SOON));
        assert_eq!(breakers.releasable("bank", start + SOON), 0, "it is being made");
        breakers.observe("bank", &Outcome::Succeeded(serde_json::Value::Null), start + SOON);
        assert_eq!(breakers.releasable("bank", start + SOON), RELEASED_AT_A_TIME);
    }

    proptest! {
        /// However many sagas ask, and whenever: trials keep their distance, which grows with the outage up to its
        /// bound, and whoever asks once it is over is let through.
        #[test]
        fn trials_are_few_and_none_is_missed(pauses_ms in prop::collection::vec(0_u64..20_000, 1..400)) {
            let (breakers, start) = (Breakers::default(), Instant::now());
            trip(&breakers, start);
            let (mut now, mut last) = (start, start);
            for pause_ms in pauses_ms {
                now += Duration::from_millis(pause_ms);
                let distance = trial_interval(last - start);
                prop_assert!((SHORTEST_TRIAL_INTERVAL..=LONGEST_TRIAL_INTERVAL).contains(&distance));
                prop_assert!(distance >= trial_interval((last - start) / 2), "it does not shrink");
                let is_due = now - last >= distance;
                prop_assert_eq!(breakers.releasable("bank", now), u64::from(is_due));
                prop_assert_eq!(breakers.admit("bank", now), is_due);
                if is_due {
                    breakers.observe("bank", &unknown(), now);
                    last = now;
                }
            }
        }
    }
}
