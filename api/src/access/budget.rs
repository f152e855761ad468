//! Budgets: what the requests of an app may cost together.
//!
//! A leaky bucket for each app: every request takes out what it costs, and points flow back evenly. A bucket holds some
//! seconds' worth, so that a page of a shop can be put together at once. Buckets that nobody uses are full, and forgotten.
//!
//! Each order has a bucket of its own for those who follow it, and what they take comes out of another one as well, which
//! all shoppers of an app share. Neither is the app's own, but the latter is as much larger or smaller than usual as the app's
//! own is: an app gets no more by handing its work to tokens.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use moka::sync::Cache;

use super::{Caller, Holder};

/// Buckets that are kept.
const MAX_BUCKETS: u64 = 100_000;

type Bucket = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// The budgets of all apps, and of the orders that shoppers follow. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    buckets: Cache<(Holder, u32), Arc<Bucket>>,
    /// Seconds' worth of points that a bucket holds.
    burst_seconds: NonZeroU32,
    /// Points that flow back in a second into what the shoppers of an app share; none for no limit.
    shopper_points_per_second: Option<NonZeroU32>,
    /// Points that flow back in a second into the bucket of an app without a number of its own; none for no limit.
    points_per_second: Option<NonZeroU32>,
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
    /// Makes buckets that hold so many seconds' worth, at least one. The points are those of an app without a number of its
    /// own: what its shoppers share, and its own; 0 is no limit.
    pub(crate) fn new(burst_seconds: u32, shopper_points_per_second: u32, points_per_second: u32) -> Self {
        let burst_seconds = NonZeroU32::new(burst_seconds).unwrap_or(NonZeroU32::MIN);
        // It is full after that time without a request; then it may be forgotten.
        let forget_after = Duration::from_secs(2 * u64::from(burst_seconds.get()));
        let buckets = Cache::builder().max_capacity(MAX_BUCKETS).time_to_idle(forget_after).build();
        let shopper_points_per_second = NonZeroU32::new(shopper_points_per_second);
        let points_per_second = NonZeroU32::new(points_per_second);
        Self { buckets, burst_seconds, shopper_points_per_second, points_per_second }
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
        let Some(Throttle { restore_rate, .. }) = deposit.throttle else {
            // What all shoppers of the app share may have a limit where the order has none.
            return match points.saturating_sub(DEPOSIT) {
                0 => Ok(None),
                rest => self.take(caller, rest),
            };
        };
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

    /// Takes points out of the caller's bucket, and a shopper's out of what the shoppers share as well. Returns what is
    /// left in the former; `None` for a caller without a limit.
    ///
    /// # Errors
    /// There are not enough. Where there are of the order's own, those are gone: they come first, so that an order that
    /// has used up its own takes nothing from the others.
    pub(crate) fn take(&self, caller: &Caller, points: u32) -> Result<Option<Throttle>, Exhausted> {
        let own_rate = caller.points_per_second().and_then(NonZeroU32::new);
        let throttle = own_rate.map(|rate| self.take_of(caller.holder(), rate, points)).transpose()?;
        if let (Some(shoppers), Some(rate)) = (caller.holder_together(), self.rate_of_shoppers(caller)) {
            self.take_of(shoppers, rate, points)?;
        }
        Ok(throttle)
    }

    /// Points that flow back in a second into what the shoppers of the caller's app share: in proportion to the app's own
    /// number, where it has one.
    fn rate_of_shoppers(&self, caller: &Caller) -> Option<NonZeroU32> {
        let usual = self.shopper_points_per_second?;
        let own = caller.points_of_app().filter(|own| *own > 0);
        let (Some(own), Some(of_app)) = (own, self.points_per_second) else { return Some(usual) };
        let rate = (u64::from(usual.get()) * u64::from(own)).div_ceil(u64::from(of_app.get()));
        NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX))
    }

    fn take_of(&self, holder: Holder, rate: NonZeroU32, points: u32) -> Result<Throttle, Exhausted> {
        let holds = rate.saturating_mul(self.burst_seconds);
        let bucket = self.buckets.get_with((holder, rate.get()), || {
            let quota = Quota::per_second(rate).allow_burst(holds);
            Arc::new(RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>())
        });
        let points = NonZeroU32::new(points).unwrap_or(NonZeroU32::MIN);
        match bucket.check_n(points) {
            Ok(Ok(state)) => {
                let available = state.remaining_burst_capacity();
                Ok(Throttle { available, restore_rate: rate.get() })
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
    use uuid::Uuid;

    use super::*;

    fn caller(points_per_second: Option<u32>) -> Caller {
        Caller::app(&app(), Scopes::default(), &[], points_per_second, None)
    }

    fn app() -> store::App {
        store::App::new(AppId::from_uuid(Uuid::now_v7()), "app")
    }

    #[test]
    fn a_bucket_holds_ten_seconds_worth_and_each_app_has_its_own() {
        let (budgets, one, other) = (Budgets::new(10, 0, 0), caller(Some(5)), caller(Some(5)));
        assert_eq!(budgets.take(&one, 51), Err(Exhausted::ForEver { holds: 50 }));
        assert_eq!(budgets.take(&one, 45), Ok(Some(Throttle { available: 5, restore_rate: 5 })));
        let Err(Exhausted::For(wait)) = budgets.take(&one, 50) else { panic!("there are five left") };
        assert!((8.0..=9.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(budgets.take(&other, 50).is_ok());
    }

    #[test]
    fn a_deposit_counts_toward_the_price() {
        let (budgets, one) = (Budgets::new(10, 0, 0), caller(Some(5)));
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
        let (budgets, shop) = (Budgets::new(10, 0, 0), app());
        let app = Caller::app(&shop, Scopes::default(), &[], Some(5), None);
        let shopper = |order_id| Caller::shopper(&shop, order_id, Some(5));
        let order_id = Uuid::now_v7();
        assert!(budgets.take(&shopper(order_id), 50).is_ok());
        assert!(budgets.take(&shopper(order_id), 50).is_err(), "it has a budget of its own");
        assert!(budgets.take(&shopper(Uuid::now_v7()), 50).is_ok());
        assert!(budgets.take(&app, 50).is_ok());
    }

    #[test]
    fn the_shoppers_of_an_app_take_out_of_one_bucket_together() {
        let (budgets, shop, other_shop) = (Budgets::new(10, 8, 0), app(), app());
        let of = |shop, points| Caller::shopper(shop, Uuid::now_v7(), points);
        assert!(budgets.take(&of(&shop, Some(5)), 50).is_ok());
        let one = of(&shop, Some(5));
        assert!(matches!(budgets.take(&one, 40), Err(Exhausted::For(_))), "there are thirty left for all");
        let available = budgets.take(&of(&shop, None), 30).map(|throttle| throttle.is_none());
        assert_eq!(available, Ok(true), "an order without a limit of its own has none to tell of");
        assert!(budgets.take(&of(&shop, None), 5).is_err());
        assert!(budgets.take(&of(&other_shop, None), 50).is_ok(), "another app's shoppers have their own");
        assert!(budgets.take(&Caller::app(&shop, Scopes::default(), &[], Some(5), None), 50).is_ok());
    }

    #[test]
    fn what_shoppers_share_is_in_proportion_to_the_number_of_their_app() {
        let budgets = Budgets::new(10, 1_000, 100);
        for (own, holds) in
            [(Some(1), 100), (Some(100), 10_000), (Some(200), 20_000), (Some(0), 10_000), (None, 10_000)]
        {
            let shop = store::App { points_per_second: own, ..app() };
            let shopper = || Caller::shopper(&shop, Uuid::now_v7(), None);
            assert_eq!(budgets.take(&shopper(), holds + 1), Err(Exhausted::ForEver { holds }), "{own:?}");
            assert_eq!(budgets.take(&shopper(), holds), Ok(None), "{own:?}");
        }
    }

    #[test]
    fn a_caller_without_a_limit_has_no_bucket() {
        let budgets = Budgets::new(10, 0, 0);
        assert_eq!(budgets.take(&caller(None), u32::MAX), Ok(None));
        let deposit = budgets.deposit(&caller(None)).expect("no limit");
        assert_eq!(budgets.take_rest(&caller(None), u32::MAX, deposit), Ok(None));
    }
}
