//! `user-service`: see `user-service --help`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use service_runtime::telemetry;
use user_service::cli::Cli;

/// Faster than the system's allocator with many small allocations on several threads.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    service_runtime::install_crypto_provider();
    let cli = Cli::from_command_line();
    // Dropped at the end, whether the command succeeds or fails: that flushes.
    let _telemetry = match telemetry::init("user-service", &cli.telemetry) {
        Ok(guard) => guard,
        Err(error) => return failed(&error),
    };
    match cli.run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// 1; clap exits with 2 for a command line that it does not understand.
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
