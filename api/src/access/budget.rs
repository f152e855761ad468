//! Budgets: what the requests of an app may cost together.
//!
//! A leaky bucket for each app: every request takes out what it costs, and points flow back evenly. A bucket holds some
//! seconds' worth, so that a page of a shop can be put together at once. Buckets that nobody uses are full, and forgotten.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use moka::sync::Cache;
use uuid::Uuid;

use super::Caller;

/// Buckets that are kept.
const MAX_BUCKETS: u64 = 100_000;

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The budgets of all apps, and of the orders that shoppers follow. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    buckets: Cache<(Uuid, u32), Arc<Bucket>>,
    /// Seconds' worth of points that a bucket holds.
    burst_seconds: NonZeroU32,
}

/// What is left after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Throttle {
    /// Points that are left.
    pub(crate) available: u32,
    /// Points that flow back in a second.
    pub(crate) restore_rate: u32,
}

/// The point that each request of a caller with a budget pays before anybody looks at what it says. It counts toward what the
/// request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deposit {
    /// What was left then; `None` for a caller without a limit.
    throttle: Option<Throttle>,
}

/// Points of a [`Deposit`].
const DEPOSIT: u32 = 1;

/// A request that there are not enough points for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// There will be, after this.
    For(Duration),
    /// The bucket does not hold as many.
    ForEver {
        /// How many it holds.
        holds: u32,
    },
}

impl Budgets {
    /// Makes buckets that hold so many seconds' worth, at least one.
    pub(crate) fn new(burst_seconds: u32) -> Self {
        let burst_seconds = NonZeroU32::new(burst_seconds).unwrap_or(NonZeroU32::MIN);
        // It is full after that time without a request; then it may be forgotten.
        let forget_after = Duration::from_secs(2 * u64::from(burst_seconds.get()));
        let buckets = Cache::builder().max_capacity(MAX_BUCKETS).time_to_idle(forget_after).build();
        Self { buckets, burst_seconds }
    }

    /// Takes a point for a request that nobody has looked at.
    ///
    /// # Errors
    /// There is none; nothing was taken.
    pub(crate) fn deposit(&self, caller: &Caller) -> Result<Deposit, Exhausted> {
        self.take(caller, DEPOSIT).map(|throttle| Deposit { throttle })
    }

    /// Takes what a request costs beyond its deposit; `None` for a caller without a limit.
    ///
    /// # Errors
    /// There are not enough points; nothing more was taken. The wait is one for the whole request, because it leaves a deposit
    /// again when it is repeated.
    pub(crate) fn take_rest(
        &self,
        caller: &Caller,
        points: u32,
        deposit: Deposit,
    ) -> Result<Option<Throttle>, Exhausted> {
        let Some(Throttle { restore_rate, .. }) = deposit.throttle else { return Ok(None) };
        let holds = restore_rate.saturating_mul(self.burst_seconds.get());
        match points.saturating_sub(DEPOSIT) {
            _ if points > holds => Err(Exhausted::ForEver { holds }),
            0 => Ok(deposit.throttle),
            rest => self.take(caller, rest).map_err(|exhausted| match exhausted {
                Exhausted::For(wait) => {
                    Exhausted::For(wait + Duration::from_secs(DEPOSIT.into()) / restore_rate.max(1))
                }
                Exhausted::ForEver { .. } => exhausted,
            }),
        }
    }

    /// Takes points out of the caller's bucket; `None` for a caller without a limit.
    ///
    /// # Errors
    /// There are not enough; nothing was taken.
    pub(crate) fn take(&self, caller: &Caller, points: u32) -> Result<Option<Throttle>, Exhausted> {
        let Some(rate) = caller.points_per_second().and_then(NonZeroU32::new) else { return Ok(None) };
        let holds = rate.saturating_mul(self.burst_seconds);
        let bucket = self.buckets.get_with((caller.budget_id(), rate.get()), || {
            let quota = Quota::per_second(rate).allow_burst(holds);
            Arc::new(RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>())
        });
        let points = NonZeroU32::new(points).unwrap_or(NonZeroU32::MIN);
        match bucket.check_n(points) {
            Ok(Ok(state)) => {
                let available = state.remaining_burst_capacity();
                Ok(Some(Throttle { available, restore_rate: rate.get() }))
            }
            Ok(Err(not_until)) => Err(Exhausted::For(not_until.wait_time_from(bucket.clock().now()))),
            Err(_) => Err(Exhausted::ForEver { holds: holds.get() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::app::{Scopes, store};
    use domain::id::AppId;

    use super::*;

    fn caller(points_per_second: Option<u32>) -> Caller {
        Caller::app(&app(), Scopes::default(), &[], points_per_second, None)
    }

    fn app() -> store::App {
        store::App::new(AppId::from_uuid(Uuid::now_v7()), "app")
    }

    #[test]
    fn a_bucket_holds_ten_seconds_worth_and_each_app_has_its_own() {
        let (budgets, one, other) = (Budgets::new(10), caller(Some(5)), caller(Some(5)));
        assert_eq!(budgets.take(&one, 51), Err(Exhausted::ForEver { holds: 50 }));
        assert_eq!(budgets.take(&one, 45), Ok(Some(Throttle { available: 5, restore_rate: 5 })));
        let Err(Exhausted::For(wait)) = budgets.take(&one, 50) else { panic!("there are five left") };
        assert!((8.0..=9.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(budgets.take(&other, 50).is_ok());
    }

    #[test]
    fn a_deposit_counts_toward_the_price() {
        let (budgets, one) = (Budgets::new(10), caller(Some(5)));
        let left = |available| Ok(Some(Throttle { available, restore_rate: 5 }));
        let deposit = budgets.deposit(&one).expect("fifty points");
        assert_eq!(budgets.take_rest(&one, 51, deposit), Err(Exhausted::ForEver { holds: 50 }));
        assert_eq!(budgets.take_rest(&one, 1, deposit), left(49));
        assert_eq!(budgets.take_rest(&one, 45, deposit), left(5));
        let deposit = budgets.deposit(&one).expect("five points");
        let Err(Exhausted::For(wait)) = budgets.take_rest(&one, 10, deposit) else { panic!("four are left") };
        assert!((1.1..=1.2).contains(&wait.as_secs_f64()), "six points are missing: {wait:?}");
        for _ in 0..4 {
            budgets.deposit(&one).expect("a point");
        }
        assert!(matches!(budgets.deposit(&one), Err(Exhausted::For(_))));
    }

    #[test]
    fn a_shopper_takes_nothing_out_of_the_app_that_has_placed_its_order() {
        let (budgets, shop) = (Budgets::new(10), app());
        let app = Caller::app(&shop, Scopes::default(), &[], Some(5), None);
        let shopper = |order_id| Caller::shopper(&shop, order_id, Some(5));
        let order_id = Uuid::now_v7();
        assert!(budgets.take(&shopper(order_id), 50).is_ok());
        assert!(budgets.take(&shopper(order_id), 50).is_err(), "it has a budget of its own");
        assert!(budgets.take(&shopper(Uuid::now_v7()), 50).is_ok());
        assert!(budgets.take(&app, 50).is_ok());
    }

    #[test]
    fn a_caller_without_a_limit_has_no_bucket() {
        let budgets = Budgets::new(10);
        assert_eq!(budgets.take(&caller(None), u32::MAX), Ok(None));
        let deposit = budgets.deposit(&caller(None)).expect("no limit");
        assert_eq!(budgets.take_rest(&caller(None), u32::MAX, deposit), Ok(None));
    }
}
