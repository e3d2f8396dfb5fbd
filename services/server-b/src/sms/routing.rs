//! Which provider an SMS goes to: by the longest prefix of the recipient's number, and among a route's providers in
//! their order.

use std::fmt;
use std::sync::Arc;

use super::provider::{LogProvider, Provider};

/// All routes.
#[derive(Debug)]
pub struct Routes(Vec<Route>);

/// Where numbers with one prefix go.
pub struct Route {
    /// Of E.164 numbers, such as `+49`; empty for all.
    pub prefix: String,
    /// In the order in which they are asked; never empty.
    pub providers: Vec<Arc<dyn Provider>>,
    /// Whether the next one is asked also after one has refused the SMS for good.
    pub fall_over_when_refused: bool,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.providers.iter().map(|it| it.name()).collect();
        write!(f, "{:?} → {names:?}", self.prefix)
    }
}

impl Routes {
    /// The longest prefixes first.
    #[must_use]
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix.len()));
        Self(routes)
    }

    /// Everything to the log.
    #[must_use]
    pub fn log() -> Self {
        Self::new(vec![Route {
            prefix: String::new(),
            providers: vec![Arc::new(LogProvider)],
            fall_over_when_refused: false,
        }])
    }

    /// The route of a number.
    #[must_use]
    pub fn find(&self, recipient: &str) -> Option<&Route> {
        let mut routes = self.0.iter();
        routes.find(|route| recipient.starts_with(&route.prefix))
    }

    /// The names of all providers that routes lead to; one may be there twice.
    pub fn provider_names(&self) -> impl Iterator<Item = &str> {
        let providers = self.0.iter().flat_map(|route| &route.providers);
        providers.map(|provider| provider.name())
    }
}

impl Route {
    /// Whose turn it is after so many failures. A hand-over whose end nobody knows is no failure: it is repeated where
    /// its idempotency token is known.
    #[must_use]
    pub fn turn(&self, failures: usize) -> &Arc<dyn Provider> {
        &self.providers[failures % self.providers.len()]
    }

    /// Whether one more failure leads to a provider that this round has not asked yet.
    #[must_use]
    pub fn has_next(&self, failures: usize) -> bool {
        !(failures + 1).is_multiple_of(self.providers.len())
    }

    /// How often all providers have been asked.
    #[must_use]
    pub fn rounds(&self, failures: usize) -> usize {
        failures / self.providers.len()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::sms::provider::{Accepted, OutboundSms, SendError};

    struct Named(&'static str);

    impl Provider for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn send<'a>(&'a self, _: &'a OutboundSms) -> BoxFuture<'a, Result<Accepted, SendError>> {
            std::future::ready(Err(SendError::Full)).boxed()
        }
    }

    fn route(prefix: &str, names: &[&'static str]) -> Route {
        let providers = names
            .iter()
            .map(|name| Arc::new(Named(name)) as Arc<dyn Provider>);
        Route {
            prefix: prefix.to_owned(),
            providers: providers.collect(),
            fall_over_when_refused: false,
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let routes = Routes::new(vec![
            route("+1", &["one"]),
            route("+1415", &["city"]),
            route("+49", &["other"]),
        ]);
        let first = |number| {
            routes
                .find(number)
                .map(|route| route.turn(0).name().to_owned())
        };
        assert_eq!(first("+14155550123").as_deref(), Some("city"));
        assert_eq!(first("+12125550123").as_deref(), Some("one"));
        assert_eq!(first("+33123456789"), None);
    }

    #[test]
    fn each_failure_leads_to_the_next_provider_and_then_round_again() {
        let route = route("", &["a", "b"]);
        let turns: Vec<&str> = (0..4).map(|failures| route.turn(failures).name()).collect();
        assert_eq!(turns, ["a", "b", "a", "b"]);
        assert!(route.has_next(0));
        assert!(!route.has_next(1));
        assert_eq!((route.rounds(1), route.rounds(2)), (0, 1));
    }
}
