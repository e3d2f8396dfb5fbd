//! Server A without authentication, for `cargo xtask bench send`: what is left is what authentication costs.

use clap::Parser;
use server_a::serve::{self, ServeArgs};
use service_runtime::config::TelemetryArgs;
use service_runtime::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    service_runtime::install_crypto_provider();
    let cli = Cli::parse();
    let _guard = telemetry::init("server-a", &cli.telemetry)?;
    serve::run(cli.serve).await
}
