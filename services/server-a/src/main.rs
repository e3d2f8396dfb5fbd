//! `server-a`: see `server-a --help`.

use std::process::ExitCode;

use clap::Parser;
use server_a::serve::{self, ServeArgs};
use service_runtime::config::{TelemetryArgs, command_line};
use service_runtime::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// SMS gateway: authenticates POST /api/v1/sms/send from memory and queues each SMS with the caller's
/// stable user id
#[derive(Debug, Parser)]
#[command(name = "server-a", version)]
struct Cli {
    #[command(flatten)]
    telemetry: TelemetryArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    service_runtime::install_crypto_provider();
    let cli: Cli = command_line(|_: &Cli| false, |cli| &mut cli.telemetry);
    // Held to the end, so that traces are flushed however main ends.
    let _guard = match telemetry::init("server-a", &cli.telemetry) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("server-a: {error:#}");
            return ExitCode::from(2);
        }
    };
    match serve::run(cli.serve).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "server-a failed");
            ExitCode::FAILURE
        }
    }
}
