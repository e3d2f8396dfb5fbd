//! The life of a process: tasks, the signal that ends it, and the drain.
//!
//! A task that ends before it was asked to takes the process down: a process that lost its relay or
//! its consumer must not look alive.

use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long tasks may take to finish what they have in hand, for both phases together.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

type TaskResult = (&'static str, anyhow::Result<()>);

/// The tasks of a process, stopped in two phases: first those that take work in, then those that the
/// former need to finish it (publishers, probes).
#[derive(Debug)]
pub struct Lifecycle {
    terminate: Signal,
    interrupt: Signal,
    intake: Phase,
    support: Phase,
}

#[derive(Debug, Default)]
struct Phase {
    token: CancellationToken,
    tasks: JoinSet<TaskResult>,
}

impl Phase {
    fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        // A panicking task is reported like one that failed.
        let task = tokio::spawn(task);
        self.tasks.spawn(async move {
            let result = match task.await {
                Ok(result) => result,
                Err(panic) => Err(anyhow::Error::new(panic)),
            };
            (name, result)
        });
    }

    /// Stops the phase; a task that fails while it drains is logged, and makes the result an error.
    async fn drain(&mut self) -> anyhow::Result<()> {
        self.token.cancel();
        let mut outcome = Ok(());
        while let Some(joined) = self.tasks.join_next().await {
            let (name, result) = joined.context("a task's supervisor was lost")?;
            if let Err(error) = result {
                tracing::error!(task = name, error = format!("{error:#}"), "task failed");
                outcome = Err(error.context(format!("task {name}")));
            }
        }
        outcome
    }
}

impl Lifecycle {
    /// No tasks yet. From now on SIGTERM and SIGINT no longer end the process by themselves: [`Self::run`] heeds them, those
    /// that came before it, too.
    ///
    /// # Errors
    /// If signals cannot be listened for.
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
            intake: Phase::default(),
            support: Phase::default(),
        })
    }

    /// Cancelled when the process begins to stop.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.intake.token.clone()
    }

    /// Cancelled when every intake task has drained.
    #[must_use]
    pub fn drained(&self) -> CancellationToken {
        self.support.token.clone()
    }

    /// Runs a task that takes work in; it must end soon after [`Self::shutdown`] is cancelled.
    pub fn intake<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.intake.spawn(name, task);
    }

    /// Runs a task that others need to finish their work; it must end soon after [`Self::drained`]
    /// is cancelled.
    pub fn support<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.support.spawn(name, task);
    }

    /// Waits for SIGTERM, SIGINT or the first task that ends, then drains.
    ///
    /// # Errors
    /// If a task ended by itself or failed, or the drain took longer than its deadline.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let cause = tokio::select! {
            _ = self.terminate.recv() => Ok("SIGTERM"),
            _ = self.interrupt.recv() => Ok("SIGINT"),
            Some(ended) = self.intake.tasks.join_next() => Err(ended),
            Some(ended) = self.support.tasks.join_next() => Err(ended),
        };
        let outcome = match cause {
            Ok(signal) => {
                tracing::info!(signal, "stopping");
                Ok(())
            }
            Err(ended) => {
                let (name, result) = ended.context("a task's supervisor was lost")?;
                let error = result
                    .err()
                    .unwrap_or_else(|| anyhow::anyhow!("ended by itself"));
                tracing::error!(
                    task = name,
                    error = format!("{error:#}"),
                    "task died, stopping"
                );
                Err(error.context(format!("task {name} died")))
            }
        };
        let drained = tokio::time::timeout(DRAIN_DEADLINE, async {
            let intake = self.intake.drain().await;
            intake.and(self.support.drain().await)
        })
        .await
        .unwrap_or_else(|_| {
            Err(anyhow::anyhow!(
                "not drained within {} s",
                DRAIN_DEADLINE.as_secs()
            ))
        });
        outcome.and(drained)
    }
}
