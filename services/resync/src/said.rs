//! Lines about waiting, without saying the same each half second.

use std::time::Duration;

use tokio::time::Instant;

/// Says a thing again only when it has changed or was long ago.
#[derive(Debug, Default)]
pub struct Said {
    last: Option<(Instant, String)>,
}

impl Said {
    const AGAIN: Duration = Duration::from_secs(10);

    pub fn once(&mut self, text: &str) {
        let known = self
            .last
            .as_ref()
            .is_some_and(|(at, last)| last == text && at.elapsed() < Self::AGAIN);
        if !known {
            tracing::info!("{text}");
            self.last = Some((Instant::now(), text.to_owned()));
        }
    }
}
