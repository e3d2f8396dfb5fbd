//! One round of snapshots: start, read, send on credit, end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
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
const WINDOW: u32 = 16;
/// A replica that acknowledges nothing for so long is left to ask again.
const CREDIT_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// The permit is for the read; a slow replica must not hold up the next round.
    pub async fn serve(mut self, read_permit: Option<OwnedSemaphorePermit>) {
        let snapshot_id = self.snapshot_id;
        let started = Instant::now();
        let replicas = self.start().await;
        if replicas.is_empty() {
            return;
        }
        metrics::READS.inc();
        let began = Instant::now();
        let (spool, users) = match spool(&self.pool, snapshot_id).await {
            Ok(read) => read,
            Err(error) => {
                metrics::failed(replicas.len());
                tracing::error!(error = format!("{error:#}"), %snapshot_id, "snapshot not read");
                let given_up = replicas
                    .iter()
                    .map(|replica| give_up(&self.publisher, snapshot_id, &replica.request.queue));
                join_all(given_up).await;
                return;
            }
        };
        drop(read_permit);
        metrics::read_in(began.elapsed());
        let shared = Shared {
            pool: &self.pool,
            publisher: &self.publisher,
            snapshot_id,
            spool: &spool,
            users: &users,
            comparable_from: OnceCell::new(),
        };
        let served = replicas
            .into_iter()
            .map(|replica| shared.serve_and_log(replica, started));
        join_all(served).await;
    }

    /// Confirms `snapshot.started` in every queue; a queue that is gone drops out.
    pub async fn start(&mut self) -> Vec<Replica> {
        let event = ConfigEvent::SnapshotStarted(SnapshotStarted {
            snapshot_id: self.snapshot_id,
            credit_queue: self.credit_queue.clone(),
            window: WINDOW,
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

/// Reads the users into a file of encoded chunks, each with its length in front: memory stays flat, and no
/// transaction is open while a slow replica takes its time.
async fn spool(pool: &PgPool, snapshot_id: Uuid) -> anyhow::Result<(File, UsersRead)> {
    // Without a name: it is gone with the process, however that ends.
    let file = tempfile::tempfile().context("cannot create a temporary file")?;
    let mut writer = SpoolWriter {
        file: BufWriter::new(file.try_clone().context("cannot open the temporary file")?),
        snapshot_id,
        index: 0,
        as_of: Position::default(),
        users: Vec::with_capacity(CHUNK_USERS),
    };
    let users = read::all_users(pool, |as_of, user| {
        writer.push(as_of, user.record(KeyForm::Digest)?)
    })
    .await?;
    writer.finish()?;
    Ok((file, users))
}

struct SpoolWriter {
    file: BufWriter<File>,
    snapshot_id: Uuid,
    index: u32,
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
            index: self.index,
            as_of: self.as_of,
            users: std::mem::take(&mut self.users),
        });
        self.index += 1;
        let body = chunk.encode();
        let length = u32::try_from(body.len()).context("a chunk of over 4 GiB")?;
        self.file
            .write_all(&length.to_be_bytes())
            .and_then(|()| self.file.write_all(&body))
            .context("cannot write the temporary file")
    }

    fn finish(mut self) -> anyhow::Result<()> {
        if !self.users.is_empty() {
            self.write_chunk()?;
        }
        self.file.flush().context("cannot write the temporary file")
    }
}

/// What the replicas of a round share.
struct Shared<'a> {
    pool: &'a PgPool,
    publisher: &'a Publisher,
    snapshot_id: Uuid,
    spool: &'a File,
    users: &'a UsersRead,
    /// Found out once, by whichever replica has all rows first.
    comparable_from: OnceCell<i64>,
}

impl Shared<'_> {
    async fn serve_and_log(&self, replica: Replica, started: Instant) {
        let (request, snapshot_id) = (&replica.request, self.snapshot_id);
        let served = self.serve(&replica).await;
        if served.is_ok() {
            metrics::completed();
        } else {
            metrics::failed(1);
            give_up(self.publisher, snapshot_id, &request.queue).await;
        }
        match served {
            Ok(()) => tracing::info!(
                %snapshot_id,
                instance = request.instance,
                cause = ?request.cause,
                users = self.users.count,
                seconds = started.elapsed().as_secs_f64(),
                "snapshot sent"
            ),
            Err(error) => tracing::warn!(
                %snapshot_id,
                instance = request.instance,
                error = format!("{error:#}"),
                "snapshot not sent"
            ),
        }
    }

    async fn serve(&self, replica: &Replica) -> anyhow::Result<()> {
        self.send_chunks(replica).await?;
        let completed = ConfigEvent::SnapshotCompleted(SnapshotCompleted {
            snapshot_id: self.snapshot_id,
            position: self.users.position,
            comparable_from: *self
                .comparable_from
                .get_or_try_init(|| self.users.comparable_from(self.pool))
                .await?,
            count: self.users.count,
            digest: self.users.digest,
            digest_version: DIGEST_VERSION,
        });
        self.publisher
            .publish(to_replica(&replica.request.queue, &completed))
            .await
            .context("the end of the snapshot was not confirmed")
    }

    async fn send_chunks(&self, replica: &Replica) -> anyhow::Result<()> {
        let mut acknowledged = replica.acknowledged.clone();
        let mut file = BufReader::new(SpoolReader::new(self.spool));
        let mut confirms = VecDeque::with_capacity(WINDOW as usize);
        let mut sent = 0_u32;
        while let Some(body) = next_chunk(&mut file)? {
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
        }
        for confirm in confirms {
            confirm.confirmed().await.context("chunk not confirmed")?;
        }
        Ok(())
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

/// Reads from the start, without moving the position that the readers of a round would share.
struct SpoolReader<'a> {
    file: &'a File,
    offset: u64,
}

impl<'a> SpoolReader<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, offset: 0 }
    }
}

impl Read for SpoolReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn next_chunk(file: &mut impl Read) -> anyhow::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error).context("cannot read the spool"),
    }
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    file.read_exact(&mut body).context("the spool is cut")?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spool_gives_back_every_user_in_chunks_numbered_from_zero() {
        let file = tempfile::tempfile().expect("temporary file");
        let snapshot_id = Uuid::now_v7();
        let mut writer = SpoolWriter {
            file: BufWriter::new(file.try_clone().expect("clone")),
            snapshot_id,
            index: 0,
            as_of: Position::default(),
            users: Vec::new(),
        };
        let as_of = Position {
            epoch: 7,
            sequence: 3,
        };
        for user_id in 0..1_203 {
            writer
                .push(
                    as_of,
                    UserRecord {
                        user_id,
                        api_key: None,
                        username: format!("u{user_id}"),
                        is_active: true,
                        daily_quota: 0,
                        previous_keys: vec![],
                        version: user_id,
                    },
                )
                .expect("push");
        }
        writer.finish().expect("finish");
        let mut reader = BufReader::new(SpoolReader::new(&file));
        let (mut ids, mut index) = (Vec::new(), 0);
        while let Some(body) = next_chunk(&mut reader).expect("chunk") {
            let Ok(Some(ConfigEvent::SnapshotChunk(chunk))) =
                ConfigEvent::decode("snapshot.chunk", &body)
            else {
                panic!("not a chunk");
            };
            assert_eq!(
                (chunk.index, chunk.as_of, chunk.snapshot_id),
                (index, as_of, snapshot_id)
            );
            index += 1;
            ids.extend(chunk.users.iter().map(|user| user.user_id));
        }
        assert_eq!(ids, (0..1_203).collect::<Vec<_>>());
        assert_eq!(index, 3);
    }
}
