//! How many requests a user may make in a second, at this replica.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use wire_contract::UserId;

/// How often users that have been quiet are forgotten.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// Limits of requests.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Request rate")]
pub struct RateArgs {
    /// Requests a second that each user may make at this replica in the long run; 0 for any number
    #[arg(
        long,
        env = "USER_REQUESTS_PER_SECOND",
        default_value_t = 100,
        value_name = "N"
    )]
    user_requests_per_second: u32,

    /// Requests that each user may make at one moment, after a pause
    #[arg(
        long,
        env = "USER_REQUESTS_BURST",
        default_value_t = 200,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    user_requests_burst: u32,
}

/// One bucket a user. Cheap to clone, and a look into a sharded map for each request.
#[derive(Debug, Clone, Default)]
pub struct UserRates {
    /// `None`: no limit.
    limiter: Option<Arc<DefaultKeyedRateLimiter<UserId>>>,
}

impl UserRates {
    /// By the configuration.
    #[must_use]
    pub fn new(args: &RateArgs) -> Self {
        let limits = NonZeroU32::new(args.user_requests_per_second)
            .zip(NonZeroU32::new(args.user_requests_burst));
        let limiter = limits.map(|(per_second, burst)| {
            let quota = Quota::per_second(per_second).allow_burst(burst);
            Arc::new(RateLimiter::keyed(quota))
        });
        Self { limiter }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// The seconds after which the next one is taken, at least 1, when this one is too many.
    pub fn check(&self, user_id: UserId) -> Result<(), u32> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        limiter.check_key(&user_id).map_err(|too_early| {
            let wait = too_early.wait_time_from(DefaultClock::default().now());
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
        })
    }

    /// Bounds the memory: a user that has been quiet needs no bucket.
    pub async fn forget_quiet_users(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(FORGET_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = tick.tick() => if let Some(limiter) = &self.limiter {
                    limiter.retain_recent();
                    limiter.shrink_to_fit();
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(user_requests_per_second: u32, user_requests_burst: u32) -> UserRates {
        UserRates::new(&RateArgs {
            user_requests_per_second,
            user_requests_burst,
        })
    }

    #[test]
    fn a_user_has_a_burst_of_its_own_and_is_told_when_to_come_back() {
        let rates = rates(1, 3);
        for user_id in [1, 2] {
            for _ in 0..3 {
                assert_eq!(rates.check(user_id), Ok(()));
            }
            assert_eq!(rates.check(user_id), Err(1));
        }
    }

    #[test]
    fn nothing_is_limited_where_the_rate_is_nothing() {
        let rates = rates(0, 1);
        for _ in 0..10_000 {
            assert_eq!(rates.check(1), Ok(()));
        }
    }
}
