//! Puts server A together.

use std::time::Duration;

use clap::Args;
use futures_util::FutureExt;
use service_runtime::admin::Admin;
use service_runtime::amqp::Connector;
use service_runtime::config::{AdminArgs, AmqpArgs, ListenArgs};
use service_runtime::http::Server;
use service_runtime::lifecycle::Lifecycle;
use service_runtime::readiness::Readiness;

use crate::api::{self, ApiState, Remembered};
use crate::cache::{Limits, UserCache};
use crate::metrics;
use crate::rates::{RateArgs, UserRates};
use crate::server_b::{self, ServerB, ServerBArgs};
use crate::sync::{self, CacheSync, Control, SyncStatus};
use crate::usage::{self, Usage, UsageSubscription};

/// Settings of server A.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    amqp: AmqpArgs,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    rates: RateArgs,
    #[command(flatten)]
    server_b: ServerBArgs,
}

/// How long the cache is trusted.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "User cache")]
pub struct CacheArgs {
    /// Name of this replica, in its queue and its reports; the host's name by default
    #[arg(long, env = "INSTANCE", value_name = "NAME", value_parser = instance_name)]
    instance: Option<String>,

    /// Seconds that the cache is served after the subscription to user changes broke: longer rides out
    /// broker restarts, shorter refuses a revoked key sooner; at least 5, or a silence of server B could not be told from
    /// a broken link
    #[arg(
        long,
        env = "FAIL_CLOSED_AFTER_SECONDS",
        default_value_t = 15,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(5..)
    )]
    fail_closed_after_seconds: u64,

    /// Seconds that the cache is served while server B is silent on a whole subscription, at least 1
    #[arg(
        long,
        env = "MAX_STALENESS_SECONDS",
        default_value_t = 900,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    max_staleness_seconds: u64,
}

/// The name becomes part of a queue's name.
fn instance_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if (1..=100).contains(&name.len()) && name.chars().all(allowed) {
        Ok(name.to_owned())
    } else {
        Err("1 to 100 letters, digits, - or _".to_owned())
    }
}

/// Runs until a signal; an error is a task that died.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    metrics::register();
    sync::metrics::register();
    usage::metrics::register();
    server_b::metrics::register();
    let mut lifecycle = Lifecycle::new()?;
    let readiness = Readiness::new();
    let connector = Connector::new("server-a", &args.amqp)?;
    let server_b = ServerB::new(&args.server_b)?;
    let rates = UserRates::new(&args.rates);
    let usage = Usage::default();
    let instance = args.cache.instance.unwrap_or_else(host_name);
    let cache = UserCache::new(Limits {
        fail_closed_after: Duration::from_secs(args.cache.fail_closed_after_seconds),
        max_staleness: Duration::from_secs(args.cache.max_staleness_seconds),
    });
    let sync_status = SyncStatus::default();

    let (publisher, publishing) = api::publisher(connector.clone(), lifecycle.drained());
    let (control, controlling) = Control::new(connector.clone(), &instance, lifecycle.drained());
    let usage_subscription = UsageSubscription {
        connector: connector.clone(),
        instance: instance.clone(),
        usage: usage.clone(),
    };
    let cache_sync = CacheSync {
        connector,
        instance: instance.clone(),
        cache: cache.clone(),
        control,
        gate: readiness.gate("cache", "no snapshot yet"),
        status: sync_status.clone(),
    };
    let admin = Admin::new(
        "server-a",
        readiness,
        {
            let (cache, publisher) = (cache.clone(), publisher.clone());
            let (sync_status, usage) = (sync_status.clone(), usage.clone());
            move || {
                let mut status = sync::status(&instance, &cache, &sync_status);
                status["sms_publisher"] = serde_json::json!(publisher.state());
                status["sms_usage"] = usage.status();
                status
            }
        },
        {
            let (cache, sync_status) = (cache.clone(), sync_status.clone());
            let usage = usage.clone();
            move || {
                sync::metrics::on_scrape(&cache, &sync_status);
                usage::metrics::on_scrape(&usage);
                std::future::ready(()).boxed()
            }
        },
    )?;

    let admin_server = Server::bind("admin", args.admin.admin_listen).await?;
    let public_server = Server::bind("public", args.listen.listen).await?;
    let shutdown = lifecycle.shutdown();
    let drained = lifecycle.drained();
    lifecycle.support("sms publisher", publishing);
    lifecycle.support("control publisher", controlling);
    lifecycle.support(
        "admin server",
        admin_server.serve(admin.router(), drained.clone()),
    );
    // The cache is kept in step until the last request has been answered.
    lifecycle.support("cache sync", cache_sync.run(drained.clone()));
    lifecycle.support("sms usage", usage_subscription.run(drained.clone()));
    lifecycle.support("request rates", rates.clone().forget_quiet_users(drained));
    let router = api::router(ApiState {
        cache,
        publisher,
        rates,
        usage,
        remembered: Remembered::default(),
        server_b,
    })?;
    lifecycle.intake("public server", public_server.serve(router, shutdown));
    lifecycle.run().await
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(100)
        .collect();
    if name.is_empty() {
        "server-a".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        cache: CacheArgs,
    }

    #[test]
    fn a_cache_that_would_never_be_served_is_refused_by_the_settings() {
        for (setting, least) in [("max-staleness", 1), ("fail-closed-after", 5)] {
            let parse = |seconds: u64| {
                Command::try_parse_from(["a".to_owned(), format!("--{setting}-seconds={seconds}")])
            };
            let error = parse(least - 1).expect_err("too short").to_string();
            assert!(error.contains(setting), "{error}");
            parse(least).expect("the least is allowed");
        }
    }
}
