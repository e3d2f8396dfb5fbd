//! One round of snapshots: start, read, send on credit, end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use service_runtime::amqp::{Message, Publisher};
use sqlx::PgPool;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;
use wire_contract::{
    ConfigEvent, DIGEST_VERSION, Position, SnapshotAborted, SnapshotChunk, SnapshotCompleted,
    SnapshotRequest, SnapshotStarted, UserRecord,
};

use super::read::{self, UsersRead};
use super::{Credit, Served, metrics};
use crate::wire_image::KeyForm;

/// Users in a chunk: some 100 KB, and a lock on the replica's cache of well under a millisecond.
const CHUNK_USERS: usize = 500;
/// Chunks sent beyond what the replica has acknowledged: a revocation waits behind these at most.
const WINDOW: u32 = 8;
/// A replica that acknowledges nothing for so long is left to ask again.
const CREDIT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the start waits for the number of users.
const COUNT_WITHIN: Duration = Duration::from_millis(500);
/// After the end of a snapshot credit for its last chunks may still be on its way, which must not be answered as if the
/// snapshot had been given up.
const LAST_CREDIT: Duration = Duration::from_secs(1);

/// Replicas that are served by one read.
pub(super) struct Round {
    pool: PgPool,
    publisher: Publisher,
    credit_queue: String,
    snapshot_id: Uuid,
    replicas: Vec<Replica>,
}

/// A replica of the round.
pub(super) struct Replica {
    request: SnapshotRequest,
    acknowledged: watch::Receiver<u32>,
    _registration: Registration,
}

/// Ends with the sending to this replica: what it asks for then is another snapshot.
struct Registration {
    served: Served,
    key: (Uuid, String),
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.served.lock().remove(&self.key);
    }
}

impl Replica {
    fn register(request: SnapshotRequest, snapshot_id: Uuid, served: &Served) -> Self {
        let key = (snapshot_id, request.queue.clone());
        let (chunks, acknowledged) = watch::channel(0);
        let request_id = request.request_id;
        served
            .lock()
            .insert(key.clone(), Credit { request_id, chunks });
        Self {
            request,
            acknowledged,
            _registration: Registration {
                served: Arc::clone(served),
                key,
            },
        }
    }
}

impl Round {
    /// From now on its requests are being served.
    pub fn new(
        pool: PgPool,
        publisher: Publisher,
        credit_queue: String,
        requests: Vec<SnapshotRequest>,
        served: &Served,
    ) -> Self {
        let snapshot_id = Uuid::now_v7();
        let replicas = requests
            .into_iter()
            .map(|request| Replica::register(request, snapshot_id, served))
            .collect();
        Self {
            pool,
            publisher,
            credit_queue,
            snapshot_id,
            replicas,
        }
    }

    /// What goes wrong is logged, and the replicas ask again.
    pub async fn serve(mut self, read_permit: Option<OwnedSemaphorePermit>) {
        let snapshot_id = self.snapshot_id;
        let started = Instant::now();
        let (writer, spool) = match spool(snapshot_id) {
            Ok(both) => both,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "no snapshot");
                return;
            }
        };
        let replicas = self.start().await;
        if replicas.is_empty() {
            return;
        }
        let shared = Shared {
            pool: &self.pool,
            publisher: &self.publisher,
            snapshot_id,
            comparable_from: OnceCell::new(),
        };
        let served = replicas
            .into_iter()
            .map(|replica| shared.serve_and_log(replica, spool.clone(), started));
        // A task of its own, so that sending does not wait for decoding; it ends with this one.
        let mut reading = JoinSet::new();
        reading.spawn(read_all(self.pool.clone(), writer, read_permit));
        join_all(served).await;
        reading.join_all().await;
    }

    /// Confirms `snapshot.started` in every queue; a queue that is gone drops out.
    pub async fn start(&mut self) -> Vec<Replica> {
        let count = sqlx::query_scalar("SELECT user_count FROM relay_state").fetch_one(&self.pool);
        // A hint, and not worth a wait.
        let count: Option<i64> = match tokio::time::timeout(COUNT_WITHIN, count).await {
            Ok(Ok(count)) => Some(count),
            Ok(Err(_)) | Err(_) => None,
        };
        let event = ConfigEvent::SnapshotStarted(SnapshotStarted {
            snapshot_id: self.snapshot_id,
            credit_queue: self.credit_queue.clone(),
            window: WINDOW,
            users: count.and_then(|count| u64::try_from(count).ok()),
        });
        let replicas = std::mem::take(&mut self.replicas);
        let mut starts: FuturesUnordered<_> = replicas
            .into_iter()
            .map(|replica| {
                let start = to_replica(&replica.request.queue, &event);
                let published = self.publisher.publish(start);
                async move { (replica, published.await) }
            })
            .collect();
        let mut started = Vec::with_capacity(starts.len());
        while let Some((replica, published)) = starts.next().await {
            match published {
                Ok(()) => started.push(replica),
                Err(error) => tracing::info!(
                    instance = replica.request.instance,
                    %error,
                    "replica that asked for a snapshot is not there"
                ),
            }
        }
        started
    }
}

pub(super) fn to_replica(queue: &str, event: &ConfigEvent) -> Message {
    let mut message = Message::to_queue(queue, event.event_type(), event.encode());
    // The queue does not outlive the connection, let alone the broker.
    message.persistent = false;
    message
}

/// Tells a replica that no more will come, so that it need not wait. Not confirmed is no error: it asks for credit meanwhile,
/// and is answered with the same.
pub(super) async fn give_up(publisher: &Publisher, snapshot_id: Uuid, queue: &str) {
    let aborted = ConfigEvent::SnapshotAborted(SnapshotAborted { snapshot_id });
    if let Err(error) = publisher.publish(to_replica(queue, &aborted)).await {
        tracing::debug!(%error, %snapshot_id, "a replica was not told that its snapshot was given up");
    }
}

/// Reads all users and tells how that ended. The permit is for the read: a slow replica must not hold up the next round.
async fn read_all(
    pool: PgPool,
    mut writer: SpoolWriter,
    read_permit: Option<OwnedSemaphorePermit>,
) {
    metrics::READS.inc();
    let began = Instant::now();
    let read = read::all_users(&pool, |as_of, user| {
        writer.push(as_of, user.record(KeyForm::Digest)?)
    });
    let read = read.await;
    drop(read_permit);
    let snapshot_id = writer.snapshot_id;
    match read.and_then(|users| writer.finish(users)) {
        Ok(()) => metrics::read_in(began.elapsed()),
        // Replicas that wait for the next chunk find that the writer is gone.
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), %snapshot_id, "snapshot not read");
        }
    }
}

/// A file of encoded chunks, each with its length in front: memory stays flat, and no transaction is open while a slow replica
/// takes its time. A chunk can be read as soon as it is written.
fn spool(snapshot_id: Uuid) -> anyhow::Result<(SpoolWriter, SpoolReader)> {
    // Without a name: it is gone with the process, however that ends.
    let file = Arc::new(tempfile::tempfile().context("cannot create a temporary file")?);
    let (written, reads) = watch::channel(Written::default());
    let reader = SpoolReader {
        file: Arc::clone(&file),
        written: reads,
        offset: 0,
        chunks: 0,
    };
    let writer = SpoolWriter {
        file,
        written,
        snapshot_id,
        as_of: Position::default(),
        users: Vec::new(),
    };
    Ok((writer, reader))
}

/// How much of a spool there is.
#[derive(Default)]
struct Written {
    chunks: u32,
    /// Set when those are all.
    users: Option<Arc<UsersRead>>,
}

/// What comes next in a spool.
enum Next {
    Chunk(Vec<u8>),
    /// After the last chunk: what the read saw.
    End(Arc<UsersRead>),
}

struct SpoolWriter {
    file: Arc<File>,
    written: watch::Sender<Written>,
    snapshot_id: Uuid,
    as_of: Position,
    users: Vec<UserRecord>,
}

impl SpoolWriter {
    fn push(&mut self, as_of: Position, user: UserRecord) -> anyhow::Result<()> {
        self.as_of = as_of;
        self.users.push(user);
        if self.users.len() == CHUNK_USERS {
            self.write_chunk()?;
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> anyhow::Result<()> {
        let chunk = ConfigEvent::SnapshotChunk(SnapshotChunk {
            snapshot_id: self.snapshot_id,
            index: self.written.borrow().chunks,
            as_of: self.as_of,
            users: std::mem::take(&mut self.users),
        });
        let body = chunk.encode();
        let length = u32::try_from(body.len()).context("a chunk of over 4 GiB")?;
        let mut file = &*self.file;
        file.write_all(&length.to_be_bytes())
            .and_then(|()| file.write_all(&body))
            .context("cannot write the temporary file")?;
        self.written.send_modify(|written| written.chunks += 1);
        Ok(())
    }

    fn finish(mut self, users: UsersRead) -> anyhow::Result<()> {
        if !self.users.is_empty() {
            self.write_chunk()?;
        }
        let users = Some(Arc::new(users));
        self.written.send_modify(|written| written.users = users);
        Ok(())
    }
}

/// Reads from the start, without moving the position that the readers of a round would share.
#[derive(Clone)]
struct SpoolReader {
    file: Arc<File>,
    written: watch::Receiver<Written>,
    offset: u64,
    chunks: u32,
}

impl SpoolReader {
    /// Waits for the next chunk.
    ///
    /// # Errors
    /// When the read failed; why is logged there.
    async fn next(&mut self) -> anyhow::Result<Next> {
        let chunks = self.chunks;
        let end = {
            let more = |written: &Written| written.chunks > chunks || written.users.is_some();
            let written = self.written.wait_for(more).await;
            let written = written.context("the users could not be read")?;
            (written.users.clone()).filter(|_| written.chunks == chunks)
        };
        if let Some(users) = end {
            return Ok(Next::End(users));
        }
        let mut length = [0; 4];
        self.take(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.take(&mut body)?;
        self.chunks += 1;
        Ok(Next::Chunk(body))
    }

    fn take(&mut self, bytes: &mut [u8]) -> anyhow::Result<()> {
        self.file
            .read_exact_at(bytes, self.offset)
            .context("cannot read the spool")?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// What the replicas of a round share.
struct Shared<'a> {
    pool: &'a PgPool,
    publisher: &'a Publisher,
    snapshot_id: Uuid,
    /// Found out once, by whichever replica has all rows first; or why it cannot be.
    comparable_from: OnceCell<Result<i64, String>>,
}

impl Shared<'_> {
    async fn serve_and_log(&self, replica: Replica, spool: SpoolReader, started: Instant) {
        let served = self.serve(&replica, spool).await;
        // From now on it is not being served any more, but known.
        let Replica {
            request,
            acknowledged,
            _registration,
        } = replica;
        drop(acknowledged);
        let snapshot_id = self.snapshot_id;
        if served.is_ok() {
            metrics::completed();
        } else {
            metrics::failed(1);
            give_up(self.publisher, snapshot_id, &request.queue).await;
        }
        match served {
            Ok(users) => {
                tracing::info!(
                    %snapshot_id,
                    instance = request.instance,
                    cause = ?request.cause,
                    users,
                    seconds = started.elapsed().as_secs_f64(),
                    "snapshot sent"
                );
                tokio::time::sleep(LAST_CREDIT).await;
            }
            Err(error) => tracing::warn!(
                %snapshot_id,
                instance = request.instance,
                error = format!("{error:#}"),
                "snapshot not sent"
            ),
        }
    }

    /// Sends all to one replica; returns how many users that were.
    async fn serve(&self, replica: &Replica, spool: SpoolReader) -> anyhow::Result<u64> {
        let users = self.send_chunks(replica, spool).await?;
        let completed = ConfigEvent::SnapshotCompleted(SnapshotCompleted {
            snapshot_id: self.snapshot_id,
            position: users.position,
            comparable_from: self.comparable_from(&users).await?,
            count: users.count,
            digest: users.digest,
            digest_version: DIGEST_VERSION,
        });
        self.publisher
            .publish(to_replica(&replica.request.queue, &completed))
            .await
            .context("the end of the snapshot was not confirmed")?;
        Ok(users.count)
    }

    async fn comparable_from(&self, users: &UsersRead) -> anyhow::Result<i64> {
        let find = async || {
            let found = users.comparable_from(self.pool).await;
            found.map_err(|error| format!("{error:#}"))
        };
        let found = self.comparable_from.get_or_init(find).await;
        found.clone().map_err(anyhow::Error::msg)
    }

    async fn send_chunks(
        &self,
        replica: &Replica,
        mut spool: SpoolReader,
    ) -> anyhow::Result<Arc<UsersRead>> {
        let mut acknowledged = replica.acknowledged.clone();
        let mut confirms = VecDeque::with_capacity(WINDOW as usize);
        let mut sent = 0_u32;
        let users = loop {
            let body = match spool.next().await? {
                Next::Chunk(body) => body,
                Next::End(users) => break users,
            };
            wait_for_credit(&mut acknowledged, sent).await?;
            let mut message = Message::to_queue(&replica.request.queue, "snapshot.chunk", body);
            message.persistent = false;
            let handed_over = self.publisher.hand_over(message).await;
            confirms.push_back(handed_over.context("chunk not sent")?);
            sent += 1;
            if confirms.len() >= WINDOW as usize
                && let Some(confirm) = confirms.pop_front()
            {
                confirm.confirmed().await.context("chunk not confirmed")?;
            }
        };
        for confirm in confirms {
            confirm.confirmed().await.context("chunk not confirmed")?;
        }
        Ok(users)
    }
}

async fn wait_for_credit(acknowledged: &mut watch::Receiver<u32>, sent: u32) -> anyhow::Result<()> {
    tokio::time::timeout(
        CREDIT_TIMEOUT,
        acknowledged.wait_for(|chunks| sent < chunks.saturating_add(WINDOW)),
    )
    .await
    .context("the replica acknowledges no chunks")?
    .context("the credit table is gone")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use wire_contract::UserSetDigest;

    use super::*;

    const AS_OF: Position = Position {
        epoch: 7,
        sequence: 3,
    };

    fn push(writer: &mut SpoolWriter, user_ids: std::ops::Range<i64>) {
        for user_id in user_ids {
            let user = UserRecord {
                user_id,
                api_key: None,
                username: format!("u{user_id}"),
                is_active: true,
                daily_quota: 0,
                previous_keys: vec![],
                version: user_id,
            };
            writer.push(AS_OF, user).expect("push");
        }
    }

    async fn next(reader: &mut SpoolReader) -> SnapshotChunk {
        let Next::Chunk(body) = reader.next().await.expect("readable") else {
            panic!("no chunk");
        };
        match ConfigEvent::decode("snapshot.chunk", &body) {
            Ok(Some(ConfigEvent::SnapshotChunk(chunk))) => chunk,
            other => panic!("not a chunk: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_spool_gives_every_reader_each_chunk_once_it_is_written_and_the_end_after_the_last() {
        let snapshot_id = Uuid::now_v7();
        let (mut writer, mut early) = spool(snapshot_id).expect("a temporary file");
        let mut late = early.clone();
        push(&mut writer, 0..501);
        assert_eq!(next(&mut early).await.users.len(), CHUNK_USERS);
        push(&mut writer, 501..1_203);
        let users = UsersRead {
            position: AS_OF,
            count: 1_203,
            digest: UserSetDigest::default(),
            snapshot: String::new(),
        };
        writer.finish(users).expect("finish");
        for (reader, first) in [(&mut early, 1), (&mut late, 0)] {
            let mut ids = Vec::new();
            for index in first..3 {
                let chunk = next(reader).await;
                let names = (chunk.index, chunk.as_of, chunk.snapshot_id);
                assert_eq!(names, (index, AS_OF, snapshot_id));
                ids.extend(chunk.users.iter().map(|user| user.user_id));
            }
            assert_eq!(ids, (i64::from(first) * 500..1_203).collect::<Vec<_>>());
            let end = reader.next().await.expect("readable");
            assert!(matches!(end, Next::End(users) if users.count == 1_203));
        }
    }

    #[tokio::test]
    async fn a_reader_of_a_spool_that_is_given_up_gets_what_was_written_and_then_an_error() {
        let (mut writer, mut reader) = spool(Uuid::now_v7()).expect("a temporary file");
        push(&mut writer, 0..600);
        drop(writer);
        assert_eq!(next(&mut reader).await.users.len(), CHUNK_USERS);
        assert!(reader.next().await.is_err());
    }
}
