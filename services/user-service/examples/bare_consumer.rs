//! A consumer with user-service's insert and nothing else, to compare with: `RABBITMQ_URL` and `DATABASE_URL` name its
//! servers, queue and table are there. Runs until it is killed.

use anyhow::Context;
use lapin::options::BasicAckOptions;
use lapin::{Connection, ConnectionProperties};
use mimalloc::MiMalloc;
use service_runtime::amqp::next_batch;
use sqlx::postgres::PgPoolOptions;
use time::OffsetDateTime;
use user_service::consumer::{BATCH, LINGER, subscribe};
use user_service::references::{self, NewReference};
use wire_contract::{USER_CREATED_QUEUE, UserCreated};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service_runtime::install_crypto_provider();
    let variable = |name| std::env::var(name).context(name);
    let pool = PgPoolOptions::new()
        .connect(&variable("DATABASE_URL")?)
        .await?;
    let url = variable("RABBITMQ_URL")?;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut consumer = subscribe(&channel, USER_CREATED_QUEUE).await?;
    loop {
        let batch = next_batch(&mut consumer, BATCH, LINGER).await?;
        let rows: Vec<NewReference> = batch
            .iter()
            .map(|delivery| {
                let event: UserCreated = serde_json::from_slice(&delivery.data)?;
                Ok(NewReference {
                    user_id: event.user_id,
                    username: event.username,
                    email: event.email,
                    occurred_at: OffsetDateTime::UNIX_EPOCH,
                })
            })
            .collect::<Result<_, serde_json::Error>>()?;
        references::insert(&pool, &rows.iter().collect::<Vec<_>>()).await?;
        if let Some(last) = batch.last() {
            let options = BasicAckOptions { multiple: true };
            channel.basic_ack(last.delivery_tag, options).await?;
        }
    }
}
