//! The time limit of a run, and the signals that cut it short.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

/// After the deadline: a call of server B that is under way then ends by itself, and with it what waits, with the reason.
const OVERDUE: Duration = Duration::from_secs(5);

/// When everything must be done.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// Waits until what has not ended at the deadline is to be cut off.
    pub async fn overdue(self) {
        tokio::time::sleep_until(self.0 + OVERDUE).await;
    }

    /// Waits, no longer than to the deadline; whether time is left then.
    pub async fn pause(self, pause: Duration) -> bool {
        tokio::time::sleep_until(self.0.min(Instant::now() + pause)).await;
        !self.passed()
    }
}

/// SIGTERM and SIGINT, caught from the moment it exists.
#[derive(Debug)]
pub struct Interrupt {
    terminate: Signal,
    interrupt: Signal,
}

impl Interrupt {
    /// Starts to catch the signals.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for a signal.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_ends_at_the_deadline_may_say_so_before_it_is_cut_off() {
        let deadline = Deadline::after(Duration::from_millis(50));
        let why = tokio::select! {
            biased;
            () = deadline.overdue() => "cut off".to_owned(),
            in_time = deadline.pause(Duration::from_mins(1)) => format!("in time: {in_time}"),
        };
        assert_eq!(why, "in time: false");
    }
}
