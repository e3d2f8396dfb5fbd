//! When an SMS that a provider did not take is tried again.

use std::time::Duration;

use super::codes::ErrorCode;
use super::routing::Route;

/// Failures after which an SMS is given up although its validity has not ended.
pub const MAX_FAILURES: usize = 100;
/// Delay after the first failure.
pub const FIRST: Duration = Duration::from_secs(1);
/// Of a provider that asks for fewer requests and does not say when.
pub const FIRST_BUSY: Duration = Duration::from_secs(5);
/// Longest delay that is not the provider's wish.
pub const LONGEST: Duration = Duration::from_mins(15);

/// The delay after one more failure, `failures` being those before it. `jitter`, from 0 to 1, spreads the tries of a
/// burst.
///
/// A provider that this round has not asked yet is asked soon; a new round waits twice as long as the last, and at least
/// as long as the provider that failed last asks for.
pub fn delay(
    route: &Route,
    failures: usize,
    code: ErrorCode,
    wish: Option<Duration>,
    jitter: f64,
) -> Duration {
    if route.has_next(failures) {
        return spread(FIRST, jitter);
    }
    let first = match code {
        ErrorCode::ProviderBusy => FIRST_BUSY,
        _ => FIRST,
    };
    let backoff = spread(backoff(first, route.rounds(failures)), jitter);
    // Not earlier, and not all at the same moment.
    let wish = wish.map_or(Duration::ZERO, |wish| wish.mul_f64(1.0 + jitter / 10.0));
    backoff.max(wish)
}

/// Doubles with each round.
fn backoff(first: Duration, rounds: usize) -> Duration {
    let doublings = u32::try_from(rounds).unwrap_or(u32::MAX).min(16);
    (first * 2_u32.pow(doublings)).min(LONGEST)
}

/// Over the second half.
fn spread(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(0.5 + jitter / 2.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sms::provider::{LogProvider, Provider};

    fn route(providers: usize) -> Route {
        let log = || Arc::new(LogProvider) as Arc<dyn Provider>;
        Route {
            prefix: String::new(),
            providers: std::iter::repeat_with(log).take(providers).collect(),
            fall_over_when_refused: false,
        }
    }

    fn after(providers: usize, failures: usize, jitter: f64) -> Duration {
        let code = ErrorCode::ProviderUnavailable;
        delay(&route(providers), failures, code, None, jitter)
    }

    #[test]
    fn delays_double_up_to_the_longest_and_jitter_takes_half_at_most() {
        assert_eq!(after(1, 0, 1.0), FIRST);
        assert_eq!(after(1, 0, 0.0), FIRST / 2);
        assert_eq!(after(1, 3, 1.0), FIRST * 8);
        assert_eq!(after(1, MAX_FAILURES, 1.0), LONGEST);
        assert_eq!(after(1, 1 << 31, 1.0), LONGEST);
    }

    #[test]
    fn the_next_provider_is_asked_soon_and_the_first_again_after_the_delay_of_a_round() {
        assert_eq!(after(2, 0, 1.0), FIRST);
        assert_eq!(after(2, 4, 1.0), FIRST);
        assert_eq!(after(2, 5, 1.0), FIRST * 4);
    }

    #[test]
    fn a_provider_that_is_busy_is_left_alone_for_longer() {
        let busy = |wish| delay(&route(1), 0, ErrorCode::ProviderBusy, wish, 1.0);
        assert_eq!(busy(None), FIRST_BUSY);
        let wish = Duration::from_mins(1);
        assert!(busy(Some(wish)) >= wish && busy(Some(wish)) <= wish * 2);
        let code = ErrorCode::ProviderBusy;
        assert!(delay(&route(1), 0, code, Some(wish), 0.0) >= wish);
    }

    #[test]
    fn tries_go_on_for_about_the_default_validity() {
        let total: Duration = (0..MAX_FAILURES)
            .map(|failures| after(1, failures, 0.5))
            .sum();
        assert!(total > Duration::from_hours(16), "{total:?}");
    }
}
