//! Exchange, queues and binding of `UserCreated`, by the names that are configured.

use clap::Args;
use lapin::Channel;
use service_runtime::amqp::{bind, declare_exchange, declare_queue};
use wire_contract::{
    AUTH_EVENTS_EXCHANGE, USER_CREATED_DEAD, USER_CREATED_QUEUE, USER_CREATED_ROUTING_KEY, specs,
};

/// Names at the broker. The requirement gives none, so the auth-service's may be others.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "RabbitMQ")]
pub struct QueueArgs {
    /// Durable topic exchange to which the auth-service publishes
    #[arg(
        long,
        env = "AUTH_EVENTS_EXCHANGE",
        default_value = AUTH_EVENTS_EXCHANGE,
        value_name = "NAME"
    )]
    pub auth_events_exchange: String,

    /// Routing key of `UserCreated`; may be a pattern of topics
    #[arg(
        long,
        env = "USER_CREATED_ROUTING_KEY",
        default_value = USER_CREATED_ROUTING_KEY,
        value_name = "KEY"
    )]
    pub user_created_routing_key: String,

    /// Durable quorum queue of the events, shared by all replicas
    #[arg(
        long,
        env = "USER_CREATED_QUEUE",
        default_value = USER_CREATED_QUEUE,
        value_name = "NAME"
    )]
    pub user_created_queue: String,

    /// Queue of the messages that can never become a reference
    #[arg(
        long,
        env = "USER_CREATED_DEAD_QUEUE",
        default_value = USER_CREATED_DEAD,
        value_name = "NAME"
    )]
    pub user_created_dead_queue: String,
}

/// Declares everything; what is there already with the same arguments stays as it is.
pub async fn declare(channel: &Channel, names: &QueueArgs) -> anyhow::Result<()> {
    // First the place where poison goes: nothing is taken before it exists.
    declare_dead(channel, names).await?;
    let (queue, dead) = (&names.user_created_queue, &names.user_created_dead_queue);
    declare_queue(channel, &specs::with_dead_letters(queue, dead)).await?;
    let exchange = specs::auth_events(Some(&names.auth_events_exchange));
    declare_exchange(channel, &exchange).await?;
    bind(
        channel,
        queue,
        &names.auth_events_exchange,
        &names.user_created_routing_key,
    )
    .await
}

/// Declares the dead letters' queue alone.
pub async fn declare_dead(channel: &Channel, names: &QueueArgs) -> anyhow::Result<()> {
    declare_queue(
        channel,
        &specs::quorum(&names.user_created_dead_queue, vec![]),
    )
    .await?;
    Ok(())
}
