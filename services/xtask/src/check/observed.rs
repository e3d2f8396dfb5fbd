//! What the observers of `up --observe` have seen of the check.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::report::{Seen, readable};
use crate::observe::Observers;

/// Some scrapes, and an export of the spans.
const DEADLINE: Duration = Duration::from_mins(1);

/// Every process, rule and kind of trace.
pub fn look(observers: &Observers) -> Result<Seen> {
    let begin = Instant::now();
    let watched = observers.seen(DEADLINE)?;
    let spans = watched
        .spans
        .map_or_else(|| "no collector".to_owned(), |it| format!("{it} spans"));
    Ok(Seen {
        result: format!(
            "{} processes scraped, {} rules evaluated, {spans}",
            watched.targets, watched.rules
        ),
        time: readable(begin.elapsed()),
    })
}
