//! One run from the request to the result.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::cli::RunArgs;
use crate::cluster;
use crate::deadline::{Deadline, Interrupt};
use crate::failure::Failure;
use crate::full_sync;
use crate::record::{Details, Record, Records};
use crate::rollout::{Rollout, Standing, Target};
use crate::said::Said;
use crate::server_b::{FullSync, ServerB};
use crate::turn::{Held, Turn, Turns};

/// Who reports the events.
const CONTROLLER: &str = "identity-sync-resync";
/// To write the result, after the time limit or a signal: within the grace period of a pod and Helm's time limit.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// Between two tries to write to the cluster.
const RETRY: Duration = Duration::from_secs(1);
/// What is told of a call that was cut off at the time limit.
const OVERDUE: &str = "no answer within the time limit";
/// Bytes of an event's note (its API's limit is 1024) and of the termination message (4096, by the kubelet).
const NOTE: usize = 1_000;
const TERMINATION_MESSAGE: usize = 4_000;

/// Runs, writes the termination message, and gives the exit code.
pub async fn run(args: &RunArgs) -> ExitCode {
    let result = Box::pin(resync(args)).await;
    let (message, code) = match &result {
        Ok(message) => {
            tracing::info!("{message}");
            (format!("succeeded: {message}"), ExitCode::SUCCESS)
        }
        Err(failure) => {
            tracing::error!("{failure}");
            (
                format!("{}: {failure}", failure.outcome()),
                failure.exit_code(),
            )
        }
    };
    terminate(&args.termination_log, &message);
    code
}

async fn resync(args: &RunArgs) -> Result<String, Failure> {
    let listening = Interrupt::listen();
    let mut interrupt =
        listening.map_err(|error| Failure::Usage(format!("cannot listen for SIGTERM: {error}")))?;
    let begun = Instant::now();
    let b = ServerB::new(&args.server_b).map_err(|error| Failure::Usage(format!("{error:#}")))?;
    let deadline = Deadline::after(args.timeout());
    let job = tokio::select! {
        job = Job::prepare(args, b, deadline) => job?,
        () = interrupt.received() => return Err(Failure::Interrupted("before it began".to_owned())),
        () = deadline.overdue() => return Err(Failure::Cluster(OVERDUE.to_owned())),
    };
    let turn = tokio::select! {
        turn = job.turns.wait(&job.records, job.begun_at_request, deadline) => turn,
        () = interrupt.received() => {
            Err(Failure::Interrupted("while it waited for its turn".to_owned()))
        }
        () = deadline.overdue() => Err(Failure::Cluster(OVERDUE.to_owned())),
    };
    match turn {
        Ok(Turn::Fulfilled(record)) => Ok(job.fulfilled(&record).await),
        Ok(Turn::Mine(held)) => Box::pin(job.take_turn(held, &mut interrupt, begun)).await,
        Err(failure) => {
            job.last_words(async {
                job.announce(&Err(&failure)).await;
                // A signal may have come while it was being taken.
                job.give_back().await;
            })
            .await;
            Err(failure)
        }
    }
}

/// What a run works with.
struct Job {
    b: ServerB,
    client: Client,
    namespace: String,
    deployment: Deployment,
    records: Records,
    turns: Turns,
    recorder: Recorder,
    deadline: Deadline,
    requested_at: OffsetDateTime,
    /// The sync that fulfils the request has a higher number.
    begun_at_request: u64,
}

/// What is known so far of a run whose turn it is.
#[derive(Debug, Default)]
struct Progress {
    number: Option<u64>,
    sync: Option<FullSync>,
    standing: Standing,
}

impl Progress {
    /// Why it failed, if it was cut off at the time limit.
    fn overdue(&self) -> Failure {
        let what = format!("{OVERDUE}: {self}");
        match &self.sync {
            None => Failure::ServerB(what),
            Some(sync) if sync.status == "completed" => Failure::Replicas(what),
            Some(_) => Failure::Sync(what),
        }
    }
}

/// What it was last seen at.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sync {
            None => f.write_str("no full sync is known yet"),
            Some(sync) if sync.status == "completed" => self.standing.fmt(f),
            Some(sync) => f.write_str(&full_sync::line(sync)),
        }
    }
}

impl Job {
    /// Notes the request, and finds what it is about.
    async fn prepare(args: &RunArgs, b: ServerB, deadline: Deadline) -> Result<Self, Failure> {
        let objects = &args.objects;
        let requested_at = OffsetDateTime::now_utc();
        let client = cluster::connect().await?;
        let namespace = objects.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        let what = |kind: &str, name: &str| format!("{kind} {name} in namespace {namespace}");

        // First of all: what begins after this read counts for this run.
        let name = &objects.result_config_map;
        let maps = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
        let map = cluster::persist(&what("ConfigMap", name), deadline, || maps.get(name)).await?;
        let record = Record::from_data(map.data);
        let record = record
            .map_err(|error| Failure::Cluster(format!("{}: {error}", what("ConfigMap", name))))?;

        let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
        let wanted = &objects.deployment;
        let found = what("Deployment", wanted);
        let deployment = cluster::persist(&found, deadline, || deployments.get(wanted)).await?;
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(objects.pod_name.clone()),
        };
        tracing::info!("resync of {found}, as {}", objects.pod_name);
        Ok(Self {
            b,
            records: Records::new(maps, name),
            turns: Turns {
                api: Api::namespaced(client.clone(), &namespace),
                name: objects.lease.clone(),
                identity: objects.pod_name.clone(),
                duration: objects.lease_duration_seconds,
            },
            recorder: Recorder::new(client.clone(), reporter),
            client,
            namespace,
            deployment,
            deadline,
            requested_at,
            begun_at_request: record.begun(),
        })
    }

    /// Another run's sync began after this one was asked for, and succeeded.
    async fn fulfilled(&self, record: &Record) -> String {
        let (by, how) = (record.detail("run_by"), record.detail("message"));
        let message = format!("done by {by}, whose sync began after this run was asked for: {how}");
        self.last_words(self.announce(&Ok(&message))).await;
        message
    }

    /// It is this run's turn: does the work, writes the result, gives the Lease back.
    async fn take_turn(
        &self,
        mut held: Held,
        interrupt: &mut Interrupt,
        begun: Instant,
    ) -> Result<String, Failure> {
        let mut progress = Progress::default();
        let mut lost = false;
        let worked = tokio::select! {
            worked = self.work(&mut progress) => worked,
            () = interrupt.received() => Err(Failure::Interrupted(format!("at work: {progress}"))),
            () = self.deadline.overdue() => Err(progress.overdue()),
            failure = held.lost() => {
                lost = true;
                Err(failure)
            }
        };
        let result = worked.map(|()| success(&progress, begun.elapsed()));
        self.last_words(async {
            // Without the Lease only a sync of its own gives it a say.
            if !lost || progress.number.is_some() {
                self.record(&progress, &result).await;
            }
            drop(held);
            self.give_back().await;
            self.announce(&result.as_ref().map(String::as_str)).await;
        })
        .await;
        result
    }

    async fn work(&self, progress: &mut Progress) -> Result<(), Failure> {
        let mut rollout = Rollout::watch(&self.client, &self.namespace, &self.deployment)?;
        full_sync::wait_for_server_b(&self.b, self.deadline).await?;
        let number = self.begin().await?;
        progress.number = Some(number);
        let note = format!("resync {number} begins");
        self.event(EventType::Normal, "ResyncStarted", &note).await;

        let sync = full_sync::run(&self.b, self.deadline, &mut progress.sync).await?;
        let target = Target::of(&sync).ok_or_else(|| {
            Failure::ServerB(format!(
                "it does not tell where {} ended: is it of another version?",
                sync.sync_id
            ))
        })?;
        let standing = &mut progress.standing;
        rollout
            .prove(&self.b, &target, self.deadline, standing)
            .await
    }

    /// Counts the sync that is about to be asked for: its number.
    async fn begin(&self) -> Result<u64, Failure> {
        let details = self.details("running", "under way", &Progress::default());
        let mut said = Said::default();
        loop {
            let begun = self.records.change(|record| record.begin(details.clone()));
            match begun.await {
                Ok(number) => return Ok(number),
                Err(error) if error.is_passing() && self.deadline.pause(RETRY).await => {
                    said.once(&error.to_string());
                }
                Err(error) => return Err(Failure::Cluster(error.to_string())),
            }
        }
    }

    /// Writes the result to the `ConfigMap`.
    async fn record(&self, progress: &Progress, result: &Result<String, Failure>) {
        let (outcome, message) = match result {
            Ok(message) => ("succeeded", message.clone()),
            Err(failure) => (failure.outcome(), failure.to_string()),
        };
        let mut details = self.details(outcome, &message, progress);
        details.push(("finished_at", rfc3339(OffsetDateTime::now_utc())));
        let written = self
            .records
            .change(|record| record.end(progress.number, result.is_ok(), details.clone()));
        if let Err(error) = written.await {
            tracing::warn!("the result is not written: {error}");
        }
    }

    fn details(&self, outcome: &str, message: &str, progress: &Progress) -> Details {
        let mut details = vec![
            ("outcome", outcome.to_owned()),
            ("message", message.to_owned()),
            ("run_by", self.turns.identity.clone()),
            ("requested_at", rfc3339(self.requested_at)),
        ];
        if let Some(sync) = &progress.sync {
            details.push(("sync_id", sync.sync_id.to_string()));
            details.push(("users", sync.users_published.to_string()));
            if let Some(position) = sync.position() {
                details.push(("epoch", position.epoch.to_string()));
                details.push(("sequence", position.sequence.to_string()));
            }
            let waiting = progress.standing.waiting.iter();
            let waiting: Vec<&str> = waiting.map(|(name, _)| name.as_str()).collect();
            details.push(("replicas_proven", progress.standing.proven.join(" ")));
            details.push(("replicas_waiting", waiting.join(" ")));
        }
        details
    }

    /// The end, as an Event.
    async fn announce(&self, result: &Result<&str, &Failure>) {
        match result {
            Ok(message) => {
                self.event(EventType::Normal, "ResyncSucceeded", message)
                    .await;
            }
            Err(failure) => {
                let note = failure.to_string();
                self.event(EventType::Warning, "ResyncFailed", &note).await;
            }
        }
    }

    async fn event(&self, type_: EventType, reason: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note, NOTE).to_owned()),
            action: "Resync".to_owned(),
            secondary: None,
        };
        let about = self.deployment.object_ref(&());
        if let Err(error) = cluster::call(self.recorder.publish(&event, &about)).await {
            tracing::warn!("event {reason} not published: {error}");
        }
    }

    async fn give_back(&self) {
        if let Err(failure) = self.turns.give_back().await {
            tracing::warn!("{failure}: it runs out by itself");
        }
    }

    async fn last_words(&self, words: impl Future<Output = ()>) {
        if tokio::time::timeout(LAST_WORDS, words).await.is_err() {
            tracing::warn!("the result could not be written to the cluster in time");
        }
    }
}

fn success(progress: &Progress, took: Duration) -> String {
    let mut text = String::new();
    if let Some(sync) = &progress.sync {
        let users = sync.users_published;
        let _ = write!(text, "full sync {} published {users} users", sync.sync_id);
        if let Some(position) = sync.position() {
            let _ = write!(text, " at {position}");
        }
    }
    let proven = &progress.standing.proven;
    let _ = write!(
        text,
        "; {} replicas proven in {:.1} s: {}",
        proven.len(),
        took.as_secs_f64(),
        proven.join(", ")
    );
    text
}

/// For the kubelet, which shows it in `kubectl describe pod`.
fn terminate(path: &Path, message: &str) {
    if let Err(error) = std::fs::write(path, shortened(message, TERMINATION_MESSAGE)) {
        tracing::warn!("TERMINATION_LOG: cannot write {}: {error}", path.display());
    }
}

fn shortened(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

fn rfc3339(time: OffsetDateTime) -> String {
    // Only a year beyond 9999 has no such form.
    time.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
#[path = "job_tests.rs"]
mod tests;
