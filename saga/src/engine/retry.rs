//! When to try again.

use std::time::Duration;

/// How often and how patiently a step is tried, in the words of the Amazon States Language's `Retry`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Longest wait before the second attempt.
    pub interval: Duration,
    /// Attempts after which a forward step gives up, and after which a step that may not give up, or that cannot even
    /// run, is called stuck.
    pub max_attempts: u32,
    /// Factor by which the wait grows with each attempt.
    pub backoff_rate: f64,
    /// Longest wait of all.
    pub max_delay: Duration,
}

impl RetryPolicy {
    /// Starts at 200 ms, doubles up to 30 s, and gives up after the fifth attempt.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_millis(200),
        max_attempts: 5,
        backoff_rate: 2.0,
        max_delay: Duration::from_secs(30),
    };

    /// Returns the longest wait after `attempts` attempts (counted from 1): the interval, times the backoff rate for
    /// each attempt but the first, up to the longest delay.
    pub fn longest_wait(&self, attempts: u32) -> Duration {
        let exponent = attempts.saturating_sub(1).min(1_000);
        let factor = self.backoff_rate.max(1.0).powi(exponent.cast_signed());
        let seconds = (self.interval.as_secs_f64() * factor).min(self.max_delay.as_secs_f64());
        Duration::from_secs_f64(seconds)
    }

    /// Returns an upper bound of the time between the first attempt and the end of the last, if each attempt takes up
    /// to `time_out`.
    pub fn longest_age(&self, time_out: Duration) -> Duration {
        let waits: Duration = (1..self.max_attempts).map(|attempts| self.longest_wait(attempts)).sum();
        waits + time_out * self.max_attempts
    }
}

/// Spreads a wait over zero to itself, so that sagas that failed together do not return together (AWS Architecture
/// Blog, "Exponential Backoff and Jitter": full jitter).
pub fn with_full_jitter(longest: Duration) -> Duration {
    longest.mul_f64(rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        let waits: Vec<u128> = [1, 2, 3, 8, 9, 4_000_000]
            .map(|attempts| RetryPolicy::DEFAULT.longest_wait(attempts).as_millis())
            .into();
        assert_eq!(waits, [200, 400, 800, 25_600, 30_000, 30_000]);
    }

    #[test]
    fn the_age_adds_up_waits_and_attempts() {
        let age = RetryPolicy::DEFAULT.longest_age(Duration::from_secs(10));
        assert_eq!(age, Duration::from_millis(200 + 400 + 800 + 1_600) + Duration::from_secs(50));
    }

    #[test]
    fn jitter_never_waits_longer() {
        for _ in 0..1_000 {
            assert!(with_full_jitter(Duration::from_secs(1)) <= Duration::from_secs(1));
        }
    }
}
